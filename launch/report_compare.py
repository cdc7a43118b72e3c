"""Several runs on one page: accuracy and its differences, the same curves over each other, and the settings that differ.

The first run is the control: every difference is another run's figure less the control's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.charts import Band, Chart, Series, line_chart
from launch.report_accuracy import (
    AccuracyCell,
    Change,
    accuracy_cell,
    accuracy_curves,
    baseline,
    change_between,
    window_bounds,
)
from launch.report_facts import run_facts
from launch.report_stages import stage_bands, stage_spans
from launch.report_training import number, plain, powers, share
from launch.run_record import RunRecord
from rl.run_folder import Evaluation

MAX_VALUE_CHARS = 120

Runs = Sequence[tuple[str, RunRecord]]
"""(label, run), the control first; the labels differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyLine:
    """One checkpoint of one run in the table: where it began, or its last one."""

    run: int
    label: str
    checkpoint: str
    step: int
    cells: tuple[AccuracyCell | None, ...]
    """By window."""
    changes: tuple[Change | None, ...]
    """To the control's last evaluation, by window; empty where this is the control, or not the run's last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that the page tells of several runs."""

    labels: tuple[str, ...]
    facts: tuple[tuple[str, tuple[str, ...]], ...]
    """(name, value by run); `-` where a run does not tell."""
    bounds: tuple[str, ...]
    accuracy: tuple[AccuracyLine, ...]
    accuracy_chart: Chart
    charts: tuple[Chart, ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    """(key, value by run) of the keys of config.toml that are not the same in all."""


def compare(runs: Runs) -> Comparison:
    """The page's content for two or more runs."""
    bounds = window_bounds([e for _, record in runs for e in record.evaluations])
    facts = [dict(run_facts(record)) for _, record in runs]
    names = list(dict.fromkeys(name for told in facts for name in told))
    last = [(label, record.evaluations[-1]) for label, record in runs if record.evaluations]
    return Comparison(
        labels=tuple(label for label, _ in runs),
        facts=tuple((name, tuple(told.get(name, "-") for told in facts)) for name in names),
        bounds=tuple(bounds),
        accuracy=tuple(_accuracy_lines(runs, bounds)),
        accuracy_chart=accuracy_curves(last, bounds),
        charts=tuple(chart for chart in _charts(runs) if not chart.empty),
        settings=tuple(different_settings([_settings(record) for _, record in runs])),
    )


def labels_of(runs: Sequence[tuple[Path, RunRecord]]) -> list[str]:
    """Each run's name; where several have the same, their folders in its place, with as many parents as tell them apart."""
    names = Counter(record.name for _, record in runs)
    folders = [folder.resolve() for folder, _ in runs]
    labels = []
    for folder, (_, record) in zip(folders, runs, strict=True):
        depths = range(1, len(folder.parts) + 1)
        alone = (n for n in depths if sum(folder.parts[-n:] == other.parts[-n:] for other in folders) == 1)
        label = "/".join(folder.parts[-next(alone, len(folder.parts)) :])
        labels.append(record.name if names[record.name] == 1 else label)
    return labels


def different_settings(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """(dotted key, value by configuration), by key, of the keys whose values differ; `-` where a configuration lacks one."""
    flat = [dict(_flat(config)) for config in configs]
    rows = [(key, tuple(one.get(key, "-") for one in flat)) for key in sorted({key for one in flat for key in one})]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _settings(record: RunRecord) -> dict[str, Any]:
    """The configuration, and of what is noted beside it what shapes a run's numbers."""
    noted = {key: record.meta[key] for key in ("commit", "versions") if key in record.meta}
    return {**record.config, "meta": noted}


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}" if prefix else key)]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [pair for i, inner in enumerate(value) for pair in _flat(inner, f"{prefix}.{i}")]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return [(prefix, text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…")]


def _accuracy_lines(runs: Runs, bounds: Sequence[str]) -> list[AccuracyLine]:
    """By run: the checkpoint it started from, where that is another one, and its last."""
    control = runs[0][1].evaluations[-1] if runs[0][1].evaluations else None
    lines = []
    for place, (label, record) in enumerate(runs):
        if not record.evaluations:
            continue
        start, last = baseline(record.evaluations), record.evaluations[-1]
        for evaluation in [start, last] if start is not last else [last]:
            is_compared = evaluation is last and place > 0 and control is not None
            lines.append(
                AccuracyLine(
                    run=place,
                    label=label,
                    checkpoint=evaluation.checkpoint,
                    step=evaluation.step,
                    cells=tuple(accuracy_cell(evaluation.windows.get(b)) for b in bounds),
                    changes=_changes(control, evaluation, bounds) if control and is_compared else (),
                )
            )
    return lines


def _changes(control: Evaluation, other: Evaluation, bounds: Sequence[str]) -> tuple[Change | None, ...]:
    return tuple(
        change_between(control.windows[b], other.windows[b]) if b in control.windows and b in other.windows else None
        for b in bounds
    )


def _charts(runs: Runs) -> list[Chart]:
    """One chart a metric, a line a run; stages are shaded where all runs took them alike."""
    rows = [{int(row["step"]): row for row in record.rows} for _, record in runs]
    steps = sorted({step for by_step in rows for step in by_step})
    if not steps:
        return []
    bands = [stage_bands(stage_spans(record)) for _, record in runs]
    shared: Sequence[Band] = bands[0] if all(one == bands[0] for one in bands) else ()

    def chart(
        title: str, note: str, key: str, text: Callable[[float], str], ceiling: float | None = None, log: bool = False
    ) -> Chart:
        series = [
            Series(label=label, values=tuple(number(by_step.get(step, {}).get(key)) for step in steps))
            for (label, _), by_step in zip(runs, rows, strict=True)
        ]
        floor = None if log else 0.0
        return line_chart(title, note, steps, series, shared, text=text, floor=floor, ceiling=ceiling, log=log)

    return [
        chart("Reward", "mean outcome of valid rollouts", "reward/mean", plain, 1.0),
        chart("Entropy", "nats per response token", "policy/entropy", plain),
        chart("KL to the start model", "nats per token, logarithmic", "policy/kl_ref", powers, log=True),
        chart("KL, sampler to learner", "nats per token, logarithmic", "policy/kl_sampler", powers, log=True),
        chart("Response length", "tokens, mean", "rollout/response_tokens_mean", plain),
        chart("Gradient norm", "before clipping", "optim/grad_norm", plain),
        chart("Clipped tokens", "share of response tokens", "loss/clip_frac", share),
        chart("Answers cut off", "share of a step's rollouts", "rollout/truncated_frac", share),
        chart("Answers without a score", "share of a step's rollouts", "reward/invalid_frac", share),
        chart("Dead groups", "share of a step's groups: no gradient", "curriculum/dead_group_frac", share),
        chart("Throughput", "tokens/s over the whole step", "perf/tokens_per_s", plain),
        chart("Time per step", "seconds, evaluation included", "time/step_s", plain),
    ]
