"""A circuit breaker: stops asking a service that fails, and finds out when it is back.

A pure state machine: it waits for nothing, starts nothing and reads only the clock it is given. `closed` lets every
call through; when too many of the last calls failed it is `open` and lets none through; after a while it is
`half_open` and lets one through, whose outcome closes or opens it again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

BreakerState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and for how long."""

    window_calls: int = 20
    """Outcomes that are remembered; it opens only once this many are known."""
    max_failure_frac: float = 0.75
    """Opens at this share of failures among them. A judge that fails three calls in ten, which retries make good, has
    15 failures among 20 once in 20,000 windows."""
    cooldown_s: float = 15.0
    """How long it stays open before one call is let through."""

    def __post_init__(self) -> None:
        if self.window_calls < 1 or not 0.0 < self.max_failure_frac <= 1.0 or self.cooldown_s < 0.0:
            raise ValueError(f"{self}: needs window_calls >= 1, 0 < max_failure_frac <= 1 and cooldown_s >= 0")


class Breaker:
    """Asked before a call (`admit`), told after it (`record`). Not thread-safe: one event loop owns it."""

    def __init__(self, policy: BreakerPolicy | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that never run backwards."""
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._outcomes: deque[bool] = deque(maxlen=self._policy.window_calls)
        self._opened_at: float | None = None
        self._epoch = 0
        self._probing = False
        self.num_opened = 0
        """Times it went from closed to open."""

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return "closed"
        return "half_open" if self.admits_again_in_s() <= 0.0 else "open"

    def admits_again_in_s(self) -> float:
        """Seconds until a call is let through; 0 where one is now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._policy.cooldown_s - self._clock())

    def admit(self) -> int | None:
        """A ticket for one call, to be handed to `record` whatever becomes of the call; None: make no call."""
        state = self.state
        if state == "open" or (state == "half_open" and self._probing):
            return None
        self._probing = state == "half_open"
        return self._epoch

    def record(self, ticket: int, *, ok: bool) -> None:
        """The outcome of an admitted call; that of one let through before the state last changed is old news."""
        if ticket != self._epoch:
            return
        if self._probing:
            self._change(opened_at=None if ok else self._clock())
            return
        self._outcomes.append(ok)
        full = len(self._outcomes) == self._policy.window_calls
        if full and self._outcomes.count(False) >= self._policy.max_failure_frac * self._policy.window_calls:
            self.num_opened += 1
            self._change(opened_at=self._clock())

    def _change(self, opened_at: float | None) -> None:
        self._opened_at = opened_at
        self._outcomes.clear()
        self._probing = False
        self._epoch += 1
