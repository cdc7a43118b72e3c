"""The columns of a prepared set as a file: an uncompressed .npz, so that a set opens without its texts being read.

Arrays, N problems: `ids` (UTF-8, end to end) and `id_ends` [N], `num_prompt_tokens` [N], `task_names` (likewise) and
`task_ends`, `task_codes` [N], and `line_ends` [N], where each problem's line ends in problems.jsonl: 24 bytes a
problem beside its id. Equal sets give equal bytes.
"""

from __future__ import annotations

import os
import zipfile
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.columns import PackedStrings, ProblemColumns, sorted_tasks
from data.problem import DataError, Problem

_DTYPES = {
    "ids": np.uint8,
    "id_ends": np.int64,
    "num_prompt_tokens": np.int32,
    "task_names": np.uint8,
    "task_ends": np.int64,
    "task_codes": np.int32,
    "line_ends": np.int64,
}
_WAY_OUT = "run python -m data.prepare again"


class ColumnWriter:
    """Gathers the columns of problems as they are written."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._id_ends, self._line_ends = array("q"), array("q")
        self._num_prompt_tokens, self._task_codes = array("i"), array("i")
        self._tasks: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._line_ends)

    @property
    def num_prompt_tokens(self) -> npt.NDArray[np.int32]:
        """[N]"""
        return np.frombuffer(self._num_prompt_tokens, dtype=np.int32)

    def add(self, problem: Problem, line_bytes: int) -> None:
        """The next problem, whose line takes `line_bytes`."""
        self._ids += problem.problem_id.encode()
        self._id_ends.append(len(self._ids))
        self._num_prompt_tokens.append(problem.num_prompt_tokens)
        self._task_codes.append(self._tasks.setdefault(problem.task, len(self._tasks)))
        self._line_ends.append(line_bytes + (self._line_ends[-1] if self._line_ends else 0))

    def write(self, file: Path) -> None:
        """Write the columns and make sure that they are on disk."""
        tasks, codes = sorted_tasks(tuple(self._tasks), np.frombuffer(self._task_codes, dtype=np.int32))
        names, name_ends = PackedStrings.pack(tasks).columns
        with file.open("wb") as stream:
            np.savez(
                stream,
                ids=np.frombuffer(self._ids, dtype=np.uint8),
                id_ends=np.frombuffer(self._id_ends, dtype=np.int64),
                num_prompt_tokens=self.num_prompt_tokens,
                task_names=np.frombuffer(names, dtype=np.uint8),
                task_ends=name_ends,
                task_codes=codes,
                line_ends=np.frombuffer(self._line_ends, dtype=np.int64),
            )
            stream.flush()
            os.fsync(stream.fileno())


def read_columns(file: Path) -> tuple[ProblemColumns, npt.NDArray[np.int64]]:
    """The columns, and where each problem's line ends in problems.jsonl [N].

    Raises:
        DataError: the file is damaged, or no column file.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays: dict[str, npt.NDArray[Any]] = {name: stored[name] for name in _DTYPES}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise DataError(f"{file}: no column file ({reason}); {_WAY_OUT}") from error
    for name, column in arrays.items():
        if column.dtype != _DTYPES[name] or column.ndim != 1:
            raise DataError(f"{file}: {name}: seen {column.dtype} {list(column.shape)}, not as written; {_WAY_OUT}")
    _check(file, arrays)
    columns = ProblemColumns(
        problem_ids=PackedStrings(arrays["ids"].data, arrays["id_ends"]),
        num_prompt_tokens=arrays["num_prompt_tokens"],
        tasks=tuple(PackedStrings(arrays["task_names"].data, arrays["task_ends"])),
        task_codes=arrays["task_codes"],
    )
    return columns, arrays["line_ends"]


def _check(file: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    num = len(arrays["line_ends"])
    for name in ("id_ends", "num_prompt_tokens", "task_codes"):
        if len(arrays[name]) != num:
            raise DataError(f"{file}: {name}: {len(arrays[name])} values, line_ends has {num}; {_WAY_OUT}")
    for text, ends in (("ids", "id_ends"), ("task_names", "task_ends"), (None, "line_ends")):
        column = arrays[ends]
        end = int(column[-1]) if len(column) else 0
        falls = bool(len(column)) and (column[0] < 0 or bool((column[1:] < column[:-1]).any()))
        if falls or (text is not None and end != len(arrays[text])):
            raise DataError(f"{file}: {ends}: must rise to the end of what they divide; {_WAY_OUT}")
    codes = arrays["task_codes"]
    if num and (codes.min() < 0 or codes.max() >= len(arrays["task_ends"])):
        raise DataError(f"{file}: task_codes: must be positions in task_names; {_WAY_OUT}")
