"""A folder of classes is the examples of its text files; what is no text of a class is counted or refused."""

import json
import os

import pytest
from absl.testing import flagsaver

from examples import finetune_text, predict
from examples.data import memory, text_folders, text_summary
from examples.data.text import split
from examples.shared import command


def fill(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture
def imdb(tmp_path):
    """The folders and files of IMDb, with a few reviews."""
    files = {f"train/{name}/{i}_{i}.txt": f"{name} {i}\n" for name in ("pos", "neg", "unsup") for i in range(3)}
    others = {"train/labeledBow.feat": "1 0:9\n", "train/urls_pos.txt": "http://x\n", "imdb.vocab": "the\n"}
    return fill(tmp_path / "aclImdb", files | others | {"test/neg/0_2.txt": "bad", "test/pos/0_9.txt": "good"})


def test_imdb_as_it_ships(imdb):
    train = text_folders.read(imdb / "train")
    assert train.texts == ("neg 0", "neg 1", "neg 2", "pos 0", "pos 1", "pos 2") and train.pairs is None
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and train.label_names == ("neg", "pos")
    assert train.notes == {
        "files left out: not in the folder of a class": 2,
        "files left out: in unsup, without a label": 3,
    }
    test = text_folders.read(imdb / "test", label_names=train.label_names)
    assert test.texts == ("bad", "good") and test.labels.tolist() == [0, 1] and not test.notes
    assert len(text_folders.read(imdb / "train", label_names=["pos", "neg", "unsup"]).texts) == 9
    with pytest.raises(
        ValueError, match=r"holds parts of a data set, test, train, .*such as --data=.*Imdb/train$"
    ):
        text_folders.read(imdb)


def test_what_was_left_out_is_summed_up_once_for_each_source(imdb):
    train = text_folders.read(imdb / "train")
    parts = split(train, {"train": 0.5, "validation": 0.5})
    facts = text_summary.of_texts(parts | {"test": text_folders.read(imdb / "test")}).facts
    assert facts["files left out: in unsup, without a label"] == "3"
    fill(imdb, {"test/x.bin": "x"})
    facts = text_summary.of_texts(parts | {"test": text_folders.read(imdb / "test")}).facts
    assert facts[f"files left out: not in the folder of a class of {imdb / 'test'}"] == "1"


def test_files_within_a_class_are_of_it_and_hidden_and_other_files_are_counted(tmp_path):
    files = {
        "b/deep/er/1.TXT": "\ufeffone\r\n",
        "b/2.txt": "two\n\nlines\n",
        "a/1.txt": "",
        "c/d/readme.md": "x",
    }
    found = text_folders.read(
        fill(tmp_path, files | {"a/.1.txt": "x", "__MACOSX/a/1.txt": "x", "b/Thumbs.db": "x"})
    )
    assert found.texts == ("", "two\n\nlines", "one") and found.label_names == ("a", "b")
    assert found.notes == {
        "files or folders left out: hidden or system files": 3,
        "files left out: not .txt files, by their names": 1,
        "folders left out: without a text": 1,
    }


def test_classes_are_in_the_order_of_numbers_and_encodings_are_given(tmp_path):
    fill(tmp_path, {f"{name}/1.txt": "naïve".encode("latin-1") for name in ("10", "9")})
    found = text_folders.read(tmp_path, encoding="latin-1")
    assert found.label_names == ("9", "10") and found.texts == ("naïve",) * 2


REFUSED = {
    "not UTF-8": (
        {"a/1.txt": b"x\xff"},
        {},
        r"a/1\.txt: byte 0xff at 1 is not UTF-8; set .* --encoding=cp1252",
    ),
    "another encoding": (
        {"a/1.txt": b"x"},
        {"encoding": "utf-16"},
        r"a/1\.txt: the text does not match --encoding",
    ),
    "no encoding": ({"a/1.txt": b"x"}, {"encoding": "rot13"}, "--encoding=rot13 is not a text encoding"),
    "NUL": ({"a/1.txt": "x\0"}, {}, r"a/1\.txt: a NUL byte at 1; is this a text file\?"),
    "one class": ({"a/1.txt": "x", "b/1.md": "y"}, {}, "all 1 labels are 'a'; classification needs two"),
    "no files": (
        {"a/1.md": "x", "b/1.md": "y"},
        {},
        r"no \.txt files in folders of classes, such as pos/1\.txt",
    ),
    "files beside": ({"1.txt": "x", "2.txt": "y"}, {}, r"no \.txt files in folders of classes"),
    "unknown": ({"a/1.txt": "x"}, {"label_names": ("b", "c")}, r"a/1\.txt: folder 'a' is not one of 'b', 'c'"),
    "no label": ({"a/1.txt": "x", "nan/1.txt": "x"}, {}, "folder 'nan' means no label; .* in --label_names="),
}


@pytest.mark.parametrize(("files", "given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_folder_of_classes_is_refused_in_one_line(tmp_path, files, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        text_folders.read(fill(tmp_path, files), argument="--{}=", **given)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_regular_file_and_what_is_too_much_is_refused(tmp_path, monkeypatch):
    fill(tmp_path, {"a/1.txt": "x" * 600, "b/1.txt": "y" * 600})
    monkeypatch.setattr(memory, "limit", lambda: 1000)
    with pytest.raises(ValueError, match=r"the texts of .* would take"):
        text_folders.read(tmp_path)
    os.mkfifo(tmp_path / "a/pipe.txt")
    with pytest.raises(ValueError, match=r"a/pipe\.txt is not a regular file"):
        text_folders.read(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"text": "x"}, "--text describes a file with columns, and"),
        ({"label": "x"}, "--label describes a file with columns, and"),
        ({"problem_type": "regression"}, "--problem_type=regression: "),
        ({"model": "a/b/c"}, "model must be a directory or a Hub repository"),  # the data are read
    ],
)
def test_the_trainer_reads_folders_and_refuses_flags_of_columns(imdb, capsys, flags, message):
    given = {"data": imdb / "train", "validation": imdb / "test", "test": imdb / "test", "output": imdb / "out"}
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit:
        command.parse(
            ["finetune_text", *(f"--{k}={v}" for k, v in {**given, **flags}.items())], finetune_text.FLAGS
        )
        command.guarded(finetune_text.main)
    assert message in capsys.readouterr().err and exit.value.code == command.EXIT_USAGE


def test_predictions_of_a_folder_name_the_files(tmp_path, capsys):
    from tests.golden import classifiers

    for name in ("bert_mean", "bert_pairs"):
        classifier, params = classifiers.text_model(name)
        classifier.save(tmp_path / name / "model", params)
    texts = {f"new/{i % 2}/{i:02}.txt": one + "\n" for i, one in enumerate(classifiers.TEXTS)}
    fill(tmp_path, texts | {"new/notes.md": "x", "lines.txt": "".join(f"{one}\n" for one in classifiers.TEXTS)})

    def rows(data, run="bert_mean", **more):
        given = {"run": tmp_path / run, "data": tmp_path / data, "format": "jsonl", **more}
        with flagsaver.flagsaver():
            command.parse(["predict", *(f"--{k}={v}" for k, v in given.items())], predict.FLAGS)
            command.guarded(predict.main)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    found, expected = rows("new"), rows("lines.txt")
    assert [row.pop("file") for row in found] == [str(tmp_path / name) for name in sorted(texts)]
    of = {row["text"]: row for row in found}
    assert len(found) == len(expected)
    for row in expected:
        assert of[row["text"]]["label"] == row["label"]
        assert of[row["text"]]["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)
    for given, message in (
        ({"text": "x"}, "--text describes a file with columns"),
        ({"run": "bert_pairs"}, "pairs"),
    ):
        with pytest.raises(SystemExit):
            rows("new", **given)
        assert message in capsys.readouterr().err
