"""Parquet files, and the Arrow files that `datasets` saves, as rows.

Memory holds a batch of rows at a time, and of parquet the page of each column that it is in: how large those
are its writer decided."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.fields import Place
from data.problem import DataError

_MAX_BATCH_ROWS = 64
_BATCH_BYTES = 32 << 20
_BUFFER_BYTES = 1 << 20


class ParquetRows:
    """The rows of a parquet file."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: not a parquet file, or two columns of one name.
        """
        import pyarrow.parquet as pq

        self.total_bytes = path.stat().st_size
        """Of the file."""
        self.done_bytes = 0
        """Of them, read so far, by the share of rows."""
        self._path = path
        with _readable(path, self), pq.ParquetFile(path) as file:
            self._names = tuple(file.schema_arrow.names)
            self._num_rows: int = file.metadata.num_rows
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        self.num_read = 0
        _check_unique(path, self._names)
        # Of the fattest row group, so that documents of megabytes come a few at a time.
        row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
        self._batch_rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))

    def column_names(self) -> tuple[str, ...] | None:
        """Those of the schema; None where the file has no rows."""
        return self._names if self._num_rows else None

    def rows(self, names: Collection[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Every row with its place; only columns in `names` are read, the others' values are None.

        Raises:
            DataError: the file is damaged, or a text is not UTF-8.
        """
        import pyarrow.parquet as pq

        wanted = [name for name in self._names if name in names]
        blank = dict.fromkeys(self._names)
        with (
            _readable(self._path, self),
            # Without its defaults a column of a row group comes page by page; with them it comes whole.
            pq.ParquetFile(
                self._path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            ) as file,
        ):
            for batch in file.iter_batches(batch_size=self._batch_rows, columns=wanted):
                for place, values in _batch_rows(batch, wanted, self._path, self.num_read):
                    self.num_read = place.row
                    self.done_bytes = self.total_bytes * place.row // self._num_rows
                    yield place, {**blank, **values}


class ArrowRows:
    """The rows of one Arrow stream file, as `datasets.Dataset.save_to_disk` writes them."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: not an Arrow stream, or two columns of one name.
        """
        import pyarrow as pa

        self.total_bytes = path.stat().st_size
        """Of the file."""
        self.done_bytes = 0
        """Of them, read so far, a record batch at a time."""
        self._path = path
        self.num_read = 0
        with _readable(path, self), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            self._names = tuple(stream.schema.names)
        _check_unique(path, self._names)

    def column_names(self) -> tuple[str, ...] | None:
        """Those of the first row; None where the file has no rows."""
        return None if next(self.rows(()), None) is None else self._names

    def rows(self, names: Collection[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Every row with its place; only columns in `names` are looked at, the others' values are None.

        Raises:
            DataError: the file is damaged, or a text is not UTF-8.
        """
        import pyarrow as pa

        wanted = [name for name in self._names if name in names]
        blank = dict.fromkeys(self._names)
        with _readable(self._path, self), pa.memory_map(str(self._path)) as file, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                for place, values in _batch_rows(batch, wanted, self._path, self.num_read):
                    self.num_read = place.row
                    yield place, {**blank, **values}
                self.done_bytes = file.tell()
        self.done_bytes = self.total_bytes


@contextmanager
def _readable(path: Path, rows: ParquetRows | ArrowRows) -> Iterator[None]:
    import pyarrow as pa

    rows.num_read = 0
    kind = "parquet" if isinstance(rows, ParquetRows) else "Arrow file"
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        after = f" after row {rows.num_read}" if rows.num_read else ""
        raise DataError(f"{path}: unreadable {kind}{after} ({reason}); write the file again") from error


def _check_unique(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: {name}: seen {names.count(name)} columns of that name; keep one")


def _batch_rows(batch: Any, names: list[str], path: Path, num_read: int) -> Iterator[tuple[Place, dict[str, Any]]]:
    columns = [(name, batch.column(name)) for name in names]
    for i in range(batch.num_rows):
        place = Place(path, num_read + i + 1)
        yield place, {name: _cell(column[i], place, name) for name, column in columns}


def _cell(scalar: Any, place: Place, column: str) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        raise place.error(column, f"seen bytes that are not UTF-8 ({error.reason})", "write the file again") from error
