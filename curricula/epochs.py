"""Goes through a window again and again, each time in a new order, and owes what it had to skip."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from curricula.index import Positions, ProblemIndex
from curricula.rng import permutation


class EpochOrder:
    """An endless sequence of positions in which every epoch holds each once. O(1) a draw, O(n log n) an epoch.

    positions: [n] what to go through. names: what the orders depend on, beside the epoch's number.
    """

    def __init__(self, positions: Positions, *names: str | int) -> None:
        self._positions = positions
        self._names = names
        self._deferred: list[int] = []
        self._open_epoch(0, done=0)

    def _open_epoch(self, epoch: int, *, done: int) -> None:
        self._epoch = epoch
        self._done = done
        self._order = self._positions[permutation(len(self._positions), *self._names, epoch)]

    def __len__(self) -> int:
        return len(self._positions)

    def draw(self, forbidden: Collection[int]) -> int:
        """The next position that is not forbidden; at least one of the window's must not be.

        A forbidden position that comes up is deferred: it is drawn as soon as it is allowed, and once only
        however often it came up meanwhile.
        """
        for place, position in enumerate(self._deferred):
            if position not in forbidden:
                return self._deferred.pop(place)
        while True:
            if self._done == len(self._order):
                self._open_epoch(self._epoch + 1, done=0)
            position = int(self._order[self._done])
            self._done += 1
            if position not in forbidden:
                return position
            if position not in self._deferred:
                self._deferred.append(position)

    def state_dict(self, index: ProblemIndex) -> dict[str, Any]:
        """JSON-serialisable: two counters, and the ids of what is deferred."""
        return {"epoch": self._epoch, "done": self._done, "deferred": [index.id_of(p) for p in self._deferred]}

    def load_state_dict(self, state: dict[str, Any], index: ProblemIndex) -> None:
        """Go on where the state was taken; the window must hold the same problems in the same order."""
        self._deferred = [index.position_of(problem_id) for problem_id in state["deferred"]]
        self._open_epoch(state["epoch"], done=state["done"])
