"""Curves of several runs of one variant, one run a seed: read from metrics.jsonl, and their mean with its interval."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from data.problem import DataError
from rl.metrics import FILE, read_metrics

Point = tuple[float, float]
Curve = list[Point]
"""(x, value), x ascending."""
Over = Literal["steps", "seconds"]
"""`seconds`: time/step_s summed up, evaluations left out, as they are no part of learning."""

MAX_POINTS = 120
"""Points of a mean curve whose seeds do not share their x."""
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantiles of Student's t with 1 to 30 degrees of freedom."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanPoint:
    """The seeds at one x; `low` and `high` are the 95 % interval of the mean, all three equal for a single seed."""

    x: float
    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the mean of n values, and mean -/+ t(n - 1) * s / sqrt(n), s with n - 1 (Student 1908).

    A single value has no interval: all three are it.

    Raises: ValueError, when there is none.
    """
    if not values:
        raise ValueError("mean_interval: no values; give at least one, one a seed")
    mean = fmean(values)
    if len(values) == 1:
        return mean, mean, mean
    freedom = len(values) - 1
    quantile = T95[freedom - 1] if freedom <= len(T95) else 1.959964 + 2.5 / freedom
    half = quantile * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[MeanPoint]:
    """The seeds' mean at every x that all of them cover, with its interval.

    Seeds with the same x (steps) are taken as they are; otherwise (seconds) each is interpolated linearly at
    MAX_POINTS places. What only some seeds have, as where one ended earlier, is left out: there the mean would jump.
    """
    known = [sorted(curve) for curve in curves]
    if not known or not all(known):
        return []
    first, last = max(curve[0][0] for curve in known), min(curve[-1][0] for curve in known)
    shared = set.intersection(*({x for x, _ in curve} for curve in known))
    inside = {x for curve in known for x, _ in curve if first <= x <= last}
    if inside and inside == shared:
        places = sorted(shared)
    elif first < last:
        places = [first + (last - first) * i / (MAX_POINTS - 1) for i in range(MAX_POINTS)]
    else:
        return []
    points = []
    for x in places:
        mean, low, high = mean_interval([_at(curve, x) for curve in known])
        points.append(MeanPoint(x=x, mean=mean, low=low, high=high))
    return points


def read_curve(run_dir: Path, metric: str, *, over: Over = "steps", smooth_steps: int = 1) -> Curve:
    """A run's metric by step or by seconds; steps without a value are left out.

    smooth_steps: each value is the mean of the last so many, fewer at the start; 1 leaves them as they are.

    Raises: DataError, when no step has the metric, or none its time.
    """
    rows = read_metrics(run_dir / FILE)
    seconds, elapsed = [], 0.0
    for row in rows:
        elapsed += _number(row.get("time/step_s")) or 0.0
        elapsed -= _number(row.get("time/eval_s")) or 0.0
        seconds.append(elapsed)
    if over == "seconds" and not elapsed:
        raise DataError(f"{run_dir / FILE}: no step has time/step_s; draw the run over steps")
    xs = seconds if over == "seconds" else [float(row["step"]) for row in rows]
    curve = [(x, value) for x, row in zip(xs, rows, strict=True) if (value := _number(row.get(metric))) is not None]
    if not curve:
        raise DataError(f"{run_dir / FILE}: no step of {len(rows)} has {metric!r}; name a metric that the run logged")
    return [
        (x, fmean(value for _, value in curve[max(0, i - smooth_steps + 1) : i + 1])) for i, (x, _) in enumerate(curve)
    ]


def training_seconds(run_dir: Path) -> float:
    """What a run has spent on sampling, scoring, learning and syncing: no start-up, no evaluation.

    Raises: DataError, when no step has its time.
    """
    return read_curve(run_dir, "time/step_s", over="seconds")[-1][0]


def study_curves(
    runs: Mapping[str, Sequence[Path]], metric: str, *, over: Over = "steps", smooth_steps: int = 1
) -> dict[str, list[Curve]]:
    """A curve per run of each variant (name -> the runs' folders, one a seed), as `read_curve`.

    Raises: DataError, as `read_curve`.
    """
    return {
        name: [read_curve(folder, metric, over=over, smooth_steps=smooth_steps) for folder in folders]
        for name, folders in runs.items()
    }


def _at(curve: Sequence[Point], x: float) -> float:
    """The curve at an x within its ends."""
    right = bisect_left(curve, x, key=lambda point: point[0])
    x1, y1 = curve[min(right, len(curve) - 1)]
    if x1 == x or right in (0, len(curve)):
        return y1
    x0, y0 = curve[right - 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
