"""What ends a run on purpose: scores that stay unknown, a request to stop, an alarm that is to end it."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass, field
from types import FrameType

from rl.config import RunConfig


class ScoringUnavailable(RuntimeError):
    """The judge or verifier gave no verdict for too long."""

    exit_code = 4


class Preempted(RuntimeError):
    """SIGTERM came; everything is on disk and `--resume auto` goes on from there."""

    exit_code = 75


class StoppedByAlarm(RuntimeError):
    """An alarm of health.stop_on is raised; a checkpoint is on disk.

    2, not 75: whoever starts preempted runs again must not go on training a sick one. The settings have to change first.
    """

    exit_code = 2


@dataclass
class Health:
    """Counters that outlive a step."""

    failed_rounds: int = 0
    """Steps in a row whose share of invalid scores was over the bound."""
    reason: str = ""
    """Why a score of the last step is missing."""
    stop_requested: threading.Event = field(default_factory=threading.Event)
    """Set by SIGTERM."""

    def observe(self, invalid_frac: float, *, max_invalid_frac: float, reason: str = "") -> None:
        """Count a step; one whose share of invalid scores is within the bound starts the count again.

        reason: why one of its scores is missing, for people.
        """
        self.reason = reason
        self.failed_rounds = self.failed_rounds + 1 if invalid_frac > max_invalid_frac else 0

    def listen(self) -> None:
        """Turn SIGTERM into a request that the loop honours at the end of the step."""
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, signum: int, frame: FrameType | None) -> None:
        self.stop_requested.set()


def check_invalid_scores(health: Health, config: RunConfig) -> None:
    """End the run when scores have been missing for too long.

    Raises:
        ScoringUnavailable: run.max_failed_rounds steps in a row were over reward.max_invalid_frac.
    """
    if health.failed_rounds >= config.run.max_failed_rounds:
        raise ScoringUnavailable(
            f"over {config.reward.max_invalid_frac:.0%} of the rollouts (reward.max_invalid_frac) had no valid score for "
            f"{health.failed_rounds} steps in a row (for instance {health.reason[:200] or 'no reason given'}); check the judge at "
            f"{config.reward.judge_url or config.reward.judge_path or '(none configured)'} and go on with --resume auto"
        )
