import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.data.text import MAX_LINE_BYTES, TextExamples, read, sample, split


def write(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Readings that work.


@pytest.mark.parametrize(
    ("name", "content", "texts", "pairs"),
    [
        ("sst2.tsv", "sentence\tlabel\na \t1\nb\t0\n", ("a ", "b"), None),
        ("imdb.csv", "text,label\na,1\nb,0\n", ("a", "b"), None),
        ("trec.jsonl", '{"question": "a", "label": 1}\n{"question": "b", "label": 0}\n', ("a", "b"), None),
        ("rte.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tx\t1\n1\tb\ty\t0\n", ("a", "b"), ("x", "y")),
        (
            "mrpc.tsv",
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tx\n0\t9\t9\tb\ty\n",
            ("a", "b"),
            ("x", "y"),
        ),
        (
            "qqp.tsv",
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta\tx\t1\n4\t5\t6\tb\ty\t0\n",
            ("a", "b"),
            ("x", "y"),
        ),
        ("qnli.tsv", "index\tquestion\tsentence\tlabel\n0\ta\tx\t1\n1\tb\ty\t0\n", ("a", "b"), ("x", "y")),
        (
            "cb.jsonl",
            '{"premise": "a", "hypothesis": "x", "label": "neutral", "idx": 0}\n'
            '{"premise": "b", "hypothesis": "y", "label": "entailment", "idx": 1}\n',
            ("a", "b"),
            ("x", "y"),
        ),
        (
            "boolq.jsonl",
            '{"question": "a", "passage": "x", "idx": 0, "label": true}\n'
            '{"question": "b", "passage": "y", "idx": 1, "label": false}\n',
            ("a", "b"),
            ("x", "y"),
        ),
        (
            "snli.jsonl",
            '{"sentence1": "a", "sentence2": "x", "annotator_labels": ["n"], "gold_label": "n"}\n'
            '{"sentence1": "b", "sentence2": "y", "annotator_labels": ["e"], "gold_label": "e"}\n',
            ("a", "b"),
            ("x", "y"),
        ),
    ],
)
def test_finds_the_columns_of_usual_files(tmp_path, name, content, texts, pairs):
    path = write(tmp_path, name, content)
    examples = read(path)
    assert examples.texts == texts
    assert examples.pairs == pairs
    assert examples.labels.dtype == np.int32
    assert examples.labels.tolist() == [1, 0]
    assert examples.source == str(path)


def test_named_columns_win_over_usual_names(tmp_path):
    path = write(tmp_path, "x.tsv", "text\tsentence\tlabel\tmood\na\tx\t0\tsad\nb\ty\t1\tglad\n")
    examples = read(path, text="sentence", pair="text", label="mood")
    assert (examples.texts, examples.pairs) == (("x", "y"), ("a", "b"))
    assert examples.label_names == ("glad", "sad")


def test_a_file_without_a_header(tmp_path):
    path = write(tmp_path, "cola.tsv", "gj04\t1\t\tThey drank.\ngj04\t0\t*\tThey drank the.\n")
    examples = read(path, columns=("source", "label", "mark", "sentence"))
    assert examples.texts == ("They drank.", "They drank the.")
    assert examples.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (("10", "9", "2"), ("2", "9", "10")),  # numerically, where all are numbers
        (("10", "9", "b"), ("10", "9", "b")),  # by code points, where one is not
        (("1.0", "0.0", "0"), ("0", "1")),  # as pandas writes a column that once had a gap
        ((" yes", "no ", "yes"), ("no", "yes")),
        (("1_0", "10", "2"), ("10", "1_0", "2")),
    ],
)
def test_label_names_are_ordered(tmp_path, values, names):
    rows = "".join(f"t\t{value}\n" for value in values)
    assert read(write(tmp_path, "x.tsv", "text\tlabel\n" + rows)).label_names == names


def test_labels_of_the_training_file_hold_for_the_others(tmp_path):
    train = read(write(tmp_path, "train.csv", "text,label\na,2\nb,0\nc,1\n"))
    other = read(write(tmp_path, "test.csv", "text,label\nd,1.0\n"), label_names=train.label_names)
    assert other.labels.tolist() == [1]
    assert other.label_names == ("0", "1", "2")


def test_minus_one_is_a_class_where_it_is_named(tmp_path):
    path = write(tmp_path, "x.tsv", "text\tlabel\na\t-1\nb\t1\n")
    assert read(path, label_names=("-1", "1")).labels.tolist() == [0, 1]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_only_a_newline_ends_a_row(tmp_path, separator, quote):
    text = f"one{separator}two"
    if separator == "\r" and not quote:
        quote = '"'  # RFC 4180: an unquoted carriage return is part of a line end
    tsv = write(tmp_path, "x.tsv", f"text\tlabel\n{text}\t1\nb\t0\n")
    csv = write(tmp_path, "x.csv", f"text,label\n{quote}{text}{quote},1\nb,0\n")
    assert read(tsv).texts == read(csv).texts == (text, "b")


def test_byte_order_mark_crlf_and_blank_lines(tmp_path):
    content = "\ufeffsentence\tlabel\r\n\r\na\t1\r\nb\t0\r\n\r\n"
    assert read(write(tmp_path, "x.tsv", content)).texts == ("a", "b")
    content = '\ufeff"sentence",label\r\n\r\na,1\r\nb,0\r\n\r\n'
    assert read(write(tmp_path, "x.csv", content)).texts == ("a", "b")
    content = '\ufeff{"text": "a", "label": 1}\r\n\r\n{"text": "b", "label": 0}'
    assert read(write(tmp_path, "x.jsonl", content)).texts == ("a", "b")


def test_quotes_are_characters_in_tsv_and_quotes_in_csv(tmp_path):
    tsv = write(tmp_path, "x.tsv", 'text\tlabel\n"so it goes\t1\n5" disk\t0\n')
    assert read(tsv).texts == ('"so it goes', '5" disk')
    csv = write(tmp_path, "x.csv", 'text,label\n"a ""b"", c\nd",1\ne,0\n')
    assert read(csv).texts == ('a "b", c\nd', "e")


def test_an_empty_text_is_a_text(tmp_path):
    assert read(write(tmp_path, "x.tsv", "text\tlabel\n\t1\nb\t0\n")).texts == ("", "b")


# Files that are refused. Each message is one line, begins with the place, and names what is wrong.

TSV = "text\tlabel\na\t1\nb\t0\n"
HEADERLESS = "gj04\t1\t\tThey drank.\ngj04\t0\t*\tThey drank the.\n"
REFUSED = {
    "empty": ("x.tsv", "", {}, ": no examples; the file is empty"),
    "blank lines": ("x.csv", "\n\n", {}, ": no examples; the file is empty"),
    "only a mark": ("x.jsonl", "\ufeff", {}, ": no examples; the file is empty"),
    "header only": ("x.tsv", "text\tlabel\n", {}, ": no examples; the file is empty, or is all header"),
    "unknown suffix": ("x.parquet", "PAR1", {}, ": expected .tsv, .csv, .jsonl or .json, got '.parquet'"),
    "wrong text column": (
        "x.tsv",
        TSV,
        {"text": "body"},
        ": no column 'body'; the columns are 'text', 'label'",
    ),
    "wrong pair column": ("x.tsv", TSV, {"text": "text", "pair": "b"}, ": no column 'b'; the columns are"),
    "wrong label column": ("x.tsv", TSV, {"label": "y"}, ": no column 'y'; the columns are 'text', 'label'"),
    "one column twice": ("x.tsv", TSV, {"text": "label"}, ": text, pair and label need a column each"),
    "pair without text": ("x.tsv", TSV, {"pair": "text"}, ": pair='text' needs text= as well"),
    "no usual text": ("x.tsv", "body\tlabel\na\t1\n", {}, ": which column is the text? Pass text="),
    "two usual texts": ("x.tsv", "text\tsentence\tlabel\na\tb\t1\n", {}, ": which column is the text?"),
    "COPA is no pair": (
        "x.jsonl",
        '{"premise": "a", "choice1": "b", "question": "cause", "label": 0}\n',
        {},
        ": which column is the text?",
    ),
    "no usual label": ("x.tsv", "text\tscore\na\t1\n", {}, ": which column is the label? Pass label="),
    "two usual labels": ("x.tsv", "text\tlabel\tgold_label\na\t1\t1\n", {}, ": which column is the label?"),
    "no header": ("x.tsv", HEADERLESS, {}, "columns= for a file without a header; the columns are 'gj04', '1'"),
    "repeated column": ("x.csv", "text,label,text\na,1,b\n", {}, ": two columns share a name: 'text', 'label'"),
    "too few names": ("x.tsv", HEADERLESS, {"columns": ["text", "label"]}, ":1: 4 fields, expected 2: 'text'"),
    "names for JSON": ("x.json", '{"text": "a"}\n', {"columns": ["text"]}, ": columns= is for TSV and CSV"),
    "too few fields": ("x.tsv", TSV + "c\n", {}, ":4: 1 fields, expected 2: 'text', 'label'"),
    "too many fields": ("x.tsv", TSV + "c\td\t1\n", {}, ":4: 3 fields, expected 2: 'text', 'label'"),
    "comma in CSV": ("x.csv", "text,label\nso, so,1\n", {}, ":2: 3 fields, expected 2"),
    "after quoted newline": ("x.csv", 'text,label\n"a\nb",1\nc\n', {}, ":4: 1 fields, expected 2"),
    "in quoted newline": ("x.csv", 'text,label\na,1\n"b\nc",x\n', {"label_names": ["1"]}, ":3: label 'x'"),
    "open quote": ("x.csv", 'text,label\na,1\n"b,0\nc,1\n', {}, ":3: unexpected end of data"),
    "junk after quote": ("x.csv", 'text,label\n"a"b,1\n', {}, ":2: ',' expected after '\"'"),
    "label missing": ("x.tsv", TSV + "c\t\n", {}, ":4: label '' means no label"),
    "label blank": ("x.tsv", TSV + "c\t  \n", {}, ":4: label '' means no label"),
    "label withheld": ("x.tsv", TSV + "c\t-1\n", {}, ":4: label '-1' means no label"),
    "label not agreed": ("x.tsv", TSV + "c\t-\n", {}, ":4: label '-' means no label"),
    "label unknown": (
        "x.tsv",
        TSV + "c\t2\n",
        {"label_names": ["0", "1"]},
        ":4: label '2' is not one of '0', '1'",
    ),
    "test split": (
        "x.tsv",
        "text\tlabel\na\t-1\n",
        {"label_names": ["0", "1"]},
        ":2: label '-1' is not one of '0', '1'; are the labels withheld?",
    ),
    "label nan": ("x.csv", "text,label\na,1\nb,nan\n", {}, ":3: label must be a class, got the number 'nan'"),
    "label infinite": ("x.csv", "text,label\na,1\nb,-inf\n", {}, ":3: label must be a class, got the number"),
    "label a score": (
        "x.csv",
        "text,label\na,3.75\nb,1\n",
        {},
        ":2: label must be a class, got the number '3.75'",
    ),
    "label NaN": ("x.jsonl", '{"text": "a", "label": NaN}\n', {}, ":1: label must be a class"),
    "label null": (
        "x.jsonl",
        '{"text": "a", "label": null}\n',
        {},
        ":1: label must be a string or a whole number",
    ),
    "label a list": (
        "x.jsonl",
        '{"text": "a", "label": [1]}\n',
        {},
        ":1: label must be a string or a whole number",
    ),
    "one class": ("x.tsv", "text\tlabel\na\t1\nb\t1\n", {}, ": all 2 labels are '1'"),
    "text a number": ("x.jsonl", '{"text": 5, "label": 1}\n', {}, ":1: text must be a string, got int"),
    "text null": ("x.jsonl", '{"text": null, "label": 1}\n', {}, ":1: text must be a string, got NoneType"),
    "text a surrogate": (
        "x.jsonl",
        r'{"text": "\ud83d", "label": 1}',
        {},
        ":1: text has half a surrogate pair",
    ),
    "field missing": (
        "x.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b"}\n',
        {},
        ":2: no 'label'; this row has 'text'",
    ),
    "not JSON": (
        "x.jsonl",
        '{"text": "a", "label": 1}\n{"text": \n',
        {},
        ":2: expected one JSON object a line:",
    ),
    "indented JSON": (
        "x.json",
        '[\n  {"text": "a", "label": 1}\n]\n',
        {},
        ":1: expected one JSON object a line:",
    ),
    "JSON list": ("x.json", '["a", 1]\n', {}, ":1: expected a JSON object, got list"),
    "deep JSON": ("x.jsonl", "[" * 200_000 + "\n", {}, ":1: too long a number or too deep a nesting"),
    "long number": (
        "x.jsonl",
        '{"label": ' + "9" * 5000 + "}\n",
        {},
        ":1: too long a number or too deep a nesting",
    ),
    "Latin-1": ("x.tsv", b"text\tlabel\na\t1\ncaf\xe9\t0\n", {}, ":3: byte 0xe9 at 3 is not UTF-8"),
    "UTF-16": ("x.tsv", TSV.encode("utf-16"), {}, ":1: byte 0xff at 0 is not UTF-8"),
    "NUL": ("x.tsv", "text\tlabel\na\0\t1\n", {}, ":2: a NUL byte at 1"),
    "long line": ("x.tsv", TSV + "c" * MAX_LINE_BYTES + "\t1\n", {}, ":4: a line of more than 1,000,000 bytes"),
    "long field": ("x.csv", "text,label\n" + "c" * 200_000 + ",1\n", {}, ":2: field larger than field limit"),
}


@pytest.mark.parametrize(("name", "content", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_by_place_and_value(tmp_path, name, content, arguments, message):
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError) as caught:
        read(path, **arguments)
    said = str(caught.value)
    assert message in said
    assert len(said.splitlines()) == 1
    assert len(said) < len(str(path)) + 300
    assert said.startswith(f"{path}:")


def test_a_long_value_is_cut_in_the_message(tmp_path):
    path = write(tmp_path, "x.tsv", "text\tlabel\na\t" + "\u2028x" * 9999 + "\n")
    with pytest.raises(ValueError, match=r"\.\.\. is not one of") as caught:
        read(path, label_names=("0", "1"))
    assert len(str(caught.value).splitlines()) == 1


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.tsv: no such file"):
        read(tmp_path / "x.tsv")
    with pytest.raises(IsADirectoryError, match=r"a directory, expected a file"):
        read(tmp_path)


# Splitting.


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
        root = Path(__file__).parents[2]
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


def test_a_sample_is_random_and_always_the_same_and_keeps_what_belongs_together():
    drawn = sample(numbered(100, pairs=True), 10)
    ids = [int(text.split()[1]) for text in drawn.texts]
    assert len(set(ids)) == 10 and max(ids) > 10 and drawn.pairs == tuple(f"pair {i}" for i in ids)
    assert drawn.labels.tolist() == [i % 3 for i in ids]
    again = sample(numbered(100), 20)
    assert again.texts[:10] == drawn.texts and again.pairs is None
    assert sorted(sample(numbered(5), 20).texts) == sorted(numbered(5).texts)
