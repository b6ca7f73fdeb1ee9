"""A corpus of malformed inputs, each with the message that refuses it.

Every case is a reader, its input, and a part of the one-line message with which it must refuse. ``CASES`` holds
them by kind and name, and ``test_malformed.py`` reads them all. The malformed files of labelled text are in
``test_text_files.py``.
"""

import functools
import io
import json
import pickle
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save

from examples.data import chat_template, corpus, images, prompts, tokenization
from examples.models import decoders, families, lora, pretrained
from examples.models import weights as weight_files
from examples.shared import study_record
from examples.shared.optimizers import choose
from optimiz import compare, training
from optimiz.training.storage import checkpoint, run_directory
from optimiz.training.storage.manifest import sha256
from tests.examples.data import test_prompts

GOLDEN = Path(__file__).parents[1] / "golden"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
UP = "bert.encoder.layer.0.intermediate.dense.weight"
CODE = "__import__('pathlib').Path('ran').touch()"


class Case(NamedTuple):
    """What is malformed.

    ``make`` puts it into an empty folder that is the working directory too; ``read`` is given the folder;
    ``message`` is a regular expression.
    """

    read: Callable[[Path], Any]
    make: Callable[[Path], Any]
    message: str


class Payload:
    """Touches a file called ``ran`` where someone unpickles it."""

    def __reduce__(self):
        return eval, (CODE,)


PICKLE = pickle.dumps(Payload(), protocol=2)
DEEP = b"[" * 200_000


def writes(name: str, content: bytes | str) -> Callable[[Path], Any]:
    data = content.encode() if isinstance(content, str) else content

    def make(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return make


# --- a pretrained model ---------------------------------------------------------------------------


def encoder(folder):
    return pretrained.load_encoder(folder / "bert")


def bert(edit):
    """The tiny BERT, which an editor then damages."""

    def make(folder):
        edit(Path(shutil.copytree(GOLDEN / "bert_tiny", folder / "bert")))

    return make


def weights(content):
    """Its weights replaced by bytes, or by what a function makes of the tensors."""

    def edit(directory):
        path = directory / "model.safetensors"
        path.write_bytes(content if isinstance(content, bytes) else content(load_file(path)))

    return Case(encoder, bert(edit), "")


def packed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape=(2,), dtype="F32", offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def repeated(tensors):
    """One name twice in a header, whose last entry would win."""
    name = json.dumps(QUERY)
    whole = save(tensors)
    (length,) = struct.unpack("<Q", whole[:8])
    header = whole[8 : 8 + length].decode().strip()
    first = json.loads(header)[QUERY]
    return packed(f"{header[:-1]},{name}:{json.dumps(first)}}}".encode(), whole[8 + length :])


def without(tensors, name=QUERY):
    return save({key: tensor for key, tensor in tensors.items() if key != name})


def torch_archive():
    """A zip with a pickle in it, as torch.save writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", PICKLE)
    return file.getvalue()


def only_a_pickle(directory):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(PICKLE)


SAFETENSORS = {
    "empty": (b"", "damaged: .*header"),
    "torn length": (b"\x10\0\0", "damaged: .*header"),
    "header longer than the file": (struct.pack("<Q", 1000) + b"{}", "damaged: .*header"),
    "header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", "damaged: .*header"),
    "header over the cap": (struct.pack("<Q", 100_000_001) + b"{}", "damaged: .*header"),
    "header not JSON": (packed(b"{'a': 1}"), "damaged: .*header"),
    "header not UTF-8": (packed(b'{"\xff": 1}'), "damaged: .*header"),
    "header a list": (packed([1]), "damaged: .*header"),
    "header a bomb": (packed(DEEP), "damaged: .*header"),
    "length NaN": (packed({"a": entry(shape=(float("nan"),))}, bytes(8)), "damaged: .*header"),
    "length negative": (packed({"a": entry(shape=(-2,))}, bytes(8)), "damaged: .*header"),
    "lengths that overflow": (packed({"a": entry(shape=(2**62, 8))}, bytes(8)), "damaged: "),
    "offsets past the end": (packed({"a": entry(offsets=(0, 80), shape=(20,))}, bytes(8)), "damaged: "),
    "offsets backwards": (packed({"a": entry(offsets=(8, 0))}, bytes(8)), "damaged: "),
    "offsets that overlap": (packed({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "damaged: "),
    "a hole": (packed({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "damaged: "),
    "bytes left over": (lambda tensors: save(tensors) + b"x", "damaged: "),
    "a byte short": (lambda tensors: save(tensors)[:-1], "damaged: "),
    "unknown type": (packed({"a": entry(dtype="F33")}, bytes(8)), "damaged: .*F33"),
    "integers": (lambda t: save(t | {QUERY: t[QUERY].astype(np.int32)}), f"1 mismatched .{QUERY} I32"),
    "a name twice": (repeated, f"header has '{QUERY}' twice"),
    "a tensor missing": (without, f"1 missing .{QUERY} float"),
    "a tensor too many": (lambda t: save(t | {"w": np.ones(2, np.float32)}), r"1 unknown .*w float \[2\]"),
    "a tensor turned": (
        lambda t: save(t | {UP: np.ascontiguousarray(t[UP].T)}),
        f"1 mismatched .{UP} float .*, expected float ",
    ),
    "a tensor called ../../x": (
        lambda t: save(t | {"../../x": np.ones(2, np.float32)}),
        r"1 unknown .\.\./\.\./x float",
    ),
    "a tensor in two": (
        lambda t: save(t | {QUERY.removeprefix("bert."): t[QUERY]}),
        "holds both",
    ),
}

DISGUISES = {"a pickle": (PICKLE, "damaged: "), "an archive of torch.save": (torch_archive(), "damaged: ")}


def config(edit):
    """Its configuration, with other values or as other text."""

    def edited(directory):
        path = directory / "config.json"
        if isinstance(edit, dict):
            path.write_text(json.dumps(json.loads(path.read_text()) | edit))
        else:
            path.write_bytes(edit(path.read_text()))

    return bert(edited)


CONFIGURATIONS = {
    "empty": (lambda text: b"", "config.json is not JSON: "),
    "torn": (lambda text: text[: len(text) // 2].encode(), "config.json is not JSON: .*line"),
    "a list": (lambda text: b"[1]", "config.json must hold a JSON object, got list"),
    "not UTF-8": (lambda text: text.encode("utf-16"), "config.json is not JSON: .*utf-8"),
    "a bomb": (lambda text: DEEP, "config.json is not JSON: nested too deeply"),
    "a number of 5,000 digits": (lambda text: b'{"a": ' + b"9" * 5000 + b"}", "config.json is not JSON"),
    "a key twice": (
        lambda text: text.replace("{", '{"hidden_size": 1024,', 1).encode(),
        "config.json has 'hidden_size' twice",
    ),
    "YAML with a tag": (
        lambda text: f'!!python/object/apply:eval ["{CODE}"]'.encode(),
        "config.json is not JSON",
    ),
    "a width that is text": ({"hidden_size": "32"}, "hidden_size must be of type int, got '32'"),
    "a width that is true": ({"hidden_size": True}, "hidden_size must be of type int, got True"),
    "a width of 0": ({"hidden_size": 0}, "config.json: hidden_size"),
    "a width below 0": ({"hidden_size": -32}, "config.json: hidden_size"),
    "a width that heads do not divide": ({"num_attention_heads": 5}, "config.json: "),
    "a billion layers": ({"num_hidden_layers": 10**9}, "has 42 tensors, but config.json has 1000000000"),
    "epsilon NaN": ({"layer_norm_eps": float("nan")}, "config.json"),
    "dropout above 1": ({"hidden_dropout_prob": 1.5}, "config.json: hidden_dropout"),
    "an activation that is code": ({"hidden_act": CODE}, "config.json: activation"),
    "an unknown model": ({"model_type": "../../model"}, "model_type must be one of"),
    "a model that is a list": ({"model_type": ["bert"]}, "model_type must be one of"),
    "a model that is a class": ({"model_type": "os.system"}, "model_type must be one of"),
}

TOKENIZERS = {
    "empty": (b"", "t.json is not a tokenizer: "),
    "torn": (b'{"version": "1.0", "trunc', "t.json is not a tokenizer: "),
    "another JSON": (b'{"a": 1}', "t.json is not a tokenizer: "),
    "a bomb": (DEEP, "t.json is not a tokenizer: "),
    "a pickle": (PICKLE, "t.json is not a tokenizer: "),
}


# --- what a language model is fine-tuned on -------------------------------------------------------


def chats(folder):
    """The rows of a file, whose conversations the template beside it writes."""
    return prompts.read("a.jsonl", chat_template.read(folder))


def rows(*lines):
    """A file of rows, and a template."""

    def make(folder):
        templated(test_prompts.TURNS)(folder)
        test_prompts.rows(folder, *lines)

    return make


def templated(template, **more):
    """A conversation, and what is to write it."""

    def make(folder):
        test_prompts.rows(folder, {"messages": [test_prompts.USER, test_prompts.SAYS]})
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, **more}))

    return make


ROWS = {
    "torn": ('{"prompt": "a", "answer": "b"}\n{"prompt": "a', r"a\.jsonl:2 is not JSON"),
    "not UTF-8": (b'{"text": "a"}\n{"text": "\xff"}\n', r"a\.jsonl:2: .*UTF-8"),
    "a bomb": (DEEP, r"a\.jsonl.* is not JSON"),
    "a key twice": ('{"text": "a", "text": "b"}\n', r"a\.jsonl:1.* has 'text' twice"),
    "a pickle": (PICKLE, r"a\.jsonl"),
    "empty": (b"", r"a\.jsonl: no rows"),
}

TEMPLATES = {
    "no text": (3, "chat_template must be text of at most"),
    "none by default": ([{"name": "rag", "template": "x"}], "or a list with a default"),
    "torn": ("{% for m in messages %}", "chat_template is not a template"),
    "absent": (None, r"a\.jsonl:1: messages need a chat template"),
    "refuses": ("{{ raise_exception('roles must alternate') }}", r"a\.jsonl:1: .*: roles must alternate"),
    "fails": ("{{ messages[7].content.x }}", r"a\.jsonl:1: .*chat_template cannot write this conversation"),
    "of a name that is not there": (
        "{{ tools_in_user_message() }}",
        "cannot write this conversation: .*undefined",
    ),
    "leaves out the answer": (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
        r"a\.jsonl:1: .*chat_template (leaves out what the assistant says|does not write message 2)",
    ),
    "without an end": ("{% for i in range(99999) %}{{ messages }}{% endfor %}", "writes more than"),
    "takes all memory": ("{{ 'x' * 1000000000 }}", "is for numbers"),
    "counts for ever": ("{{ 9 ** 9 ** 9 }}", "is not for templates"),
    "looks for classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "runs code": ("{{ cycler.__init__.__globals__.os.system('touch ran') }}", "cannot write this conversation"),
    "reads a file": ("{% include '/etc/hostname' %}", "cannot write this conversation"),
}


def adapters(**fields):
    """Adapters of a GPT-2, by the values of the flags."""

    def read(folder):
        config = weight_files.read_config(GOLDEN / "gpt2_tiny", families.GPT2)
        return lora.Adapted(families.GPT2, config, lora.Lora(**{"rank": 2, "alpha": 4.0, **fields}))

    return read


ADAPTERS = {
    "a target of another model": (
        adapters(targets=("q_proj",)),
        "'q_proj' is no linear map of the model; there",
    ),
    "a target that is no linear map": (adapters(targets=("ln_1",)), "'ln_1' is no linear map of the model"),
    "a target beside one that is there": (
        adapters(targets=("c_attn", "x")),
        "'x' is no linear map of the model",
    ),
    "no target": (adapters(targets=()), "targets must name a linear map, got none"),
    "a rank of 0": (adapters(rank=0), "rank must be at least 1, got 0"),
    "a scale of NaN": (adapters(alpha=float("nan")), "alpha must be positive and finite, got nan"),
}


# --- arrays and images ----------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """The beginning of a grey PNG of any size, whatever follows."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def npz(**members: bytes | np.ndarray) -> bytes:
    """An archive of arrays, or of what only has the name of one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            content = member
            if isinstance(member, np.ndarray):
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, member, allow_pickle=True)
                content = buffer.getvalue()
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def claims(shape: tuple[int, ...]) -> bytes:
    """The header of an array of any size, without the array."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


IMAGES, LABELS = np.zeros((2, 4, 4), np.uint8), np.arange(2)
OBJECTS = np.array([Payload(), Payload()], object)

ARRAYS = {
    "not an archive": (b"P", "x.npz cannot be read: "),
    "torn": (npz(images=IMAGES, labels=LABELS)[:-30], "x.npz cannot be read: "),
    "one array": (claims((2, 4, 4)) + bytes(32), "x.npz cannot be read: .*not an archive"),
    "labels missing": (npz(images=IMAGES), "x.npz: no array 'labels'"),
    "a name outside": (npz(**{"../../images": IMAGES, "labels": LABELS}), "x.npz: no array 'images'"),
    "more than memory": (npz(images=claims((2**20, 2**20, 2**5)), labels=LABELS), "x.npz cannot be read: "),
    "labels NaN": (
        npz(images=IMAGES, labels=np.full(2, np.nan)),
        "x.npz: labels must be 2 integers or strings",
    ),
    "images float": (npz(images=IMAGES * 1.0, labels=LABELS), "x.npz: images must be uint8"),
}

FOLDERS = {
    "text for an image": ("a/x.png", b"hello", r"x\.png \(not one of BMP, "),
    "a torn image": ("a/x.png", png(4, 4), r"x\.png \("),
    "an image of 10^10 pixels": ("a/x.png", png(100_000, 100_000), r"x\.png \(DecompressionBombError"),
    "no image": ("a/x.txt", b"hello", "folder: no images"),
}


# --- files of a run ------------------------------------------------------------------------------


def record(folder):
    return compare.Record.read(folder / "record.json")


WRITTEN = {
    "metrics: not JSON": (
        lambda folder: training.read_metrics(folder / "m.jsonl"),
        writes("m.jsonl", '{"step": 0}\n{"step": \n'),
        r"m\.jsonl:2 is not JSON",
    ),
    "metrics: a bomb": (
        lambda folder: training.read_metrics(folder / "m.jsonl"),
        writes("m.jsonl", DEEP + b"\n"),
        r"m\.jsonl:1 is not JSON: ",
    ),
    "metrics: not UTF-8": (
        lambda folder: training.read_metrics(folder / "m.jsonl"),
        writes("m.jsonl", b'{"loss\xff": 1}\n'),
        r"m\.jsonl:1 is not JSON",
    ),
    "metrics: a number": (
        lambda folder: training.read_metrics(folder / "m.jsonl"),
        writes("m.jsonl", '{"step": 0}\n5\n'),
        r"m\.jsonl:2 must be a JSON object, got int",
    ),
    "a study's measurement: torn": (
        lambda folder: study_record.measured_once(folder / "blocks.json", list),
        writes("blocks.json", '[{"norm": 0.1'),
        r"blocks\.json is not JSON",
    ),
    "a finished run: no schema": (
        lambda folder: compare.Run.read(folder / "result.json"),
        writes("result.json", '{"a": 1}\n'),
        r"result\.json is not a complete record: 'schema' is missing",
    ),
    "a record: torn": (record, writes("record.json", '{"schema": 1'), r"record\.json is not a complete record"),
    "a record: a list": (record, writes("record.json", "[]"), r"record\.json is not a complete record"),
    "a record: a bomb": (record, writes("record.json", DEEP), r"record\.json is not a complete record"),
    "a record: another schema": (record, writes("record.json", '{"schema": 0}'), r"has record schema 0"),
    "a reference: torn": (
        lambda folder: training.Reference.read(folder / "r.json"),
        writes("r.json", '{"schema": 1, "ti'),
        r"r\.json is not a complete reference",
    ),
    "a reference: a price of NaN": (
        lambda folder: training.Reference.read(folder / "r.json"),
        lambda folder: (folder / "r.json").write_text(reference().replace("0.5", "NaN")),
        r"r\.json is not a valid reference: ",
    ),
    "a reference: a price twice": (
        lambda folder: training.Reference.read(folder / "r.json"),
        lambda folder: (folder / "r.json").write_text(twice(reference())),
        r"r\.json is not a valid reference: .* is listed twice",
    ),
    "irreducible losses: torn": (
        lambda folder: training.IrreducibleLosses.read(folder / "i.npz"),
        writes("i.npz", npz(ids=LABELS)[:-5]),
        r"i\.npz does not hold irreducible losses",
    ),
    "irreducible losses: one array": (
        lambda folder: training.IrreducibleLosses.read(folder / "i.npz"),
        writes("i.npz", claims((2,)) + b"ab"),
        r"i\.npz does not hold irreducible losses",
    ),
}


def reference() -> str:
    timing = training.Timing(0.5, 0.1, 3)
    path = Path("written.json")
    training.Reference(times={training.Work("step", None, 8): timing}, about={}).write(path)
    return path.read_text()


def twice(text: str) -> str:
    fields = json.loads(text)
    return json.dumps(fields | {"times": fields["times"] * 2})


# --- checkpoints and directories of runs ----------------------------------------------------------

SETTINGS = {"settings": {"steps": 3}, "identity": {}}
STATE = {"w": jnp.ones(3)}
RECORD = {"metrics_bytes": 0, "seconds": 1.0}


def saved(edit):
    """A run's directory with one checkpoint, which an editor then damages."""

    def make(folder):
        shutil.copytree(whole_run(), folder / "run")
        edit(folder / "run", folder / "run/checkpoints/000000003")

    return make


@functools.cache
def whole_run() -> Path:
    path = Path(tempfile.mkdtemp()) / "run"
    with run_directory.claimed(path, SETTINGS, resume=False):
        checkpoint.save(path / "checkpoints", 3, STATE, settings=SETTINGS, record=RECORD, keep=1)
    return path


def resume(folder):
    with run_directory.claimed(folder / "run", SETTINGS, resume=True) as path:
        return checkpoint.restore(path / "checkpoints", lambda record: STATE, SETTINGS)


def manifest(**changes):
    """Its manifest with other fields, and vouched for again."""

    def edit(run, newest):
        path = newest / "manifest.json"
        fields = json.loads(path.read_text()) | changes
        del fields["manifest_sha256"]
        path.write_text(json.dumps(fields | {"manifest_sha256": sha256(fields)}))

    return edit


def outward(run, newest):
    """What a killed save left is a link out of the directory."""
    (run.parent / "precious").mkdir()
    (run.parent / "precious" / "thesis.tex").touch()
    (newest.parent / "partial-4").symlink_to(run.parent / "precious")
    (newest / "manifest.json").unlink()


CHECKPOINTS = {
    "run.json torn": (lambda run, _: (run / "run.json").write_text("{"), r"run\.json is damaged"),
    "run.json a list": (lambda run, _: (run / "run.json").write_text("[1]"), r"run\.json is damaged"),
    "run.json a bomb": (lambda run, _: (run / "run.json").write_bytes(DEEP), r"run\.json is damaged"),
    "run.json of other settings": (
        lambda run, _: (run / "run.json").write_text('{"settings": {"steps": 4}}'),
        "settings.steps was 4, is 3",
    ),
    "manifest torn": (
        lambda _, newest: (newest / "manifest.json").write_text('{"format"'),
        r"manifest\.json cannot be read",
    ),
    "manifest a list": (
        lambda _, newest: (newest / "manifest.json").write_text("[]"),
        r"manifest\.json cannot be read",
    ),
    "manifest a bomb": (
        lambda _, newest: (newest / "manifest.json").write_bytes(DEEP),
        r"manifest\.json cannot be read",
    ),
    "manifest a pickle": (
        lambda _, newest: (newest / "manifest.json").write_bytes(PICKLE),
        r"manifest\.json cannot be read",
    ),
    "manifest of a later format": (manifest(format=9), "has format 9, this version reads 1"),
    "manifest with a file outside": (
        manifest(files={"../../../outside": {"bytes": 1, "sha256": ""}}),
        r"\.\./\.\./\.\./outside is missing",
    ),
    "a link out of the directory": (outward, r"manifest\.json is missing"),
}


# --- names ----------------------------------------------------------------------------------------


def arm(name):
    return lambda folder: compare.Arm(name, 0.1, lambda: None)


NAMES = {
    "an arm called ../x": (arm("../x"), "name must be letters, digits"),
    "an arm called /x": (arm("/x"), "name must be letters, digits"),
    "an arm called nothing": (arm(""), "name must be letters, digits"),
    "an arm with a newline": (arm("a\n"), "name must be letters, digits"),
    "an optimizer that is code": (lambda folder: choose(CODE), "optimizer .* is unknown"),
    "an optimizer that is a module": (lambda folder: choose("os.system"), "optimizer 'os.system' is unknown"),
    "a mesh of no devices": (lambda folder: training.make_mesh("data:0"), "mesh"),
    "a mesh that is code": (lambda folder: training.make_mesh(CODE), "mesh"),
    "a model called ../x": (lambda folder: pretrained.find("../x"), "a directory or a Hub repository"),
    "a model called a/../b": (lambda folder: pretrained.find("a/../b"), "a directory or a Hub repository"),
    "a model that is a URL": (
        lambda folder: pretrained.find("https://x.org/a"),
        "a directory or a Hub repository",
    ),
    "a model that is a pickle": (lambda folder: pretrained.find("model.bin"), "model must be a directory with"),
}


def cases() -> dict[str, dict[str, Case]]:
    """The corpus: kind → name → case."""
    of_weights = {
        name: weights(content)._replace(message=message) for name, (content, message) in SAFETENSORS.items()
    }
    pickles = {
        f"{name} called model.safetensors": weights(content)._replace(message=message)
        for name, (content, message) in DISGUISES.items()
    } | {
        "only a pytorch_model.bin": Case(encoder, bert(only_a_pickle), "is a pickle, which could run code"),
        "a pickle called x.npz": Case(
            lambda f: images.read(f / "x.npz"), writes("x.npz", PICKLE), "x.npz cannot be read: "
        ),
        "an array of objects": Case(
            lambda f: images.read(f / "x.npz"),
            writes("x.npz", npz(images=IMAGES, labels=OBJECTS)),
            "x.npz cannot be read: Object arrays",
        ),
        "irreducible losses that are objects": Case(
            lambda f: training.IrreducibleLosses.read(f / "i.npz"),
            writes("i.npz", npz(ids=LABELS, losses=OBJECTS, about=np.array("{}"))),
            "i.npz does not hold irreducible losses: Object arrays",
        ),
        "a pickle called x.txt": Case(corpus.read, writes("x.txt", PICKLE + b"\xff"), "x.txt: not UTF-8"),
    }
    return {
        "safetensors": of_weights,
        "pickles in disguise": pickles,
        "configurations": {
            name: Case(encoder, config(edit), message) for name, (edit, message) in CONFIGURATIONS.items()
        },
        "tokenizers": {
            name: Case(lambda f: tokenization.load(f / "t.json"), writes("t.json", content), message)
            for name, (content, message) in TOKENIZERS.items()
        },
        "prompts and chats": {
            **{
                name: Case(chats, rows(*lines), message)
                for name, (lines, message) in test_prompts.REFUSED.items()
            },
            **{
                f"rows: {name}": Case(chats, writes("a.jsonl", given), said)
                for name, (given, said) in ROWS.items()
            },
        },
        "chat templates": {
            name: Case(chats, templated(template), message) for name, (template, message) in TEMPLATES.items()
        },
        "adapters": {
            **{name: Case(read, lambda folder: None, message) for name, (read, message) in ADAPTERS.items()},
            "in place of a model": Case(decoders.family, writes(lora.CONFIG, '{"r": 8}'), "has no config.json"),
            "of a model of another kind": Case(
                lambda folder: decoders.family(folder / "bert"),
                bert(lambda directory: None),
                r"config\.json: model_type must be one of \['gpt2', ",
            ),
        },
        "arrays": {
            name: Case(lambda f: images.read(f / "x.npz"), writes("x.npz", content), message)
            for name, (content, message) in ARRAYS.items()
        },
        "images": {
            name: Case(images.read, writes(where, content), message)
            for name, (where, content, message) in FOLDERS.items()
        },
        "files of a run": {name: Case(*case) for name, case in WRITTEN.items()},
        "checkpoints": {
            name: Case(resume, saved(edit), message) for name, (edit, message) in CHECKPOINTS.items()
        },
        "hostile names": {
            name: Case(read, lambda folder: None, message) for name, (read, message) in NAMES.items()
        },
    }


CASES = {f"{kind}: {name}": case for kind, of_kind in cases().items() for name, case in of_kind.items()}
