import csv
import gzip
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from examples.data.tables import MAX_LINE
from examples.data.targets import LABELS, NUMBER
from examples.data.text_files import read


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


def test_usual_names_may_be_in_capital_letters(tmp_path):
    examples = read(write(tmp_path, "x.csv", "Text,LABEL\na,1\nb,0\n"))
    assert (examples.texts, examples.labels.tolist()) == (("a", "b"), [1, 0])
    both = read(write(tmp_path, "y.csv", "Text,text,label\na,c,1\nb,d,0\n"))
    assert both.texts == ("c", "d")  # its own name comes first


def test_labels_is_a_usual_name_if_there_is_no_other(tmp_path):
    path = write(tmp_path, "x.csv", 'text,labels\na,"x,y"\nb,\nc,y\n')
    assert read(path, problem=LABELS).labels.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert read(write(tmp_path, "y.csv", "text,Labels\na,1.5\nb,2\n"), problem=NUMBER).labels.tolist() == [
        1.5,
        2,
    ]
    both = read(write(tmp_path, "z.csv", "text,label,labels\na,1,x\nb,0,y\n"))
    assert both.label_names == ("0", "1")


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
        (("1.0", "0.0", "2.0"), ("0", "1", "2")),  # as pandas writes a column that once had a gap
        ((" yes", "no "), ("no", "yes")),
        # Labels are strings: two of them are never one class.
        (("1E50", "1E51", "1C10"), ("1C10", "1E50", "1E51")),  # of ICD-11
        (("1E2", "100"), ("100", "1E2")),
        (("007", "7"), ("007", "7")),
        (("3.10", "3.1", "3.0"), ("3.0", "3.1", "3.10")),
        (("0.0", "0", "1.0"), ("0", "0.0", "1.0")),
        ((" yes", "no", "yes"), (" yes", "no", "yes")),
        (("1_0", "10", "2"), ("10", "1_0", "2")),
        (("３", "3", "4"), ("3", "4", "３")),
        (("+1", "1", "-0", "0"), ("+1", "-0", "0", "1")),
        (("1" + "0" * 30, "2"), ("1" + "0" * 30, "2")),
        (("e\u0301", "\u00e9"), ("e\u0301", "\u00e9")),
        (("Spam", "spam"), ("Spam", "spam")),
        (("true", "True"), ("True", "true")),
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


def test_names_that_are_given_stay_as_they_are(tmp_path):
    path = write(tmp_path, "x.tsv", "text\tlabel\na\t1.0\nb\t1\nc\t nan\n")
    assert read(path, label_names=("1", "1.0", " nan")).labels.tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match=r"x\.tsv:2: label '1\.0' is not one of '1', ' nan'"):
        read(path, label_names=("1", " nan"))
    numbers = write(tmp_path, "y.tsv", "text\tlabel\na\t3.0\nb\t3\n")
    with pytest.raises(ValueError, match=r"y\.tsv:2: label '3\.0' is not one of '3', '4'"):
        read(numbers, label_names=("3", "4"))  # else two became one
    for names in (["a"], ["a", "a"], [], "ab", [0, 1]):
        with pytest.raises(ValueError, match="label_names= must be "):
            read(path, label_names=names)


@pytest.mark.parametrize("labels", [("1", '"1"'), ("true", '"true"'), ('"0"', "0.0")])
def test_labels_of_two_types_are_never_one_class(tmp_path, labels):
    rows = [f'{{"text": "a", "label": {label}}}\n' for label in (*labels, '"b"')]
    with pytest.raises(ValueError, match=r"x\.jsonl:2: label '\w+' is of type \w+ here and of type .*jsonl:1"):
        read(write(tmp_path, "x.jsonl", "".join(rows)))


def test_what_usually_means_no_label_and_mixed_types_are_classes_where_they_are_named(tmp_path):
    path = write(tmp_path, "x.csv", "text,label\na,NA\nb,None\n")
    assert read(path, label_names=("None", "NA")).labels.tolist() == [1, 0]
    path = write(tmp_path, "y.jsonl", '{"text": "a", "label": true}\n{"text": "b", "label": 1}\n')
    assert read(path, label_names=("1", "true")).labels.tolist() == [1, 0]


def test_an_array_of_objects(tmp_path):
    long = "x" * 900_000  # the array may have one line, longer than a line of others
    rows = [{"text": "a", "label": 1}, {"text": long, "label": 0}, {"text": long, "label": 0.0}]
    examples = read(write(tmp_path, "x.json", json.dumps(rows)))
    assert examples.texts == ("a", long, long) and examples.label_names == ("0", "1")
    indented = write(tmp_path, "y.json", "\ufeff\n" + json.dumps(rows[:2], indent=2))
    assert read(indented).labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"z\.json: object 2: no 'label'; this row has 'text'"):
        read(write(tmp_path, "z.json", '[{"text": "a", "label": 1}, {"text": "b"}]'))
    with pytest.raises(ValueError, match=r"z\.json: object 1 of the array must be a JSON object, got str"):
        read(write(tmp_path, "z.json", '["a"]'))


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_another_delimiter(tmp_path, delimiter):
    path = write(tmp_path, "x.csv", f'text{delimiter}label\n"a{delimiter} b, c"{delimiter}1\nd{delimiter}0\n')
    assert read(path, delimiter=delimiter).texts == (f"a{delimiter} b, c", "d")
    with pytest.raises(ValueError, match=r"one column, .*; if .* separates the fields") as caught:
        read(path)
    assert str(caught.value).endswith(f"set delimiter={delimiter!r}")
    for wrong in ("", ";;", '"', "\n"):
        with pytest.raises(ValueError, match="delimiter= must be one character"):
            read(path, delimiter=wrong)


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "json", "csv"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-8", "cp1252", "utf-8-sig"])
def test_another_encoding(tmp_path, encoding, suffix):
    rows = [{"text": "naïve", "label": 1}, {"text": "b\u00a0c", "label": 0}]
    content = {
        "tsv": "text\tlabel\r\nnaïve\t1\r\nb\u00a0c\t0\r\n",
        "csv": "text,label\nnaïve,1\nb\u00a0c,0\n",
        "jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "json": json.dumps(rows, ensure_ascii=False),
    }[suffix]
    path = write(tmp_path, f"x.{suffix}", content.encode(encoding))
    assert read(path, encoding=encoding).texts == ("naïve", "b\u00a0c")


def test_an_encoding_that_is_wrong_is_named(tmp_path):
    path = write(tmp_path, "x.tsv", TSV + "Ж\t1\n")
    with pytest.raises(ValueError, match=r"the text after line \d does not match encoding=ascii"):
        read(path, encoding="ascii")
    for encoding in ("no-such", "rot13", "zlib", ""):
        with pytest.raises(ValueError, match=r"encoding=.* is not a text encoding"):
            read(path, encoding=encoding)


def test_messages_are_in_the_terms_of_a_command_line(tmp_path):
    path = write(tmp_path, "x.csv", "body,mood\na,b\n")
    with pytest.raises(ValueError, match=r"Name it in --text= \(and --pair=\), .* all columns in --columns="):
        read(path, argument="--{}=")
    with pytest.raises(ValueError, match="set --delimiter=';'"):
        read(write(tmp_path, "x.csv", "body;mood\na, c;b\n"), argument="--{}=")
    with pytest.raises(ValueError, match="name all classes in --label_names="):
        read(write(tmp_path, "y.csv", "text,label\na,-1\nb,+1\n"), argument="--{}=")


def test_what_is_no_file_of_rows_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(ValueError, match=r"pipe\.tsv: must be a regular file, got a pipe or a device"):
        read(tmp_path / "pipe.tsv")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"device\.csv: must be a regular file"):
        read(tmp_path / "device.csv")


def test_a_name_that_is_not_utf8_is_shown_with_a_sign_in_its_place(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.tsv"))
    path.write_text(TSV)
    assert read(path).source.endswith("/caf\ufffd.tsv")
    with pytest.raises(ValueError, match="caf\ufffd\\.tsv: no column 'x'"):
        read(path, text="x")


def test_one_limit_for_a_text_in_every_format(tmp_path):
    for length, suffix in itertools.product((200_000, MAX_LINE - 100), ("tsv", "csv", "jsonl")):
        text = "x" * length
        content = {
            "tsv": f"text\tlabel\n{text}\t1\nb\t0\n",
            "csv": f"text,label\n{text},1\nb,0\n",
            "jsonl": f'{{"text": "{text}", "label": 1}}\n{{"text": "b", "label": 0}}\n',
        }[suffix]
        assert read(write(tmp_path, f"x.{suffix}", content)).texts[0] == text
    assert csv.field_size_limit() < MAX_LINE  # what is set for the whole process is set back


def test_a_million_columns_are_one_line(tmp_path):
    path = write(tmp_path, "x.tsv", "\t".join(f"c{i}" for i in range(100_000)) + "\na\n")
    with pytest.raises(ValueError, match=r"x\.tsv:2: 1 fields, expected 100000: 'c0', .*\.\.\.$"):
        read(path)


def test_names_of_columns_are_a_list(tmp_path):
    with pytest.raises(ValueError, match="columns= must be a list of names, got 'text'"):
        read(write(tmp_path, "x.tsv", TSV), columns="text")


def test_ids_are_no_classes(tmp_path):
    rows = "".join(f"t\tid{i}\n" for i in range(10_001))
    with pytest.raises(ValueError, match=r"10,001 classes among 10,001 labels.*Name it in label="):
        read(write(tmp_path, "x.tsv", "text\tlabel\n" + rows))


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
    "header only": ("x.tsv", "text\tlabel\n", {}, ": no examples; the file is empty, or has only a header"),
    "unknown suffix": (
        "x.xlsx",
        "PK",
        {},
        ": expected .tsv, .csv, .jsonl, .json, .parquet or .arrow, got '.xlsx'",
    ),
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
    "no usual text": ("x.tsv", "body\tlabel\na\t1\n", {}, ": which column is the text? Name it in text="),
    "two usual texts": ("x.tsv", "text\tsentence\tlabel\na\tb\t1\n", {}, ": which column is the text?"),
    "COPA is no pair": (
        "x.jsonl",
        '{"premise": "a", "choice1": "b", "question": "cause", "label": 0}\n',
        {},
        ": which column is the text?",
    ),
    "no usual label": ("x.tsv", "text\tscore\na\t1\n", {}, ": which column is the label? Name it in label="),
    "two usual labels": ("x.tsv", "text\tlabel\tgold_label\na\t1\t1\n", {}, ": which column is the label?"),
    "no header": (
        "x.tsv",
        HEADERLESS,
        {},
        "name all columns in columns= if the file has no header; the columns are",
    ),
    "repeated column": (
        "x.csv",
        "text,label,text\na,1,b\n",
        {},
        ": two columns share a name, 'text':",
    ),
    "too few names": ("x.tsv", HEADERLESS, {"columns": ["text", "label"]}, ":1: 4 fields, expected 2: 'text'"),
    "names for JSON": ("x.json", '{"text": "a"}\n', {"columns": ["text"]}, ": columns= is for TSV and CSV"),
    "too few fields": ("x.tsv", TSV + "c\n", {}, ":4: 1 fields, expected 2: 'text', 'label'"),
    "too many fields": ("x.tsv", TSV + "c\td\t1\n", {}, ":4: 3 fields, expected 2: 'text', 'label'"),
    "comma in CSV": ("x.csv", "text,label\nso, so,1\n", {}, ":2: 3 fields, expected 2"),
    "after quoted newline": ("x.csv", 'text,label\n"a\nb",1\nc\n', {}, ":4: 1 fields, expected 2"),
    "in quoted newline": ("x.csv", 'text,label\na,1\n"b\nc",x\n', {"label_names": ["1", "2"]}, ":3: label 'x'"),
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
    "label nan": ("x.csv", "text,label\na,1\nb,nan\n", {}, ":3: label 'nan' means no label"),
    **{
        f"label {name}": ("x.csv", f"text,label\na,1\nb, {name}\n", {}, f":3: label '{name}' means no label")
        for name in ("NA", "N/A", "n/a", "#N/A", "<NA>", "None", "NULL", "null")
    },
    "label NA in JSON": ("x.jsonl", '{"text": "a", "label": "NA"}\n', {}, ":1: label 'NA' means no label"),
    "label infinite": ("x.csv", "text,label\na,1\nb,-inf\n", {}, ":3: label '-inf' means no label"),
    "label a score": (
        "x.jsonl",
        '{"text": "a", "label": 3.75}\n',
        {},
        ":1: label must be a class, got the number 3.75",
    ),
    "label above 2^53": ("x.jsonl", '{"text": "a", "label": 1E50}\n', {}, ":1: label must be a class, got the"),
    "label a surrogate": ("x.jsonl", r'{"text": "a", "label": "\ud83d"}', {}, ":1: label has half a surrogate"),
    "a key twice": (
        "x.jsonl",
        '{"text": "a", "label": 1}\n{"text": "a", "label": 1, "label": 0}\n',
        {},
        ":2 has 'label' twice",
    ),
    "minus one as a real": ("x.tsv", TSV + "c\t-1.0\n", {}, ":4: label '-1.0' means no label"),
    "header and columns": (
        "x.tsv",
        TSV,
        {"columns": ["text", "label"]},
        ":1: the names of the columns, and not a row; they are given in columns=; omit it",
    ),
    "header again": ("x.tsv", TSV + TSV, {}, ":4: the names of the columns, and not a row; remove this line"),
    "header again in CSV": (
        "x.csv",
        "text,label\na,1\nb,0\n" * 2,
        {"delimiter": ","},
        ":4: the names of the columns, and not a row; remove this line",
    ),
    "true and 1": (
        "x.jsonl",
        '{"text": "a", "label": true}\n{"text": "b", "label": "x"}\n{"text": "c", "label": 1.0}\n',
        {},
        ":3: label '1' is of type int, and 'true' at ",
    ),
    "delimiter of TSV": ("x.tsv", TSV, {"delimiter": ";"}, ": delimiter= is for a .csv file"),
    "carriage returns alone": (
        "x.tsv",
        "text\tlabel\ra\t1\rb\t0",
        {},
        ":1: lines end in a carriage return",
    ),
    "carriage returns in CSV": (
        "x.csv",
        "text,label\na\rb,1\n",
        {},
        ":2: a carriage return in a field",
    ),
    "a key twice in an array": ("x.json", '[{"text": "a", "text": "b"}]', {}, ": has 'text' twice"),
    "a torn array": ("x.json", '[{"text": "a"}', {}, ": is not JSON: "),
    "a Latin-1 array": ("x.json", '[{"text": "é"}]'.encode("latin-1"), {}, ": not UTF-8, see encoding=: "),
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
        ":2 is not JSON: ",
    ),
    "JSON string": ("x.json", '"a"\n', {}, ":1 must hold a JSON object, got str"),
    "deep JSON": ("x.jsonl", "[" * 200_000 + "\n", {}, ": is not JSON: nested too deeply"),
    "long number": (
        "x.jsonl",
        '{"label": ' + "9" * 5000 + "}\n",
        {},
        ":1 is not JSON: Exceeds the limit (4300 digits)",
    ),
    "Latin-1": (
        "x.tsv",
        b"text\tlabel\na\t1\ncaf\xe9\t0\n",
        {},
        ":3: byte 0xe9 at 3 is not UTF-8",
    ),
    "Git LFS": (
        "x.csv",
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        {},
        ": a pointer of Git LFS, not the file itself; fetch it with git lfs pull",
    ),
    "empty texts": (
        "x.csv",
        "text,body,label\n ,a,1\n,b,0\n",
        {},
        ": all 2 texts are empty; 'text' was read as their column",
    ),
    "gzip": ("x.csv", gzip.compress(b"text,label\na,b\n"), {"encoding": "latin-1"}, " is compressed, despite"),
    "spreadsheet": ("x.csv", b"PK\x03\x04" + bytes(30), {}, " is an archive, as a spreadsheet's file is"),
    "UTF-16": (
        "x.tsv",
        TSV.encode("utf-16"),
        {},
        "such as encoding=utf-16",
    ),
    "NUL": ("x.tsv", "text\tlabel\na\0\t1\n", {}, ":2: a NUL byte at 1"),
    "long line": ("x.tsv", TSV + "c" * MAX_LINE + "\t1\n", {}, ":4: a line of more than 1,000,000 bytes"),
    "long field": (
        "x.csv",
        'text,label\n"' + "c\n" * (MAX_LINE // 2 + 1) + '",1\n',
        {},
        ":2: a field of more than 1,000,000 characters; is a quote left open?",
    ),
    "an empty label among several": (
        "x.tsv",
        "text\tlabel\na\tx,y\nb\tx,,y\n",
        {"problem": LABELS},
        ":3: label 'x,,y' has an empty label",
    ),
    "a label twice in a row": (
        "x.tsv",
        "text\tlabel\na\tx,y\nb\ty, y\n",
        {"problem": LABELS},
        ":3: label has the label 'y' twice",
    ),
    "no label in any row": (
        "x.tsv",
        "text\tlabel\na\t\nb\t\n",
        {"problem": LABELS},
        ": none of 2 rows has a label",
    ),
    "a number among lists of labels": (
        "x.jsonl",
        '{"text": "a", "label": ["x"]}\n{"text": "b", "label": [1.5]}\n',
        {"problem": LABELS},
        ":2: label must be a class, got the number 1.5",
    ),
    "a list in a list of labels": (
        "x.jsonl",
        '{"text": "a", "label": [["x"]]}\n',
        {"problem": LABELS},
        ":1: label must be a string or a whole number, got list",
    ),
    "withheld labels among several": (
        "x.tsv",
        "text\tlabel\na\tx\nb\t-1\n",
        {"problem": LABELS},
        ":3: label '-1' means no label; if it is a class, name all classes in label_names=",
    ),
    "an unknown one of several labels": (
        "x.tsv",
        "text\tlabel\na\tx\nb\tx,z\n",
        {"problem": LABELS, "label_names": ("x", "y")},
        ":3: label 'z' is not one of 'x', 'y'",
    ),
    "several labels where one class is meant": (
        "x.jsonl",
        '{"text": "a", "label": ["x"]}\n',
        {},
        ":1: label must be a string or a whole number, got list",
    ),
    "a word for a number": (
        "x.tsv",
        "text\tscore\na\t1\nb\thigh\n",
        {"problem": NUMBER},
        ":3: score must be a number, at most 1e+30, got 'high'",
    ),
    "a decimal comma": (
        "x.tsv",
        "text\tscore\na\t1\nb\t3,5\n",
        {"problem": NUMBER},
        "got '3,5'; write a point for the decimal comma",
    ),
    "true for a number": (
        "x.jsonl",
        '{"text": "a", "score": true}\n',
        {"problem": NUMBER},
        ":1: score must be a number, at most 1e+30, got 'True'",
    ),
    "no number": (
        "x.jsonl",
        '{"text": "a", "score": null}\n',
        {"problem": NUMBER},
        ":1: score must be a number",
    ),
    "a number without its column": (
        "x.tsv",
        "text\tvalue\na\t1\n",
        {"problem": NUMBER},
        ": which column is the label? Name it in label=",
    ),
}


@pytest.mark.parametrize(("name", "content", "arguments", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.survives("malformed labelled text")
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
    with pytest.raises(ValueError, match=r"a folder without \.arrow, \.csv, \.jsonl, \.parquet, \.tsv files"):
        read(tmp_path)


WHOLE = {
    "tsv": b'text\tlabel\na b\t1\nc "d\t0\ne\t1.0\n',
    "csv": b'text,label\n"a, b",1\n"c ""d""\ne",0\n',
    "jsonl": b'{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n',
    "json": b'[{"text": "a", "label": 1}, {"text": "b", "label": 0.0}]',
}
PIECES = [
    *rb'" , ; { [ : \ud800 NaN 1E400 - null "text" Infinity nan -1 true'.split(b" "),
    *b"\0 \t \r \xff \xef\xbb\xbf \xe2\x80\xa8 \xff\xfe".split(b" "),
]
GIVEN = [
    *[{}] * 12,
    *(
        {"encoding": encoding}
        for encoding in ("utf-16", "latin-1", "utf-7", "punycode", "idna", "undefined", "hex")
    ),
    *({"delimiter": delimiter} for delimiter in (";", "\t", "\r", "é")),
    *({"label_names": names} for names in (("0", "1"), ("1", "1.0"), ("-1", "true"))),
    *({"columns": names} for names in (("text", "label"), ("a",), ())),
]


@pytest.mark.parametrize("suffix", WHOLE)
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(tmp_path, suffix):
    random = np.random.default_rng(0)
    for _ in range(250):
        content = bytearray(WHOLE[suffix])
        for _ in range(random.integers(1, 5)):
            place, kind = random.integers(len(content) + 1), random.random()
            if kind < 0.5:
                content[place:place] = PIECES[random.integers(len(PIECES))]
            elif kind < 0.8:
                del content[place : place + random.integers(1, 7)]
            else:
                content[place : place + 1] = bytes([random.integers(256)])
        path = write(tmp_path, f"x.{suffix}", bytes(content))
        try:
            examples = read(path, **GIVEN[random.integers(len(GIVEN))])
        except ValueError as error:
            assert type(error) is ValueError and len(str(error).splitlines()) == 1, (content, error)
            assert len(str(error)) < len(str(path)) + 400
        else:
            assert len(examples.texts) == len(examples.labels)
