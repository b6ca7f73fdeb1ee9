"""Read rows of named values from files: TSV, CSV, JSON lines, a JSON array, Parquet, or Arrow.

A malformed row is never skipped, but raises an error that names its file and line. Rows end only at a newline,
so form feeds and Unicode separators inside a text stay inside it.

TSV has no quoting, as in GLUE and SuperGLUE: a quote is an ordinary character, and a field cannot hold a tab.
CSV is quoted as in RFC 4180, with a comma or another delimiter. A `.jsonl` or `.json` file holds one object per
line, or an array of objects. Lines, CSV fields and files with an array have a maximum size, given below. Of a
`.parquet` or `.arrow`, only the columns that are needed are read. Several files, see `row_files`, have the same
columns, and are read as one.
"""

import codecs
import collections
import csv
import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.data import columnar, memory, row_files, shown
from examples.shared import git_lfs, strict_json

MAX_LINE = 1_000_000  # bytes of a line, and characters of a field of CSV, which may have many lines
MAX_ARRAY = 200_000_000  # bytes of a JSON array, which is read at once
_PACKED = {
    b"\x1f\x8b": "compressed",
    b"BZh": "compressed",
    b"PK\x03\x04": "an archive, as a spreadsheet's file is",
    b"PAR1": "a .parquet file",
}
TEXT, COLUMNAR = (".tsv", ".csv", ".jsonl", ".json"), (columnar.PARQUET, columnar.ARROW)
_JSON = (".jsonl", ".json")
_ROWS_AT_ONCE = 1000  # of a Parquet file
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclasses.dataclass(frozen=True)
class Format:
    """How a file is to be read.

    Attributes:
        columns: names of all columns of a TSV or CSV file without a header.
        delimiter: delimiter of a CSV; None for a comma.
        encoding: encoding of the text; None for UTF-8, with or without a byte order mark.
        argument: how the caller writes an argument, for messages: `"{}="` or `"--{}="`.
    """

    columns: Sequence[str] | None = None
    delimiter: str | None = None
    encoding: str | None = None
    argument: str = "{}="

    def ask(self, argument: str) -> str:
        """The name of an argument, as the caller writes it."""
        return self.argument.format(argument)


Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""Place (file and line, or file and row) and column → value, for each row."""


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a file, or of several with the same columns.

    Attributes:
        name: the path, for messages.
        columns: the columns, those of the first row if rows name their own; None without a row.
        rows: function of the columns that are needed, to be called once.
        class_names: column → names of the classes, if it holds their numbers.
        shards: number of files of a folder or pattern; 0 of a file by itself.
        left_out: what was not read in a folder → number of files.
    """

    name: str
    columns: tuple[str, ...] | None
    rows: Callable[[Sequence[str]], Rows]
    class_names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    shards: int = 0
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def notes(self) -> dict[str, int]:
        """The number of shards and of files that were left out, for a summary."""
        shards = {"shards": self.shards} if self.shards else {}
        return shards | {f"files or folders left out: {why}": count for why, count in self.left_out.items()}


def opened(path: Path, how: Format) -> Table:
    """Open a file of any format, the shards of a folder, or the files that match a pattern.

    Args:
        path: file, folder or pattern, see `row_files.listed`.
        how: how the files are to be read.

    Raises:
        FileNotFoundError: `path` does not exist, or nothing matches it.
        ImportError: it is a `.parquet` or `.arrow`, and pyarrow is not installed.
        ValueError: something is not as described; the message is one line that begins with the place. Later
            shards are opened, and refused, when their rows are read.
    """
    files, left_out = row_files.listed(path)
    first = _opened(files[0], how)
    if len(files) > 1 and first.columns is None:
        raise ValueError(f"{first.name}: a shard without rows; remove it")
    name = shown.path(path)
    memory.check(sum(file.stat().st_size for file in files), name)
    return dataclasses.replace(
        first,
        name=name,
        rows=lambda columns: _bounded(_chained(first, files[1:], how, columns)),
        shards=0 if files == [path] else len(files),
        left_out=left_out,
    )


def _chained(first: Table, others: Sequence[Path], how: Format, columns: Sequence[str]) -> Rows:
    yield from first.rows(columns)
    for path in others:
        table = _opened(path, how)
        if table.columns is None:
            raise ValueError(f"{table.name}: a shard without rows; remove it")
        if path.suffix.lower() not in _JSON and set(table.columns) != set(first.columns or ()):
            raise ValueError(
                f"{table.name}: the columns are {shown.values(table.columns)}, and those of {first.name} are "
                f"{shown.values(first.columns or ())}; shards must have the same"
            )
        for column in columns:
            if table.class_names.get(column) != first.class_names.get(column):
                raise ValueError(
                    f"{table.name}: the classes of {shown.value(column)} are not those of {first.name}"
                )
        yield from table.rows(columns)


def _bounded(rows: Rows) -> Rows:
    """The rows, as long as their texts fit into memory: a file may hold a text once that many rows have."""
    total, most = 0, memory.limit()
    for where, row in rows:
        total += sum(len(value) for value in row.values() if isinstance(value, str))
        if total > most:
            memory.check(total, f"the rows up to {where}")
        yield where, row


def _opened(path: Path, how: Format) -> Table:
    name, suffix = _checked(path, (*TEXT, *COLUMNAR))
    if suffix in TEXT:
        given = rows(path, how)
        if (first := next(given, None)) is None:
            return Table(name, None, lambda columns: given)
        return Table(name, tuple(first[1]), lambda columns: itertools.chain([first], given))
    for argument in ("columns", "delimiter", "encoding"):
        if getattr(how, argument) is not None:
            raise ValueError(f"{name}: {how.ask(argument)} is for files of text, and a {suffix} is none")
    file = columnar.opened(path)
    _refuse_twice(name, file.columns)

    def read(columns: Sequence[str]) -> Rows:
        file.check(columns)
        return file.rows(columns, _ROWS_AT_ONCE)

    return Table(name, tuple(file.columns) if file.count else None, read, file.class_names)


def rows(path: Path, how: Format) -> Rows:
    """The rows of a file of text.

    Raises:
        FileNotFoundError, IsADirectoryError: `path` does not exist, or is a directory.
        ValueError: something is not as described; the message is one line that begins with the place.
    """
    name, suffix = _checked(path, TEXT)
    git_lfs.refuse(path)
    with path.open("rb") as file:
        beginning = file.read(8)
    for magic, kind in _PACKED.items():  # which Latin-1 would read as text
        if beginning.startswith(magic):
            raise ValueError(f"{name}: it is {kind}, despite its name: unpack it, or save its rows as text")
    if how.delimiter is not None and suffix != ".csv":
        raise ValueError(f"{name}: {how.ask('delimiter')} is for a .csv file")
    if suffix in (".tsv", ".csv"):
        records = _tab_separated(path, how) if suffix == ".tsv" else _delimited(path, how)
        return _table(name, records, how)
    if how.columns is not None:
        raise ValueError(f"{name}: {how.ask('columns')} is for TSV and CSV; JSON names its own")
    return _array(path, how) if _begins_an_array(path, how) else _objects(path, how)


def decoded(content: bytes, name: str, how: Format) -> str:
    """The text of a file that is read at once, without a byte order mark.

    Args:
        content: content of the file.
        name: its name, for messages.
        how: its encoding.

    Raises:
        ValueError: the encoding is unknown or does not fit, or there is a NUL byte.
    """
    said = f"{how.ask('encoding')}{how.encoding}"
    try:
        found = content.decode(how.encoding or "utf-8").removeprefix("\ufeff")
    except LookupError:
        raise ValueError(f"{said} is not a text encoding that Python knows, such as latin-1") from None
    except UnicodeError as error:
        if how.encoding is not None or not isinstance(error, UnicodeDecodeError):
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{name}: the text does not match {said}: {reason}") from None
        raise ValueError(
            f"{name}: byte {content[error.start]:#04x} at {error.start} is not UTF-8; "
            f"set its encoding, such as {how.ask('encoding')}cp1252"
        ) from None
    if "\0" in found:
        raise ValueError(f"{name}: a NUL byte at {found.index(chr(0))}; is this a text file?")
    return found


def _checked(path: Path, suffixes: Sequence[str]) -> tuple[str, str]:
    """The name, for messages, and the suffix of a file that can be read."""
    name = shown.path(path)
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file")
    if path.is_dir():
        raise IsADirectoryError(f"{name}: a directory, expected a file")
    if not path.is_file():  # a pipe would block, a device has no end
        raise ValueError(f"{name}: must be a regular file, got a pipe or a device")
    memory.check(path.stat().st_size, name)
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        *several, last = suffixes
        raise ValueError(f"{name}: expected {', '.join(several)} or {last}, got {shown.value(suffix)}")
    return name, suffix


def _refuse_twice(name: str, columns: Sequence[str]) -> None:
    if len(set(columns)) < len(columns):
        ((twice, _),) = collections.Counter(columns).most_common(1)
        raise ValueError(f"{name}: two columns share a name, {shown.value(twice)}: {shown.values(columns)}")


def _table(
    name: str, records: Iterator[tuple[int, list[str]]], how: Format
) -> Iterator[tuple[str, dict[str, str]]]:
    """Name the fields of records by a header, which is the first record unless given."""
    given = how.columns
    if isinstance(given, str):
        raise ValueError(f"{how.ask('columns')} must be a list of names, got {shown.value(given)}")
    columns = next(records, (0, []))[1] if given is None else list(given)
    _refuse_twice(name, columns)
    other = next((mark for mark in ";\t|" if len(columns) == 1 and mark in columns[0]), None)
    if other is not None:
        raise ValueError(
            f"{name}: one column, {shown.value(columns[0])}; if {shown.value(other)} separates the fields of a "
            f".csv, set {how.ask('delimiter')}{shown.value(other)}"
        )
    for line, fields in records:
        if fields == columns:
            remedy = "remove this line" if given is None else f"they are given in {how.ask('columns')}; omit it"
            raise ValueError(f"{name}:{line}: the names of the columns, and not a row; {remedy}")
        if len(fields) != len(columns):
            raise ValueError(
                f"{name}:{line}: {len(fields)} fields, expected {len(columns)}: {shown.values(columns)}"
            )
        yield f"{name}:{line}", dict(zip(columns, fields, strict=True))


def _tab_separated(path: Path, how: Format) -> Iterator[tuple[int, list[str]]]:
    # A blank line is not a row: a row has a text and a label, hence a tab.
    return ((number, line.split("\t")) for number, line in _lines(path, how) if line)


def _delimited(path: Path, how: Format) -> Iterator[tuple[int, list[str]]]:
    name = shown.path(path)
    delimiter = "," if how.delimiter is None else how.delimiter
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise ValueError(
            f"{how.ask('delimiter')} must be one character, such as ';', got {shown.value(delimiter)}"
        )
    lines = (f"{line}\n" for _, line in _lines(path, how))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1  # of the record, which may span several lines if it has quoted newlines
        before = csv.field_size_limit(MAX_LINE)  # global to the process, so it is set for one record only
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{name}:{start}: {_of_csv(error)}") from None
        finally:
            csv.field_size_limit(before)
        if fields is None:
            return
        if fields:
            yield start, fields


def _of_csv(error: csv.Error) -> str:
    said = str(error)
    if "field limit" in said:
        return f"a field of more than {MAX_LINE:,} characters; is a quote left open?"
    if "unexpected end" in said:
        return f"{said}; is a quote left open?"
    return "a carriage return in a field without quotes" if "new-line" in said else said


def _objects(path: Path, how: Format) -> Iterator[tuple[str, dict[str, Any]]]:
    name = shown.path(path)
    for number, line in _lines(path, how):
        if not line.strip():
            continue
        try:
            yield f"{name}:{number}", strict_json.parse_object(line, f"{name}:{number}")
        except ValueError as error:
            raise ValueError(f"{error}; expected an object per line, or an array of objects") from None


def _array(path: Path, how: Format) -> Iterator[tuple[str, dict[str, Any]]]:
    name = shown.path(path)
    if (size := path.stat().st_size) > MAX_ARRAY:
        raise ValueError(
            f"{name}: an array of {size:,} bytes, at most {MAX_ARRAY:,}; write one object per line"
        )
    try:
        text = path.read_bytes().decode(how.encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeError as error:
        raise ValueError(f"{name}: not {how.encoding or 'UTF-8'}, see {how.ask('encoding')}: {error}") from None
    for number, row in enumerate(strict_json.parse(text, f"{name}:"), 1):
        where = f"{name}: object {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where} of the array must be a JSON object, got {type(row).__name__}")
        yield where, row


def _begins_an_array(path: Path, how: Format) -> bool:
    with path.open("rb") as file:
        beginning = file.read(256)
    try:
        return beginning.decode(how.encoding or "utf-8", "ignore").lstrip("\ufeff \t\r\n").startswith("[")
    except (LookupError, UnicodeError):  # reported when the rows are read
        return False


def _lines(path: Path, how: Format) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends, of bounded length."""
    name = shown.path(path)
    with path.open("rb") as file:
        read = _decoded(file, name, how) if how.encoding is not None else _of_utf8(file, name, how)
        for number, line in read:
            where = f"{name}:{number}"
            line = line.removeprefix("\ufeff") if number == 1 else line
            if "\0" in line:
                utf16 = f"{how.ask('encoding')}utf-16 if it is UTF-16"
                raise ValueError(
                    f"{where}: a NUL byte at {line.index(chr(0))}; is this a text file? Set {utf16}"
                )
            line = line.removesuffix("\n").removesuffix("\r")
            if number == 1 and "\r" in line and '"' not in line and not file.peek(1):
                raise ValueError(f"{where}: lines end in a carriage return alone; they must end in a newline")
            yield number, line


def _of_utf8(file: io.BufferedReader, name: str, how: Format) -> Iterator[tuple[int, str]]:
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise ValueError(f"{name}:{number}: a line of more than {MAX_LINE:,} bytes")
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            likely = "utf-16" if number == 1 and line.startswith(_UTF16) else "cp1252"
            raise ValueError(
                f"{name}:{number}: byte {line[error.start]:#04x} at {error.start} is not UTF-8; "
                f"set its encoding, such as {how.ask('encoding')}{likely}"
            ) from None


def _decoded(file: io.BufferedReader, name: str, how: Format) -> Iterator[tuple[int, str]]:
    said = f"{how.ask('encoding')}{how.encoding}"
    try:
        text = io.TextIOWrapper(file, encoding=how.encoding, newline="\n")
    except LookupError:
        raise ValueError(f"{said} is not a text encoding that Python knows, such as latin-1") from None
    for number in itertools.count(1):
        try:
            line = text.readline(MAX_LINE + 1)
        except UnicodeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{name}: the text after line {number - 1} does not match {said}: {reason}"
            ) from None
        if not line:
            return
        if len(line) > MAX_LINE:
            raise ValueError(f"{name}:{number}: a line of more than {MAX_LINE:,} characters")
        yield number, line
