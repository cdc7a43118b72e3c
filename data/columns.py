"""What a sampler needs of every problem, as columns: ids packed end to end, prompt lengths, tasks.

Ten million problems as Python objects take several gigabytes; as columns they take about 30 bytes each beside their ids'
own characters. N problems.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.problem import Problem

_ROWS_AT_A_TIME = 1 << 16


class PackedStrings(Sequence[str]):
    """Strings end to end in one UTF-8 buffer; one is made into a `str` only when it is asked for."""

    def __init__(self, text: bytes | bytearray | memoryview, ends: npt.NDArray[np.int64]) -> None:
        """`ends`: [N] where each string ends in `text`, rising."""
        self._text = memoryview(text)
        self._ends = ends

    def __reduce__(self) -> tuple[type[PackedStrings], tuple[bytes, npt.NDArray[np.int64]]]:
        return PackedStrings, (bytes(self._text), self._ends)

    @property
    def columns(self) -> tuple[memoryview, npt.NDArray[np.int64]]:
        """The text and the ends, for those who write them to disk."""
        return self._text, self._ends

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        """Read the strings once, in order."""
        text, ends = bytearray(), array("q")
        for string in strings:
            text += string.encode()
            ends.append(len(text))
        return cls(text, np.frombuffer(ends, dtype=np.int64) if ends else np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> str:  # type: ignore[override]
        """The string at a position, 0 <= position < N; slices are not supported."""
        start = int(self._ends[position - 1]) if position else 0
        return str(self._text[start : int(self._ends[position])], "utf-8")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _ROWS_AT_A_TIME):  # not all ends as Python integers at once
            for end in self._ends[first : first + _ROWS_AT_A_TIME].tolist():
                yield str(self._text[start:end], "utf-8")
                start = end

    def take(self, positions: npt.NDArray[np.integer[Any]]) -> PackedStrings:
        """The strings at these positions [n], packed anew in their order."""
        starts = np.concatenate([np.zeros(1, dtype=np.int64), self._ends[:-1]])[: len(self._ends)][positions]
        lengths = self._ends[positions] - starts
        ends = np.cumsum(lengths)
        packed = bytearray()
        source = np.frombuffer(self._text, dtype=np.uint8)
        for first in range(0, len(positions), _ROWS_AT_A_TIME):
            rows = slice(first, first + _ROWS_AT_A_TIME)
            # Byte k of the result comes from k - (where its string starts there) + (where it starts here).
            shift = np.repeat(starts[rows] - (ends[rows] - lengths[rows]), lengths[rows])
            packed += source[np.arange(len(packed), len(packed) + len(shift)) + shift].tobytes()
        return PackedStrings(packed, ends)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemColumns:
    """A data set's ids, lengths and tasks, in the data's order."""

    problem_ids: PackedStrings
    """[N]"""
    num_prompt_tokens: npt.NDArray[np.int32]
    """[N]"""
    tasks: tuple[str, ...]
    """Task names, sorted."""
    task_codes: npt.NDArray[np.int32]
    """[N] positions in `tasks`."""

    def __len__(self) -> int:
        return len(self.num_prompt_tokens)

    def take(self, positions: npt.NDArray[np.integer[Any]]) -> ProblemColumns:
        """The columns of the problems at these positions [n], in their order; tasks that none of them has go."""
        codes = self.task_codes[positions]
        present = np.unique(codes)
        return ProblemColumns(
            problem_ids=self.problem_ids.take(positions),
            num_prompt_tokens=self.num_prompt_tokens[positions],
            tasks=tuple(self.tasks[code] for code in present),
            task_codes=np.searchsorted(present, codes).astype(np.int32),
        )


def columns_of(problems: Sequence[Problem]) -> ProblemColumns:
    """The sequence's own `columns` where it has them (a prepared set does), else one pass over the problems."""
    own = getattr(problems, "columns", None)
    if isinstance(own, ProblemColumns):
        return own
    num_tokens, codes, seen = array("i"), array("i"), dict[str, int]()

    def ids() -> Iterator[str]:
        for problem in problems:
            num_tokens.append(problem.num_prompt_tokens)
            codes.append(seen.setdefault(problem.task, len(seen)))
            yield problem.problem_id

    problem_ids = PackedStrings.pack(ids())
    tasks, task_codes = sorted_tasks(tuple(seen), np.array(codes, dtype=np.int32))
    return ProblemColumns(
        problem_ids=problem_ids,
        num_prompt_tokens=np.array(num_tokens, dtype=np.int32),
        tasks=tasks,
        task_codes=task_codes,
    )


def sorted_tasks(names: Sequence[str], codes: npt.NDArray[np.int32]) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """Task names in sorted order, and the codes [N] (positions in `names`) renumbered to it.

    Sorted, so that problems added for a later stage do not reorder the tasks of an earlier one.
    """
    tasks = tuple(sorted(names))
    rank = np.array([tasks.index(name) for name in names], dtype=np.int32)
    return tasks, rank[codes] if len(codes) else codes
