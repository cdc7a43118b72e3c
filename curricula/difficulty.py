"""How hard each problem is for the policy as it is now, measured from the live groups.

QwenLong-L1 (arXiv 2505.17667, eq. 10) sets difficulty(x) = 1 / mean(r_1..r_G), which is undefined for
a problem that nobody solved: the very ones worth keeping. Here the mean is smoothed over visits and
a floor is added before inverting, so a problem at mean 0 has the finite difficulty 1 / floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import Any


class DifficultyTable:
    """One record for every problem that was visited, numbered in the order of first visits.

    smoothing: weight of the newest group in the running mean, in (0, 1].
    floor: added to the mean before inverting, > 0.
    """

    def __init__(self, *, smoothing: float, floor: float) -> None:
        if not 0.0 < smoothing <= 1.0:
            raise ValueError(f"difficulty_smoothing={smoothing} is outside (0, 1]")
        if not floor > 0.0:
            raise ValueError(f"difficulty_floor={floor} must be above 0, or a problem at mean 0 has no difficulty")
        self._smoothing = smoothing
        self._floor = floor
        self._records: dict[str, int] = {}
        self._problem_ids: list[str] = []
        self._means: list[float] = []
        self._visits: list[int] = []
        self._zero_streaks: list[int] = []

    def __len__(self) -> int:
        return len(self._means)

    def record_of(self, problem_id: str) -> int | None:
        """The problem's record number, None when it was never visited."""
        return self._records.get(problem_id)

    def problem_id(self, record: int) -> str:
        """The problem this record is about."""
        return self._problem_ids[record]

    def mean(self, record: int) -> float:
        """Smoothed mean reward, in [0, 1]: the first group's mean, then (1 - smoothing) mean + smoothing newest."""
        return self._means[record]

    def difficulty(self, record: int) -> float:
        """1 / (smoothed mean + floor), in [1 / (1 + floor), 1 / floor]."""
        return 1.0 / (self._means[record] + self._floor)

    def visits(self, record: int) -> int:
        """How many groups were observed."""
        return self._visits[record]

    def zero_streak(self, record: int) -> int:
        """How many of the latest groups in a row had no outcome above 0."""
        return self._zero_streaks[record]

    def observe(self, problem_id: str, outcomes: Sequence[float]) -> int:
        """Enter one group's outcomes (at least one, each in [0, 1]); returns the record number. O(1).

        Raises: ValueError, for no outcomes or one outside [0, 1].
        """
        if not outcomes:
            raise ValueError(
                f"problem {problem_id!r}: no outcomes to observe; a group without valid scores is not observed"
            )
        for outcome in outcomes:
            if not 0.0 <= outcome <= 1.0:
                raise ValueError(f"problem {problem_id!r}: outcome {outcome!r} is outside [0, 1]")
        newest = fsum(outcomes) / len(outcomes)
        record = self._records.setdefault(problem_id, len(self._means))
        if record == len(self._means):
            self._problem_ids.append(problem_id)
            self._means.append(newest)
            self._visits.append(0)
            self._zero_streaks.append(0)
        else:
            self._means[record] += self._smoothing * (newest - self._means[record])
        self._visits[record] += 1
        self._zero_streaks[record] = 0 if any(outcomes) else self._zero_streaks[record] + 1
        return record

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable columns, one entry per record."""
        return {
            "problem_ids": list(self._problem_ids),
            "means": list(self._means),
            "visits": list(self._visits),
            "zero_streaks": list(self._zero_streaks),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace every record by the state's."""
        self._problem_ids = list(state["problem_ids"])
        self._records = {problem_id: record for record, problem_id in enumerate(self._problem_ids)}
        self._means = list(state["means"])
        self._visits = list(state["visits"])
        self._zero_streaks = list(state["zero_streaks"])
