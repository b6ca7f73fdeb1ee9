import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.data.text import TextExamples, apart, sample, split


def numbered(count: int, pairs: bool = False) -> TextExamples:
    return TextExamples(
        texts=tuple(f"text {i}" for i in range(count)),
        pairs=tuple(f"pair {i}" for i in range(count)) if pairs else None,
        labels=np.arange(count, dtype=np.int32) % 3,
        label_names=("a", "b", "c"),
        source="numbers",
    )


def test_split_keeps_every_example_once_with_its_label_and_pair():
    parts = split(numbered(3000, pairs=True), {"train": 0.5, "validation": 0.2, "test": 0.3})
    rows = [
        (int(text.split()[1]), pair, label)
        for part in parts.values()
        for text, pair, label in zip(part.texts, part.pairs, part.labels.tolist(), strict=True)
    ]
    assert sorted(rows) == [(i, f"pair {i}", i % 3) for i in range(3000)]
    # Binomial: 6 standard deviations of sqrt(3000 p q) <= 27.4
    for part, expected in zip(parts.values(), (1500, 600, 900), strict=True):
        assert abs(len(part.texts) - expected) < 165
        assert part.labels.dtype == np.int32
        assert part.label_names == ("a", "b", "c")
    assert parts["test"].source == "numbers, test part (0.3)"


def test_a_single_part_is_its_source():
    whole = TextExamples(("a", "b"), None, np.array([0, 1], np.int32), ("no", "yes"), "x.tsv")
    assert split(whole, {"train": 1})["train"].source == "x.tsv"


def test_split_depends_on_the_text_alone():
    examples = numbered(200)
    order = np.random.default_rng(0).permutation(200)[:150]
    shuffled = TextExamples(
        tuple(examples.texts[i].upper() + " " for i in order), None, examples.labels[order], ("a", "b", "c"), ""
    )
    fractions = {"train": 0.6, "test": 0.4}
    whole, some = split(examples, fractions), split(shuffled, fractions)
    for part in fractions:
        assert {text.lower().strip() for text in some[part].texts} <= set(whole[part].texts)


def test_split_is_the_same_under_another_hash_seed():
    code = (
        "import numpy as np; from examples.data.text import *;"
        "e = TextExamples(tuple('abcdefgh'), None, np.zeros(8, np.int32), ('a',), '');"
        "print(*split(e, {'train': .5, 'test': .5})['train'].texts)"
    )

    def run(seed: str) -> bytes:
        root = Path(__file__).parents[3]
        environment = {"PYTHONHASHSEED": seed}
        return subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, check=True
        ).stdout

    assert run("1") == run("2")


def test_split_refuses_bad_fractions_and_empty_parts():
    for fractions in ({"train": 0.5}, {"train": 1.5, "test": -0.5}, {"train": float("nan")}, {}):
        with pytest.raises(ValueError, match="fractions must be positive and add up to 1"):
            split(numbered(9), fractions)
    with pytest.raises(ValueError, match="test: no example among 3 of numbers"):
        split(numbered(3), {"train": 0.999, "test": 0.001})


def test_examples_without_text_are_spread_and_copies_stay_together():
    texts = [*(f"text {i}" for i in range(2700)), *[""] * 79, *["  \t"] * 21, *["out of office"] * 200]
    labels = np.arange(len(texts), dtype=np.int32) % 2
    examples = TextExamples(tuple(texts), None, labels, ("a", "b"), "mails")
    parts = split(examples, {"train": 0.8, "validation": 0.1, "test": 0.1})
    empty = {name: sum(not text.strip() for text in part.texts) for name, part in parts.items()}
    assert empty["train"] > 60 and empty["validation"] > 2 and empty["test"] > 2 and sum(empty.values()) == 100
    owners = {name for name, part in parts.items() if "out of office" in part.texts}
    assert owners == {"train"} and parts["train"].texts.count("out of office") == 200
    assert all(240 < len(parts[name].texts) < 330 for name in ("validation", "test"))


def test_a_pair_without_a_first_text_goes_by_its_second():
    examples = TextExamples(
        ("",) * 200, tuple(f"b {i % 100}" for i in range(200)), np.arange(200) % 2, ("a", "b"), ""
    )
    parts = split(examples, {"train": 0.5, "test": 0.5})
    train, test = (set(part.pairs) for part in parts.values())
    assert len(train) > 30 and len(test) > 30 and not train & test


def test_forms_of_unicode_are_copies():
    texts = tuple(form for i in range(100) for form in (f"caf\u00e9 {i}", f"Cafe\u0301  {i}"))
    parts = split(TextExamples(texts, None, np.arange(200) % 2, ("a", "b"), ""), {"train": 0.5, "test": 0.5})
    train, test = ({text.split()[1] for text in part.texts} for part in parts.values())
    assert not train & test


@pytest.mark.parametrize("copies", [2, 5, 10, 50])
def test_texts_that_all_have_copies_are_in_every_part(copies):
    texts = tuple(f"text {i}" for i in range(60)) * copies
    examples = TextExamples(texts, None, np.arange(len(texts), dtype=np.int32) % 2, ("a", "b"), "twice")
    parts = split(examples, {"train": 0.8, "validation": 0.1, "test": 0.1})
    different = {name: set(part.texts) for name, part in parts.items()}
    assert sum(map(len, different.values())) == 60 and set.union(*different.values()) == set(texts)
    assert 35 < len(different["train"]) < 57


def test_too_few_different_texts_are_said():
    examples = TextExamples(("yes", "no") * 50, None, np.arange(100) % 2, ("a", "b"), "answers")
    with pytest.raises(ValueError, match="test: no example among 100 of answers, 2 of them different"):
        split(examples, {"train": 0.9, "test": 0.1})


def test_a_sample_is_random_and_always_the_same_and_keeps_what_belongs_together():
    drawn = sample(numbered(100, pairs=True), 10)
    ids = [int(text.split()[1]) for text in drawn.texts]
    assert len(set(ids)) == 10 and max(ids) > 10 and drawn.pairs == tuple(f"pair {i}" for i in ids)
    assert drawn.labels.tolist() == [i % 3 for i in ids]
    again = sample(numbered(100), 20)
    assert again.texts[:10] == drawn.texts and again.pairs is None
    assert sorted(sample(numbered(5), 20).texts) == sorted(numbered(5).texts)


def texts(*found: str, source: str = "x.csv", pairs: tuple[str, ...] | None = None) -> TextExamples:
    return TextExamples(found, pairs, np.arange(len(found), dtype=np.int32) % 2, ("a", "b"), source)


def test_a_few_texts_of_other_parts_are_left_out_of_training_and_counted():
    train = texts(*(f"text {i}" for i in range(40)), "", "Text  39")
    validation, test = texts("text 39", *(f"v {i}" for i in range(9))), texts("", "text 3", "t", "text 3 ")
    kept = apart(train, {"validation": validation})
    assert kept.texts == (*(f"text {i}" for i in range(39)), "")
    assert kept.labels.tolist() == [*train.labels[:39].tolist(), 0]
    assert kept.notes == {"texts left out of training, as another part has them": 2}
    assert apart(train, {"validation": texts("v")}) is train and apart(train, {}) is train
    with pytest.raises(
        ValueError, match=r"test.csv: 2 of its 4 texts are in --data too, .* or omit --test, for"
    ):
        apart(train, {"test": dataclasses.replace(test, source="test.csv")})


def test_pairs_are_in_two_parts_where_both_texts_are():
    train = texts("a", "b", "c", pairs=("x", "y", "z"))
    assert apart(train, {"test": texts("a", "b", pairs=("x", "z"))}).texts == ("b", "c")


def test_no_part_is_made_of_the_training_examples_alone():
    with pytest.raises(ValueError, match=r"x.csv: 1 of its 99 texts are in --data too"):
        apart(texts("text 1"), {"test": texts(*(f"text {i}" for i in range(99)))})
