"""JSON Lines as rows: one object a line, plain or gzipped (told by content), one line in memory at a time."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from data.fields import Place, shown
from data.problem import DataError

MAX_LINE_BYTES = 256 << 20
"""A longer line is an error, so that a file without line breaks cannot fill the memory. A million tokens
are about 5 MB."""

_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"ARROW1": "an Arrow file",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""First bytes of what is taken for JSON Lines by mistake."""


class JsonlRows:
    """The rows of a JSONL file."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: the first bytes are another kind of file's.
        """
        self.total_bytes = path.stat().st_size
        """As they lie on disk, compressed or not."""
        self.done_bytes = 0
        """Of them, read so far."""
        self._path = path
        with path.open("rb") as file:
            magic = file.read(6)
        self._zipped = magic.startswith(b"\x1f\x8b")
        for start, kind in _FOREIGN.items():
            if magic.startswith(start):
                raise DataError(f"{path}: seen {kind}; unpack or convert it to JSON Lines (UTF-8, gzipped or not)")

    def column_names(self) -> tuple[str, ...] | None:
        """Those of the first row, None where there is none.

        Raises:
            DataError: the first row cannot be read.
        """
        first = next(self.rows(()), None)
        self.done_bytes = 0
        return None if first is None else tuple(first[1])

    def rows(self, names: Collection[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Every row with its place, whole whatever the `names` that will be asked for.

        Raises:
            DataError: broken gzip, a line over `MAX_LINE_BYTES`, or one that is no JSON object in UTF-8.
        """
        for number, line in self._lines():
            if line.strip():
                place = Place(self._path, number)
                yield place, _object(line, place)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as raw:
            number = 1
            try:
                with gzip.open(raw) if self._zipped else raw as opened:
                    stream = cast("BinaryIO", opened)
                    while line := stream.readline(MAX_LINE_BYTES + 1):
                        if len(line) > MAX_LINE_BYTES:
                            seen = f"longer than {MAX_LINE_BYTES} bytes"
                            raise Place(self._path, number).error("line", seen, "write one JSON object a line")
                        self.done_bytes = raw.tell()
                        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                        number += 1
                    self.done_bytes = self.total_bytes
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DataError(
                    f"{self._path}:{number}: broken gzip ({error}); fetch or write the file again"
                ) from error
            except OSError as error:
                reason = error.strerror or str(error)
                raise DataError(f"{self._path}:{number}: cannot be read ({reason}); check the disk") from error


def _object(line: bytes, place: Place) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        row = _with_nan(_decoded(line, place), str(error))
        if row is None:
            fix = "each line must be one whole JSON object"
            if line.lstrip()[:1] == b"[":
                fix += "; write a JSON array's items one a line"
            raise place.error("line", f"invalid JSON ({error})", fix) from error
    if not isinstance(row, dict):
        fix = "each line must be one JSON object, not an array or a bare value"
        raise place.error("line", f"seen {type(row).__name__} {shown(row)}", fix)
    return row


def _decoded(line: bytes, place: Place) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        seen = f"seen byte 0x{line[error.start]:02x} at byte {error.start}, which is not UTF-8"
        raise place.error("line", seen, "re-encode the file as UTF-8") from error


def _with_nan(text: str, reason: str) -> object:
    """What Python's writer makes of missing floats is no JSON; reading it lets the error name the column."""
    if "NaN" not in text and "Infinity" not in text and "infinity" not in reason:
        return None
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
