"""The answers of an evaluation on disk: one JSON line an item, appended in batches and synced, so that a kill costs a batch.

The first line says how they were asked. A rerun goes on only under the same settings; the name of the one that differs
is told. A last line that a kill tore is cut off.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from launch.cli import ConfigError
from rl.run_folder import sync_path

FORMAT = "longreach-answers-1"
_START = f'{{"format":"{FORMAT}"'.encode()


class AnswerFile:
    """Rows that were answered, and the place where further ones go. One process at a time holds it."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Opens or makes the file.

        Args:
            settings: plain values that decide the answers; equal ones may go on.

        Raises:
            ConfigError: the file was written under other settings, is none of ours, is damaged, or another process
                writes it.
        """
        self.path = path
        self.rows: list[dict[str, Any]] = []
        """Those read, in the file's order."""
        # Through JSON, so that they compare with what was read: a tuple and a list are the same there.
        self._header = orjson.loads(orjson.dumps({"format": FORMAT, "settings": settings}))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows onto the disk; when this returns they survive whatever follows."""
        content = memoryview(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
        while content:
            content = content[os.write(self._file, content) :]
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"out: {self.path} is being written by another evaluation; wait for it or name another out"
            ) from None

    def _read(self) -> None:
        content = self.path.read_bytes()
        if not content.startswith(_START[: len(content)]):
            raise ConfigError(f"out: {self.path} holds no answers of an evaluation; name another out")
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        if len(lines) < 2:  # no answer yet, so that other settings change nothing
            os.ftruncate(self._file, 0)
            self.append([self._header])
            sync_path(self.path.parent)
            return
        parsed = [self._parsed(line, number) for number, line in enumerate(lines, start=1)]
        self._check(parsed[0])
        if whole < len(content):
            os.ftruncate(self._file, whole)
        self.rows = parsed[1:]

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ConfigError(
                f"{self.path}:{number}: not JSON ({error}); remove the file or name another out"
            ) from None
        if not isinstance(row, dict):
            raise ConfigError(f"{self.path}:{number}: no JSON object; remove the file or name another out")
        return row

    def _check(self, header: Mapping[str, Any]) -> None:
        if header != self._header:
            then, now = dict(_leaves(header["settings"])), dict(_leaves(self._header["settings"]))
            name = next((key for key in {**then, **now} if then.get(key) != now.get(key)), "a setting")
            raise ConfigError(
                f"out: {self.path} holds answers under other settings: {name} was {then.get(name)!r}, is {now.get(name)!r}; "
                "give the same settings to go on, or name another out"
            )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{i}")
    else:
        yield name, value
