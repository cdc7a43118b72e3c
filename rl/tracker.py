"""Mirrors of metrics.jsonl for people to look at; one warning when one fails, and training goes on without it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

log = logging.getLogger(__name__)

FAILURES: tuple[type[Exception], ...] = (
    ImportError, OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError,
)  # fmt: skip
"""What a tracker is seen to raise for a lost service, a full disk, a refused login or a value it cannot store."""


class TrackedRun(Protocol):
    """One run in a tracker."""

    def log(self, row: Mapping[str, Any], rollouts: Path | None) -> None:
        """Take a step's row (its `step` among the names, nothing null) and where the step's rollouts lie."""

    def finish(self) -> None:
        """The run ended."""


class Tracker:
    """Rows go to a tracker until it fails once."""

    def __init__(
        self, name: str, open_run: Callable[[], TrackedRun], failures: tuple[type[Exception], ...] = FAILURES
    ) -> None:
        """`open_run` may fail with one of `failures` as everything later may."""
        self._name = name
        self._failures = failures
        self._run: TrackedRun | None = None
        try:
            self._run = open_run()
        except failures as error:
            self._give_up(error)

    def log(self, row: Mapping[str, Any], rollouts: Path | None = None) -> None:
        """Mirror one row; what is null there is absent here."""
        if self._run is None:
            return
        try:
            self._run.log({name: value for name, value in row.items() if value is not None}, rollouts)
        except self._failures as error:
            self._give_up(error)

    def close(self) -> None:
        """Tell the tracker that the run ended."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except self._failures as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        reason = " ".join(str(error).split())[:300]
        log.warning(
            "%s stopped (%s: %s); training goes on, metrics.jsonl has everything",
            self._name, type(error).__name__, reason,
        )  # fmt: skip
