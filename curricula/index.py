"""What the sampler knows of every problem, as columns: 28 bytes a problem beside its id.

N problems. The problems themselves are only ever fetched by position, so `problems` may be a lazy
sequence over files; construction reads it once, in order.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from data.problem import DataError, Problem

Positions = npt.NDArray[np.int32]
"""Positions of problems in the data set, ascending."""

_CHUNK = 1 << 16


class ProblemIndex:
    """Token counts, tasks and ids of a data set, searchable by window and by id.

    Raises: DataError, when two problems share an id.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        ids: list[str] = []
        num_tokens, task_codes = array("i"), array("i")
        seen_tasks: dict[str, int] = {}
        for problem in problems:
            ids.append(problem.problem_id)
            num_tokens.append(problem.num_prompt_tokens)
            task_codes.append(seen_tasks.setdefault(problem.task, len(seen_tasks)))
        self._ids = ids
        self.num_tokens: npt.NDArray[np.int32] = np.array(num_tokens, dtype=np.int32)
        """[N] prompt tokens."""
        self.tasks: tuple[str, ...] = tuple(sorted(seen_tasks))
        """Task names, sorted."""
        # Sorted, so that problems added for a later stage do not reorder the tasks of an earlier one.
        rank = np.array([self.tasks.index(t) for t in seen_tasks], dtype=np.int32)
        self.task_codes: npt.NDArray[np.int32] = rank[np.array(task_codes, dtype=np.int64)]
        """[N] position in `tasks`."""
        # A dictionary of ten million strings takes a gigabyte; sorted 64-bit hashes take 120 MB.
        hashes = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        self._by_hash: npt.NDArray[np.int32] = np.argsort(hashes, kind="stable").astype(np.int32)
        self._sorted_hashes: npt.NDArray[np.int64] = hashes[self._by_hash]
        self._refuse_duplicates()

    def __len__(self) -> int:
        return len(self._ids)

    def _refuse_duplicates(self) -> None:
        for at in np.flatnonzero(self._sorted_hashes[1:] == self._sorted_hashes[:-1]):
            # Equal hashes stand together; compare each with all that follow in its run.
            first = self._ids[self._by_hash[at]]
            end = np.searchsorted(self._sorted_hashes, self._sorted_hashes[at], side="right")
            for other in self._by_hash[at + 1 : end]:
                if self._ids[other] == first:
                    places = f"{self._by_hash[at]} and {other}"
                    raise DataError(
                        f"problem_id {first!r} stands at positions {places} of the data; ids must be unique"
                    )

    def __getitem__(self, position: int) -> Problem:
        return self._problems[position]

    def id_of(self, position: int) -> str:
        """The id of the problem at this position."""
        return self._ids[position]

    def task_of(self, position: int) -> str:
        """The task of the problem at this position."""
        return self.tasks[int(self.task_codes[position])]

    def find(self, problem_id: str) -> int | None:
        """The position of this problem, None when the data has none of that id. O(log N)."""
        wanted = hash(problem_id)
        at = int(np.searchsorted(self._sorted_hashes, wanted))
        while at < len(self._ids) and self._sorted_hashes[at] == wanted:
            position = int(self._by_hash[at])
            if self._ids[position] == problem_id:
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

    def window(self, low: int, high: int) -> Positions:
        """Positions of the problems with low < prompt tokens <= high (QwenLong-L1 eq. 9), in the data's order."""
        return np.flatnonzero((self.num_tokens > low) & (self.num_tokens <= high)).astype(np.int32)

    def fingerprint(self, positions: Positions) -> str:
        """Hex digest of the ids, token counts and tasks at these positions, in order; the texts are not read."""
        digest = blake2b(digest_size=16)
        present, codes = np.unique(self.task_codes[positions], return_inverse=True)
        digest.update(repr([self.tasks[c] for c in present]).encode())
        digest.update(codes.astype("<i4").tobytes())
        digest.update(self.num_tokens[positions].astype("<i4").tobytes())
        for start in range(0, len(positions), _CHUNK):
            digest.update("\n".join([self._ids[p] for p in positions[start : start + _CHUNK]]).encode())
            digest.update(b"\n")
        return digest.hexdigest()
