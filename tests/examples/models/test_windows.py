"""Windows are those of the tokenizers library, with what it does not do for pairs derived by hand."""

import json

import numpy as np
import pytest

from examples.data import memory
from examples.models import pretrained, text_classifier, windows
from tests.golden import classifiers

WORDS = classifiers.WORDS


def tokenizer(kind="bert"):
    made = classifiers.tokenizer(kind)
    made.enable_padding(pad_id=0 if kind == "bert" else 1, pad_token=classifiers.SPECIAL[kind][kind != "bert"])
    return made


def texts(seed, lengths):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, count)) for count in lengths]


def expected(made, inputs, length, stride, strategy):
    """Ids, mask and types of every window, and the text of each, as the library divides them."""
    made.enable_truncation(length, stride=stride, strategy=strategy)
    made.enable_padding(**made.padding | {"length": length})
    rows = [(i, row) for i, one in enumerate(made.encode_batch(inputs)) for row in (one, *one.overflowing)]
    arrays = {"ids_BT": "ids", "mask_BT": "attention_mask", "types_BT": "type_ids"}
    found = {name: np.array([getattr(row, of) for _, row in rows]) for name, of in arrays.items()}
    return found, [i for i, _ in rows]


def check(found, expected):
    (arrays, owners), (others, of) = found, expected
    assert owners.tolist() == of
    for name, array in arrays.items():
        assert array.dtype == np.int32
        np.testing.assert_array_equal(array, others[name])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("stride", [0, 1, 3, 5])
def test_windows_of_texts_are_those_of_the_library(kind, stride):
    given = ["", *texts(0, range(1, 30))]
    *found, cut = windows.encode(tokenizer(kind), given, None, 8, stride)
    assert cut == 0
    check(found, expected(tokenizer(kind), given, 8, stride, "longest_first"))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_second_text_of_a_pair_is_divided(kind):
    firsts, seconds = texts(1, [0, 1, 2, 3, 4, 4, 4]), texts(2, [20, 9, 3, 30, 4, 5, 0])
    *found, cut = windows.encode(tokenizer(kind), firsts, seconds, 12, 3)  # room for 8 or 9 tokens of text
    assert cut == 0
    arrays, owners = expected(tokenizer(kind), list(zip(firsts, seconds, strict=True)), 12, 3, "only_second")
    if kind == "roberta":  # whose only type the library forgets in all windows but the first
        arrays["types_BT"][:] = 0
    check(found, (arrays, owners))


def test_a_first_text_is_truncated_to_half_and_less_where_the_second_is_short():
    firsts, seconds = texts(3, [9, 9, 9]), texts(4, [7, 3, 0])
    arrays, owners, cut = windows.encode(tokenizer(), firsts, seconds, 12, 2)  # room for 9 tokens: 4 and 5
    assert owners.tolist() == [0, 0, 1, 2] and cut == 2
    types = arrays["types_BT"] * arrays["mask_BT"]
    assert types.sum(1).tolist() == [5 + 1, 4 + 1, 3 + 1, 0 + 1]  # of the second text, and the end
    assert arrays["mask_BT"].sum(1).tolist() == [12, 11, 12, 12]
    whole, _ = pretrained.encode(tokenizer(), firsts, seconds, 12)  # what is not divided is truncated alike
    np.testing.assert_array_equal(arrays["ids_BT"][2:], whole["ids_BT"][1:])


def test_without_a_stride_there_is_one_window_and_a_tokenizer_is_left_as_it_was():
    made, given = tokenizer(), texts(5, [3, 20])
    windows.encode(made, given, None, 8, 2)
    arrays, owners, cut = windows.encode(made, given, None, 8, None)
    whole, _ = pretrained.encode(tokenizer(), given, None, 8)
    assert owners.tolist() == [0, 1] and cut == 1
    np.testing.assert_array_equal(arrays["ids_BT"], whole["ids_BT"])
    arrays, owners, _ = windows.encode(made, [], None, 8, 2)
    assert arrays["ids_BT"].shape == (0, 8) and not len(owners)


@pytest.mark.parametrize(
    ("pairs", "length", "stride", "message"),
    [
        (None, 8, 6, "stride must be below the 6 tokens of a text in a window of 8, got 6"),
        (None, 2, 0, "stride must be below the 0 tokens of a text in a window of 2, got 0"),
        (
            ["a"],
            12,
            5,
            "stride must be below the 5 tokens of the second text of a pair in a window of 12, got 5",
        ),
        (["a", "b"], 12, 1, "there must be as many pairs as texts, 1, got 2"),
    ],
)
def test_a_stride_without_room_is_refused(pairs, length, stride, message):
    with pytest.raises(ValueError, match=message):
        windows.encode(tokenizer(), ["the"], pairs, length, stride)


def test_more_windows_than_fit_into_memory_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 10_000)
    with pytest.raises(ValueError, match="windows of 8 tokens of 1 texts would take"):
        windows.encode(tokenizer(), texts(6, [200]), None, 8, 5)


def test_a_classifier_averages_the_logits_of_windows_and_remembers_the_stride(tmp_path):
    made, params = classifiers.text_model("bert_mean")
    long = classifiers.text_model("bert_mean")[0]
    object.__setattr__(long, "stride", 4)
    given = texts(7, [3, 40])
    arrays, owners, _ = windows.encode(made.tokenizer, given, None, made.length, 4)
    logits = np.asarray(made._logits(params, *arrays.values()))
    mean = np.stack([logits[owners == i].mean(0) for i in range(2)])
    expected = np.exp(mean) / np.exp(mean).sum(-1, keepdims=True)
    found = long.predictions(params, given, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(found[1] - made.predictions(params, given, None)[1]).max() > 1e-3

    long.save(tmp_path, params)
    read, same = text_classifier.load(tmp_path)
    assert read.stride == 4
    np.testing.assert_array_equal(read.predictions(same, given, None), found)
    path = tmp_path / "config.json"
    for wrong in ("4", -1, True, 1.5):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"text_stride": wrong}))
        with pytest.raises(ValueError, match="is not a classifier of texts that finetune_text has saved"):
            text_classifier.load(tmp_path)
