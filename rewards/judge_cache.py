"""Verdicts on disk, keyed by content, so that a resumed run asks nothing twice and gets the same answers.

SQLite, one transaction a batch; several processes of one machine may share a file. A cache that cannot be read or
written costs calls, never a score: the failure is counted and told once.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

_LOG = logging.getLogger(__name__)
_SCHEMA = "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, same INTEGER NOT NULL) WITHOUT ROWID"
_LOCK_WAIT_S = 10.0
_KEYS_PER_QUERY = 500


class JudgeCache:
    """`key -> same` for verdicts that were given; unknown ones are never kept."""

    def __init__(self, path: str | Path) -> None:
        """The file is made with the first verdict.

        Raises:
            ValueError: the path names a folder, or a folder above it is a file.
        """
        self._path = Path(path)
        if self._path.is_dir() or any(parent.is_file() for parent in self._path.parents):
            raise ValueError(f"judge cache {str(path)!r}: not a place for a file; name a file that is or can be made")
        self.num_errors = 0
        """Batches for which the file could not be read or written."""

    def get(self, keys: Sequence[str]) -> dict[str, bool]:
        """The verdicts known for these keys."""
        if not keys or not self._path.exists():
            return {}
        found: dict[str, bool] = {}
        try:
            with closing(self._connect()) as connection:
                for start in range(0, len(keys), _KEYS_PER_QUERY):
                    part = keys[start : start + _KEYS_PER_QUERY]
                    marks = ",".join("?" * len(part))
                    rows = connection.execute(f"SELECT key, same FROM verdicts WHERE key IN ({marks})", part)
                    found |= {str(key): bool(same) for key, same in rows}
        except (sqlite3.Error, OSError) as error:
            self._failed("read", error)
        return found

    def put(self, verdicts: Mapping[str, bool]) -> None:
        """Keeps these verdicts, all or none."""
        if not verdicts:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection, connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO verdicts VALUES (?, ?)", [(k, int(v)) for k, v in verdicts.items()]
                )
        except (sqlite3.Error, OSError) as error:
            self._failed("written", error)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_LOCK_WAIT_S)
        try:
            connection.execute(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _failed(self, what: str, error: Exception) -> None:
        self.num_errors += 1
        if self.num_errors == 1:
            _LOG.warning("judge cache %s cannot be %s (%s); going on without it", self._path, what, error)
