"""Labelled text from files: one row, one text or pair of texts, one class.

A malformed row is never skipped, but raises an error that names its file, line and value: an accuracy means
nothing if nobody knows which rows it was measured on. The file formats are those of `tables`.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.data import class_labels, labels, shown, tables, targets
from examples.data.text import TextExamples

# The text columns of GLUE, SuperGLUE and related data sets. A file is recognised if the columns that it shares
# with these are exactly one layout; otherwise the user must name them.
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
_PLAIN = tables.Format()
LABELS = ("label", "gold_label", "is_duplicate", "Quality")
NUMBERS = ("label", "score")
_LABELS = "labels"  # as the Hub calls them, if there is none of the others


def read(
    path: str | Path,
    *,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    argument: str = "{}=",
    problem: str = targets.CLASS,
    separator: str = ",",
) -> TextExamples:
    r"""Read a `.tsv`, `.csv`, `.jsonl`, `.json`, `.parquet` or `.arrow` file, or several as shards.

    Args:
        path: file, folder of shards, or pattern of files, see `row_files.listed`.
        text: column of the text; None finds the columns that GLUE and SuperGLUE use.
        pair: column of the second text, given together with `text`.
        label: column of the label; None finds the usual names.
        columns: names of all columns of a TSV or CSV file without a header.
        label_names: the classes, in order; None takes those that the schema of the file names, see
            `class_labels`, else the labels found in it, see `labels`, in numerical order if all are whole
            numbers, else in the order of code points. Validation and test files are read
            with those of the training file. For numbers, the name of their column.
        delimiter: delimiter of a `.csv`; None for a comma.
        encoding: encoding of the file, such as `"latin-1"`; None for UTF-8, with or without a byte order mark.
        argument: how the caller writes an argument, for messages; `"--{}="` on a command line.
        problem: what a text is labelled with, one of `targets.PROBLEMS`.
        separator: what separates the labels of a text with several.

    Raises:
        FileNotFoundError: `path` does not exist, or nothing matches it.
        ImportError: it is a `.parquet` or `.arrow`, and pyarrow is not installed.
        ValueError: something in a file is not as described; the message is one line that begins with
            `path:line:`, or with `path, row i:` of a `.parquet` or `.arrow`, or with `path:` if no line is to
            blame.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "train.tsv"
        >>> _ = path.write_text("sentence\tlabel\nA joy to watch.\t1\nDull.\t0\n")
        >>> examples = read(path)
        >>> examples.texts, examples.labels.tolist(), examples.label_names
        (('A joy to watch.', 'Dull.'), [1, 0], ('0', '1'))
    """
    path, how = Path(path), tables.Format(columns, delimiter, encoding, argument)
    name, known = shown.path(path), None if problem == targets.NUMBER else known_classes(label_names, how)
    if problem == targets.NUMBER and label is None and label_names:
        (label,) = label_names  # the column of the training file
    table = tables.opened(path, how)
    header = table.columns
    if header is None:
        raise ValueError(f"{name}: no examples; the file is empty, or has only a header")
    text, pair = _text_columns(name, header, text, pair, how)
    usual = NUMBERS if problem == targets.NUMBER else LABELS
    label = _label_column(name, header, (text, pair), label, how, usual)
    names = () if problem == targets.NUMBER else table.class_names.get(label, ())
    known = known or names or None
    texts, pairs, values = [], [], []
    for where, row in table.rows([column for column in (text, pair, label) if column is not None]):
        texts.append(_text(where, row, text))
        if pair is not None:
            pairs.append(_text(where, row, pair))
        value = _value(where, row, label)
        values.append((where, class_labels.named(value, names, where, label) if names else value))
    if not any(map(str.strip, itertools.chain(texts, pairs))):
        raise ValueError(
            f"{name}: all {len(texts)} texts are empty; {shown.value(text)} was read as their column"
        )
    if problem == targets.NUMBER:
        found, known = targets.numbers(values, label), (label,)
    elif problem == targets.LABELS:
        found, known = targets.several(values, known, label, name, how, separator)
    else:
        found, known = targets.classes(values, known, label, name, how)
    return TextExamples(
        texts=tuple(texts),
        pairs=None if pair is None else tuple(pairs),
        labels=found,
        label_names=known,
        source=name,
        problem=problem,
        notes=table.notes,
        columns=(text,) if pair is None else (text, pair),
    )


def read_texts(
    path: str | Path,
    *,
    pairs: bool,
    text: str | None = None,
    pair: str | None = None,
    trained: Sequence[str] = (),
    how: tables.Format = _PLAIN,
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    r"""Read the texts of a file; other columns, such as a label, are left out.

    Args:
        path: the file, as for `read`.
        pairs: whether pairs of texts are wanted.
        text: column of the text; None for the first of `trained`, or else the columns that GLUE and SuperGLUE
            use.
        pair: column of the second text, given together with `text`.
        trained: the `columns` of the examples that a model was trained with.
        how: how the file is to be read.

    Returns:
        The texts, and the second text of each, or None.

    Raises:
        FileNotFoundError: `path` does not exist, or nothing matches it.
        ImportError: it is a `.parquet` or `.arrow`, and pyarrow is not installed.
        ValueError: something in a file is not as described, or it has pairs where single texts are wanted, or
            single texts instead of pairs, or lacks one of `trained`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "new.tsv"
        >>> _ = path.write_text("id\tsentence\n7\tA joy to watch.\n")
        >>> read_texts(path, pairs=False)
        (('A joy to watch.',), None)
    """
    path = Path(path)
    name = shown.path(path)
    table = tables.opened(path, how)
    header = table.columns
    if header is None:
        raise ValueError(f"{name}: no texts; the file is empty, or has only a header")
    if trained and text is None and pair is None:
        _refuse_untrained(name, header, trained, how)
        text, pair = (*trained, None)[:2]
    text, pair = _text_columns(name, header, text, pair, how)
    if (pair is not None) != pairs:
        one, two = ("pairs of texts", "single texts")[:: 1 if pairs else -1]
        raise ValueError(f"{name}: {one} are needed, and the columns give {two}")
    columns = [text] if pair is None else [text, pair]
    found = [[_text(where, row, column) for column in columns] for where, row in table.rows(columns)]
    firsts, *seconds = (tuple(of_column) for of_column in zip(*found, strict=True))
    return firsts, seconds[0] if seconds else None


def lines(content: bytes, name: str, how: tables.Format = _PLAIN) -> tuple[str, ...]:
    r"""The lines of a file as texts; empty lines at its end are left out.

    Args:
        content: content of the file.
        name: its name, for messages.
        how: its encoding.

    Raises:
        ValueError: it cannot be decoded, see `tables.decoded`, or has no text.

    Example:
        >>> lines(b"A joy.\r\n\nDull.\n", "new.txt")
        ('A joy.', '', 'Dull.')
    """
    found = tables.decoded(content, name, how).rstrip("\r\n").split("\n")
    texts = tuple(one.removesuffix("\r") for one in found)
    if not any(texts):
        raise ValueError(f"{name}: no texts; there must be one a line")
    return texts


def known_classes(label_names: Sequence[str] | None, how: tables.Format) -> tuple[str, ...] | None:
    """The classes that a caller gives, or None.

    Args:
        label_names: the classes, in order; None if there are none.
        how: how arguments are written, for messages.

    Raises:
        ValueError: they are not two names or more, each once.
    """
    if label_names is None:
        return None
    known, argument = tuple(label_names), how.ask("label_names")
    if isinstance(label_names, str) or not all(isinstance(name, str) for name in known):
        raise ValueError(f"{argument} must be a list of strings, got {shown.value(str(label_names))}")
    if len(set(known)) < max(len(known), 2):
        raise ValueError(f"{argument} must be two names or more, each once, got {shown.values(known)}")
    return known


def _text_columns(
    path: str, header: tuple[str, ...], text: str | None, pair: str | None, how: tables.Format
) -> tuple[str, str | None]:
    """The columns of the texts: those requested, else those of the one layout that fits."""
    has = f"the columns are {shown.values(header)}"
    if text is None:
        if pair is not None:
            raise ValueError(
                f"{path}: {how.ask('pair')}{shown.value(pair)} needs {how.ask('text')} as well; {has}"
            )
        columns = _by_usual_name(header)
        present = {name for layout in LAYOUTS for name in layout if name in columns}
        layout = next((layout for layout in LAYOUTS if set(layout) == present), None)
        if layout is None:
            raise ValueError(
                f"{path}: which column is the text? Name it in {how.ask('text')} (and {how.ask('pair')}), or "
                f"name all columns in {how.ask('columns')} if the file has no header; {has}"
            )
        text, pair = (columns[layout[0]], columns[layout[1]] if len(layout) == 2 else None)
    _refuse_columns(path, header, (text, pair))
    return text, pair


def _label_column(
    path: str,
    header: tuple[str, ...],
    texts: tuple[str | None, ...],
    label: str | None,
    how: tables.Format,
    usual: Sequence[str],
) -> str:
    """The column of the label: that requested, else the one with a usual name."""
    if label is None:
        columns = _by_usual_name(header)
        found = [columns[name] for name in usual if name in columns]
        if not found and _LABELS in columns:
            found = [columns[_LABELS]]
        if len(found) != 1:
            has = f"the columns are {shown.values(header)}"
            raise ValueError(f"{path}: which column is the label? Name it in {how.ask('label')}; {has}")
        (label,) = found
    _refuse_columns(path, header, (*texts, label))
    return label


def _by_usual_name(header: tuple[str, ...]) -> dict[str, str]:
    """The columns by their names in small letters, in which usual names are, but first by their own."""
    return {name.casefold(): name for name in header} | {name: name for name in header}


def _refuse_columns(path: str, header: tuple[str, ...], columns: tuple[str | None, ...]) -> None:
    """Refuse columns that are not there, or one for two things."""
    chosen = [name for name in columns if name is not None]
    for name in chosen:
        if name not in header:
            raise ValueError(f"{path}: no column {shown.value(name)}; the columns are {shown.values(header)}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{path}: text, pair and label need a column each, got {shown.values(chosen)}")


def _refuse_untrained(path: str, header: tuple[str, ...], trained: Sequence[str], how: tables.Format) -> None:
    """Refuse a file that lacks a column of the texts that a model was trained with."""
    if absent := [name for name in trained if name not in header]:
        asked = " and ".join(map(how.ask, ("text", "pair")[: len(trained)]))
        raise ValueError(
            f"{path}: no column {shown.values(absent)}, as in training: name the text's in {asked}, or all "
            f"columns in {how.ask('columns')} if the file has no header; the columns are {shown.values(header)}"
        )


def _text(where: str, row: Mapping[str, Any], column: str) -> str:
    value = _value(where, row, column)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {column} must be a string, got {type(value).__name__}")
    return labels.encodable(where, column, value)


def _value(where: str, row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise ValueError(f"{where}: no {shown.value(column)}; this row has {shown.values(row)}")
    return row[column]
