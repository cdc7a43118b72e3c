"""Token counts on disk, by content: one text file, `content-hash count;` a line, only ever appended to.

A line torn by a killed process lacks its semicolon and is not read; two writers at most append a line twice. In
memory the file is sorted columns, 20 bytes a count (about twice that while it is read): ten million take 200 MB.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.problem import DataError

KEY_BYTES = 16
_LINE = re.compile(rb"^([0-9a-f]{32}) (\d{1,9});$", re.MULTILINE)
_BLOCK_BYTES = 1 << 22


class CountCache:
    """What the file held when it was opened; `add` appends for those who open it later. Safe to share by threads."""

    def __init__(self, file: Path) -> None:
        """Raises:
        DataError: the file cannot be read or written.
        """
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("ab").close()
            keys, counts = _lines_of(file)
        except OSError as error:
            raise DataError(
                f"--cache {file.parent}: no file can be written there ({error.strerror}); name another folder"
            ) from error
        self._file = file
        words = np.frombuffer(keys, dtype=">u8").reshape(-1, 2)
        order = np.argsort(words[:, 0], kind="stable")
        self._high: npt.NDArray[np.uint64] = words[order, 0].astype(np.uint64)
        self._low: npt.NDArray[np.uint64] = words[order, 1].astype(np.uint64)
        self._counts: npt.NDArray[np.int32] = np.frombuffer(counts, dtype=np.int32)[order]

    def find(self, keys: Sequence[bytes]) -> list[int | None]:
        """The counts of content hashes (`KEY_BYTES` each), None for one that the file did not hold."""
        words = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64).reshape(-1, 2)
        return [
            self._count(place, high, low)
            for place, (high, low) in zip(self._high.searchsorted(words[:, 0]).tolist(), words, strict=True)
        ]

    def _count(self, place: int, high: np.uint64, low: np.uint64) -> int | None:
        while place < len(self._high) and self._high[place] == high:
            if self._low[place] == low:
                return int(self._counts[place])
            place += 1
        return None

    def add(self, counts: Mapping[bytes, int]) -> None:
        """Append counts by content hash."""
        # One write, so that what other threads and processes append stands before or after it. The leading newline
        # ends a line that a killed process may have torn.
        lines = b"".join(b"%s %d;\n" % (key.hex().encode(), count) for key, count in counts.items())
        with self._file.open("ab", buffering=0) as file:
            file.write(b"\n" + lines)


def _lines_of(file: Path) -> tuple[bytearray, array[int]]:
    keys, counts = bytearray(), array("i")
    with file.open("rb") as stream:
        while lines := stream.readlines(_BLOCK_BYTES):
            found = _LINE.findall(b"".join(lines))
            keys += bytes.fromhex(b"".join(key for key, _ in found).decode())
            counts.extend(int(count) for _, count in found)
    return keys, counts
