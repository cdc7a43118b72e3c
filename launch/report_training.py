"""The report's training curves: reward, length, entropy, KL, the judge, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch.charts import Chart, Series, Value, area_chart, line_chart
from launch.report_stages import stage_bands, stage_spans
from launch.run_record import RunRecord


def training_charts(record: RunRecord) -> list[Chart]:
    """The curves over steps; a chart whose metrics the run did not log is empty. No rows, no charts."""
    rows = record.rows
    if not rows:
        return []
    steps, bands = [int(row["step"]) for row in rows], stage_bands(stage_spans(record))

    def series(named: Mapping[str, str]) -> list[Series]:
        return [Series(label=label, values=tuple(number(row.get(key)) for row in rows)) for label, key in named.items()]

    def lines(title: str, note: str, named: Mapping[str, str], ceiling: float | None = None) -> Chart:
        return line_chart(title, note, steps, series(named), bands, text=plain, floor=0.0, ceiling=ceiling)

    def shares(title: str, note: str, named: Mapping[str, str], ceiling: float | None = None) -> Chart:
        return line_chart(title, note, steps, series(named), bands, text=share, floor=0.0, ceiling=ceiling)

    tasks = _tasks(rows)
    by_task = {task: f"reward/{task}/mean" for task in tasks}
    divergence = {
        "to start model": "policy/kl_ref",
        "sampler to learner": "policy/kl_sampler",
        "largest token difference": "policy/kl_sampler_max",
    }
    lost = {"cut off": "rollout/truncated_frac", "score unknown": "reward/invalid_frac"}
    charts = [lines("Reward", "mean outcome of valid rollouts", {"reward": "reward/mean"}, 1.0)]
    if len(tasks) > 1:
        charts.append(lines("Reward by task", "mean outcome of valid rollouts", by_task, 1.0))
    charts += [
        lines("Response length", "tokens, mean", {"tokens": "rollout/response_tokens_mean"}),
        lines("Entropy", "nats per response token", {"entropy": "policy/entropy"}),
        line_chart(
            "KL", "nats per token, logarithmic", steps, series(divergence), bands, text=powers, log=True
        ),
        shares("Answers lost", "share of a step's rollouts", lost),
    ]  # fmt: skip
    if any(row.get("reward/judged_frac") for row in rows):
        verdicts = {
            "accepted by rule": "reward/rule_mean",
            "by the judge alone": "reward/judge_mean",
            "very short answers": "reward/short_answer_frac",
        }
        health = {"canaries right": "judge/canary_right_frac", "breaker open": "judge/breaker_open"}
        charts += [
            shares("Rule and judge", "share of the valid rollouts", verdicts),
            shares("The judge's health", "share of known cases it got right", health, 1.0),
        ]
    return [
        *charts,
        area_chart(
            "Time per step", "share of all time in the legend", steps, _times(rows), bands,
            text=lambda v: f"{v:.3g} s", cut_peaks=True,
        ),
        lines("Updates", "gradient norm before clipping", {"norm": "optim/grad_norm"}),
    ]  # fmt: skip


def number(value: Any) -> Value:
    """A metric's value where it is a number, else None."""
    return float(value) if isinstance(value, (int, float)) else None


def plain(value: float) -> str:
    """Three digits: 0.123, 12.3, 1,234."""
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


def share(value: float) -> str:
    """0.25 -> 25%."""
    return f"{100 * value:.3g}%"


def powers(value: float) -> str:
    """0.00012 -> 1e-4."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")


def _tasks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = {key for row in rows for key in row if key.startswith("reward/") and key.endswith("/mean")}
    return sorted(key.split("/")[1] for key in keys if key.count("/") == 2)


def _times(rows: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Seconds by part, and what the whole step took beyond them."""
    parts = ("rollout", "learn", "sync", "eval")
    seconds = [[number(row.get(f"time/{part}_s")) for row in rows] for part in parts]
    whole = [number(row.get("time/step_s")) for row in rows]
    known = [sum(value or 0.0 for value in step) for step in zip(*seconds, strict=True)]
    other = [None if w is None else max(0.0, w - k) for w, k in zip(whole, known, strict=True)]
    return [Series(label=part, values=tuple(v)) for part, v in zip((*parts, "other"), (*seconds, other), strict=True)]
