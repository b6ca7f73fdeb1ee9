"""Read some columns of a Parquet file, or of an Arrow stream as `datasets` saves it, a few rows at a time.

A few bytes of either can claim to hold more than any machine has memory for. Whoever keeps the rows therefore
checks the claimed sizes of the columns that are needed first; no other column is read.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.data import class_labels, memory, shown
from examples.shared import git_lfs

PARQUET, ARROW = ".parquet", ".arrow"


@dataclasses.dataclass(frozen=True)
class ColumnarFile:
    """A Parquet file or an Arrow stream.

    Attributes:
        path: its path.
        schema: the schema of pyarrow.
        count: number of rows that it claims to have.
        sizes: column → bytes that its values are claimed to take in memory.
    """

    path: Path
    schema: Any
    count: int
    sizes: Mapping[str, int]

    @property
    def name(self) -> str:
        """The path, for messages."""
        return shown.path(self.path)

    @property
    def columns(self) -> list[str]:
        """The names of the columns; one may occur twice."""
        return self.schema.names

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """The names of classes of columns that hold numbers of classes, see `class_labels`."""
        return class_labels.of_metadata(self.schema.metadata or {})

    def check(self, columns: Sequence[str]) -> None:
        """Refuse columns whose values would take too much memory.

        Args:
            columns: the columns.

        Raises:
            ValueError: they would, or the file claims to have more rows than it has bytes.
        """
        for column in columns:
            memory.check(self.sizes[column], f"the column {shown.value(column)} of {self.name}")
        if self.count > self.path.stat().st_size:
            raise ValueError(f"{self.name} claims to have {self.count:,} rows, more than it has bytes")

    def rows(self, columns: Sequence[str], at_once: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Place (file and row, from 0) and column → value, for each row.

        Args:
            columns: the columns that are read; each is there once.
            at_once: number of rows of a Parquet file to hold in memory.

        Raises:
            ValueError: the file is damaged, or has a text that is not UTF-8.
        """
        row = 0
        with _errors_named(self.name):
            for batch in _BATCHES[self.path.suffix.lower()](self.path, columns, at_once):
                for values in zip(*(batch.column(column) for column in columns), strict=True):
                    where = f"{self.name}, row {row}"
                    given = zip(columns, values, strict=True)
                    yield where, {column: _value(value, where, column) for column, value in given}
                    row += 1


def opened(path: Path) -> ColumnarFile:
    """Read the description of a file that ends in `.parquet` or `.arrow`.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: it is damaged, or none.
    """
    name, suffix = shown.path(path), path.suffix.lower()
    try:
        import pyarrow.parquet  # noqa: F401  # here, because nothing else needs it
    except ImportError:
        raise ImportError(
            f'{name}: reading {suffix} needs pyarrow: pip install "optimiz-jax[shards]"'
        ) from None
    git_lfs.refuse(path)
    with _errors_named(name):
        return ColumnarFile(path, *(_of_parquet(path) if suffix == PARQUET else _of_arrow(path)))


def _of_parquet(path: Path) -> tuple[Any, int, dict[str, int]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        sizes = dict.fromkeys(file.schema_arrow.names, 0)
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        for chunk in (group.column(i) for group in groups for i in range(group.num_columns)):
            whole = chunk.path_in_schema
            column = whole if whole in sizes else whole.partition(".")[0]
            sizes[column] = sizes.get(column, 0) + chunk.total_uncompressed_size
        return file.schema_arrow, file.metadata.num_rows, sizes


def _of_arrow(path: Path) -> tuple[Any, int, dict[str, int]]:
    with _stream(path) as stream:
        count, sizes = 0, dict.fromkeys(stream.schema.names, 0)
        for batch in stream:
            count += batch.num_rows
            for column, array in zip(stream.schema.names, batch.columns, strict=True):
                sizes[column] += array.nbytes
        return stream.schema, count, sizes


def _of_parquet_batches(path: Path, columns: Sequence[str], at_once: int) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        leaves = [file.metadata.schema.column(i) for i in range(file.metadata.num_columns)]
    # A value that many rows share is then stored once, as in the file.
    shared = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    with parquet.ParquetFile(path, read_dictionary=shared) as file:
        yield from file.iter_batches(at_once, columns=list(columns))


def _of_arrow_batches(path: Path, columns: Sequence[str], at_once: int) -> Iterator[Any]:
    del at_once  # a stream is mapped into memory
    with _stream(path) as stream:
        for batch in stream:
            chosen = batch.select(list(columns))
            chosen.validate(full=True)  # offsets that lead out of the file would crash the process
            yield chosen


_BATCHES = {PARQUET: _of_parquet_batches, ARROW: _of_arrow_batches}


@contextlib.contextmanager
def _stream(path: Path) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
        yield stream


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{name} cannot be read: {' '.join(str(error).split())[:200]}") from None


def _value(value: Any, where: str, column: str) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {column} is not UTF-8 at byte {error.start}") from None
