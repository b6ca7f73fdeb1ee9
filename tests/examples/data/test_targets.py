"""Several labels and numbers are read as they are written, in every kind of file."""

import json

import numpy as np
import pytest

from examples.data import targets, text, text_files
from examples.data.text_baselines import tfidf
from examples.data.text_summary import of_texts


def read(directory, name, content, problem, **given):
    path = directory / name
    path.write_text(content)
    return text_files.read(path, problem=problem, **given)


def test_several_labels_are_separated_or_listed_and_a_row_may_have_none(tmp_path):
    rows = [("a", ["x", "y"]), ("b", []), ("c", ["y"]), ("d", ["z", "x"])]
    expected = [[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]]
    files = {
        "a.tsv": "text\tlabel\n" + "".join(f"{t}\t{', '.join(of)}\n" for t, of in rows),
        "b.csv": "text,label\n" + "".join(f'{t},"{",".join(of)}"\n' for t, of in rows),
        "c.jsonl": "".join(json.dumps({"text": t, "label": of}) + "\n" for t, of in rows),
    }
    for name, content in files.items():
        found = read(tmp_path, name, content, targets.LABELS)
        assert found.label_names == ("x", "y", "z") and found.texts == ("a", "b", "c", "d")
        assert found.labels.dtype == np.float32 and found.labels.tolist() == expected
    bars = files["a.tsv"].replace(", ", "|")
    assert read(tmp_path, "d.tsv", bars, targets.LABELS, separator="|").labels.tolist() == expected
    known = read(tmp_path, "e.tsv", "text\tlabel\na\tz\n", targets.LABELS, label_names=("x", "y", "z"))
    assert known.labels.tolist() == [[0, 0, 1]]


def test_whole_numbers_among_several_labels_are_one_label_however_pandas_writes_them(tmp_path):
    found = read(tmp_path, "a.tsv", "text\tlabel\na\t1.0,2.0\nb\t10.0\n", targets.LABELS)
    assert found.label_names == ("1", "2", "10")


def test_numbers_are_those_of_a_column_named_score_too(tmp_path):
    content = "sentence1\tsentence2\tscore\na\tx\t3.800\nb\ty\t-1e-1\nc\tz\t 5\n"
    found = read(tmp_path, "sts.tsv", content, targets.NUMBER)
    np.testing.assert_allclose(found.labels, [3.8, -0.1, 5], rtol=1e-6)
    assert found.label_names == ("score",) and found.pairs == ("x", "y", "z")
    other = read(
        tmp_path,
        "b.tsv",
        content.replace("sentence1", "id\tlabel\tsentence1")
        .replace("\na", "\n7\tq\ta")
        .replace("\nb", "\n8\tq\tb")
        .replace("\nc", "\n9\tq\tc"),
        targets.NUMBER,
        label_names=found.label_names,
    )  # the column of the training file
    assert other.labels.tolist() == found.labels.tolist()


def test_parts_keep_their_labels_and_the_summary_counts_them(tmp_path):
    rows = "".join(f"t{i}\t{'x,y' if i % 2 else 'z' if i % 3 else ''}\n" for i in range(60))
    whole = read(tmp_path, "a.tsv", "text\tlabel\n" + rows, targets.LABELS)
    parts = text.split(whole, {"train": 0.5, "validation": 0.25, "test": 0.25})
    for part in parts.values():
        for one, labels in zip(part.texts, part.labels, strict=True):
            assert labels.tolist() == whole.labels[whole.texts.index(one)].tolist()
    facts, train = of_texts(parts).facts, parts["train"]
    counts = train.labels.sum(0).astype(int)
    order = sorted(range(3), key=lambda i: (-counts[i], i))
    listed = ", ".join(f"{'xyz'[i]} {counts[i]}" for i in order)
    assert facts["labels"].startswith(f"3; in training: {listed}; ")
    assert facts["labels"].endswith(f"{int((train.labels.sum(1) == 0).sum())} texts without any")

    numbers = read(
        tmp_path, "n.tsv", "text\tscore\n" + "".join(f"t{i}\t{i}\n" for i in range(60)), targets.NUMBER
    )
    facts = of_texts({"train": numbers, "test": numbers}).facts
    assert facts["numbers in score"] == "in training from 0 to 59, mean 29.5, deviation 17.32"


def test_the_baselines_learn_what_words_say(tmp_path):
    words = ["alpha", "beta", "gamma"]
    rng = np.random.default_rng(0)
    lines, numbers = [], []
    for _ in range(120):
        chosen = [word for word in words if rng.random() < 0.5]
        filler = " ".join(rng.choice(["some", "other", "words"], 3))
        lines.append(f"{filler} {' '.join(chosen)}\t{','.join(chosen)}\n")
        numbers.append(f"{filler} {' '.join(chosen)}\t{len(chosen)}\n")
    several = read(tmp_path, "a.tsv", "text\tlabel\n" + "".join(lines), targets.LABELS)
    ((name, found),) = tfidf(several, several, several).items()
    assert name == "TF-IDF + logistic regression" and found["test"]["exact_match"] == 1
    scores = read(tmp_path, "b.tsv", "text\tscore\n" + "".join(numbers), targets.NUMBER)
    ((name, found),) = tfidf(scores, scores, scores).items()
    assert name == "TF-IDF + ridge regression" and found["test"]["pearson"] > 0.95


@pytest.mark.parametrize("value", ["nan", "inf", "1_000", "", "one", "0x10", "1e400", "3,5"])
def test_what_is_no_number_is_refused_with_its_line(tmp_path, value):
    with pytest.raises(ValueError, match=rf"x\.tsv:3: score must be a number, at most 1e\+30, got '{value}'"):
        read(tmp_path, "x.tsv", f"text\tscore\na\t1\nb\t{value}\n", targets.NUMBER)
