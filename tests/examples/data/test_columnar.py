import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from examples import predict
from examples.data import memory, text_files
from examples.data.targets import LABELS, NUMBER
from examples.shared import command

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")


def write(path, columns, names=None, **how):
    made = pyarrow.table(columns) if names is None else pyarrow.table(columns, names=names)
    pyarrow.parquet.write_table(made, path, **how)
    return path


@pytest.mark.parametrize("labels", [[1, 0, 1], ["1", "0", "1"], [True, False, True], [1.0, 0.0, 1.0]])
def test_a_parquet_is_the_same_examples_as_a_table(tmp_path, labels):
    path = write(tmp_path / "x.parquet", {"id": [7, 8, 9], "text": ["a", "b\t\n", ""], "label": labels})
    found = text_files.read(path)
    assert found.texts == ("a", "b\t\n", "") and found.labels.tolist() == [1, 0, 1]
    assert found.label_names == (("false", "true") if labels[0] is True else ("0", "1"))
    assert found.source == str(path)


def test_columns_are_named_as_those_of_a_table(tmp_path):
    categories = pyarrow.array(["no", "yes", "no"]).dictionary_encode()
    columns = {"a.b": ["p", "q", "r"], "q": pyarrow.array(["x", "y", "z"], pyarrow.large_string())}
    path = write(
        tmp_path / "x.PARQUET", {**columns, "mood": categories, "meta": [{"k": [1]}] * 3}, row_group_size=2
    )
    found = text_files.read(path, text="a.b", pair="q", label="mood")
    assert (found.texts, found.pairs) == (("p", "q", "r"), ("x", "y", "z"))
    assert found.labels.tolist() == [0, 1, 0] and found.label_names == ("no", "yes")
    assert text_files.read_texts(path, pairs=True, text="a.b", pair="q") == (found.texts, found.pairs)
    with pytest.raises(ValueError, match=r"x\.PARQUET: no column 'body'; the columns are 'a\.b', 'q', 'mood'"):
        text_files.read(path, text="body")
    with pytest.raises(ValueError, match=r"which column is the label\? Name it in --label="):
        text_files.read(path, text="q", argument="--{}=")


def test_several_labels_are_lists_or_texts_and_numbers_are_numbers(tmp_path):
    labels = [["x", "y"], [], ["y"]]
    path = write(tmp_path / "x.parquet", {"text": ["a", "b", "c"], "label": labels, "score": [1.5, -2.0, 3.0]})
    assert text_files.read(path, problem=LABELS).labels.tolist() == [[1, 1], [0, 0], [0, 1]]
    np.testing.assert_array_equal(text_files.read(path, problem=NUMBER, label="score").labels, [1.5, -2, 3])


NOT_UTF8 = pyarrow.Array.from_buffers(
    pyarrow.string(), 2, [None, pyarrow.py_buffer(np.array([0, 1, 3], np.int32)), pyarrow.py_buffer(b"a\xc3(")]
)
REFUSED = {
    "text in a list": ({"text": [["a"], ["b"]], "label": [0, 1]}, ", row 0: text must be a string, got list"),
    "text in a record": (
        {"text": [{"a": "b"}] * 2, "label": [0, 1]},
        ", row 0: text must be a string, got dict",
    ),
    "text null": ({"text": ["a", None], "label": [0, 1]}, ", row 1: text must be a string, got NoneType"),
    "text bytes": ({"text": [b"a", b"b"], "label": [0, 1]}, ", row 0: text must be a string, got bytes"),
    "text not UTF-8": ({"text": NOT_UTF8, "label": [0, 1]}, ", row 1: text is not UTF-8 at byte 0"),
    "label null": (
        {"text": ["a", "b"], "label": [0, None]},
        ", row 1: label must be a string or a whole number",
    ),
    "label in a list": (
        {"text": ["a", "b"], "label": [[0], [1]]},
        ", row 0: label must be a string or a whole",
    ),
    "label a fraction": (
        {"text": ["a", "b"], "label": [0, 0.5]},
        ", row 1: label must be a class, got the number",
    ),
    "label nan": ({"text": ["a", "b"], "label": [0, float("nan")]}, ", row 1: label must be a class, got"),
    "no rows": ({"text": [], "label": []}, ": no examples; the file is empty"),
    "no label": (
        {"text": ["a", "b"]},
        ": which column is the label? Name it in label=; the columns are 'text'",
    ),
}


@pytest.mark.parametrize(("columns", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused_with_file_and_row(tmp_path, columns, message):
    path = write(tmp_path / "x.parquet", columns)
    with pytest.raises(ValueError) as caught:
        text_files.read(path)
    assert str(caught.value).startswith(f"{path}{message}") and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("given", [{"columns": ["text", "label"]}, {"delimiter": ";"}, {"encoding": "latin-1"}])
def test_what_is_of_files_of_text_is_refused(tmp_path, given):
    path = write(tmp_path / "x.parquet", {"text": ["a", "b"], "label": [0, 1]})
    with pytest.raises(
        ValueError, match=rf"{next(iter(given))}= is for files of text, and a \.parquet is none"
    ):
        text_files.read(path, **given)


def test_a_column_twice_and_a_file_that_is_none_are_refused(tmp_path):
    path = write(tmp_path / "x.parquet", [["a"], ["b"], [0]], names=["text", "text", "label"])
    with pytest.raises(ValueError, match=r"x\.parquet: two columns share a name, 'text'"):
        text_files.read(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"x\.parquet cannot be read: "):
        text_files.read(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"x\.parquet: a pointer of Git LFS, not the file itself; fetch it"):
        text_files.read(path)
    whole = write(tmp_path / "y.parquet", {"text": ["a" * 100, "b"], "label": [0, 1]}).read_bytes()
    (tmp_path / "y.parquet").write_bytes(whole[:4] + bytes(40) + whole[44:])
    with pytest.raises(ValueError, match=r"y\.parquet cannot be read: |y\.parquet, row "):
        text_files.read(tmp_path / "y.parquet")


def test_a_text_that_many_rows_share_is_counted_in_each(tmp_path, monkeypatch):
    columns = {"text": ["x" * 10_000] * 100, "label": [0, 1] * 50, "other": [f"{i}" * 9999 for i in range(100)]}
    path = write(tmp_path / "x.parquet", columns)
    monkeypatch.setattr(memory, "limit", lambda: 100_000)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"the rows up to .*x\.parquet, row 10 would take"):
        text_files.read(path)


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "x.parquet", {"text": ["a", "b"], "label": [0, 1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ImportError, match=r'x\.parquet: reading \.parquet needs pyarrow: pip install "optimiz-jax\[shards\]"'
    ):
        text_files.read(path)


def test_predictions_of_a_parquet_are_those_of_its_texts(tmp_path, capsys):
    from tests.golden import classifiers

    classifier, params = classifiers.text_model("bert_mean")
    classifier.save(tmp_path / "run/model", params)
    found = []
    (tmp_path / "new.txt").write_text("".join(f"{one}\n" for one in classifiers.TEXTS))
    for path in (
        write(tmp_path / "x.parquet", {"text": classifiers.TEXTS, "label": classifiers.TEXTS}),
        tmp_path / "new.txt",
    ):
        with flagsaver.flagsaver():
            command.parse(["predict", f"--run={tmp_path / 'run'}", f"--data={path}"], predict.FLAGS)
            command.guarded(predict.main)
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] and found[0].count("\n") == len(classifiers.TEXTS) + 1
