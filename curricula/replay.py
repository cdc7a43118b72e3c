"""Hard problems of earlier stages, drawn in proportion to their difficulty (QwenLong-L1 eq. 10).

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

from curricula.difficulty import DifficultyTable


class SumTree:
    """Non-negative weights with their sums; set and search are O(log n).

    A parent is always left + right, never adjusted by a difference, so the sums depend on the weights
    alone and not on the order of their changes: a tree rebuilt from a checkpoint is bitwise the same.
    """

    def __init__(self) -> None:
        self._num_leaves = 1
        self._sums = [0.0, 0.0]
        # Node 1 is the root, node i has children 2i and 2i + 1, leaf j is node num_leaves + j.

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return self._sums[1]

    def __getitem__(self, leaf: int) -> float:
        return self._sums[self._num_leaves + leaf] if leaf < self._num_leaves else 0.0

    def __setitem__(self, leaf: int, weight: float) -> None:
        if leaf >= self._num_leaves:
            self.build([*self._sums[self._num_leaves :], *[0.0] * (leaf + 1 - self._num_leaves)])
        node = self._num_leaves + leaf
        self._sums[node] = weight
        while node > 1:
            node //= 2
            self._sums[node] = self._sums[2 * node] + self._sums[2 * node + 1]

    def build(self, weights: list[float]) -> None:
        """Replace all weights. O(n)."""
        self._num_leaves = 1 << max(0, len(weights) - 1).bit_length()
        level = np.zeros(self._num_leaves)
        level[: len(weights)] = weights
        levels = [level]
        while len(level) > 1:
            level = level[0::2] + level[1::2]
            levels.append(level)
        self._sums = [0.0, *np.concatenate(levels[::-1]).tolist()]

    def search(self, share: float) -> int:
        """The leaf in which share (in [0, 1)) of the total falls; its weight is > 0. The total must be > 0."""
        node, rest = 1, share * self.total
        while node < self._num_leaves:
            node *= 2
            # Rounding may leave `rest` at the very end; never step into an empty half.
            if rest >= self._sums[node] and self._sums[node + 1] > 0.0:
                rest -= self._sums[node]
                node += 1
        return node - self._num_leaves


class ReplayPool:
    """Weighted draws over the records of a difficulty table; none is drawn twice in a step.

    park_after_visits: zero groups in a row after which a problem is parked.
    unpark_after_steps: a problem parked in step s may be drawn again in step s + unpark_after_steps.
    leave_pool_above: smoothed mean reward above which a problem is no longer a member.
    """

    def __init__(
        self, table: DifficultyTable, *, park_after_visits: int, unpark_after_steps: int, leave_pool_above: float
    ) -> None:
        if park_after_visits < 1 or unpark_after_steps < 1:
            raise ValueError(
                f"park_after_visits={park_after_visits} and unpark_after_steps={unpark_after_steps} must be at least 1"
            )
        self._table = table
        self._park_after_visits = park_after_visits
        self._unpark_after_steps = unpark_after_steps
        self._leave_pool_above = leave_pool_above
        # Records are numbered by first visit, so those of earlier stages are exactly the first so many.
        self._num_earlier = 0
        self._members: set[int] = set()
        self._taken: set[int] = set()
        self._parked: dict[int, int] = {}
        self._releases: list[tuple[int, int]] = []
        self._tree = SumTree()

    def __len__(self) -> int:
        return len(self._members)

    @property
    def num_parked(self) -> int:
        """Problems at zero for too long that wait for their release, those of the present stage included."""
        return len(self._parked)

    def open_stage(self) -> None:
        """Everything visited so far now belongs to an earlier stage. O(n)."""
        self._rebuild(len(self._table))

    def begin_step(self, step: int) -> None:
        """Return what the last step took and release what was parked long enough."""
        returned, self._taken = self._taken, set()
        while self._releases and self._releases[0][0] <= step:
            until, record = heappop(self._releases)
            if self._parked.get(record) == until:
                del self._parked[record]
                returned.add(record)
        for record in returned:
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
        self._taken.add(record)
        self._refresh(record)

    def draw(self, n: int, uniform: Callable[[], float], held_out: Collection[int] = ()) -> list[int]:
        """Up to n records, each with probability weight / total of what is left; fewer when the pool runs out.

        uniform: independent numbers in [0, 1). held_out: records that must not be drawn in this call.
        """
        held = [record for record in held_out if self._tree[record] > 0.0]
        for record in held:
            self._tree[record] = 0.0
        drawn: list[int] = []
        while len(drawn) < n and self._tree.total > 0.0:
            drawn.append(self._tree.search(uniform()))
            self.take(drawn[-1])
        for record in held:
            self._refresh(record)
        return drawn

    def _is_member(self, record: int) -> bool:
        is_hard = self._table.mean(record) <= self._leave_pool_above
        return record < self._num_earlier and is_hard and record not in self._parked

    def _refresh(self, record: int) -> None:
        if self._is_member(record):
            self._members.add(record)
            self._tree[record] = 0.0 if record in self._taken else self._table.difficulty(record)
        elif record in self._members:
            self._members.remove(record)
            self._tree[record] = 0.0

    def _rebuild(self, num_earlier: int) -> None:
        self._num_earlier = num_earlier
        self._members = {record for record in range(num_earlier) if self._is_member(record)}
        weights = [0.0] * num_earlier
        for record in self._members - self._taken:
            weights[record] = self._table.difficulty(record)
        self._tree.build(weights)

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable; the table's state is the table's own."""
        return {
            "num_earlier": self._num_earlier,
            "parked": [[record, until] for record, until in sorted(self._parked.items())],
            "taken": sorted(self._taken),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace everything by the state's; the table must have been loaded before."""
        self._parked = dict(state["parked"])
        self._releases = [(until, record) for record, until in self._parked.items()]
        heapify(self._releases)
        self._taken = set(state["taken"])
        self._rebuild(state["num_earlier"])
