"""Held-out accuracy in the report: each checkpoint in each window, with its uncertainty, and what RL changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launch.charts import Band, Chart, Series, category_chart
from launch.report_stages import trained_up_to
from launch.run_record import RunRecord
from rl.evaluate import wilson_interval
from rl.run_folder import Evaluation, WindowAccuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyCell:
    """One checkpoint in one window."""

    greedy: float
    half_width: float | None
    """Half of the 95 % Wilson interval; None: the number of problems is unknown."""
    sampled: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What RL did to the greedy accuracy in one window: from the checkpoint it started from to the last one."""

    before: float
    after: float
    half_width: float | None
    """Half of the 95 % interval of the difference of two independent shares, in percentage points."""

    @property
    def points(self) -> float:
        """Difference in percentage points."""
        return 100 * (self.after - self.before)

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.half_width is not None and abs(self.points) > self.half_width


def baseline(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The checkpoint that RL started from: `sft`, else the first one."""
    return next((e for e in evaluations if e.checkpoint == "sft"), evaluations[0])


def window_bounds(evaluations: Sequence[Evaluation]) -> list[str]:
    """Upper bounds of every evaluated window, ascending; a summary's names that are no bound are left out."""
    return sorted({bound for e in evaluations for bound in e.windows if bound.isdecimal()}, key=int)


def accuracy_cell(window: WindowAccuracy | None) -> AccuracyCell | None:
    """An evaluation's window with its uncertainty."""
    if window is None:
        return None
    low, high = wilson_interval(window.greedy, window.num) if window.num else (0.0, 0.0)
    return AccuracyCell(
        greedy=window.greedy, half_width=(high - low) / 2 if window.num else None, sampled=window.sampled
    )


def change_between(before: WindowAccuracy, after: WindowAccuracy) -> Change:
    """The change with the interval of two independent shares, on its side towards zero (Newcombe 1998, method 10)."""
    if not before.num or not after.num:
        return Change(before=before.greedy, after=after.greedy, half_width=None)
    (low0, high0), (low1, high1) = (wilson_interval(w.greedy, w.num) for w in (before, after))
    down = math.hypot(after.greedy - low1, high0 - before.greedy)
    up = math.hypot(high1 - after.greedy, before.greedy - low0)
    towards_zero = down if after.greedy > before.greedy else up
    return Change(before=before.greedy, after=after.greedy, half_width=100 * towards_zero)


def accuracy_changes(record: RunRecord, bounds: Sequence[str]) -> dict[str, Change]:
    """By window, those that both the checkpoint RL started from and the last one were evaluated on."""
    if not record.evaluations or baseline(record.evaluations) is record.evaluations[-1]:
        return {}
    first, last = baseline(record.evaluations).windows, record.evaluations[-1].windows
    return {b: change_between(first[b], last[b]) for b in bounds if b in first and b in last}


def accuracy_chart(record: RunRecord, bounds: Sequence[str]) -> Chart:
    """Every checkpoint's greedy accuracy over the windows, those beyond the trained lengths shaded."""
    return accuracy_curves([(e.checkpoint, e) for e in record.evaluations], bounds, trained_up_to(record))


def accuracy_curves(evaluations: Sequence[tuple[str, Evaluation]], bounds: Sequence[str], limit: int = 0) -> Chart:
    """Greedy accuracy over the windows of each (label, evaluation); those beyond `limit` prompt tokens (0: none) shaded."""
    beyond = [i for i, b in enumerate(bounds) if limit and int(b) > limit]
    series, intervals = [], []
    for label, evaluation in evaluations:
        windows = [evaluation.windows.get(b) for b in bounds]
        series.append(Series(label=label, values=tuple(w.greedy if w else None for w in windows)))
        intervals.append([wilson_interval(w.greedy, w.num) if w and w.num else None for w in windows])
    return category_chart(
        "Accuracy by prompt length",
        "greedy answers to held-out problems; bars: 95 % interval",
        [f"≤{int(b):,}" for b in bounds],
        series,
        intervals,
        [Band(first=beyond[0], last=beyond[-1], label="not trained on")] if beyond else [],
        text=lambda value: f"{value:.0%}",
    )
