import numpy as np
import pytest

from examples.data import text_summary
from examples.data.text import TextExamples


def examples(texts, labels, names=("a", "b"), source="mails.csv", pairs=None):
    return TextExamples(tuple(texts), pairs, np.array(labels, np.int32), names, source)


def of(train, **others):
    return text_summary.of_texts({"train": train, **others})


def test_what_is_good_has_facts_and_no_warnings():
    train = examples([f"text {i}" for i in range(200)], np.arange(200) % 2, source="x.tsv, train part (0.8)")
    test = examples([f"other {i}" for i in range(60)], np.arange(60) % 2, source="x.tsv, test part (0.2)")
    summary = of(train, test=test)
    assert summary.facts == {
        "data": "x.tsv, train part (0.8)",
        "examples": "200 train, 60 test",
        "classes": "2; in training: a 100, b 100",
    }
    assert summary.warnings == []


def test_what_is_bad_is_said():
    train = examples(["", " ", "once", "twice", "twice ", *(f"t {i}" for i in range(95))], [0] * 96 + [1] * 4)
    test = examples(["", "Once", *(f"u {i}" for i in range(70))], [1, 1] + [0] * 70, source="other.csv")
    summary = of(train, test=test)
    assert summary.facts["empty texts"] == "3: 2 train, 1 test"
    assert summary.facts["test data"] == "other.csv"
    assert summary.facts["duplicates"] == "2 texts"
    told = " | ".join(summary.warnings)
    assert "3 empty texts, from which" in told and "test shares 1 text with train" in told
    assert "1 text with two classes" in told and "the classes are uneven" in told


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("spam", "Spam"), "the classes 'spam' and 'Spam' are spelled alike"),
        (("3", "３"), "the classes '3' and '３' are spelled alike"),
        (("0", "0.0"), "the classes '0' and '0.0' are spelled alike"),
        (("spam", "spam\u200b"), "the classes 'spam' and 'spam\\u200b' are spelled alike"),
        (("no", " no"), "the classes 'no' and ' no' are spelled alike"),
        (("3.1", "3.10"), "labels such as '3.1' are treated as names"),
        (("007", "7"), None),
        (("1E2", "100"), None),
    ],
)
def test_names_that_may_be_a_mistake(names, told):
    warnings = of(examples([f"t {i}" for i in range(200)], np.arange(200) % 2, names)).warnings
    assert any(warning.startswith(told) for warning in warnings) if told else warnings == []


def test_what_is_chosen_on_the_texts_that_it_is_tested_on_is_said():
    train, other = (examples([f"{name} {i}" for i in range(60)], [0, 1] * 30) for name in "ab")
    assert of(train, validation=other, test=other).warnings == [
        "test shares 60 texts with validation: its metrics are optimistic"
    ]


def test_quotes_that_a_tsv_does_not_read_are_said():
    texts = [f'"text {i}"' for i in range(60)]
    (warning,) = of(examples(texts, [0, 1] * 30, names=('"0"', '"1"'))).warnings
    assert warning.startswith(
        """every text and label is in quotes, such as '"0"', which are read as part of it"""
    )
    assert "--delimiter='\\t'" in warning
    assert not of(examples([*texts[1:], "text"], [0, 1] * 30)).warnings
    (warning,) = of(examples([f"t {i}" for i in range(60)], [0, 1] * 30, pairs=tuple(texts))).warnings
    assert warning.startswith("""every pair is in quotes, such as '"text 0"'""")


def test_a_pair_is_a_copy_where_both_texts_are():
    train = examples(["same"] * 60, [0, 1] * 30, pairs=tuple(f"p {i}" for i in range(60)))
    assert "duplicates" not in of(train).facts and not of(train).warnings


@pytest.mark.parametrize(("cut", "warned"), [(5, False), (6, True)])
def test_a_share_of_texts_that_are_cut(cut, warned):
    summary = text_summary.of_lengths(
        np.arange(1, 101), {"train": cut, "test": 0}, {"train": 60, "test": 40}, 24, 512
    )
    assert summary.facts["truncated"] == f"{cut} of 100 texts ({cut}.0%), to 24 tokens"
    assert bool(summary.warnings) is warned


@pytest.mark.parametrize(
    ("most", "why"), [(512, "see --length and --stride"), (24, "the model reads no more, see --stride")]
)
def test_texts_that_are_cut_lead_to_the_flag_where_it_helps(most, why):
    (warning,) = text_summary.of_lengths(np.arange(99), {"train": 9}, {"train": 9}, 24, most).warnings
    assert warning.endswith(f"are truncated: {why}")


def test_a_large_test_set_is_no_fault_and_one_that_looks_like_the_training_set_is():
    train = examples([f"text {i}" for i in range(60)], np.arange(60) % 2)
    test = examples([f"other {i}" for i in range(121)], np.arange(121) % 2)
    assert of(train, test=test).warnings == ["test has more than twice as many examples as train, 121 and 60"]
    train = examples([f"text {i}" for i in range(70)], np.arange(70) % 2)
    assert of(train, test=test).warnings == []


def test_names_from_outside_stay_in_their_line():
    names = ("a\nwarning: b", "\x1b[31m", "c" * 10_000)
    summary = of(examples([f"t {i}" for i in range(200)], [0] * 190 + [1] * 10, names))
    for told in (*summary.facts.values(), *summary.warnings):
        assert told.isprintable() and len(told) < 400
    assert summary.facts["classes"].startswith("3; in training: 'a\\nwarning: b' 190, '\\x1b[31m' 10, 'ccc")


@pytest.mark.parametrize(("classes", "told"), [(30, False), (31, True)])
def test_labels_that_may_be_no_classes(classes, told):
    train = examples([f"t {i}" for i in range(60)], np.arange(60) % classes, tuple(map(str, range(classes))))
    assert any("do the labels name classes" in warning for warning in of(train).warnings) is told


def test_one_example_is_one():
    summary = of(examples([f"t {i}" for i in range(60)], np.arange(60) % 2), test=examples(["one"], [0]))
    assert "test has only 1 example: each of them is 100.0% of its accuracy" in summary.warnings
