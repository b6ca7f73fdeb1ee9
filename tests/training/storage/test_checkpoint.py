"""A checkpoint is read back exactly, or not at all."""

import copy
import hashlib
import json
import logging
import math
import os
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.training import RunError
from optimiz.training.storage import checkpoint
from optimiz.training.storage.manifest import sha256
from optimiz.training.train_state import initial_state
from tests.training import tiny

SETTINGS = {"settings": {"steps": 20}, "identity": {"optimizer": "adam", "learning_rate": 0.1}}


def state(width=8, tx=None):
    noisy = optax.chain(tiny.optimizer(), optax.add_noise(0.01, 0.5, jax.random.key(1)))
    return initial_state(tiny.task(width), tx or noisy, seed=3)


def record(step):
    return {"seconds": 0.1 + step, "metrics_bytes": 0}


def save(folder, step=7, tree=None, keep=5):
    tree = state() if tree is None else tree
    checkpoint.save(folder, step, tree, settings=SETTINGS, record=record(step), keep=keep)


def restore(folder, like=None, settings=SETTINGS):
    return checkpoint.restore(folder, lambda record: jax.eval_shape(state) if like is None else like, settings)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    save(folder, 7)
    save(folder, 14)
    return folder


def test_comes_back_with_the_same_tree_types_and_bits(tmp_path):
    saved = state()
    save(tmp_path, tree=saved)
    restored = restore(tmp_path)
    assert restored.record == record(7)
    assert jax.tree.structure(restored.state) == jax.tree.structure(saved)
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(saved)}
    assert {"bfloat16", "int32", "uint32", "key<fry>", "float32"} <= kinds
    for old, new in zip(jax.tree.leaves(saved), jax.tree.leaves(restored.state), strict=True):
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            old, new = jax.random.key_data(old), jax.random.key_data(new)
        assert np.asarray(old).tobytes() == np.asarray(new).tobytes()


def test_paths_that_look_alike_are_kept_apart(tmp_path):
    tree = {"a": {"b": jnp.ones(2)}, "a.b": jnp.zeros(2), "a/b": jnp.full(2, 3.0), "": jnp.ones(1)}
    save(tmp_path, tree=tree)
    restored = restore(tmp_path, jax.eval_shape(lambda: tree)).state
    jax.tree.map(np.testing.assert_array_equal, restored, tree)


def test_the_manifest_lists_the_content(two):
    manifest = json.loads((two / "000000014" / "manifest.json").read_text())
    assert manifest["format"] == 1 and manifest["step"] == 14
    assert manifest["settings"] == SETTINGS
    canonical = json.dumps(SETTINGS, sort_keys=True, separators=(",", ":"))
    assert manifest["settings_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert manifest["arrays"][".params['w2']"] == "bfloat16[8]"
    assert set(manifest["versions"]) == {"jax", "numpy", "optax", "orbax-checkpoint"}


def test_keeps_the_newest(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, {"w": jnp.ones(1)}, keep=2)
    assert names(tmp_path) == ["000000003", "000000004"]


def test_no_checkpoint_is_none(tmp_path):
    assert restore(tmp_path / "absent") is None


# Globs, escapes, schemes; control characters, bytes that are not UTF-8; what shells and other systems mangle.
ODD = [
    "a[1]",
    "lr=[1e-4]",
    "[",
    "*",
    "a?b=c",
    "{a}",
    "a\\b",
    "\\",
    "gs:",
    "gs:/x",
    "file:",
    "a%20b",
    "x/a[1]/y",
]
ODD += [
    "a\nb",
    "a\x01b",
    "caf\udce9",
    "日本",
    "😀",
    "a ",
    " ",
    "a.",
    "...",
    "~",
    "-a",
    "a:b",
    "$HOME",
    "a#b",
    "a'b",
]


@pytest.mark.quick(4)
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_folder_of_any_name_is_written_and_read(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    folder.parent.mkdir(parents=True)
    checkpoint.probe(folder)
    assert not folder.exists()
    save(folder, tree={"w": jnp.arange(3.0)})
    restored = restore(folder, jax.eval_shape(lambda: {"w": jnp.zeros(3)})).state
    assert restored["w"].tolist() == [0, 1, 2]
    assert names(tmp_path) == [name.partition("/")[0]] and names(folder) == ["000000007"]


def test_a_folder_that_cannot_be_read_back_is_refused_and_left_clean(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_load", lambda path, like: {"x": jnp.zeros(3)})
    with pytest.raises(RunError, match=rf"cannot be saved in {tmp_path}/new: wrote \[0, 1, 2\] there and read"):
        checkpoint.probe(tmp_path / "new")
    assert names(tmp_path) == []


@pytest.mark.long
def test_a_folder_whose_names_are_too_long_is_refused_in_one_line(tmp_path):
    folder = tmp_path
    while len(str(folder)) < 4_000:  # of 4,096 that Linux takes
        folder /= "d" * min(200, 4_000 - len(str(folder)))
    with pytest.raises(RunError, match=r"checkpoints cannot be saved in .*: ") as refused:
        checkpoint.probe(folder)
    assert "\n" not in str(refused.value)


def test_several_processes_need_a_plain_path(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with checkpoint._plain(tmp_path / "café, run-1") as path:
        assert path == tmp_path / "café, run-1"
    with (
        pytest.raises(RunError, match="several processes needs a path of letters"),
        checkpoint._plain(tmp_path / "[1]"),
    ):
        pass


def test_foreign_files_are_ignored(two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "copy")
    foreign = ["999", "000000021", ".DS_Store", "Thumbs.db", "000000014~", "٣٣٣٣٣٣٣٣٣", "partial-notes"]
    for name in [*foreign, "000000014/.DS_Store", "000000014/arrays/._d", "000000014/arrays/manifest.ocdbt~"]:
        (folder / name).write_text("x")
    (folder / "1000").mkdir()
    assert restore(folder).record == record(14)
    save(folder, 22, {"w": jnp.ones(1)}, keep=1)
    assert names(folder) == sorted([*foreign, "1000", "000000022"])


def test_leftovers_of_a_killed_save_are_deleted_and_not_loaded(two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "copy")
    (folder / "000000014").rename(folder / "partial-14")
    assert restore(folder).record == record(7)
    assert names(folder) == ["000000007"]


def damages(newest):
    for path in sorted(path for path in newest.rglob("*") if path.is_file()):
        name, content = path.relative_to(newest).as_posix(), path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        yield name, "truncated", content[:-1]
        yield name, "emptied", b""
        yield name, "flipped", flipped
        yield name, "deleted", None


@pytest.mark.survives("a checkpoint file truncated, emptied, changed in one bit, deleted or added")
def test_damage_is_refused_by_name_or_the_previous_one_is_used(two, tmp_path, caplog, record_property):
    cases = list(damages(two / "000000014"))
    record_property("cases", len(cases))
    assert len(cases) > 40
    for number, (name, damage, content) in enumerate(cases):
        folder = shutil.copytree(two, tmp_path / str(number))
        damaged = folder / "000000014" / name
        damaged.unlink() if content is None else damaged.write_bytes(content)
        alone = shutil.copytree(folder, tmp_path / f"{number}-alone")
        shutil.rmtree(alone / "000000007")

        with pytest.raises(RunError, match="every checkpoint is damaged") as refused:
            restore(alone)
        assert name in str(refused.value), damage
        assert names(alone) == ["000000014"]

        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert restore(folder).record == record(7), damage
        assert name in caplog.text and "going back to 000000007" in caplog.text
        assert names(folder) == ["000000007", "damaged-000000014"]


@pytest.mark.survives("a bit of the manifest flipped")
def test_every_flipped_bit_of_the_manifest_is_detected(two, tmp_path, record_property):
    folder = shutil.copytree(two, tmp_path / "copy")
    shutil.rmtree(folder / "000000007")
    manifest = folder / "000000014" / "manifest.json"
    content = manifest.read_bytes()
    record_property("cases", 3 * len(range(0, len(content), 7)))
    for position in range(0, len(content), 7):
        for bit in (0, 2, 5):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            manifest.write_bytes(flipped)
            with pytest.raises(RunError, match=r"manifest\.json"):
                restore(folder)


def places(value, path=()):
    """The paths of all that a manifest holds, however deep."""
    for name, item in value.items():
        yield (*path, name)
        if isinstance(item, dict):
            yield from places(item, (*path, name))


def test_a_manifest_with_fields_of_the_wrong_type_is_refused_in_one_line(two, tmp_path, record_property):
    """Whoever signs it again."""
    folder = tmp_path / "copy"
    shutil.copytree(two / "000000014", folder / "000000014")
    path = folder / "000000014" / "manifest.json"
    whole = json.loads(path.read_bytes())
    del whole["manifest_sha256"]
    others = [None, True, -1, 1.5, 10**30, math.inf, "x", [], {}, [1], {"a": 1}]
    cases = 0
    for place in [
        *places(whole),
        ("record", "stage"),
        ("record", "best"),
        ("record", "unimproved"),
        ("record", "traced"),
        ("record", "metrics_sha256"),
    ]:
        for other in others:
            changed = copy.deepcopy(whole)
            holder = changed
            for name in place[:-1]:
                holder = holder[name]
            holder[place[-1]] = other
            path.write_text(json.dumps(changed | {"manifest_sha256": sha256(changed)}))
            cases += 1
            try:
                found = restore(folder)
            except RunError as error:
                assert str(path.parent) in str(error) and "\n" not in str(error)
            else:  # it may be so
                assert place[0] not in ("arrays", "settings", "files") and found is not None
    record_property("cases", cases)
    assert cases > 500


def test_a_damaged_checkpoint_is_written_again(two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "copy")
    for _ in range(2):
        (folder / "000000014" / "manifest.json").unlink()
        restore(folder)
        save(folder, 14, keep=2)
        assert names(folder) == ["000000007", "000000014", "damaged-000000014"]


@pytest.mark.survives("resuming with other settings, another optimizer, width or dtype")
def test_other_settings_are_refused_one_by_one(two):
    other = {"settings": {"steps": 30}, "identity": {"optimizer": "adam", "warmup": None}}
    with pytest.raises(RunError) as refused:
        restore(two, settings=other)
    assert str(refused.value).endswith(
        "identity.learning_rate was 0.1, is absent; identity.warmup was absent, is null; "
        "settings.steps was 20, is 30"
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: state(width=9), r"\.params\['w1'\] was float32\[4, 8\], is float32\[4, 9\]"),
        (lambda: state(tx=optax.sgd(0.1)), r"inner_state\.trace\['w1'\] was float32.*, is absent"),
        (lambda: state(tx=optax.lion(0.1)), r"opt_state\[0\]\.count was absent, is int32\[\]"),
        (
            lambda: jax.tree.map(lambda x: x.astype(jnp.float16), state().params),
            r"\['w1'\] was absent",
        ),
        (
            lambda: state()._replace(params={"w1": jnp.ones((4, 8)), "w2": jnp.ones(8)}),
            r"\.params\['w2'\] was bfloat16\[8\], is float32\[8\]",
        ),
    ],
)
@pytest.mark.survives("resuming with other settings, another optimizer, width or dtype")
def test_another_tree_shape_or_dtype_is_refused_by_path(two, other, message):
    with pytest.raises(RunError, match=message):
        restore(two, jax.eval_shape(other))


def test_another_format_is_refused_with_both_versions(two, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(RunError, match="has format 2, this version reads 1"):
        restore(tmp_path)


@pytest.mark.survives("a full or read-only disk")
def test_too_little_space_is_an_error_with_path_and_bytes(two, tmp_path, monkeypatch):
    folder = shutil.copytree(two, tmp_path / "copy")
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RunError, match=rf"cannot save \d+ bytes in {folder}: only 10 bytes are free"):
        save(folder, 20, keep=1)
    assert names(folder) == ["000000007", "000000014"]


def test_without_orbax_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "optimiz.training.storage.checkpoint")
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "optimiz-jax\[train\]"'):
        import optimiz.training.storage.checkpoint  # noqa: F401
