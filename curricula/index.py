"""What the sampler knows of every problem: a data set's columns, searchable by window and by id.

N problems. The problems themselves are only ever fetched by position, so `problems` may be a lazy sequence over files;
one that has `columns` (a prepared set does) is not even read once. Beside the columns: 12 bytes a problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from data.columns import columns_of
from data.problem import DataError, Problem

Positions = npt.NDArray[np.int32]
"""Positions of problems in the data set; ascending where nothing else is said."""

ABSENT = -1
"""In place of a position or a record: there is none."""


class ProblemIndex:
    """Token counts, tasks and ids of a data set, searchable by window and by id.

    Raises: DataError, when two problems share an id.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        columns = columns_of(problems)
        self._ids = columns.problem_ids
        self.num_tokens: npt.NDArray[np.int32] = columns.num_prompt_tokens
        """[N] prompt tokens."""
        self.tasks: tuple[str, ...] = columns.tasks
        """Task names, sorted."""
        self.task_codes: npt.NDArray[np.int32] = columns.task_codes
        """[N] position in `tasks`."""
        # A dictionary of ten million strings takes a gigabyte; sorted 64-bit hashes take 120 MB.
        hashes = _hashes(self._ids, len(self._ids))
        self._by_hash: npt.NDArray[np.int32] = np.argsort(hashes, kind="stable").astype(np.int32)
        self._sorted_hashes: npt.NDArray[np.int64] = hashes[self._by_hash]
        self._refuse_duplicates()

    def __len__(self) -> int:
        return len(self._ids)

    def _refuse_duplicates(self) -> None:
        for at in np.flatnonzero(self._sorted_hashes[1:] == self._sorted_hashes[:-1]):
            # Equal hashes stand together; compare each with all that follow in its run.
            first = self.id_of(self._by_hash[at])
            end = np.searchsorted(self._sorted_hashes, self._sorted_hashes[at], side="right")
            for other in self._by_hash[at + 1 : end]:
                if self.id_of(other) == first:
                    places = f"{self._by_hash[at]} and {other}"
                    raise DataError(
                        f"problem_id {first!r} stands at positions {places} of the data; ids must be unique"
                    )

    def __getitem__(self, position: int) -> Problem:
        return self._problems[position]

    def id_of(self, position: int | np.int32) -> str:
        """The id of the problem at this position."""
        return self._ids[int(position)]

    def task_of(self, position: int) -> str:
        """The task of the problem at this position."""
        return self.tasks[int(self.task_codes[position])]

    def find(self, problem_id: str) -> int | None:
        """The position of this problem, None when the data has none of that id. O(log N)."""
        wanted = hash(problem_id)
        at = int(self._sorted_hashes.searchsorted(wanted))
        while at < len(self._ids) and self._sorted_hashes[at] == wanted:
            position = int(self._by_hash[at])
            if self.id_of(position) == problem_id:
                return position
            at += 1
        return None

    def position_of(self, problem_id: str) -> int:
        """The position of this problem.

        Raises: ValueError, when the data has none of that id.
        """
        position = self.find(problem_id)
        if position is None:
            raise ValueError(f"problem {problem_id!r} is not among the {len(self)} problems of the training data")
        return position

    def positions_of(self, problem_ids: Sequence[str]) -> Positions:
        """[n] the positions of these problems in their order, ABSENT where the data has none of that id."""
        if not len(self):
            return np.full(len(problem_ids), ABSENT, dtype=np.int32)
        at = self._sorted_hashes.searchsorted(_hashes(problem_ids, len(problem_ids)))
        found: Positions = self._by_hash[np.minimum(at, len(self) - 1)]
        ids = self._ids
        for i, (problem_id, position) in enumerate(zip(problem_ids, found.tolist(), strict=True)):
            if ids[position] != problem_id:
                other = self.find(problem_id)
                found[i] = ABSENT if other is None else other
        return found

    def window(self, low: int, high: int) -> Positions:
        """Positions of the problems with low < prompt tokens <= high (QwenLong-L1 eq. 9), in the data's order."""
        return np.flatnonzero((self.num_tokens > low) & (self.num_tokens <= high)).astype(np.int32)


def _hashes(strings: Iterable[str], n: int) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, strings), dtype=np.int64, count=n)
