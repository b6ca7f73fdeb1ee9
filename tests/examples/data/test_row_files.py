"""Shards are one file: of a folder, as `datasets` saves it, as the Hub lays them out, or of a pattern."""

import csv
import json
import os

import pytest

from examples import predict
from examples.data import corpus, prompts, row_files, tables, text_files, text_folders
from examples.shared import command

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")
TEXTS = [f"text {i}" for i in range(6)]
LABELS = [0, 1, 1, 0, 1, 0]
FEATURE = {"_type": "ClassLabel", "names": ["pos", "neg"]}


def table(texts, labels, feature=FEATURE):
    found = pyarrow.table({"text": texts, "label": labels})
    if feature is None:
        return found
    features = {"text": {"_type": "Value", "dtype": "string"}, "label": feature}
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(path, texts=TEXTS, labels=LABELS, feature=FEATURE):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerows([("text", "label"), *zip(texts, labels, strict=True)])
    elif path.suffix == ".jsonl":
        rows = zip(texts, labels, strict=True)
        path.write_text("".join(f"{json.dumps({'text': one, 'label': label})}\n" for one, label in rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(table(texts, labels, feature), path)
    else:
        whole = table(texts, labels, feature)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, whole.schema) as stream:
            stream.write_table(whole, 2)
    return path


def write_saved(folder, count=2):
    """A folder as `datasets.save_to_disk` writes it, with what `map` has cached in it."""
    names = [f"data-{i:05}-of-{count:05}.arrow" for i in range(count)]
    for i, name in enumerate(names):
        write(folder / name, TEXTS[i::count], LABELS[i::count])
    write(folder / "cache-1a2b.arrow", ["cached"], [0])
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize("suffix", row_files.SUFFIXES)
def test_shards_are_read_in_the_order_of_their_names(tmp_path, suffix):
    for name, rows in {"b": slice(2, 4), "a": slice(2), "c": slice(4, 6)}.items():
        write(tmp_path / f"part-{name}{suffix}", TEXTS[rows], LABELS[rows])
    for left_out in (
        ".part-a.crc",
        "_SUCCESS",
        f"_temporary/0/part-d{suffix}",
        f".cache/huggingface/x{suffix}",
    ):
        (tmp_path / left_out).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / left_out).touch()
    found = text_files.read(tmp_path)
    assert found.texts == tuple(TEXTS) and found.source == str(tmp_path)
    names = ("pos", "neg") if suffix in (".parquet", ".arrow") else ("0", "1")
    assert found.label_names == names and found.labels.tolist() == LABELS
    assert found.notes == {
        "shards": 3,
        "files or folders left out: hidden or system files": 2,
        "files or folders left out: not shards": 2,
    }
    of_pattern = text_files.read(tmp_path / f"part-[ab]{suffix}")
    assert of_pattern.texts == tuple(TEXTS[:4]) and of_pattern.notes == {"shards": 2}
    assert text_files.read_texts(tmp_path, pairs=False) == (tuple(TEXTS), None)


def test_a_folder_that_datasets_has_saved(tmp_path):
    found = text_files.read(write_saved(tmp_path))
    assert found.texts == (*TEXTS[::2], *TEXTS[1::2]) and found.label_names == ("pos", "neg")
    assert "cached" not in list(corpus.read(tmp_path).documents)
    (tmp_path / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match=r"state\.json names 'data-00001-of-00002\.arrow', which is not there"):
        text_files.read(tmp_path)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(ValueError, match=r"_data_files must name files of the folder, got '\.\./x\.arrow'"):
        text_files.read(tmp_path)


def test_names_of_classes_are_those_of_the_schema(tmp_path):
    path = write(tmp_path / "x.parquet", labels=[1] * 6)
    found = text_files.read(path)
    assert found.label_names == ("pos", "neg") and found.labels.tolist() == [1] * 6
    assert text_files.read(path, label_names=["neg", "pos"]).labels.tolist() == [0] * 6
    several = write(
        tmp_path / "y.parquet", labels=[[0], [], [0, 1]] * 2, feature={"_type": "List", "feature": FEATURE}
    )
    assert (
        text_files.read(several, problem="multi_label_classification").labels.tolist()
        == [[1, 0], [0, 0], [1, 1]] * 2
    )
    assert text_files.read(path, problem="regression").labels.tolist() == [1.0] * 6


REFUSED_LABELS = {
    "no class": (2, r"x\.parquet, row 5: label is 2, and its classes are 'pos', 'neg'"),
    "withheld": (-1, r"x\.parquet, row 5: label '-1' is not one of 'pos', 'neg'; are the labels withheld\?"),
}


@pytest.mark.parametrize(("label", "message"), REFUSED_LABELS.values(), ids=REFUSED_LABELS)
def test_numbers_that_have_no_name_are_refused(tmp_path, label, message):
    with pytest.raises(ValueError, match=message):
        text_files.read(write(tmp_path / "x.parquet", labels=[*LABELS[:5], label]))


@pytest.mark.parametrize(
    "feature", [5, {"_type": "ClassLabel", "names": ["a", "a"]}, {"_type": "ClassLabel", "names": [1, 2]}]
)
def test_a_schema_that_names_no_classes_leaves_numbers(tmp_path, feature):
    assert text_files.read(write(tmp_path / "x.parquet", feature=feature)).label_names == ("0", "1")


def renamed(folder):
    (folder / "b.csv").write_text("text,mood\nc,1\n")


def torn(folder):
    write(folder / "data/train-00000-of-00003.parquet")
    write(folder / "data/train-00002-of-00003.parquet")


def of_parts(folder):
    for name in ("train-00000-of-00001", "test-00000-of-00001", "unsupervised-00000-of-00001"):
        write(folder / f"data/{name}.parquet")


def other_classes(folder):
    write(folder / "a.parquet")
    write(folder / "b.parquet", feature={"_type": "ClassLabel", "names": ["neg", "pos"]})


def splits(folder):
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    write_saved(folder / "train")
    write_saved(folder / "test")


REFUSED = {
    "other columns": (
        renamed,
        r"b\.csv: the columns are 'text', 'mood', and those of .*a\.csv are 'text', 'label'",
    ),
    "no rows": (lambda folder: write(folder / "b.csv", [], []), r"b\.csv: a shard without rows; remove it"),
    "no rows at first": (lambda folder: write(folder / "0.csv", [], []), r"0\.csv: a shard without rows"),
    "a bad row": (lambda folder: write(folder / "b.csv", [""], ["1\0"]), r"b\.csv:2: a NUL byte"),
    "two types": (
        lambda folder: write(folder / "b.tsv"),
        r"a\.csv and .*b\.tsv are of two types, and shards are of one",
    ),
    "texts beside it": (
        lambda folder: (folder / "a.txt").touch(),
        r"no \.txt files in folders of classes.*/\*\.csv",
    ),
    "a pipe": (lambda folder: os.mkfifo(folder / "b.csv"), r"b\.csv: must be a regular file"),
    "parts": (
        of_parts,
        r"holds parts of a data set, 'test', 'train', 'unsupervised'; name one, as in .*/train-\*\.parquet",
    ),
    "parts by name": (
        lambda folder: (write(folder / "my_train.csv"), write(folder / "test/my.csv")),
        r"holds parts of a data set, 'train', 'test'; name one, as in .*my_train\.csv",
    ),
    "a part of a download": (torn, r"of the 3 shards of 'train', 00001 is missing"),
    "splits": (splits, r"holds splits, 'test', 'train': name one, as in .*/train"),
    "other classes": (other_classes, r"b\.parquet: the classes of 'label' are not those of .*a\.parquet"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_shards_that_are_not_of_one_kind_are_refused_in_one_line(tmp_path, make, message):
    if make not in (torn, of_parts, other_classes, splits):
        write(tmp_path / "a.csv")
    make(tmp_path)
    reader = text_folders.read if text_folders.is_one(tmp_path) else text_files.read
    with pytest.raises(ValueError, match=message) as caught:
        reader(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_the_hub_s_layout_by_its_parts(tmp_path):
    of_parts(tmp_path)
    (tmp_path / "README.md").write_text("---\ndataset_info: {}\n---\n")
    assert text_files.read(tmp_path / "data/train-*.parquet").texts == tuple(TEXTS)
    with pytest.raises(FileNotFoundError, match=r"data/dev-\*\.parquet: no file matches this pattern"):
        text_files.read(tmp_path / "data/dev-*.parquet")
    with pytest.raises(ValueError, match=r"holds parts of a data set.*; name one, as in .*/train-\*\.parquet"):
        corpus.read(tmp_path)
    assert list(corpus.read(tmp_path / "data/t*-*.parquet").documents) == TEXTS * 2


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path):
    write(tmp_path / "a[1].csv", TEXTS[:2], LABELS[:2])
    write(tmp_path / "a1.csv", TEXTS[2:], LABELS[2:])
    assert text_files.read(tmp_path / "a[1].csv").texts == tuple(TEXTS[:2])


def test_memory_is_that_of_all_shards(tmp_path, monkeypatch):
    for i in range(4):
        write(tmp_path / f"{i}.csv", ["x" * 300], [0])
    monkeypatch.setattr(tables.memory, "limit", lambda: 1000)
    with pytest.raises(ValueError, match=f"{tmp_path} would take"):
        text_files.read(tmp_path)


QUESTIONS = [
    [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}!"}] for i in range(3)
]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_prompts_conversations_and_texts_of_columns(tmp_path, suffix):
    def saved(columns):
        whole = pyarrow.table(columns)
        if suffix == ".parquet":
            pyarrow.parquet.write_table(whole, tmp_path / "a.parquet")
        else:
            with (
                pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
                pyarrow.ipc.new_stream(file, whole.schema) as to,
            ):
                to.write_table(whole)
        return prompts.read(tmp_path, None)

    found = saved({"id": [1, 2], "prompt": ["a?", "b?"], "response": ["a", "b"], "input": [None, None]})
    assert [prompt.text for prompt in found.prompts] == ["a?a", "b?b"]
    assert found.prompts[1].place == f"{tmp_path}/a{suffix}, row 1"
    assert saved({"text": ["one", " ", "two"]}).documents == ("one", "two")
    messages = [[{**message, "name": None} for message in messages] for messages in QUESTIONS]
    with pytest.raises(ValueError, match=rf"a{suffix}, row 0: messages need a chat template"):
        saved({"messages": messages})
    with pytest.raises(ValueError, match=rf"a{suffix}, row 0: a row must have .*; it has content"):
        saved({"content": ["one"]})
    with pytest.raises(
        ValueError, match=rf"a{suffix}, row 1: \"prompt\"|a{suffix}, row 1: 'prompt' must be a text"
    ):
        saved({"prompt": ["a?", None], "answer": ["a", "b"]})


def test_predictions_of_shards_are_those_of_their_texts(tmp_path, capsys):
    from absl.testing import flagsaver

    from tests.golden import classifiers

    classifier, params = classifiers.text_model("bert_mean")
    classifier.save(tmp_path / "run/model", params)
    half = len(classifiers.TEXTS) // 2
    for i, some in enumerate((classifiers.TEXTS[:half], classifiers.TEXTS[half:])):
        write(tmp_path / f"new/{i}.jsonl", some, [0] * len(some))
    (tmp_path / "new.txt").write_text("".join(f"{one}\n" for one in classifiers.TEXTS))
    found = []
    for data in ("new", "new/*.jsonl", "new.txt"):
        with flagsaver.flagsaver():
            command.parse(["predict", f"--run={tmp_path / 'run'}", f"--data={tmp_path / data}"], predict.FLAGS)
            command.guarded(predict.main)
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] == found[2] and found[0].count("\n") == len(classifiers.TEXTS) + 1
