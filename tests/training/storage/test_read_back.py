"""The newest or best parameters are read from a run's directory, with or without its code."""

import contextlib
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optimiz import training
from optimiz.training import RunError, Settings, load_model_state, load_params
from optimiz.training.storage import manifest
from tests.training import test_model_state, tiny


def run(directory, evaluations=None, tx=None, **settings):
    """A run of tiny.task; its evaluations, if given, are of a metric "accuracy"."""
    task = tiny.task()
    if evaluations is not None:
        values = iter(evaluations)
        task = tiny.task(evaluate=lambda params: {"loss": 1.0, "accuracy": next(values)})
    return training.fit(
        task, tx or tiny.optimizer(), tiny.settings(**settings), directory, identity={}, resume=True
    )


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run with the checkpoints of steps 14 and 20."""
    directory = tmp_path_factory.mktemp("two")
    return directory, run(directory, save_every=7)


def test_without_a_tree_they_come_as_dicts_in_the_dtypes_that_were_saved(two):
    directory, result = two
    assert_same(load_params(directory), result.params)
    assert_same(load_params(str(directory), 20), result.params)
    assert np.any(load_params(directory, 14)["w1"] != result.params["w1"])
    assert isinstance(load_params(directory)["w1"], jax.Array)


def test_with_a_tree_they_have_its_structure_dtypes_and_places(two):
    directory, result = two
    like = jax.eval_shape(tiny.task().init, jax.random.key(0))
    assert_same(load_params(directory, like=like), result.params)
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), like)
    assert_same(load_params(directory, like=wide), jax.tree.map(lambda x: x.astype(jnp.float32), result.params))
    place = jax.sharding.NamedSharding(jax.make_mesh((1,), ("data",)), jax.sharding.PartitionSpec())
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), like)
    assert all(leaf.sharding == place for leaf in jax.tree.leaves(load_params(directory, like=placed)))
    assert_same(load_params(directory, like=result.params), result.params)


class Custom(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="a'b.c[0]")(nn.Dense(3)(x))


def trained(directory, init):
    task = training.Task(
        init, lambda p, b, k: b["x"][:, 0] + 0 * sum(x.sum() for x in jax.tree.leaves(p)), lambda step: {"x": X}
    )
    return training.fit(task, optax.sgd(0.1), Settings(steps=1), directory, identity={}).params


X = np.ones((2, 4), np.float32)


@pytest.mark.long
def test_trees_of_flax_and_others(tmp_path):
    linen = lambda key: Custom().init(key, X)["params"]  # noqa: E731
    params = trained(tmp_path / "linen", linen)
    assert_same(load_params(tmp_path / "linen"), params)
    graph, _ = nnx.split(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), nnx.Param)
    of_nnx = lambda key: nnx.state(nnx.Linear(4, 2, rngs=nnx.Rngs(key)), nnx.Param)  # noqa: E731
    params = trained(tmp_path / "nnx", of_nnx)
    read = load_params(tmp_path / "nnx", like=jax.eval_shape(of_nnx, jax.random.key(0)))
    assert_same(read, params)
    assert nnx.merge(graph, read)(X).shape == (2, 2)

    params = trained(
        tmp_path / "mixed", lambda key: {"a": [jnp.ones(2), {"b": (jnp.zeros(1),)}], "c": {3: jnp.ones(1)}}
    )
    assert_same(load_params(tmp_path / "mixed", like=params), params)
    assert jax.tree.map(jnp.shape, load_params(tmp_path / "mixed")) == {
        "a": {0: (2,), 1: {"b": {0: (1,)}}},
        "c": {3: (1,)},
    }
    params = trained(tmp_path / "array", lambda key: jnp.ones(3))
    assert_same(load_params(tmp_path / "array"), params)


def test_the_state_of_a_model_is_read_in_the_same_way(tmp_path):
    result = test_model_state.run(test_model_state.linen(), tmp_path)
    assert_same(load_model_state(tmp_path), result.model_state)
    assert_same(load_model_state(tmp_path, like=result.model_state), result.model_state)
    assert_same(load_params(tmp_path), result.params)


def test_the_best_is_kept_and_read(tmp_path):
    # Evaluations after steps 3, 6, 9, 12, 15, 18 and 20.
    metrics = [0.2, 0.9, 0.9, 0.1, float("nan"), 0.3, 0.4]
    best = {"keep_best": "accuracy", "lower_is_better": False, "evaluate_every": 3, "keep": 1}
    last = run(tmp_path / "run", metrics, steps=20, **best)
    assert tiny.checkpoints(tmp_path / "run") == ["000000006", "000000020"]
    kept = run(tmp_path / "short", save_every=6, keep=9)
    assert_same(load_params(tmp_path / "run", "best"), load_params(tmp_path / "short", 6))
    assert_same(load_params(tmp_path / "run", "kept"), load_params(tmp_path / "short", 6))
    assert_same(load_params(tmp_path / "run"), last.params)
    assert_same(load_params(tmp_path / "short", "kept"), kept.params)

    lower = run(tmp_path / "lower", metrics, **best | {"lower_is_better": True})
    assert lower.steps == 20 and tiny.checkpoints(tmp_path / "lower") == ["000000012", "000000020"]


def test_a_resumed_run_remembers_its_best(tmp_path):
    best = {"keep_best": "accuracy", "lower_is_better": False, "evaluate_every": 3, "keep": 1}

    class Leave(Exception):
        pass

    def leaving(values):
        yield from values
        raise Leave

    with pytest.raises(Leave):
        run(tmp_path, leaving([0.2, 0.9, 0.1]), save_every=10, **best)
    assert tiny.checkpoints(tmp_path) == ["000000006", "000000010"]
    saved = manifest.read(tmp_path / "checkpoints/000000010")["record"]["best"]
    assert saved["figure"] == "accuracy"  # the name of the metric in the manifests of all versions
    run(tmp_path, [0.3, 0.4, 0.5, 0.6], **best)
    assert tiny.checkpoints(tmp_path) == ["000000006", "000000020"]
    assert load_params(tmp_path, "best")["w1"].shape == (4, 8)


HIGHEST = {"keep_best": "accuracy", "lower_is_better": False}
LOWEST = {"keep_best": "accuracy", "lower_is_better": True}
BY_LOSS = {"keep_best": "loss", "lower_is_better": True}
OF_SIX = {"steps": 6, "evaluate_every": 3, "keep": 1}


@pytest.fixture(scope="module", params=["finished", "stopped"])
def judged(request, tmp_path_factory):
    """Runs whose first of two evaluations is the better one, by how they were judged; finished or not."""

    class Leave(Exception):
        pass

    def values():
        yield 0.9
        if request.param == "stopped":
            raise Leave
        yield 0.1

    runs = {}
    for name, by in {"highest": HIGHEST, "not": {}}.items():
        runs[name] = tmp_path_factory.mktemp(name)
        with pytest.raises(Leave) if request.param == "stopped" else contextlib.nullcontext():
            run(runs[name], values(), save_every=3, **OF_SIX | by)
    return runs


@pytest.mark.parametrize(
    ("name", "by", "said"),
    [
        ("not", HIGHEST, 'keep_best was absent, is "accuracy"; settings.lower_is_better was absent, is false'),
        ("highest", {}, 'keep_best was "accuracy", is absent; settings.lower_is_better was false, is absent'),
        (
            "highest",
            BY_LOSS,
            'keep_best was "accuracy", is "loss"; settings.lower_is_better was false, is',
        ),
        ("highest", LOWEST, "lower_is_better was false, is true"),
    ],
)
def test_a_run_goes_on_only_with_what_its_evaluations_were_judged_by(judged, name, by, said):
    before = tiny.checkpoints(judged[name])
    with pytest.raises(
        training.OtherSettings, match=f"{name}[0-9] .*other settings: settings.{said}"
    ) as refused:
        run(judged[name], [], save_every=3, **OF_SIX | by)
    assert set(refused.value.names) <= {"settings.keep_best", "settings.lower_is_better"}
    assert tiny.checkpoints(judged[name]) == before
    if name == "highest":
        assert load_params(judged[name], "best")["w1"].shape == (4, 8)


def test_a_run_of_which_nothing_was_judged_yet_may_be_judged_by_anything(tmp_path):
    evaluations = [float("nan"), 0.3, 0.2]
    run(tmp_path, evaluations[:1], tx=optax.sgd(0.1), steps=3, keep=9)
    result = run(tmp_path, evaluations[1:], tx=optax.sgd(0.1), steps=7, keep=9, **HIGHEST)
    assert result.best == {"metric": "accuracy", "value": 0.3, "steps": 6}


def test_a_tree_that_would_round_or_holds_no_arrays_is_refused(two):
    directory, result = two
    shapes = jax.eval_shape(tiny.task().init, jax.random.key(0))
    whole = shapes | {"w1": jax.ShapeDtypeStruct(shapes["w1"].shape, jnp.int32)}
    with pytest.raises(TypeError, match=r"floating point where float32 was saved, \.params\['w1'\] is int32"):
        load_params(directory, like=whole)
    with pytest.raises(TypeError, match=r"like must hold arrays or .*, \.params\['w1'\] is float$"):
        load_params(directory, like=shapes | {"w1": 0.0})
    assert_same(load_params(directory, np.int64(20)), result.params)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"keep_best": "loss"}, "keep_best and lower_is_better go together, .* got 'loss' and None"),
        ({"lower_is_better": True}, "keep_best and lower_is_better go together, .* got None and True"),
        (
            {"keep_best": "f1", "lower_is_better": False},
            r"evaluate gives no metric 'f1' .*; it gives \['loss'\]",
        ),
    ],
)
def test_an_invalid_choice_of_the_best_is_refused(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **parts)


def test_a_task_without_evaluation_has_no_best(tmp_path):
    task = training.Task(tiny.task().init, tiny.task().loss, tiny.task().batches)
    settings = Settings(steps=1, keep_best="loss", lower_is_better=True)
    with pytest.raises(
        ValueError, match=r"Settings\(keep_best='loss'\) cannot keep a best checkpoint: Task\(eval"
    ):
        training.fit(task, optax.sgd(0.1), settings, tmp_path, identity={})


def wider(x):
    return jax.ShapeDtypeStruct((*x.shape[:-1], 9), x.dtype)


@pytest.mark.parametrize(
    ("step", "like", "message"),
    [
        (13, None, r"holds no checkpoint of step 13, only of 14, 20$"),
        ("best", None, r"holds no best checkpoint: Settings\(keep_best=, lower_is_better=\) keeps it"),
        (
            None,
            lambda params: params | {"w3": params["w1"]},
            r"\.params\['w3'\] is absent there, \[4, 8\] here",
        ),
        (None, lambda params: {"w1": params["w1"]}, r"\.params\['w2'\] is bfloat16\[8\] there, absent here"),
        (
            None,
            lambda params: jax.tree.map(wider, params),
            r"\['w1'\] is float32\[4, 8\] there, \[4, 9\] here",
        ),
    ],
)
def test_what_is_missing_is_reported_in_one_line(two, step, like, message):
    directory, result = two
    with pytest.raises(RunError, match=message) as refused:
        load_params(directory, step, like=None if like is None else like(result.params))
    assert "\n" not in str(refused.value)


def test_damage_and_absence_are_reported_in_one_line(two, tmp_path):
    directory, _ = two
    with pytest.raises(RunError, match=r"absent/checkpoints holds no checkpoint$"):
        load_params(tmp_path / "absent")
    with pytest.raises(RunError, match="holds no model_state"):
        load_model_state(directory)
    copy = shutil.copytree(directory, tmp_path / "copy")
    (copy / "checkpoints" / "000000020" / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"000000020 is damaged: manifest.json cannot be read"):
        load_params(copy)
    assert load_params(copy, 14)["w1"].shape == (4, 8)
    for step in ("last", 1.0, True):
        with pytest.raises(TypeError, match='step must be a number of updates, "best", "kept" or None'):
            load_params(directory, step)
