"""How far a command is: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Protocol

LINE_EVERY_S = 30.0
_BAR_EVERY_S = 0.1


class Measured(Protocol):
    """A source that knows how much of it was read."""

    @property
    def total_bytes(self) -> int | None:
        """None where nobody knows."""

    @property
    def done_bytes(self) -> int:
        """Read so far."""


class Progress:
    """Shows problems done, their rate, the share of the sources read, and the time left, on stderr."""

    def __init__(self, sources: Sequence[Measured], *, line_every_s: float = LINE_EVERY_S) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.num_cached = 0
        """Counts that came from the cache, as last told."""
        self._sources = sources
        totals = [source.total_bytes for source in sources]
        self._total = None if None in totals else sum(total for total in totals if total is not None)
        self._started = self._shown = time.monotonic()
        console = Console(stderr=True)
        columns = (BarColumn(), DownloadColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._every_s = _BAR_EVERY_S if console.is_terminal else line_every_s
        self._task = self._bar.add_task("0 problems", total=self._total)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, num_done: int, num_cached: int) -> None:
        """Tell how many problems are done, and how many of their counts came from the cache."""
        self.num_cached = num_cached
        now = time.monotonic()
        if now - self._shown < self._every_s:
            return
        self._shown = now
        done = sum(source.done_bytes for source in self._sources)
        rate = num_done / (now - self._started)
        words = f"{num_done:,} problems, {rate:,.0f}/s, {num_cached:,} from the cache"
        if self._bar.disable:
            print(f"{self._share(done, now)}{words}", file=sys.stderr, flush=True)
        else:
            self._bar.update(self._task, completed=done, description=words)

    def _share(self, done: int, now: float) -> str:
        if not self._total:
            return f"{done / 1e6:,.0f} MB read, "
        left = (now - self._started) * max(0, self._total - done) / done if done else 0.0
        minutes, seconds = divmod(round(left), 60)
        share = f"{done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB read ({done / self._total:.0%})"
        return f"{share}, {minutes}:{seconds:02} left, "
