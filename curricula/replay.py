"""Hard problems of earlier stages, drawn in proportion to a power of their difficulty (QwenLong-L1 eq. 10).

P(x) = difficulty(x) ** power / sum over the members of difficulty ** power; power 1 is eq. 10, 0 is uniform.

A member is a problem visited in an earlier stage that is neither easy (smoothed mean above
leave_pool_above) nor parked. Parking answers the trap of eq. 10: a problem that nobody solves has the
highest difficulty, is drawn most, and dynamic sampling then removes its groups, so it would cost
rollouts and teach nothing. A released problem keeps its zero streak: one more zero parks it again.

Left out: earlier problems that were never visited. Their difficulty is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

from curricula.difficulty import DifficultyTable
from curricula.weights import WeightedDraws

_WAITING, _MEMBER, _EASY = 0, 1, 2
"""An earlier problem is parked and hard, in the pool, or too easy for it."""


class ReplayPool:
    """Weighted draws over the records of a difficulty table; none is drawn twice in a step.

    power: exponent of the difficulty, >= 0.
    park_after_visits: zero groups in a row after which a problem is parked.
    unpark_after_steps: a problem parked in step s may be drawn again in step s + unpark_after_steps.
    leave_pool_above: smoothed mean reward above which a problem is no longer a member.
    task_codes: [N] the task of every problem of the data: draws then take tasks in turn, and the formula holds within
        each; None: it holds over all members.
    """

    def __init__(
        self,
        table: DifficultyTable,
        *,
        park_after_visits: int,
        unpark_after_steps: int,
        leave_pool_above: float,
        power: float = 1.0,
        task_codes: npt.NDArray[np.int32] | None = None,
    ) -> None:
        if park_after_visits < 1 or unpark_after_steps < 1:
            raise ValueError(
                f"park_after_visits={park_after_visits} and unpark_after_steps={unpark_after_steps} must be at least 1"
            )
        if not power >= 0.0:
            raise ValueError(f"replay_power={power} must be at least 0")
        self._table = table
        self._power = power
        self._park_after_visits = park_after_visits
        self._unpark_after_steps = unpark_after_steps
        self._leave_pool_above = leave_pool_above
        self._task_codes = task_codes
        self._parked: dict[int, int] = {}
        self._releases: list[tuple[int, int]] = []
        self._turn = 0
        self._rebuild(0)

    def __len__(self) -> int:
        return self._num_with[_MEMBER]

    @property
    def num_parked(self) -> int:
        """Problems at zero for too long that wait for their release, those of the present stage included."""
        return len(self._parked)

    @property
    def num_left(self) -> int:
        """Problems of earlier stages that are too easy for the pool."""
        return self._num_with[_EASY]

    def open_stage(self) -> None:
        """Everything visited so far now belongs to an earlier stage. O(n)."""
        self._rebuild(len(self._table))

    def begin_step(self, step: int) -> None:
        """Return what the last step took and release what was parked long enough."""
        for draws in self._draws:
            draws.begin_step()
        while self._releases and self._releases[0][0] <= step:
            until, record = heappop(self._releases)
            if self._parked.get(record) == until:
                del self._parked[record]
                self._refresh(record)

    def observe(self, record: int, step: int) -> None:
        """Follow the table after a visit in this step: new weight, left, parked or back. O(log n)."""
        if self._table.zero_streak(record) >= self._park_after_visits:
            self._parked[record] = step + self._unpark_after_steps
            heappush(self._releases, (self._parked[record], record))
        else:
            self._parked.pop(record, None)
        self._refresh(record)

    def take(self, record: int) -> None:
        """Out of this step's draws; begin_step brings it back."""
        if record < self._num_earlier:
            group, leaf = self._place(record)
            self._draws[group].take(leaf)

    def draw(self, n: int, uniform: Callable[[], float], held_out: Collection[int] = ()) -> list[int]:
        """Up to n records, each with probability weight / total of what is left; fewer when the pool runs out.

        uniform: independent numbers in [0, 1). held_out: records that must not be drawn in this call.
        """
        places = {self._place(record) for record in held_out if record < self._num_earlier}
        held = [(self._draws[group], leaf) for group, leaf in places if not self._draws[group].is_taken(leaf)]
        for draws, leaf in held:
            draws.take(leaf)
        drawn: list[int] = []
        while len(drawn) < n and (group := self._next_group()) is not None:
            drawn.append(int(self._records[group][self._draws[group].draw(uniform())]))
        for draws, leaf in held:
            draws.put_back(leaf)
        return drawn

    def _next_group(self) -> int | None:
        for _ in self._draws:
            group = self._turn
            self._turn = (group + 1) % len(self._draws)
            if self._draws[group].total > 0.0:
                return group
        return None

    def _place(self, record: int) -> tuple[int, int]:
        return int(self._groups[record]), int(self._leaves[record])

    def _weight(self, record: int) -> float:
        return float(self._table.difficulty(record) ** self._power)

    def _refresh(self, record: int) -> None:
        if record >= self._num_earlier:
            return
        if self._table.mean(record) > self._leave_pool_above:
            status = _EASY
        else:
            status = _WAITING if record in self._parked else _MEMBER
        self._num_with[self._status[record]] -= 1
        self._num_with[status] += 1
        self._status[record] = status
        weight = self._weight(record) if status == _MEMBER else 0.0
        group, leaf = self._place(record)
        self._draws[group].set(leaf, weight)

    def _rebuild(self, num_earlier: int) -> None:
        # Records are numbered by first visit, so those of earlier stages are exactly the first so many.
        self._num_earlier = num_earlier
        parked = np.fromiter((r for r in self._parked if r < num_earlier), dtype=np.int64)
        status = np.full(num_earlier, _MEMBER, dtype=np.uint8)
        status[parked] = _WAITING
        status[self._table.means()[:num_earlier] > self._leave_pool_above] = _EASY
        members = np.flatnonzero(status == _MEMBER)
        # One by one, because NumPy's power may differ from Python's in the last bit, and these must be _refresh's weights.
        weights = np.zeros(num_earlier)
        weights[members] = np.fromiter(map(self._weight, members.tolist()), dtype=np.float64, count=len(members))
        self._status = bytearray(status.tobytes())
        self._num_with: list[int] = np.bincount(status, minlength=3).tolist()
        self._group(weights)

    def _group(self, weights: npt.NDArray[np.float64]) -> None:
        """One tree a task, in the order of the tasks' names, or one for all."""
        codes = np.zeros(len(weights), dtype=np.int32)
        if self._task_codes is not None:
            codes = self._task_codes[self._table.positions(len(weights))]
        groups = np.unique(codes, return_inverse=True)[1]
        self._groups = groups.astype(np.int32)
        by_group = np.argsort(groups, kind="stable").astype(np.int32)
        sizes = np.bincount(groups)
        starts = np.cumsum(sizes) - sizes
        self._records = np.split(by_group, starts[1:])
        self._leaves = np.empty(len(weights), dtype=np.int32)
        self._leaves[by_group] = np.arange(len(weights), dtype=np.int32) - np.repeat(starts, sizes).astype(np.int32)
        self._draws = [WeightedDraws(weights[records]) for records in self._records]
        self._turn = 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable; the table's state is the table's own."""
        taken = [
            int(records[leaf])
            for records, draws in zip(self._records, self._draws, strict=True)
            for leaf in draws.taken()
        ]
        return {
            "num_earlier": self._num_earlier,
            "parked": [[record, until] for record, until in sorted(self._parked.items())],
            "taken": sorted(taken),
            "turn": self._turn,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace everything by the state's; the table must have been loaded before."""
        self._parked = dict(state["parked"])
        self._releases = [(until, record) for record, until in self._parked.items()]
        heapify(self._releases)
        self._rebuild(state["num_earlier"])
        for record in state["taken"]:
            self.take(record)
        self._turn = state["turn"]
