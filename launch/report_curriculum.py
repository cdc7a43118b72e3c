"""The report's section on the curriculum: stages, pool, difficulty, replay and its success, groups, tokens by window.

Everything is drawn from metrics.jsonl. What a run did not log is left out, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.charts import Band, Chart, Series, Value, area_chart, line_chart
from launch.charts_bars import Timeline, TimelineRow, bar_chart, timeline
from launch.report_stages import StageSpan, stage_bands, stage_spans
from launch.report_training import number, plain, share
from launch.run_record import RunRecord

REWARD_BINS = {
    "0": "0",
    "to_0.25": "to 0.25",
    "to_0.5": "to 0.5",
    "to_0.75": "to 0.75",
    "below_1": "below 1",
    "1": "1",
}
"""Classes of a problem's smoothed mean reward: as the metrics name them, as people read them."""
BIN_KEY = "curriculum/visited_by_reward/"
WINDOW_KEY = "curriculum/prompt_tokens/"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageLine:
    """One stage in the table; None: not logged, or nothing of the kind happened in it."""

    span: StageSpan
    replayed: float | None
    """Share of the draws, mean over the stage's steps."""
    short: float | None
    """Share of the draws that came from shorter windows whatever their difficulty, mean over the stage's steps."""
    replay_reward: float | None
    """Mean reward of replayed groups, mean over the steps that have any."""
    replay_gain: float | None
    """Of that, beyond the problems' former smoothed mean."""
    dead: float | None
    """Share of dead groups, mean over the stage's steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumView:
    """The section, ready to draw."""

    timeline: Timeline | None
    stages: tuple[StageLine, ...]
    charts: tuple[Chart, ...]
    missing: tuple[str, ...]
    """One sentence for each chart that lacks a metric."""


def curriculum_view(record: RunRecord) -> CurriculumView:
    """The section of a run; empty where nothing is known."""
    spans = stage_spans(record)
    drawn = _charts(record.rows, stage_bands(spans)) if record.rows else []
    return CurriculumView(
        timeline=timeline([_timeline_row(span) for span in spans]) if spans else None,
        stages=tuple(_stage_line(span, record.rows) for span in spans),
        charts=tuple(chart for chart, _ in drawn if not chart.empty),
        missing=tuple(
            f"{chart.title}: {'left out' if chart.empty else 'drawn without'}{':' if chart.empty else ''} {', '.join(lacking)}"
            for chart, lacking in drawn
            if lacking
        ),
    )


def _timeline_row(span: StageSpan) -> TimelineRow:
    number = span.num_planned if span.state == "ahead" else span.num_steps
    steps = f"{number:,} step{'' if number == 1 else 's'}"
    told = {
        "ahead": f"{steps} to come",
        "going": f"{span.num_steps:,} of {span.num_planned:,} steps" if span.num_planned else steps,
        "full": steps,
        "early": f"{span.num_steps:,} of {span.num_planned:,} steps: plateau",
    }[span.state]
    if span.replay_frac:
        told += f", {span.replay_frac:.0%} replay"
    return TimelineRow(
        name=span.window,
        text=told,
        first=span.first,
        last=span.last,
        planned_last=max(span.last, span.first + span.num_planned - 1),
        is_cut=span.state == "early",
    )


def _stage_line(span: StageSpan, rows: Sequence[Mapping[str, Any]]) -> StageLine:
    inside = [row for row in rows if span.first <= row["step"] <= span.last]

    def mean(key: str) -> float | None:
        known = [value for row in inside if (value := number(row.get(key))) is not None]
        return sum(known) / len(known) if known else None

    return StageLine(
        span=span,
        replayed=mean("curriculum/replay_frac"),
        short=mean("curriculum/short_frac"),
        replay_reward=mean("curriculum/replay_reward_mean"),
        replay_gain=mean("curriculum/replay_gain"),
        dead=mean("curriculum/dead_group_frac"),
    )


def _charts(rows: Sequence[Mapping[str, Any]], bands: Sequence[Band]) -> list[tuple[Chart, list[str]]]:
    """Every chart of the section, empty ones included, each with the metrics that it lacks."""
    steps = [int(row["step"]) for row in rows]

    def lines(
        title: str, note: str, text: Callable[[float], str], named: Mapping[str, str], smooth: bool = True
    ) -> tuple[Chart, list[str]]:
        lacking = [key for key in named.values() if not _is_logged(rows, key)]
        if next(iter(named.values())) in lacking:  # the first one is what the chart is about
            return Chart(title=title, note=note), lacking
        series = [Series(label=label, values=_values(rows, key)) for label, key in named.items()]
        return line_chart(title, note, steps, series, bands, text=text, floor=0.0, smooth=smooth), lacking

    return [
        *_difficulty_charts(rows, steps, bands),
        lines("Replay pool", "problems", _count, {
            "in the pool": "curriculum/pool_size", "parked": "curriculum/parked", "left as easy": "curriculum/num_left",
        }, smooth=False),
        lines("Draws", "share of a step's draws", share, {
            "replayed": "curriculum/replay_frac", "shorter window": "curriculum/short_frac",
        }),
        lines("Success of replay", "mean reward; gain: over the problems' former mean", plain, {
            "replayed": "curriculum/replay_reward_mean", "gain": "curriculum/replay_gain", "all": "reward/mean",
        }),
        lines("Dead groups", "share of a step's groups: no gradient", share, {"dead": "curriculum/dead_group_frac"}),
        lines("Groups", "sampled in a step", _count, {
            "all": "rollout/num_sampled_groups", "dead": "rollout/num_dead_groups",
        }),
        lines("Surplus groups", "carried in from earlier steps, left over for later ones", _count, {
            "carried in": "rollout/num_carried_groups", "left over": "rollout/num_surplus_groups",
        }),
        lines("Refills", "draws after a step's first one", _count, {"rounds": "rollout/num_refill_rounds"}),
        _token_chart(rows, steps, bands),
        lines("Plateau", "steps without a new best, by which a stage may end", _count, {
            "steps": "curriculum/plateau_steps",
        }, smooth=False),
    ]  # fmt: skip


def _difficulty_charts(
    rows: Sequence[Mapping[str, Any]], steps: Sequence[int], bands: Sequence[Band]
) -> list[tuple[Chart, list[str]]]:
    """How hard the visited problems are: over time, and as it stands."""
    series = [Series(label=name, values=_values(rows, BIN_KEY + key)) for key, name in REWARD_BINS.items()]
    is_logged = any(_is_logged(rows, BIN_KEY + key) for key in REWARD_BINS)
    lacking = [] if is_logged else [f"{BIN_KEY}<bin>"]
    over_time = area_chart(
        "Difficulty", "visited problems by smoothed mean reward", steps, series, bands,
        text=_count, told="newest", palette="d",
    )  # fmt: skip
    at = next((i for i in reversed(range(len(rows))) if any(s.values[i] is not None for s in series)), None)
    now = [0.0 if at is None else s.values[at] or 0.0 for s in series]
    total = sum(now)
    bars = bar_chart(
        "Difficulty now",
        "" if at is None else f"{_count(total)} problems visited until step {steps[at]:,}",
        list(REWARD_BINS.values()),
        now,
        text=lambda value: f"{_count(value)} ({value / total:.0%})",
        tick_text=_count,
    )
    return [(over_time, lacking), (bars, [])]  # one line for both


def _token_chart(
    rows: Sequence[Mapping[str, Any]], steps: Sequence[int], bands: Sequence[Band]
) -> tuple[Chart, list[str]]:
    names = {key.removeprefix(WINDOW_KEY) for row in rows for key in row if key.startswith(WINDOW_KEY)}
    bounds = sorted((name for name in names if name.isdecimal()), key=int)
    series = [Series(label=f"≤{int(bound):,}", values=_values(rows, WINDOW_KEY + bound)) for bound in bounds]
    chart = area_chart(
        "Prompt tokens by window", "per step; share of all in the legend", steps, series, bands, text=_tokens
    )
    return chart, [f"{WINDOW_KEY}<window>"] if chart.empty else []


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[Value, ...]:
    return tuple(number(row.get(key)) for row in rows)


def _is_logged(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(number(row.get(key)) is not None for row in rows)


def _count(value: float) -> str:
    return f"{value:,.3g}" if value < 10 and value % 1 else f"{value:,.0f}"


def _tokens(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
