"""What scoring returns, and the seam that rule, judge and hybrid scorers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from data.problem import Question

ScoreStatus = Literal["ok", "abstain", "infra_error", "parse_error", "timeout"]
ScoreSource = Literal["rule", "judge", "cache"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One verdict on one response. Only `ok` votes in a group; nothing else is ever a zero."""

    value: float | None
    """In [0, 1] when status is `ok`, else None (unknown)."""
    status: ScoreStatus
    source: ScoreSource
    answer: str | None
    """The answer read from the response; None when there is none to read."""
    reason: str = ""
    """Which rule spoke and why, for people."""
    latency_s: float = 0.0
    attempts: int = 1

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.value is not None):
            raise ValueError(
                f"Score: value {self.value!r} does not go with status {self.status!r}; only 'ok' has a value"
            )
        if self.value is not None and not 0.0 <= self.value <= 1.0:
            raise ValueError(f"Score: value {self.value!r} is outside [0, 1]")


class Scorer(Protocol):
    """Scores a batch; the result has one `Score` per item, in order. Never raises for a bad response."""

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]: ...

    def metrics(self) -> dict[str, float]:
        """How the scorer is doing: counts since its start (`area/num_...`) and states now; {} where there is nothing to say."""

    def close(self) -> None:
        """Ends connections, threads and processes; the scorer cannot be used afterwards. Safe to call again."""
