"""Dynamic sampling's two decisions: which groups teach anything, and what becomes of those left over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


def is_informative(outcomes: Sequence[float]) -> bool:
    """Whether a group's outcomes differ (their std is > 0), so that its advantages are not all 0.

    Look at outcomes, not shaped rewards: overlong shaping makes eight wrong answers differ by their
    length (DAPO, arXiv 2503.14476, filters on accuracy). Fewer than two valid outcomes cannot differ.
    """
    return len(outcomes) >= 2 and min(outcomes) != max(outcomes)


class SurplusBuffer(Generic[T]):
    """Groups that one step sampled and did not need, oldest first, for the steps after it.

    max_age: an item born in step s may be taken in steps s..s + max_age.
    Every item that was put is taken once, expired (and counted), or still here.
    """

    def __init__(self, *, max_age: int) -> None:
        if max_age < 0:
            raise ValueError(f"max_surplus_age={max_age} must be at least 0")
        self._max_age = max_age
        self._items: deque[tuple[T, int]] = deque()
        self.num_expired = 0
        """Items dropped because they grew too old, since construction."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[tuple[T, int]]:
        """(item, born) from the oldest to the youngest: what a checkpoint saves and puts again."""
        return iter(self._items)

    def put(self, item: T, born: int) -> None:
        """Keep an item that was sampled in step born; items of the same step stay in order."""
        younger: list[tuple[T, int]] = []
        while self._items and self._items[-1][1] > born:
            younger.append(self._items.pop())
        self._items.append((item, born))
        self._items.extend(reversed(younger))

    def take(self, n: int, now: int) -> list[T]:
        """Up to n items that are fresh in step now, oldest first; what is too old is dropped and counted."""
        while self._items and now - self._items[0][1] > self._max_age:
            self._items.popleft()
            self.num_expired += 1
        return [self._items.popleft()[0] for _ in range(min(n, len(self._items)))]
