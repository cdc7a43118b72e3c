"""What a sampler needs of every problem, as columns: ids packed end to end, prompt lengths, tasks.

Ten million problems as Python objects take several gigabytes; as columns they take about 30 bytes each beside their ids'
own characters. N problems.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.problem import Problem


class PackedStrings(Sequence[str]):
    """Strings end to end in one UTF-8 buffer; one is made into a `str` only when it is asked for."""

    def __init__(self, text: bytes | bytearray | memoryview, ends: npt.NDArray[np.int64]) -> None:
        """`ends`: [N] where each string ends in `text`, rising."""
        self._text = memoryview(text)
        self._ends = ends

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
        for end in self._ends.tolist():
            yield str(self._text[start:end], "utf-8")
            start = end


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
