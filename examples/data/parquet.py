"""Read some columns of a Parquet file, a few rows at a time.

A few bytes of one can claim to hold more than any machine has memory for. The claimed sizes of the columns that
are needed are therefore checked first, and no other column is read.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from examples.data import memory, shown


@dataclasses.dataclass(frozen=True)
class ParquetFile:
    """A Parquet file.

    Attributes:
        path: its path.
        schema: the schema of pyarrow.
        metadata: the metadata of pyarrow.
    """

    path: Path
    schema: Any
    metadata: Any

    @property
    def name(self) -> str:
        """The path, for messages."""
        return shown.path(self.path)

    @property
    def columns(self) -> list[str]:
        """The names of the columns; one may occur twice."""
        return self.schema.names

    def rows(self, columns: Sequence[str], at_once: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Place (file and row, from 0) and column → value, for each row.

        Args:
            columns: the columns that are read; each is there once.
            at_once: number of rows to hold in memory.

        Raises:
            ValueError: the file is damaged, would take too much memory, or has a text that is not UTF-8.
        """
        import pyarrow
        from pyarrow import parquet

        for column in columns:
            memory.check(self._bytes_of(column), f"the column {shown.value(column)} of {self.name}")
        if (count := self.metadata.num_rows) > self.path.stat().st_size:
            raise ValueError(f"{self.name} claims to have {count:,} rows, more than it has bytes")
        leaves = [self.metadata.schema.column(i) for i in range(self.metadata.num_columns)]
        # A value that many rows share is then stored once, as in the file.
        shared = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        row = 0
        try:
            with parquet.ParquetFile(self.path, read_dictionary=shared) as file:
                for batch in file.iter_batches(at_once, columns=list(columns)):
                    arrays = [batch.column(column) for column in columns]
                    for values in zip(*arrays, strict=True):
                        where = f"{self.name}, row {row}"
                        given = zip(columns, values, strict=True)
                        yield where, {column: _value(value, where, column) for column, value in given}
                        row += 1
        except (OSError, pyarrow.ArrowException) as error:
            raise _unreadable(self.name, error) from None

    def _bytes_of(self, column: str) -> int:
        """The claimed size of a column's chunks when they are unpacked."""
        groups = (self.metadata.row_group(i) for i in range(self.metadata.num_row_groups))
        chunks = (group.column(i) for group in groups for i in range(group.num_columns))
        return sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if column in (chunk.path_in_schema, chunk.path_in_schema.partition(".")[0])
        )


def opened(path: Path) -> ParquetFile:
    """Read the description of a Parquet file.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: it is damaged, or none.
    """
    name = shown.path(path)
    try:
        import pyarrow  # imported here, because nothing else needs it
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f'{name}: reading Parquet needs pyarrow: pip install "optimiz-jax[shards]"') from None
    try:
        with parquet.ParquetFile(path) as file:
            return ParquetFile(path, file.schema_arrow, file.metadata)
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(name, error) from None


def _value(value: Any, where: str, column: str) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {column} is not UTF-8 at byte {error.start}") from None


def _unreadable(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name} cannot be read: {' '.join(str(error).split())[:200]}")
