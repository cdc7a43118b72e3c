"""How hard each problem is for the policy as it is now, measured from the live groups.

QwenLong-L1 (arXiv 2505.17667, eq. 10) sets difficulty(x) = 1 / mean(r_1..r_G), which is undefined for
a problem that nobody solved: the very ones worth keeping. Here the mean is smoothed over visits and
a floor is added before inverting, so a problem at mean 0 has the finite difficulty 1 / floor.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from math import fsum, nextafter
from typing import Any

import numpy as np
import numpy.typing as npt

from curricula.index import ABSENT, Positions, ProblemIndex
from curricula.packed import pack, pack_strings, unpack, unpack_strings
from data.columns import PackedStrings
from data.problem import DataError

_BINS = ("0", "to_0.25", "to_0.5", "to_0.75", "below_1", "1")
_BIN_TOPS = (0.0, 0.25, 0.5, 0.75, nextafter(1.0, 0.0))


class DifficultyTable:
    """One record for every problem that was visited, numbered in the order of first visits.

    index: the data; the table is asked by position. 4 bytes a problem, and about 50 a visited one.
    smoothing: weight of the newest group in the running means, in (0, 1].
    floor: added to the mean before inverting, > 0.
    """

    def __init__(self, index: ProblemIndex, *, smoothing: float, floor: float) -> None:
        if not 0.0 < smoothing <= 1.0:
            raise ValueError(f"difficulty_smoothing={smoothing} is outside (0, 1]")
        if not floor > 0.0:
            raise ValueError(f"difficulty_floor={floor} must be above 0, or a problem at mean 0 has no difficulty")
        self._index = index
        self._smoothing = smoothing
        self._floor = floor
        self._records = np.full(len(index), ABSENT, dtype=np.int32)
        self._positions = array("i")
        self._means = array("d")
        self._variances = array("d")
        self._visits = array("i")
        self._zero_streaks = array("i")
        # The ids, so that a checkpoint need not gather them from the data.
        self._text, self._ends = bytearray(), array("q")
        self._num_by_bin = [0] * len(_BINS)

    def __len__(self) -> int:
        return len(self._means)

    def record_of(self, position: int) -> int | None:
        """The record number of the problem at this position, None when it was never visited."""
        record = int(self._records[position])
        return None if record == ABSENT else record

    def position(self, record: int) -> int:
        """Where in the data this record's problem is."""
        return self._positions[record]

    def mean(self, record: int) -> float:
        """Smoothed mean reward, in [0, 1]: the first group's mean, then (1 - smoothing) mean + smoothing newest."""
        return self._means[record]

    def variance(self, record: int) -> float:
        """Smoothed variance of a group's outcomes (population), in [0, 0.25]; of 0 and 1 alone it is p (1 - p)."""
        return self._variances[record]

    def difficulty(self, record: int) -> float:
        """1 / (smoothed mean + floor), in [1 / (1 + floor), 1 / floor]."""
        return 1.0 / (self._means[record] + self._floor)

    def visits(self, record: int) -> int:
        """How many groups were observed."""
        return self._visits[record]

    def zero_streak(self, record: int) -> int:
        """How many of the latest groups in a row had no outcome above 0."""
        return self._zero_streaks[record]

    def records_of(self, positions: Positions) -> npt.NDArray[np.int32]:
        """[n] the records of the problems at these positions, ABSENT for those never visited."""
        return self._records[positions]

    def positions(self, num_records: int) -> Positions:
        """[num_records] where the problems of the first so many records are, in the records' order."""
        return np.array(self._positions, dtype=np.int32)[:num_records]

    def means(self) -> npt.NDArray[np.float64]:
        """[records] every `mean`, a copy."""
        return np.array(self._means)

    def variances(self) -> npt.NDArray[np.float64]:
        """[records] every `variance`, a copy."""
        return np.array(self._variances)

    def num_by_reward(self) -> dict[str, int]:
        """How many visited problems have a smoothed mean of 0, in (0, 0.25], (0.25, 0.5], (0.5, 0.75], (0.75, 1), of 1."""
        return dict(zip(_BINS, self._num_by_bin, strict=True))

    def observe(self, position: int, outcomes: Sequence[float]) -> int:
        """Enter one group's outcomes (at least one, each in [0, 1]); returns the record number. O(1).

        Raises: ValueError, for no outcomes or one outside [0, 1].
        """
        if not outcomes:
            raise ValueError(
                f"problem {self._index.id_of(position)!r}: no outcomes to observe; a group without valid scores is not "
                "observed"
            )
        for outcome in outcomes:
            if not 0.0 <= outcome <= 1.0:
                raise ValueError(f"problem {self._index.id_of(position)!r}: outcome {outcome!r} is outside [0, 1]")
        newest = fsum(outcomes) / len(outcomes)
        variance = fsum((outcome - newest) ** 2 for outcome in outcomes) / len(outcomes)
        record = self.record_of(position)
        if record is None:
            record = self._append(position, newest, variance)
        else:
            self._num_by_bin[_bin(self._means[record])] -= 1
            self._means[record] += self._smoothing * (newest - self._means[record])
            self._variances[record] += self._smoothing * (variance - self._variances[record])
        self._num_by_bin[_bin(self._means[record])] += 1
        self._visits[record] += 1
        self._zero_streaks[record] = 0 if any(outcomes) else self._zero_streaks[record] + 1
        return record

    def _append(self, position: int, mean: float, variance: float) -> int:
        record = len(self._means)
        self._records[position] = record
        self._positions.append(position)
        self._means.append(mean)
        self._variances.append(variance)
        self._visits.append(0)
        self._zero_streaks.append(0)
        self._text += self._index.id_of(position).encode()
        self._ends.append(len(self._text))
        return record

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable columns, one entry per record; lengths and tasks tell a changed data set (`curricula.resume`)."""
        positions = self.positions(len(self))
        codes, task_codes = np.unique(self._index.task_codes[positions], return_inverse=True)
        return {
            "problem_ids": pack_strings(self._text, np.array(self._ends)),
            "means": pack(self.means()),
            "variances": pack(self.variances()),
            "visits": pack(np.array(self._visits)),
            "zero_streaks": pack(np.array(self._zero_streaks)),
            "num_tokens": pack(self._index.num_tokens[positions]),
            "tasks": [self._index.tasks[code] for code in codes],
            "task_codes": pack(task_codes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace every record by the state's.

        Raises: ValueError, when the data has lost a problem of it; nothing is changed then.
        """
        text, ends = unpack_strings(state["problem_ids"])
        positions = self._index.positions_of(PackedStrings(text, ends))
        if lost := np.flatnonzero(positions == ABSENT).tolist():
            raise DataError(
                f"problem {PackedStrings(text, ends)[lost[0]]!r} was visited and is not among the {len(self._index)} problems "
                "of the training data any more; use the former data"
            )
        self._records[:] = ABSENT
        self._records[positions] = np.arange(len(positions), dtype=np.int32)
        self._positions = _array("i", positions)
        self._means = _array("d", unpack(state["means"]))
        self._variances = _array("d", unpack(state["variances"]))
        self._visits = _array("i", unpack(state["visits"]))
        self._zero_streaks = _array("i", unpack(state["zero_streaks"]))
        self._text, self._ends = bytearray(text), _array("q", ends)
        bins = np.searchsorted(_BIN_TOPS, self.means(), side="left")
        self._num_by_bin = np.bincount(bins, minlength=len(_BINS)).tolist()


def _bin(mean: float) -> int:
    return bisect_left(_BIN_TOPS, mean)


def _array(typecode: str, values: npt.NDArray[Any]) -> array[Any]:
    result: array[Any] = array(typecode)
    result.frombytes(np.ascontiguousarray(values, dtype=typecode).tobytes())
    return result
