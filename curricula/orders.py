"""In which order a window's problems come up: at random, easy first, by length, or those that vary most.

Every order draws without replacement within a step. Those by epochs go through the window again and again, and owe what
they had to skip; `VarianceFirst` has no epochs: it draws by weight.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, Protocol

import numpy as np

from curricula.difficulty import DifficultyTable
from curricula.index import ABSENT, Positions, ProblemIndex
from curricula.packed import pack, unpack
from curricula.rng import permutation
from curricula.weights import WeightedDraws

OrderName = Literal["random", "easy_first", "length_sorted", "variance_first"]

_LONG_WINDOW = 1 << 14
"""A window of more problems takes too long to sort within a draw (1 ms here, a second for ten million)."""
_AHEAD = 1 << 11
"""So many problems before its end a long window's next epoch is opened, between two steps."""


class Order(Protocol):
    """Gives the positions of one part of the data, one at a time."""

    def __len__(self) -> int:
        """How many problems it goes through."""
        ...

    def begin_step(self) -> None:
        """Everything may be drawn again; work that is too long for a draw is done here."""
        ...

    def draw(self, forbidden: Collection[int]) -> int:
        """The next position that is not forbidden; at least one of the order's must not be."""
        ...

    def took(self, position: int) -> None:
        """This step drew this position of the order's, here or from elsewhere."""
        ...

    def observed(self, position: int) -> None:
        """The difficulty table has news of this position of the order's."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable; what the table and the step's draws tell is left out."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken; the part must hold the same problems in the same order."""
        ...


class Arrangement(Protocol):
    """How an epoch is sorted. `shuffled`: [n] the part's positions in the epoch's random order, which breaks ties."""

    def snapshot(self, shuffled: Positions) -> dict[str, Any] | None:
        """What a checkpoint needs to arrange this epoch again, JSON-serialisable, taken as the epoch opens."""
        ...

    def arrange(self, shuffled: Positions, snapshot: dict[str, Any] | None) -> Positions:
        """[n] the epoch's order."""
        ...


class LengthSorted:
    """Every epoch by ascending prompt tokens."""

    def __init__(self, index: ProblemIndex) -> None:
        self._index = index

    def snapshot(self, shuffled: Positions) -> None:
        """Lengths do not change."""

    def arrange(self, shuffled: Positions, snapshot: dict[str, Any] | None) -> Positions:
        """[n] shortest first."""
        return shuffled[np.argsort(self._index.num_tokens[shuffled], kind="stable")]


class EasyFirst:
    """Every epoch by what is known as it opens.

    First the problems visited so far, by descending smoothed mean reward, then those never visited, by ascending prompt
    tokens: a stage's first epoch, where hardly one was visited, goes by length, later ones by reward.
    """

    def __init__(self, index: ProblemIndex, table: DifficultyTable) -> None:
        self._index = index
        self._table = table

    def snapshot(self, shuffled: Positions) -> dict[str, Any]:
        """The records of the visited problems in their order: their means will have changed by the time of a restart."""
        records = self._table.records_of(shuffled)
        records = records[records != ABSENT]
        ranked = records[np.argsort(-self._table.means()[records], kind="stable")]
        return {"num_visited": len(self._table), "records": pack(ranked)}

    def arrange(self, shuffled: Positions, snapshot: dict[str, Any] | None) -> Positions:
        """[n] the visited as the snapshot has them, then the others."""
        assert snapshot is not None
        num_visited = snapshot["num_visited"]
        records = self._table.records_of(shuffled)
        others = shuffled[(records == ABSENT) | (records >= num_visited)]
        others = others[np.argsort(self._index.num_tokens[others], kind="stable")]
        return np.concatenate([self._table.positions(num_visited)[unpack(snapshot["records"])], others])


class EpochOrder:
    """An endless sequence of positions in which every epoch holds each once. O(1) a draw, O(n log n) an epoch.

    positions: [n] what to go through. names: what the shuffles depend on, beside the epoch's number.
    arrangement: how a shuffled epoch is sorted; None: not at all.
    """

    def __init__(
        self, index: ProblemIndex, positions: Positions, *names: str | int, arrangement: Arrangement | None = None
    ) -> None:
        self._index = index
        self._positions = positions
        self._names = names
        self._arrangement = arrangement
        self._deferred: list[int] = []
        self._epoch, self._done = 0, 0
        self._snapshot: dict[str, Any] | None = None
        self._order: Positions | None = None
        """Of the epoch; None until it is first needed."""

    def __len__(self) -> int:
        return len(self._positions)

    def begin_step(self) -> None:
        """Sort what the step will need. The rest of a long window's epoch is owed before its end and the next one opened."""
        order = self._opened()
        if len(order) > _LONG_WINDOW and len(order) - self._done <= _AHEAD:
            rest = order[self._done :].tolist()
            self._deferred += [position for position in rest if position not in self._deferred]
            self._next_epoch()

    def _opened(self) -> Positions:
        if self._order is None:
            shuffled = self._positions[permutation(len(self._positions), *self._names, self._epoch)]
            if self._arrangement is None:
                self._order = shuffled
            else:
                if self._snapshot is None:
                    self._snapshot = self._arrangement.snapshot(shuffled)
                self._order = self._arrangement.arrange(shuffled, self._snapshot)
        return self._order

    def _next_epoch(self) -> Positions:
        self._epoch, self._done = self._epoch + 1, 0
        self._snapshot = self._order = None
        return self._opened()

    def draw(self, forbidden: Collection[int]) -> int:
        """The next position that is not forbidden; at least one of the window's must not be.

        A forbidden position that comes up is deferred: it is drawn as soon as it is allowed, and once only
        however often it came up meanwhile.
        """
        for place, position in enumerate(self._deferred):
            if position not in forbidden:
                return self._deferred.pop(place)
        order = self._opened()
        while True:
            if self._done == len(order):
                order = self._next_epoch()
            position = int(order[self._done])
            self._done += 1
            if position not in forbidden:
                return position
            if position not in self._deferred:
                self._deferred.append(position)

    def took(self, position: int) -> None:
        """Whoever draws says what is forbidden."""

    def observed(self, position: int) -> None:
        """An epoch's order stands when it is opened."""

    def state_dict(self) -> dict[str, Any]:
        """Two counters, the ids of what is deferred, and the arrangement's snapshot."""
        deferred = [self._index.id_of(position) for position in self._deferred]
        return {"epoch": self._epoch, "done": self._done, "deferred": deferred, "snapshot": self._snapshot}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken; the window must hold the same problems in the same order."""
        self._deferred = [self._index.position_of(problem_id) for problem_id in state["deferred"]]
        self._epoch, self._done, self._snapshot = state["epoch"], state["done"], state["snapshot"]
        self._order = None


class VarianceFirst:
    """Draws the problems whose scores vary most: only groups whose outcomes differ teach anything.

    P(x) = w(x) / sum of w over what is left in the step; w(x) = smoothed variance of x's groups + floor, and
    prior + floor where x was never visited. The largest variance is 0.25: half of the answers right.
    The floor lets a problem that did not vary come back. 16 to 32 bytes a problem of the window.

    prior: in [0, 0.25]. floor: > 0. uniform: independent numbers in [0, 1).
    """

    def __init__(
        self,
        positions: Positions,
        table: DifficultyTable,
        *,
        prior: float,
        floor: float,
        uniform: Callable[[], float],
    ) -> None:
        if not 0.0 <= prior <= 0.25 or not floor > 0.0:
            raise ValueError(f"variance_prior={prior} must be in [0, 0.25] and variance_floor={floor} above 0")
        self._positions = positions
        self._table = table
        self._floor = floor
        self._uniform = uniform
        records = table.records_of(positions)
        variances = np.full(len(positions), prior)
        variances[records != ABSENT] = table.variances()[records[records != ABSENT]]
        self._draws = WeightedDraws(variances + floor)

    def __len__(self) -> int:
        return len(self._positions)

    def _leaf(self, position: int) -> int:
        # A key of another type would have the whole array converted.
        return int(self._positions.searchsorted(np.int32(position)))

    def begin_step(self) -> None:
        """Everything may be drawn again."""
        self._draws.begin_step()

    def draw(self, forbidden: Collection[int]) -> int:
        """A position by weight, of those not forbidden; at least one of the window's must not be."""
        refused = []
        while True:
            leaf = self._draws.draw(self._uniform())
            position = int(self._positions[leaf])
            if position not in forbidden:
                break
            refused.append(leaf)
        for refused_leaf in refused:
            self._draws.put_back(refused_leaf)
        return position

    def took(self, position: int) -> None:
        """Out of this step's draws. O(log n)."""
        self._draws.take(self._leaf(position))

    def observed(self, position: int) -> None:
        """A new weight. O(log n)."""
        if (record := self._table.record_of(position)) is not None:
            self._draws.set(self._leaf(position), self._table.variance(record) + self._floor)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the weights are the table's, and what is out is what the step drew."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""
