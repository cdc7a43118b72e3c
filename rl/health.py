"""What ends a run on purpose: scores that stay unknown, a request to stop, an alarm that is to end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from rl.config import RunConfig


class ScoringUnavailable(RuntimeError):
    """The judge or verifier gave no verdict for too long."""

    exit_code = 4


class Preempted(RuntimeError):
    """SIGTERM came; every finished step and evaluation is on disk and `--resume auto` goes on from there."""

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
    _ends_at_once: bool = field(default=False, init=False)

    def observe(self, invalid_frac: float, *, max_invalid_frac: float, reason: str = "") -> None:
        """Count a step; one whose share of invalid scores is within the bound starts the count again.

        reason: why one of its scores is missing, for people.
        """
        self.reason = reason
        self.failed_rounds = self.failed_rounds + 1 if invalid_frac > max_invalid_frac else 0

    def resume(self, failed_rounds: int, *, max_failed_rounds: int) -> None:
        """Take up a checkpoint's count; one at the bound has ended its run already and starts again at 0."""
        self.failed_rounds = failed_rounds if failed_rounds < max_failed_rounds else 0

    def listen(self) -> None:
        """Turn SIGTERM into a request that the loop honours at the end of the step.

        To be called again once Ray has started, which puts a handler of its own in the place of this one.
        """
        signal.signal(signal.SIGTERM, self._on_term)

    @contextmanager
    def interruptible(self, when: str) -> Iterator[None]:
        """Around what can be made again: SIGTERM ends it at once, also one that came before it.

        when: as in "stopped by SIGTERM while it started". Not to be nested.

        Raises:
            Preempted: SIGTERM.
        """
        try:
            self._ends_at_once = True
            try:
                if self.stop_requested.is_set():
                    raise KeyboardInterrupt
                yield
            finally:
                self._ends_at_once = False
        except (KeyboardInterrupt, SystemExit) as stop:
            # Ray's own handler, while Ray starts, exits with the signal's number.
            by_ray = isinstance(stop, SystemExit) and stop.code == signal.SIGTERM
            if not (by_ray or self.stop_requested.is_set()):
                raise
            self.stop_requested.set()
            raise Preempted(f"stopped by SIGTERM {when}; the same command with --resume auto goes on") from None

    def _on_term(self, signum: int, frame: FrameType | None) -> None:
        is_first = not self.stop_requested.is_set()
        self.stop_requested.set()
        if is_first and self._ends_at_once:
            raise KeyboardInterrupt  # of all exceptions a handler may raise, the one that Ray lets out of its waits


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
