"""Standalone SVG pictures of a study, for pages and docs: mean curves with bands, and means with intervals.

Each carries its own colours for light and dark and stays light in print. Names are escaped; there is no script in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from launch.charts import value_ticks
from launch.study_curves import MeanPoint, Point, mean_curve

WIDTH = 700
BAND_HEIGHT = 380
LEFT, TOP = 62, 58
CHAR_WIDTH = 7.2
"""Of the text at 13 px, a little generously."""
MAX_LABEL_CHARS = 30
LABEL_GAP = 17
"""Least distance between two lines of text."""
ROW_HEIGHT = 30

LIGHT = ("#2f6fb5", "#c75b12", "#23805d", "#8a57b3", "#b0366f", "#6f6a1f", "#0f7f8c", "#5a5f66")
DARK = ("#6faee8", "#f09a58", "#63c39b", "#c39ae6", "#ee82ae", "#c4be5e", "#55c3d1", "#b3b9c1")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "6 2 2 2 2 2", "1 2")
"""By which curves stay apart without colour."""


def band_chart(
    curves: Mapping[str, Sequence[Sequence[Point]]], *, title: str, x_label: str, y_label: str, log: bool = False
) -> str:
    """Each variant's mean curve with its 95 % band, its name at its end; an SVG of WIDTH pixels.

    curves: variant -> one curve of (x, value) a seed, see `launch.study_curves.mean_curve` for how they are averaged.
    A variant with one seed is a line without a band. Bands are cut where they leave the range of the means by more
    than half of it. With `log` the axis is logarithmic and so is the mean: it is geometric, its band that of the
    logarithms, and values that are not positive are left out.

    Raises: ValueError, when there is nothing to draw.
    """
    means = {name: _log_mean_curve(seeds) if log else mean_curve(seeds) for name, seeds in curves.items()}
    drawn = {name: points for name, points in means.items() if points}
    if not drawn:
        raise ValueError(f"band_chart {title!r}: no variant of {len(curves)} has a curve; give one a seed, not empty")
    every = [p for points in drawn.values() for p in points]
    ticks = value_ticks(_value_range(every, log=log), log=log)
    x_ticks = [t for t in value_ticks([p.x for p in every], 0.0) if t <= max(p.x for p in every)]
    label_width = CHAR_WIDTH * max(len(_short(name)) for name in drawn) + 14
    x = _axis(min(0.0, *(p.x for p in every)), max(p.x for p in every), LEFT, WIDTH - label_width - 8)
    y = _axis(ticks[0], ticks[-1], BAND_HEIGHT - 50, TOP, log=log)
    right, bottom = x(max(p.x for p in every)), y(ticks[0])
    colors = {name: i for i, name in enumerate(curves)}
    parts = [f'<text class="unit" x="14" y="{TOP - 18}">{escape(y_label)}</text>']
    parts += [
        f'<line class="grid" x1="{LEFT}" x2="{right:.1f}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick end" x="{LEFT - 7}" y="{y(t) + 4:.1f}">{_value(t)}</text>'
        for t in ticks
    ]
    parts += [f'<text class="tick mid" x="{x(t):.1f}" y="{bottom + 18:.1f}">{_value(t)}</text>' for t in x_ticks]
    parts.append(f'<text class="unit mid" x="{(LEFT + right) / 2:.1f}" y="{bottom + 38:.1f}">{escape(x_label)}</text>')
    parts += [_band(points, colors[name], x, y, ticks) for name, points in drawn.items()]
    parts += [_curve(points, colors[name], x, y) for name, points in drawn.items()]
    ends = {name: (x(points[-1].x), y(points[-1].mean)) for name, points in drawn.items()}
    parts += _end_labels(ends, colors, right, bottom)
    told = "; ".join(f"{name} ends at {_value(points[-1].mean)}" for name, points in drawn.items())
    return _svg(title, f"{y_label} by {x_label}: {told}", BAND_HEIGHT, parts)


def interval_chart(
    rows: Sequence[tuple[str, float, float, float]], *, title: str, x_label: str, reference: float | None = None
) -> str:
    """One line a variant: a dot at its mean, a bar over its interval, the figures at its end; an SVG of WIDTH pixels.

    rows: (name, mean, low, high), drawn from top to bottom. reference: a value with a dashed line through all rows, for
    instance the control's mean.

    Raises: ValueError, when there are no rows, or one whose interval leaves out its mean.
    """
    if not rows:
        raise ValueError(f"interval_chart {title!r}: no rows; give at least one (name, mean, low, high)")
    for name, mean, low, high in rows:
        if not low <= mean <= high:
            raise ValueError(
                f"interval_chart {title!r}: {name!r}: needs low <= mean <= high, got {low}, {mean}, {high}"
            )
    values = [v for _, mean, low, high in rows for v in (mean, low, high)]
    ticks = value_ticks([*values, *([] if reference is None else [reference])])
    digits = max(0, -math.floor(math.log10((ticks[1] - ticks[0]) / 10)))
    figures = [f"{mean:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]" for _, mean, low, high in rows]
    left = CHAR_WIDTH * max(len(_short(name)) for name, *_ in rows) + 24
    right = WIDTH - CHAR_WIDTH * max(map(len, figures)) - 18
    x = _axis(ticks[0], ticks[-1], left, right)
    bottom = TOP + ROW_HEIGHT * len(rows)
    parts = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP - 6}" y2="{bottom}"/>'
        f'<text class="tick mid" x="{x(t):.1f}" y="{bottom + 18}">{_value(t)}</text>'
        for t in ticks
    ]
    if reference is not None:
        at = x(reference)
        parts.append(f'<line class="reference" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 6}" y2="{bottom}"/>')
    parts.append(f'<text class="unit mid" x="{(left + right) / 2:.1f}" y="{bottom + 38}">{escape(x_label)}</text>')
    for i, ((name, mean, low, high), told) in enumerate(zip(rows, figures, strict=True)):
        y = TOP + ROW_HEIGHT * (i + 0.5)
        ends = "".join(f'<line x1="{x(v):.1f}" x2="{x(v):.1f}" y1="{y - 5}" y2="{y + 5}"/>' for v in (low, high))
        parts.append(
            f'<text class="name end" x="{left - 14:.1f}" y="{y + 4.5}">{_named(name)}</text>'
            f'<g class="s0 bar"><line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}"/>{ends}'
            f'<circle cx="{x(mean):.1f}" cy="{y}" r="5"/></g>'
            f'<text class="tick" x="{right + 14:.1f}" y="{y + 4.5}">{told}</text>'
        )
    return _svg(
        title, "; ".join(f"{n} {told}" for (n, *_), told in zip(rows, figures, strict=True)), bottom + 50, parts
    )


def _log_mean_curve(curves: Sequence[Sequence[Point]]) -> list[MeanPoint]:
    logs = [[(x, math.log(value)) for x, value in curve if value > 0] for curve in curves]
    return [
        MeanPoint(x=p.x, mean=math.exp(p.mean), low=math.exp(p.low), high=math.exp(p.high)) for p in mean_curve(logs)
    ]


def _value_range(points: Sequence[MeanPoint], *, log: bool) -> list[float]:
    """Ends of the value axis: all the means, and of their bands what lies within half of the means' range around."""
    low, high = min(p.mean for p in points), max(p.mean for p in points)
    if log:
        room = math.sqrt(high / low)
        return [max(low / room, min(p.low for p in points)), min(high * room, max(p.high for p in points))]
    room = (high - low) / 2
    bottom, top = max(low - room, min(p.low for p in points)), min(high + room, max(p.high for p in points))
    return [max(0.0, bottom) if low >= 0 else bottom, top]


def _axis(low: float, high: float, start: float, stop: float, *, log: bool = False) -> Callable[[float], float]:
    """Maps [low, high] to [start, stop]; what lies beyond is put at the end."""

    def at(value: float) -> float:
        if low == high:
            return (start + stop) / 2
        share = math.log(max(value, low) / low) / math.log(high / low) if log else (value - low) / (high - low)
        return start + min(1.0, max(0.0, share)) * (stop - start)

    return at


def _band(
    points: Sequence[MeanPoint],
    color: int,
    x: Callable[[float], float],
    y: Callable[[float], float],
    ticks: list[float],
) -> str:
    if all(p.low == p.high for p in points):
        return ""
    upper = [f"{x(p.x):.1f},{y(min(p.high, ticks[-1])):.1f}" for p in points]
    lower = [f"{x(p.x):.1f},{y(max(p.low, ticks[0])):.1f}" for p in reversed(points)]
    return f'<polygon class="s{color % len(LIGHT)} band" points="{" ".join(upper + lower)}"/>'


def _curve(points: Sequence[MeanPoint], color: int, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    style = f"s{color % len(LIGHT)}"
    if len(points) == 1:
        return f'<circle class="{style}" cx="{x(points[0].x):.1f}" cy="{y(points[0].mean):.1f}" r="3.5"/>'
    dash = DASHES[(color + color // len(DASHES)) % len(DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    line = " ".join(f"{x(p.x):.1f},{y(p.mean):.1f}" for p in points)
    return f'<polyline class="{style} line"{dashes} points="{line}"/>'


def _end_labels(
    ends: Mapping[str, tuple[float, float]], colors: Mapping[str, int], right: float, bottom: float
) -> list[str]:
    """Names to the right of the plot, by height, moved apart where they would touch, with a hair line to their curve."""
    ordered = sorted(ends, key=lambda name: ends[name][1])
    heights = [ends[name][1] for name in ordered]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + LABEL_GAP)
    over = max(0.0, heights[-1] - bottom)
    heights[-1] -= over
    for i in reversed(range(len(heights) - 1)):
        heights[i] = min(heights[i], heights[i + 1] - LABEL_GAP)
    labels = []
    for name, height in zip(ordered, heights, strict=True):
        x, y = ends[name]
        style = f"s{colors[name] % len(LIGHT)}"
        labels.append(
            f'<line class="{style} hair" x1="{x:.1f}" x2="{right + 10:.1f}" y1="{y:.1f}" y2="{height:.1f}"/>'
            f'<text class="{style} label" x="{right + 14:.1f}" y="{height + 4.5:.1f}">{_named(name)}</text>'
        )
    return labels


def _short(name: str) -> str:
    return name if len(name) <= MAX_LABEL_CHARS else name[: MAX_LABEL_CHARS - 1] + "…"


def _named(name: str) -> str:
    """The name, short, and whole as a tooltip."""
    return escape(_short(name)) + (f"<title>{escape(name)}</title>" if len(name) > MAX_LABEL_CHARS else "")


def _value(value: float) -> str:
    """Three digits, no exponent where a person would write none."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _svg(title: str, description: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="study" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'height="{height:g}" role="img"><title>{escape(title)}</title><desc>{escape(description)}</desc>'
        f"<style>{_style()}</style>"
        f'<rect class="page" width="{WIDTH}" height="{height:g}"/>'
        f'<text class="title" x="14" y="22">{escape(title)}</text>'
        + "\n".join(part for part in parts if part)
        + "</svg>\n"
    )


def _style() -> str:
    """Every rule names the class of the picture: several of them, inlined in one page, disturb neither it nor each other."""

    def scheme(page: str, ink: str, soft: str, grid: str, colors: Sequence[str]) -> str:
        named = "".join(f".study .s{i}{{color:{color}}}" for i, color in enumerate(colors))
        return (
            f".study .page{{fill:{page}}}.study text{{fill:{soft}}}.study .title,.study .name{{fill:{ink}}}"
            f".study .grid{{stroke:{grid}}}.study .reference{{stroke:{soft}}}{named}"
        )

    return (
        ".study{max-width:100%;height:auto}"
        ".study text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif}"
        ".study .title{font-size:15px;font-weight:600}.study .mid{text-anchor:middle}.study .end{text-anchor:end}"
        ".study .line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}"
        ".study .band{fill:currentColor;opacity:.13}.study circle{fill:currentColor}"
        ".study .hair{stroke:currentColor;stroke-width:1;opacity:.55}"
        ".study .bar line{stroke:currentColor;stroke-width:2}.study .reference{stroke-dasharray:4 4}"
        + scheme("#ffffff", "#1d1c1a", "#57544f", "#e6e2dc", LIGHT)
        + "@media not print{@media (prefers-color-scheme:dark){"
        + scheme("#16181b", "#ecebe8", "#b4b0a9", "#30343a", DARK)
        + ".study .band{opacity:.2}}}"
        + ".study .label{fill:currentColor}"
    )
