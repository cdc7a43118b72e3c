"""Where every mark of a chart goes: small line and area charts as plain geometry, drawn by the report's template.

Nothing here writes markup, so nothing here can forget to escape. Coordinates are in a viewBox of WIDTH x HEIGHT.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 412, 26, 172
MAX_POINTS = 240
"""Longer series are averaged in as many equal spans of steps."""
SMOOTH_FROM = 24
"""Series at least this long get a moving mean over a tenth of their length."""

Value = float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line: a value per step, None where there is none."""

    label: str
    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """A stage: a range of steps, both ends included."""

    first: int
    last: int
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A tick: where, and what it says."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle over the plot's height: a stage's shade, or a place to point at."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One series, drawn."""

    label: str
    color: int
    """Index into the palette."""
    faint: tuple[str, ...]
    """Polylines of the values as they are, where `bold` is their moving mean."""
    bold: tuple[str, ...]
    """Polylines; a gap in the values is a gap in the line."""
    dots: tuple[tuple[float, float], ...]
    """Values without a neighbour."""
    last: str
    """The newest value, for the legend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """One layer of a stack."""

    label: str
    color: int
    points: str
    last: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorBar:
    """A vertical interval."""

    x: float
    low: float
    high: float
    color: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One upright bar of a histogram, and what stands over it."""

    x: float
    y: float
    width: float
    height: float
    color: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Everything the template draws."""

    title: str
    note: str
    palette: Literal["c", "d"] = "c"
    """`c`: colours of things that differ in kind; `d`: of ordered classes, from bad to good."""
    lines: tuple[Line, ...] = ()
    areas: tuple[Area, ...] = ()
    bars: tuple[Bar, ...] = ()
    error_bars: tuple[ErrorBar, ...] = ()
    bands: tuple[Box, ...] = ()
    hovers: tuple[Box, ...] = ()
    x_ticks: tuple[Mark, ...] = ()
    y_ticks: tuple[Mark, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not (self.lines or self.areas or self.bars)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """How steps and values map to the plane."""

    steps: tuple[float, ...]
    low: float
    high: float
    log: bool

    def x(self, step: float) -> float:
        first, last = self.steps[0], self.steps[-1]
        share = 0.5 if first == last else (step - first) / (last - first)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    def y(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        position = math.log10(max(value, self.low)) if self.log else value
        share = min(1.0, max(0.0, (position - low) / (high - low)))
        return round(BOTTOM - share * (BOTTOM - TOP), 1)


def line_chart(
    title: str,
    note: str,
    steps: Sequence[int],
    series: Sequence[Series],
    bands: Sequence[Band] = (),
    *,
    text: Callable[[float], str],
    floor: float | None = None,
    ceiling: float | None = None,
    log: bool = False,
    smooth: bool = True,
) -> Chart:
    """Lines over steps; series without a value are left out.

    The value axis holds every value, and `floor` and `ceiling` where given. With `log` it is logarithmic and values
    that are not positive are gaps. Long series get a moving mean; without `smooth`, for counts that add up, not.
    """
    steps, series = _thinned(steps, series)
    if log:
        series = [Series(label=s.label, values=tuple(v if v and v > 0 else None for v in s.values)) for s in series]
    colored = [(i, s) for i, s in enumerate(series) if any(v is not None for v in s.values)]
    values = [v for _, s in colored for v in s.values if v is not None]
    if not values:
        return Chart(title=title, note=note)
    frame, ticks = _scaled(steps, values, floor, ceiling, log=log)
    return Chart(
        title=title,
        note=note,
        lines=tuple(_line(frame, s, color, bands if smooth else None, text) for color, s in colored),
        bands=_bands(frame, bands),
        hovers=_hovers(frame, [s for _, s in colored], text),
        x_ticks=_step_ticks(frame),
        y_ticks=tuple(Mark(at=frame.y(t), text=text(t)) for t in ticks),
    )


def area_chart(
    title: str, note: str, steps: Sequence[int], series: Sequence[Series], bands: Sequence[Band] = (), *,
    text: Callable[[float], str], told: Literal["share", "newest"] = "share", cut_peaks: bool = False,
    palette: Literal["c", "d"] = "c",
) -> Chart:  # fmt: skip
    """Series stacked over steps, a missing value counting as nothing.

    The legend has each one's share of everything, or its newest value. With `cut_peaks` the axis ends at 1.4 times
    the 90th percentile of the sums where single steps (evaluations) tower above it.
    """
    steps, series = _thinned(steps, series)
    colored = [(i, s) for i, s in enumerate(series) if any(s.values)]
    if not colored:
        return Chart(title=title, note=note)
    sums = [sum(s.values[i] or 0.0 for _, s in colored) for i in range(len(steps))]
    usual = 1.4 * sorted(sums)[int(0.9 * (len(sums) - 1))]
    cut = cut_peaks and usual > 0 and max(sums) > 2 * usual
    frame, ticks = _scaled(steps, [min(s, usual) if cut else s for s in sums], 0.0, None, log=False)
    areas, base = [], [0.0] * len(steps)
    for color, one in colored:
        top = [b + (v or 0.0) for b, v in zip(base, one.values, strict=True)]
        outline, back = _stairs(frame, top), _stairs(frame, base)[::-1]
        last = f"{sum(v or 0.0 for v in one.values) / sum(sums):.0%}" if told == "share" else _newest(one.values, text)
        areas.append(Area(label=one.label, color=color, points=_polyline(outline + back), last=last))
        base = top
    return Chart(
        title=title,
        note=note + (f"; the axis is cut, the longest step took {text(max(sums))}" if cut else ""),
        areas=tuple(areas),
        palette=palette,
        bands=_bands(frame, bands),
        hovers=_hovers(frame, [s for _, s in colored], text),
        x_ticks=_step_ticks(frame),
        y_ticks=tuple(Mark(at=frame.y(t), text=text(t)) for t in ticks),
    )


def category_chart(
    title: str,
    note: str,
    categories: Sequence[str],
    series: Sequence[Series],
    intervals: Sequence[Sequence[tuple[float, float] | None]],
    shaded: Sequence[Band] = (),
    *,
    text: Callable[[float], str],
) -> Chart:
    """Shares in [0, 1] over named places, with an interval around each; `shaded` counts places from 0."""
    places = tuple(range(len(categories)))
    frame = _Frame(steps=(-0.5, len(categories) - 0.5), low=0.0, high=1.0, log=False)
    lines, bars = [], []
    for color, (one, around) in enumerate(zip(series, intervals, strict=True)):
        shift = 0.06 * (color - (len(series) - 1) / 2)  # error bars of several series stay apart
        at = [(frame.x(p + shift), frame.y(v)) for p, v in zip(places, one.values, strict=True) if v is not None]
        last = _newest(one.values, text)
        lines.append(
            Line(label=one.label, color=color, faint=(), bold=(_polyline(at),), dots=tuple(at), last=last),
        )
        bars += [
            ErrorBar(x=frame.x(p + shift), low=frame.y(low), high=frame.y(high), color=color)
            for p, (low, high) in ((p, a) for p, a in zip(places, around, strict=True) if a is not None)
        ]
    room = (RIGHT - LEFT) / max(1, len(categories))
    stride = max(1, math.ceil(7 * max(map(len, categories), default=0) / room))  # a character is up to 7 wide
    return Chart(
        title=title,
        note=note,
        lines=tuple(lines),
        error_bars=tuple(bars),
        bands=tuple(
            Box(x=frame.x(b.first - 0.5), width=frame.x(b.last + 0.5) - frame.x(b.first - 0.5), text=b.label)
            for b in shaded
        ),
        x_ticks=tuple(Mark(at=frame.x(p), text=c) for p, c in list(zip(places, categories, strict=True))[::stride]),
        y_ticks=tuple(Mark(at=frame.y(t), text=text(t)) for t in (0.0, 0.25, 0.5, 0.75, 1.0)),
    )


def _thinned(steps: Sequence[int], series: Sequence[Series]) -> tuple[Sequence[int], list[Series]]:
    if len(steps) <= MAX_POINTS:
        return steps, list(series)
    size = -(-len(steps) // MAX_POINTS)
    spans = [slice(i, i + size) for i in range(0, len(steps), size)]
    return [steps[s][-1] for s in spans], [
        Series(label=one.label, values=tuple(_mean(one.values[s]) for s in spans)) for one in series
    ]


def _newest(values: Sequence[Value], text: Callable[[float], str]) -> str:
    return next((text(v) for v in reversed(values) if v is not None), "")


def _mean(values: Sequence[Value]) -> Value:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _smooth(values: Sequence[Value], starts: Sequence[int]) -> list[Value]:
    """Moving mean over a tenth of the values, never across the first value of a stage."""
    reach = max(1, len(values) // 20)
    edges = sorted({0, *starts, len(values)})
    smooth: list[Value] = []
    for first, end in pairwise(edges):
        for i in range(first, end):
            near = values[max(first, i - reach) : min(end, i + reach + 1)]
            smooth.append(None if values[i] is None else _mean(near))
    return smooth


def value_ticks(
    values: Sequence[float], floor: float | None = None, ceiling: float | None = None, *, log: bool = False
) -> list[float]:
    """Round numbers, about five, ascending, the first and the last around all `values` (at least one), floor and ceiling.

    With `log` they are powers of ten and the values must be positive.
    """
    low = min([*values, *([] if floor is None else [floor])])
    high = max([*values, *([] if ceiling is None else [ceiling])])
    if log:
        first = math.floor(math.log10(low))
        last = max(math.ceil(math.log10(high)), first + 1)
        stride = -(-(last - first) // 5)
        return [10.0**e for e in range(first, last + stride, stride)]
    if low == high:
        low, high = (low - abs(low) * 0.1, high + abs(high) * 0.1) if low else (0.0, 1.0)
    unit = _round_step((high - low) / 4)
    return [round(i * unit, 12) for i in range(math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9) + 1)]


def _scaled(
    steps: Sequence[int], values: Sequence[float], floor: float | None, ceiling: float | None, *, log: bool
) -> tuple[_Frame, list[float]]:
    ticks = value_ticks(values, floor, ceiling, log=log)
    return _Frame(steps=tuple(steps), low=ticks[0], high=ticks[-1], log=log), ticks


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)


def _line(
    frame: _Frame, series: Series, color: int, bands: Sequence[Band] | None, text: Callable[[float], str]
) -> Line:
    """`bands` are what the moving mean must not reach over; None: no moving mean."""
    raw, dots = _pieces(frame, series.values)
    is_long = bands is not None and sum(v is not None for v in series.values) >= SMOOTH_FROM
    starts = [bisect_left(frame.steps, band.first) for band in bands or ()]
    bold = _pieces(frame, _smooth(series.values, starts))[0] if is_long else raw
    last = _newest(series.values, text)
    return Line(label=series.label, color=color, faint=raw if is_long else (), bold=bold, dots=dots, last=last)


def _pieces(frame: _Frame, values: Sequence[Value]) -> tuple[tuple[str, ...], tuple[tuple[float, float], ...]]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for step, value in zip(frame.steps, values, strict=True):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((frame.x(step), frame.y(value)))
    lines = tuple(_polyline(piece) for piece in pieces if len(piece) > 1)
    return lines, tuple(piece[0] for piece in pieces if len(piece) == 1)


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _stairs(frame: _Frame, values: Sequence[float]) -> list[tuple[float, float]]:
    """A flat stretch per step: a single long step stays a bar and leans on no neighbour."""
    middles = [(a + b) / 2 for a, b in pairwise(frame.steps)]
    edges = [frame.steps[0], *middles, frame.steps[-1]]
    xs = [frame.x(e) for e in edges] if len(frame.steps) > 1 else [LEFT, RIGHT]
    return [(x, frame.y(v)) for left, right, v in zip(xs, xs[1:], values, strict=False) for x in (left, right)]


def _bands(frame: _Frame, bands: Sequence[Band]) -> tuple[Box, ...]:
    boxes = []
    for band in bands:
        first, last = max(band.first - 0.5, frame.steps[0]), min(band.last + 0.5, frame.steps[-1])
        if first < last:
            boxes.append(Box(x=frame.x(first), width=round(frame.x(last) - frame.x(first), 1), text=band.label))
    return tuple(boxes)


def _hovers(frame: _Frame, series: Sequence[Series], text: Callable[[float], str]) -> tuple[Box, ...]:
    """One strip a step that says the step's values when pointed at."""
    width = round((RIGHT - LEFT) / max(1, len(frame.steps) - 1), 1)
    return tuple(
        Box(
            x=round(frame.x(step) - width / 2, 1),
            width=width,
            text=f"step {step:g}: "
            + ", ".join(f"{s.label} {'none' if (v := s.values[i]) is None else text(v)}" for s in series),
        )
        for i, step in enumerate(frame.steps)
    )


def _step_ticks(frame: _Frame) -> tuple[Mark, ...]:
    return tuple(Mark(at=frame.x(t), text=f"{t:,}") for t in step_ticks(int(frame.steps[0]), int(frame.steps[-1])))


def step_ticks(first: int, last: int) -> list[int]:
    """Whole steps to name on an axis: both ends and round ones between, none of them close to an end."""
    if first == last:
        return [first]
    unit = max(1, round(_round_step((last - first) / 5)))
    inner = range(unit * (first // unit + 1), last, unit)
    return [first, *(t for t in inner if last - t >= unit * 0.4 and t - first >= unit * 0.4), last]
