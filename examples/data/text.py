"""Labelled text from a file: one row, one text or pair of texts, one class.

A row that is not understood is an error that names its file, line and value, never a row skipped:
an accuracy means nothing when nobody knows which rows it was measured on. Rows end at a newline and
nowhere else, so form feeds and Unicode separators inside a text stay inside it.

TSV has no quoting, as in GLUE and SuperGLUE: a quote is a character, and a field cannot hold a tab.
CSV quotes as in RFC 4180. A `.jsonl` or `.json` file holds one object a line.
"""

import codecs
import csv
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# The text columns of GLUE, SuperGLUE and their relatives. A file is recognised when the columns it
# has among all of these are exactly one layout; anything else is for the user to say.
LAYOUTS = (
    ("sentence",),
    ("text",),
    ("question",),
    ("passage",),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("#1 String", "#2 String"),
)
LABELS = ("label", "gold_label", "is_duplicate", "Quality")
# What GLUE, SNLI and an empty cell write where a label was withheld or not agreed upon.
UNLABELLED = ("-1", "-", "")
MAX_LINE_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class TextExamples:
    """N labelled texts, or pairs of texts.

    Attributes:
        texts: N texts, or the first of each pair; a text may be empty.
        pairs: N second texts, or None.
        labels: int32 [N], each the index of a name in `label_names`.
        label_names: the classes, in a fixed order.
        source: where the examples come from, for the record of a run.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: np.ndarray
    label_names: tuple[str, ...]
    source: str


def read(
    path: str | Path,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
) -> TextExamples:
    r"""Read a `.tsv`, `.csv`, `.jsonl` or `.json` file, UTF-8 with or without a byte order mark.

    Args:
        path: the file.
        text: column of the text; None finds the columns that GLUE and SuperGLUE use.
        pair: column of the second text, given together with `text`.
        label: column of the label; None finds the usual names.
        columns: names of all columns of a TSV or CSV file without a header.
        label_names: the classes, in order; None takes the labels found in this file, whole numbers in
            numerical order, else in order of code points. Validation and test files get those of the
            training file.

    Raises:
        FileNotFoundError, IsADirectoryError: `path` is not there, or is a directory.
        ValueError: anything in the file that is not as described, in one line that begins with
            `path:line:`, or with `path:` where no line is to blame.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "train.tsv"
        >>> _ = path.write_text("sentence\tlabel\nA joy to watch.\t1\nDull.\t0\n")
        >>> examples = read(path)
        >>> examples.texts, examples.labels.tolist(), examples.label_names
        (('A joy to watch.', 'Dull.'), [1, 0], ('0', '1'))
    """
    path = Path(path)
    known = None if label_names is None else tuple(label_names)
    rows = _rows(path, columns)
    if (first := next(rows, None)) is None:
        raise ValueError(f"{path}: no examples; the file is empty, or is all header")
    text, pair, label = _choose_columns(path, tuple(first[1]), text, pair, label)
    texts, pairs, names = [], [], []
    for line, row in itertools.chain([first], rows):
        where = f"{path}:{line}"
        texts.append(_text(where, row, text))
        if pair is not None:
            pairs.append(_text(where, row, pair))
        names.append(_class_name(where, row, label, known))
    if known is None:
        known = _in_order(set(names))
        if len(known) == 1:
            raise ValueError(
                f"{path}: all {len(names)} labels are {_shown(names[0])}; "
                "classification needs two classes or more"
            )
    index = {name: i for i, name in enumerate(known)}
    return TextExamples(
        texts=tuple(texts),
        pairs=None if pair is None else tuple(pairs),
        labels=np.array([index[name] for name in names], np.int32),
        label_names=known,
        source=str(path),
    )


def split(examples: TextExamples, fractions: Mapping[str, float]) -> dict[str, TextExamples]:
    """Deal examples out to named parts by a hash of their (first) text.

    Where an example goes depends on its text alone, up to case and white space: not on its neighbours,
    on their order, or on the machine. So a text that occurs twice never sits in two parts.

    Args:
        examples: N examples.
        fractions: part → expected share of the examples, > 0; they add up to 1.

    Raises:
        ValueError: the fractions are not such, or a part got no example.

    Example:
        >>> digits = tuple("0123456789")
        >>> examples = TextExamples(digits, None, np.arange(10) % 2, ("even", "odd"), "digits")
        >>> parts = split(examples, {"train": 0.7, "test": 0.3})
        >>> "".join(parts["train"].texts), "".join(parts["test"].texts)
        ('0134789', '256')
    """
    shares = np.array(list(fractions.values()), np.float64)
    if not (np.all(shares > 0) and math.isclose(shares.sum(), 1)):
        raise ValueError(f"fractions must be positive and add up to 1, got {dict(fractions)}")
    positions = np.array([_position(text) for text in examples.texts])
    owners = np.searchsorted(np.cumsum(shares)[:-1], positions, side="right")
    parts = {}
    for owner, name in enumerate(fractions):
        rows = np.flatnonzero(owners == owner)
        if not rows.size:
            raise ValueError(f"{name}: no example among {len(examples.texts)} of {examples.source}")
        parts[name] = TextExamples(
            texts=tuple(examples.texts[row] for row in rows),
            pairs=None if examples.pairs is None else tuple(examples.pairs[row] for row in rows),
            labels=examples.labels[rows],
            label_names=examples.label_names,
            source=f"{examples.source}, {name} part ({fractions[name]:g})",
        )
    return parts


def sample(examples: TextExamples, count: int) -> TextExamples:
    """So many of the examples, drawn at random but always the same ones; all of them where there are fewer.

    Args:
        examples: N of them.
        count: ≥ 1, how many to draw.
    """
    drawn = np.random.default_rng(0).permutation(len(examples.texts))[:count]
    return dataclasses.replace(
        examples,
        texts=tuple(examples.texts[i] for i in drawn),
        pairs=None if examples.pairs is None else tuple(examples.pairs[i] for i in drawn),
        labels=examples.labels[drawn],
    )


def _position(text: str) -> float:
    """A number in [0, 1), uniform over texts."""
    same = " ".join(text.casefold().split())
    # 48 bits are exact in a float, which keeps the result below 1.
    return int.from_bytes(hashlib.sha256(same.encode()).digest()[:6]) / 2**48


def _choose_columns(
    path: Path, header: tuple[str, ...], text: str | None, pair: str | None, label: str | None
) -> tuple[str, str | None, str]:
    """The columns to read: those asked for, else those of the one layout that fits."""
    has = f"the columns are {_listed(header)}"
    if text is None:
        if pair is not None:
            raise ValueError(f"{path}: pair={_shown(pair)} needs text= as well; {has}")
        present = {name for layout in LAYOUTS for name in layout if name in header}
        layout = next((layout for layout in LAYOUTS if set(layout) == present), None)
        if layout is None:
            raise ValueError(
                f"{path}: which column is the text? Pass text= (and pair=), or columns= "
                f"for a file without a header; {has}"
            )
        text, pair = layout if len(layout) == 2 else (layout[0], None)
    if label is None:
        labels = [name for name in LABELS if name in header]
        if len(labels) != 1:
            raise ValueError(f"{path}: which column is the label? Pass label=; {has}")
        (label,) = labels
    chosen = [name for name in (text, pair, label) if name is not None]
    for name in chosen:
        if name not in header:
            raise ValueError(f"{path}: no column {_shown(name)}; {has}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{path}: text, pair and label need a column each, got {_listed(chosen)}")
    return text, pair, label


def _rows(path: Path, columns: Sequence[str] | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line number and column → value, for each row."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a directory, expected a file")
    match path.suffix.lower():
        case ".tsv":
            return _table(path, _tab_separated(path), columns)
        case ".csv":
            return _table(path, _comma_separated(path), columns)
        case ".jsonl" | ".json":
            if columns is not None:
                raise ValueError(f"{path}: columns= is for TSV and CSV; JSON lines name their own")
            return _objects(path)
        case suffix:
            raise ValueError(f"{path}: expected .tsv, .csv, .jsonl or .json, got {_shown(suffix)}")


def _table(
    path: Path, records: Iterator[tuple[int, list[str]]], columns: Sequence[str] | None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Name the fields of records by a header, which is the first of them unless given."""
    if columns is None:
        _, columns = next(records, (0, []))
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path}: two columns share a name: {_listed(columns)}")
    for line, fields in records:
        if len(fields) != len(columns):
            raise ValueError(
                f"{path}:{line}: {len(fields)} fields, expected {len(columns)}: {_listed(columns)}"
            )
        yield line, dict(zip(columns, fields, strict=True))


def _tab_separated(path: Path) -> Iterator[tuple[int, list[str]]]:
    # A blank line is no row: a row has a text and a label, hence a tab.
    return ((number, line.split("\t")) for number, line in _lines(path) if line)


def _comma_separated(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((f"{line}\n" for _, line in _lines(path)), strict=True)
    while True:
        start = reader.line_num + 1  # of the record, which ends lines later if quoted newlines say so
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}:{start}: {error}") from None
        if fields is None:
            return
        if fields:
            yield start, fields


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line:
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: expected one JSON object a line: {error.msg} at column {error.colno}"
            ) from None
        except (ValueError, RecursionError):
            raise ValueError(f"{where}: too long a number or too deep a nesting") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
        yield number, row


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends, of bounded length."""
    with path.open("rb") as file:
        for number in itertools.count(1):
            where = f"{path}:{number}"
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"{where}: a line of more than {MAX_LINE_BYTES:,} bytes")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                decoded = line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{where}: byte {line[error.start]:#04x} at {error.start} is not UTF-8"
                ) from None
            if "\0" in decoded:
                raise ValueError(f"{where}: a NUL byte at {line.index(0)}; is this a text file?")
            yield number, decoded.removesuffix("\n").removesuffix("\r")


def _text(where: str, row: Mapping[str, Any], column: str) -> str:
    value = _value(where, row, column)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {column} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:  # only JSON's \u escapes can write it
        raise ValueError(f"{where}: {column} has half a surrogate pair") from None
    return value


def _class_name(where: str, row: Mapping[str, Any], column: str, known: tuple[str, ...] | None) -> str:
    """The name of a row's class: a string, where 1, "1" and 1.0 are one name."""
    value = _value(where, row, column)
    if isinstance(value, bool):
        value = json.dumps(value)
    if not isinstance(value, str | int | float):
        raise ValueError(f"{where}: {column} must be a string or a whole number, got {type(value).__name__}")
    name = _without_fraction(where, column, str(value).strip())
    if known is not None and name not in known:
        hint = "; are the labels withheld?" if name in UNLABELLED else ""
        raise ValueError(f"{where}: {column} {_shown(name)} is not one of {_listed(known)}{hint}")
    if known is None and name in UNLABELLED:
        raise ValueError(
            f"{where}: {column} {_shown(name)} means no label; if it is a class, say so in label_names="
        )
    return name


def _without_fraction(where: str, column: str, name: str) -> str:
    if "_" in name:  # Python reads 1_0 as ten
        return name
    try:
        return str(int(name))
    except ValueError:
        pass
    try:
        number = float(name)
    except ValueError:
        return name
    if not number.is_integer():
        raise ValueError(f"{where}: {column} must be a class, got the number {_shown(name)}")
    return str(int(number))


def _in_order(names: set[str]) -> tuple[str, ...]:
    whole_numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return tuple(sorted(names, key=int if whole_numbers else None))


def _value(where: str, row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise ValueError(f"{where}: no {_shown(column)}; this row has {_listed(row)}")
    return row[column]


def _listed(names: Iterable[str]) -> str:
    """Names for one line of an error message, without an end where there are very many."""
    names = list(names)
    return ", ".join(map(_shown, names[:20])) + (", ..." if len(names) > 20 else "")


def _shown(value: str) -> str:
    """A value for one line of an error message: escaped, and cut if it is long."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
