"""A file that appears only when it is whole, and whose writing goes on where it was interrupted.

Beside `made.jsonl` lie, until it is whole, `made.jsonl.partial` and `made.jsonl.partial.json`: the arguments it is made
from, and how much of it is safely on disk. What was written after that is cut off and made again.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from data.problem import DataError

_COMMIT_EVERY_S = 1.0


class ResumableFile:
    """JSON Lines on their way to `out`; a context manager that keeps the partial file unless `discard` was called."""

    def __init__(self, out: Path, made_from: Mapping[str, Any]) -> None:
        """Opens or creates the partial file; `made_from` (JSON values) must be what it was begun with.

        Raises:
            DataError: it was begun with something else, is being written by another process, or cannot be written.
        """
        self.num_rows = 0
        """Rows that are in the file."""
        self._out, self._made_from = out, dict(made_from)
        self._partial = out.with_name(f"{out.name}.partial")
        self._state = out.with_name(f"{out.name}.partial.json")
        self._committed_at = time.monotonic()
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.is_dir():
                raise DataError(f"--out {out}: is a folder; name a file in it")
            self._file = self._partial.open("ab")
        except OSError as error:
            raise unwritable(out, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.num_rows, num_bytes = self._begun()
            self._file.truncate(num_bytes)
            self._file.seek(num_bytes)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(f"{self._partial}: another process is writing it; wait, or name another --out") from error
        except BaseException:
            self._file.close()
            raise

    def append(self, lines: bytes, num_rows: int) -> None:
        """Write whole lines.

        Raises:
            OSError: the disk refuses; what was written before is kept.
        """
        self._file.write(lines)
        self.num_rows += num_rows
        if time.monotonic() - self._committed_at > _COMMIT_EVERY_S:
            self._commit()

    def finish(self) -> None:
        """Put the file, synced, in place of whatever `out` was.

        Raises:
            OSError: the disk refuses; what was written before is kept.
        """
        self._commit()
        self._partial.replace(self._out)
        self._state.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what was written, where going on cannot help."""
        self._partial.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def __enter__(self) -> ResumableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {"made_from": self._made_from, "num_rows": self.num_rows, "num_bytes": self._file.tell()}
        temporary = self._state.with_name(f"{self._state.name}.tmp")
        temporary.write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2))
        temporary.replace(self._state)
        self._committed_at = time.monotonic()

    def _begun(self) -> tuple[int, int]:
        """Rows and bytes that an earlier run left."""
        if not self._state.exists():
            return 0, 0
        again = f"remove {self._partial} and {self._state.name} to begin again"
        try:
            state = orjson.loads(self._state.read_bytes())
            begun_with, num_rows, num_bytes = state["made_from"], int(state["num_rows"]), int(state["num_bytes"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._state}: no state of this command ({error}); {again}") from error
        for name, now in self._made_from.items():
            if begun_with.get(name) != now:
                raise DataError(
                    f"{self._partial}: begun with {name} {begun_with.get(name)!r}, now {now!r}; give the same "
                    f"arguments to go on, name another --out, or {again}"
                )
        if self._file.tell() < num_bytes:
            raise DataError(f"{self._partial}: {self._file.tell()} bytes, its state says {num_bytes}; {again}")
        return num_rows, num_bytes


def unwritable(out: Path, error: OSError) -> DataError:
    """The one line that says so."""
    return DataError(f"--out {out}: cannot be written ({error.strerror}); name a file in a writable folder with space")
