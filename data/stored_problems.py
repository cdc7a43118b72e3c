"""Problems that stay on disk: sequences that know every id, length and task, and read a text when it is asked for.

They may be shared by threads and forked or sent to other processes: reads have no common position, and each
process opens the file itself after unpickling.
"""

from __future__ import annotations

import os
import weakref
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from data.columns import ProblemColumns
from data.problem import DataError, Problem
from data.prompts import Cut

_PROBLEM = TypeAdapter(Problem)
_WAY_OUT = "run python -m data.prepare again"


class ProblemSequence(Sequence[Problem]):
    """A sequence of problems with its columns. N problems; `problems[i]` reads one, a slice is another lazy sequence."""

    def __init__(self, columns: ProblemColumns) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns)

    @overload
    def __getitem__(self, position: int) -> Problem: ...
    @overload
    def __getitem__(self, position: slice) -> ProblemSequence: ...
    def __getitem__(self, position: int | slice) -> Problem | ProblemSequence:
        if isinstance(position, slice):
            return SelectedProblems(self, np.arange(*position.indices(len(self))))
        index = int(position) + (len(self) if position < 0 else 0)
        if not 0 <= index < len(self):
            raise IndexError(f"problem {position} of {len(self)}")
        return self._read(index)

    def __iter__(self) -> Iterator[Problem]:
        return map(self._read, range(len(self)))

    @abstractmethod
    def _read(self, position: int) -> Problem:
        """The problem at 0 <= position < N."""


class StoredProblems(ProblemSequence):
    """The problems of a problems.jsonl, read as they are asked for.

    Raises: DataError, that names file and row, when a problem is read whose line is not what was written.
    """

    def __init__(self, file: Path, columns: ProblemColumns, line_ends: npt.NDArray[np.int64]) -> None:
        """`line_ends`: [N] where each line ends in the file, in bytes.

        Raises:
            OSError: the file cannot be opened.
        """
        super().__init__(columns)
        self._file = file
        self._line_ends = line_ends
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self._file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _read(self, position: int) -> Problem:
        start = int(self._line_ends[position - 1]) if position else 0
        line = _read_exactly(self._descriptor, start, int(self._line_ends[position]) - start)
        where = f"{self._file}:{position + 1}"
        try:
            problem = _PROBLEM.validate_json(line)
        except ValidationError as error:
            raise DataError(f"{where}: {first_error(error)}; {_WAY_OUT}") from error
        for column, seen, known in (
            ("problem_id", problem.problem_id, self.columns.problem_ids[position]),
            ("num_prompt_tokens", problem.num_prompt_tokens, int(self.columns.num_prompt_tokens[position])),
        ):
            if seen != known:
                raise DataError(f"{where}: {column}: seen {seen!r}, the set's columns have {known!r}; {_WAY_OUT}")
        return problem


class SelectedProblems(ProblemSequence):
    """Some of another sequence's problems, in the order of their positions there."""

    def __init__(self, problems: ProblemSequence, positions: npt.NDArray[np.integer[Any]]) -> None:
        """`positions`: [N]."""
        super().__init__(problems.columns.take(positions))
        self._problems = problems
        self._positions = positions

    def _read(self, position: int) -> Problem:
        return self._problems[int(self._positions[position])]


class CutProblems(ProblemSequence):
    """Another sequence's problems, some with the middle of their document left out; where to cut is all that is kept."""

    def __init__(self, problems: ProblemSequence, cuts: Mapping[int, Cut]) -> None:
        """`cuts`: by position."""
        lengths = problems.columns.num_prompt_tokens.copy()
        for position, cut in cuts.items():
            lengths[position] = cut.num_prompt_tokens
        super().__init__(replace(problems.columns, num_prompt_tokens=lengths))
        self._problems = problems
        self._cuts = cuts

    def _read(self, position: int) -> Problem:
        problem, cut = self._problems[position], self._cuts.get(position)
        return problem if cut is None else cut.applied(problem)


def first_error(error: ValidationError) -> str:
    """What is wrong first, on one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}".replace("\n", " ")


def _read_exactly(descriptor: int, start: int, num_bytes: int) -> bytes:
    """Fewer bytes only where the file ends: one read may give no more than 2 GiB."""
    parts = []
    while num_bytes and (part := os.pread(descriptor, num_bytes, start)):
        parts.append(part)
        start, num_bytes = start + len(part), num_bytes - len(part)
    return b"".join(parts)
