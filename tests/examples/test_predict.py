"""Predictions of a run are those of its model, for texts and images in every form, or one line says why not."""

import csv
import dataclasses
import io
import json
import sys

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image
from scipy.special import softmax

from examples import predict
from examples.shared import command
from tests.golden import classifiers

LOGITS = json.loads(classifiers.GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Directories of runs, each with a model."""
    directory = tmp_path_factory.mktemp("runs")
    for name in ("bert_mean", "bert_pairs"):
        classifier, params = classifiers.text_model(name)
        classifier.save(directory / name / "model", params)
    for name, columns in {"bert_mean": ["body"], "bert_pairs": ["claim", "source"]}.items():
        classifier, params = classifiers.text_model(name)
        dataclasses.replace(classifier, columns=columns).save(directory / f"{name}_table/model", params)
    classifier, params = classifiers.image_model()
    classifier.save(directory / "vit/model", params)
    return directory


def call(capsys, **flags):
    """What the program writes, or its error and exit code."""
    with flagsaver.flagsaver():
        command.parse(["predict", *(f"--{name}={value}" for name, value in flags.items())], predict.FLAGS)
        command.guarded(predict.main)
    return capsys.readouterr().out


def refused(capsys, **flags):
    with pytest.raises(SystemExit) as exit:
        call(capsys, **flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert exit.value.code == command.EXIT_USAGE
    return line


def check(rows, name):
    """The probabilities of PyTorch, and the class of the largest."""
    expected, names = softmax(LOGITS[name], -1), list(rows[0]["probabilities"])
    assert len(rows) == len(expected)
    for row, of_classes in zip(rows, expected, strict=True):
        np.testing.assert_allclose(list(row["probabilities"].values()), of_classes, atol=5e-6)
        assert row["label"] == names[of_classes.argmax()]
        assert row["probability"] == row["probabilities"][row["label"]]


def test_texts_of_every_kind_of_file_have_the_same_predictions(runs, capsys, tmp_path, monkeypatch):
    lines = "".join(f"{one}\n" for one in classifiers.TEXTS)
    (tmp_path / "new.txt").write_text(lines)
    (tmp_path / "new.jsonl").write_text(
        "".join(json.dumps({"text": x, "id": 1}) + "\n" for x in classifiers.TEXTS)
    )
    (tmp_path / "new.tsv").write_text("".join(f"{x}\t7\n" for x in ["sentence", *classifiers.TEXTS]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    found = [call(capsys, run=runs / "bert_mean", format="jsonl")]  # of standard input
    for name in ("new.txt", "new.jsonl", "new.tsv"):
        found.append(call(capsys, run=runs / "bert_mean", data=tmp_path / name, format="jsonl"))
    rows = [json.loads(line) for line in found[0].splitlines()]
    assert [row["text"] for row in rows] == classifiers.TEXTS
    assert found == found[:1] * 4
    check(rows, "bert_mean")


def test_pairs_and_tables(runs, capsys, tmp_path):
    both = zip(classifiers.TEXTS, classifiers.PAIRS, strict=True)
    (tmp_path / "new.csv").write_text("premise,hypothesis\n" + "".join(f'"{a}","{b}"\n' for a, b in both))
    call(capsys, run=runs / "bert_pairs", data=tmp_path / "new.csv", output=tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["no", "it depends", "yes"]
    assert list(rows[0]) == ["text", "pair", "label", "probability", *(f"p({name})" for name in names)]
    assert [row["pair"] for row in rows] == classifiers.PAIRS
    of = [{name: float(row[f"p({name})"]) for name in names} for row in rows]
    read = zip(rows, of, strict=True)
    check(
        [{**row, "probability": float(row["probability"]), "probabilities": p} for row, p in read], "bert_pairs"
    )


def test_a_run_remembers_the_columns_of_its_texts(runs, capsys, tmp_path):
    both = list(zip(classifiers.TEXTS, classifiers.PAIRS, strict=True))
    tables = {  # the columns in any order, next to one with a usual name
        "one.tsv": "text\tbody\n" + "".join(f"of another kind\t{a}\n" for a in classifiers.TEXTS),
        "two.csv": "source,text,claim\n" + "".join(f'"{b}",x,"{a}"\n' for a, b in both),
    }
    for name, content in tables.items():
        (tmp_path / name).write_text(content)
    for name, data in {"bert_mean": "one.tsv", "bert_pairs": "two.csv"}.items():
        out = call(capsys, run=runs / f"{name}_table", data=tmp_path / data, format="jsonl")
        check([json.loads(line) for line in out.splitlines()], name)
    run = runs / "bert_mean_table"
    out = call(capsys, run=run, data=tmp_path / "one.tsv", text="text", format="jsonl")
    assert {json.loads(line)["text"] for line in out.splitlines()} == {"of another kind"}
    (tmp_path / "new.txt").write_text("a happy film\n")
    assert "a happy film" in call(capsys, run=run, data=tmp_path / "new.txt")


def test_a_text_of_several_lines_is_one_row(runs, capsys, tmp_path):
    (tmp_path / "new.jsonl").write_text(json.dumps({"text": "a\thappy\nfilm\r\n\x85was"}) + "\n")
    header, row = call(capsys, run=runs / "bert_mean", data=tmp_path / "new.jsonl").split("\n")[:2]
    assert row.split("\t")[0] == "a happy film  was" and len(row.split("\t")) == len(header.split("\t"))


def test_pictures_of_a_folder(runs, capsys, tmp_path):
    for i, picture in enumerate(classifiers.pictures()):
        (tmp_path / "new" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "new" / str(i % 2) / f"{i}.png")
    (tmp_path / "new/notes.txt").write_text("no picture")
    out = tmp_path / "out.jsonl"
    call(capsys, run=runs / "vit", data=tmp_path / "new", output=out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    check(sorted(rows, key=lambda row: row["image"].rpartition("/")[2]), "vit")
    one = call(capsys, run=runs / "vit" / "model", data=tmp_path / "new/1/3.png", format="jsonl")
    assert json.loads(one)["probabilities"] == pytest.approx(rows[3]["probabilities"], abs=1e-5)


def test_pictures_of_an_npz(runs, capsys, tmp_path):
    path = tmp_path / "new.npz"
    np.savez(path, images=classifiers.pictures())  # labels are not needed
    rows = [json.loads(line) for line in call(capsys, run=runs / "vit", data=path, format="jsonl").splitlines()]
    assert [row["image"] for row in rows][:2] == [f"{path}, image 1", f"{path}, image 2"]
    check(rows, "vit")
    np.savez(path, images=classifiers.pictures()[:, :4, :4])
    assert "new.npz: images must be 8 × 8, got 4 × 4" in refused(capsys, run=runs / "vit", data=path)
    np.savez(path, x=np.arange(3))
    assert "new.npz: no array 'images'; there are 'x'" in refused(capsys, run=runs / "vit", data=path)


@pytest.mark.parametrize(
    ("run", "flags", "message"),
    [
        ("nowhere", {}, "nowhere: no such directory"),
        ("", {}, "bert_mean, bert_mean_table, bert_pairs, bert_pairs_table, vit; choose one, such as --run="),
        ("vit/..//empty", {}, "this is no run of finetune_text or finetune_image, such as runs/mine/adamw"),
        ("begun", {}, "has no model: it has not been finished; continue it with --resume"),
        ("language", {}, "is a model of type 'gpt2'; predictions need a classifier of texts or images"),
        ("bert_mean", {"data": "table.tsv"}, "which column is the text? Name it in --text="),
        ("bert_mean", {"data": "table.tsv", "text": "body"}, "no column 'body'; the columns are 'x', 'y'"),
        ("bert_mean", {"data": "pairs.tsv"}, "single texts are needed, and the columns give pairs of texts"),
        (
            "bert_mean_table",
            {"data": "text.tsv"},
            "text.tsv: no column 'body', as in training: name the text's in --text=, or all columns in "
            "--columns= if the file has no header; the columns are 'id', 'text'",
        ),
        ("bert_pairs_table", {"data": "text.tsv"}, "no column 'claim', 'source', as in training: "),
        ("bert_pairs_table", {"data": "text.tsv", "text": "id"}, "pairs of texts are needed, and the"),
        (
            "bert_pairs",
            {"data": "table.tsv", "text": "x"},
            "pairs of texts are needed, and the columns give single",
        ),
        ("bert_pairs", {}, "the run is of pairs of texts: --data must be a file with columns"),
        (
            "bert_mean",
            {"text": "x"},
            "--text describes a file with columns, and standard input has a text a line",
        ),
        ("bert_mean", {"data": "latin.txt"}, "latin.txt: byte 0xe9 at 3 is not UTF-8; set its encoding"),
        (
            "bert_mean",
            {"data": "latin.txt", "encoding": "utf-7"},
            "latin.txt: the text does not match --encoding",
        ),
        ("bert_mean", {"data": "binary.txt"}, "binary.txt: a NUL byte at 1; is this a text file?"),
        ("bert_mean", {"data": "none.txt"}, "no texts; there must be one a line"),
        ("bert_mean", {"data": "missing.txt"}, "No such file"),
        ("bert_mean", {"output": "table.tsv"}, "table.tsv exists; choose another, or remove it"),
        ("bert_mean", {"output": "no/out.tsv"}, "--output=no/out.tsv: there is no directory no"),
        ("bert_mean", {"output": "out.xls"}, "its name must end in one of tsv, csv, jsonl, or give --format"),
        ("vit", {}, "the run is of images: --data must be a picture, or a folder of pictures"),
        ("vit", {"data": "table.tsv"}, "no pictures, by its name"),
        ("vit", {"data": "table.tsv", "text": "x"}, "--text describes a file, but there is none"),
    ],
)
def test_what_cannot_be_predicted_is_refused(runs, capsys, tmp_path, monkeypatch, run, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.tsv").write_text("x\ty\na\tb\n")
    (tmp_path / "text.tsv").write_text("id\ttext\n1\ta\n")
    (tmp_path / "pairs.tsv").write_text("premise\thypothesis\na\tb\n")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "none.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_text("a\0")
    for name, file in {"begun": "run.json", "language/model": "config.json"}.items():
        (runs / name).mkdir(parents=True, exist_ok=True)
        (runs / name / file).write_text('{"model_type": "gpt2"}')
    (runs / "empty").mkdir(exist_ok=True)
    if run == "":
        (runs / "language/model/config.json").unlink()
    assert message in refused(capsys, run=runs / run, **flags)
    assert not (tmp_path / "out.xls").exists()
