"""What a draw is mixed from: how many from each source, and from which task in turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from curricula.orders import Order


class Share:
    """A share of every draw that is exact over draws it does not divide.

    Of the n problems of a draw it takes floor(n * frac + owed); the rest, below one, is owed to the next draw.
    """

    def __init__(self) -> None:
        self.owed = 0.0

    def take(self, n: int, frac: float, *, at_most: int) -> int:
        """Of a draw of n; what at_most cuts off stays owed."""
        self.owed += n * frac
        taken = min(int(self.owed), at_most)
        self.owed -= taken
        return taken


class Source:
    """The problems of some windows, drawn from one order, or from one order a task in turn.

    orders: by task, in the order of their turns; a single one under "" where tasks do not matter. Tasks come up
    equally often whatever their sizes; one that runs out in a step leaves its turn to the others.
    part_of: the order that goes through a position, None when it is in none.
    """

    def __init__(self, orders: Mapping[str, Order], part_of: Callable[[int], str | None]) -> None:
        self._orders = dict(orders)
        self._part_of = part_of
        self._turn = 0

    def begin_step(self) -> None:
        """Everything may be drawn again."""
        for order in self._orders.values():
            order.begin_step()

    def draw(self, n: int, forbidden: Collection[int]) -> list[int]:
        """Up to n positions, none of them forbidden or the same as another; fewer where no more are allowed."""
        forbidden = set(forbidden)
        room = {task: len(order) for task, order in self._orders.items()}
        for position in forbidden:
            if (part := self._part_of(position)) is not None:
                room[part] -= 1
        tasks = list(self._orders)
        num_left = min(n, sum(room.values()))
        drawn: list[int] = []
        while len(drawn) < num_left:
            task = tasks[self._turn]
            self._turn = (self._turn + 1) % len(tasks)
            if room[task] == 0:
                continue
            position = self._orders[task].draw(forbidden)
            room[task] -= 1
            forbidden.add(position)
            drawn.append(position)
        return drawn

    def took(self, position: int) -> None:
        """This step drew this position, here or from elsewhere."""
        if (part := self._part_of(position)) is not None:
            self._orders[part].took(position)

    def observed(self, position: int) -> None:
        """The difficulty table has news of this position."""
        if (part := self._part_of(position)) is not None:
            self._orders[part].observed(position)

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {"turn": self._turn, "orders": {task: order.state_dict() for task, order in self._orders.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken; what the step drew is told with `took`."""
        self._turn = state["turn"]
        for task, order in self._orders.items():
            # A share that was 0 had no orders.
            if task in state["orders"]:
                order.load_state_dict(state["orders"][task])
