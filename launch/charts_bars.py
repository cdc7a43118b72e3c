"""Bars as plain geometry: a histogram over named classes, and a timeline with a row a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from launch.charts import BOTTOM, LEFT, RIGHT, TOP, Bar, Chart, Mark, step_ticks, value_ticks

TIMELINE_LEFT = 92
"""Room for the rows' names; the plot ends at RIGHT."""
ROW_HEIGHT = 36
BAR_HEIGHT = 13


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineRow:
    """What one row shows: a bar over the steps done, an outline over those that were planned."""

    name: str
    text: str
    """What stands over the bar."""
    first: int
    last: int
    """The last step done; before `first` where none is."""
    planned_last: int
    """The last step of the plan."""
    is_cut: bool = False
    """Whether it ended before its plan did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineBar:
    """One row, placed."""

    name: str
    text: str
    anchor: Literal["start", "end"]
    text_x: float
    top: float
    """Upper edge of the bar."""
    x: float
    width: float
    """0: nothing done yet."""
    planned_x: float
    planned_width: float
    """Of the outline: what was planned and not done; 0: none."""
    is_cut: bool

    @property
    def middle(self) -> float:
        """Height of the bar's middle."""
        return self.top + BAR_HEIGHT / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """Rows over one axis of steps."""

    height: float
    bottom: float
    """Where the axis is."""
    bars: tuple[TimelineBar, ...]
    x_ticks: tuple[Mark, ...]


def timeline(rows: Sequence[TimelineRow]) -> Timeline:
    """Place the rows, at least one, from top to bottom; step s covers [s - 1, s] of the axis."""
    end = max(1, *(max(row.last, row.planned_last) for row in rows))

    def x(position: float) -> float:
        return round(TIMELINE_LEFT + (RIGHT - TIMELINE_LEFT) * position / end, 1)

    bars = []
    for number, row in enumerate(rows):
        start, stop = x(row.first - 1), x(max(row.last, row.first - 1))
        planned = max(0.0, x(row.planned_last) - stop)
        extent = max(stop, x(row.planned_last))
        on_left = start < (TIMELINE_LEFT + RIGHT) / 2
        bars.append(
            TimelineBar(
                name=row.name,
                text=row.text,
                anchor="start" if on_left else "end",
                text_x=start if on_left else extent,
                top=ROW_HEIGHT * number + 18,
                x=start,
                width=round(stop - start, 1),
                planned_x=stop,
                planned_width=round(planned, 1),
                is_cut=row.is_cut,
            )
        )
    bottom = ROW_HEIGHT * len(rows) + 4
    ticks = [t for t in step_ticks(1, end) if t != 1 or end == 1]
    return Timeline(
        height=bottom + 18,
        bottom=bottom,
        bars=tuple(bars),
        x_ticks=tuple(Mark(at=x(t), text=f"{t:,}") for t in [0, *ticks]),
    )


def bar_chart(
    title: str,
    note: str,
    categories: Sequence[str],
    values: Sequence[float],
    *,
    text: Callable[[float], str],
    tick_text: Callable[[float], str],
) -> Chart:
    """One bar a class, in the colours of ordered classes, `text` of its value over it; empty when all are 0."""
    if not any(values):
        return Chart(title=title, note=note)
    ticks = value_ticks(values, 0.0)
    place = (RIGHT - LEFT) / len(values)
    unit = (BOTTOM - TOP) / ticks[-1]
    bars = [
        Bar(
            x=round(LEFT + place * (i + 0.14), 1),
            y=round(BOTTOM - unit * value, 1),
            width=round(place * 0.72, 1),
            height=round(unit * value, 1),
            color=i,
            text=text(value),
        )
        for i, value in enumerate(values)
    ]
    return Chart(
        title=title,
        note=note,
        palette="d",
        bars=tuple(bars),
        x_ticks=tuple(Mark(at=round(LEFT + place * (i + 0.5), 1), text=name) for i, name in enumerate(categories)),
        y_ticks=tuple(Mark(at=round(BOTTOM - unit * t, 1), text=tick_text(t)) for t in ticks),
    )
