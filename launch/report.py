"""`python -m launch.report RUN_DIR [--out FILE]`: one self-contained HTML page about a run, ended or still going.

The page has no script, no link and nothing to fetch. What a model wrote is text in it and can be nothing else:
the template escapes everything, and the content policy would refuse a script even so.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launch.charts import Band, Chart, Series, area_chart, category_chart, line_chart
from launch.cli import ConfigError
from launch.cli import main as run_command
from launch.run_record import RunRecord, read_run
from rl.metrics import GLOSSARY
from rl.run_folder import Evaluation, WindowAccuracy, write_file

MAX_SHOWN_CHARS = 6000
"""Longer responses are shown by their two ends."""
Z95 = 1.959964
"""97.5 % quantile of the standard normal distribution."""


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


def main(argv: Sequence[str]) -> None:
    """The command: write the page and say where."""
    parser = argparse.ArgumentParser(prog="python -m launch.report", description="Write a run's report.")
    parser.add_argument("run_dir", type=Path, help="the run's folder, for instance runs/demo")
    parser.add_argument("--out", type=Path, help="the file to write (default: RUN_DIR/report.html)")
    arguments = parser.parse_args(argv)
    print(write_report(arguments.run_dir, arguments.out))


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run's folder, by default as its report.html; returns the path.

    Raises:
        ConfigError: the folder is missing or holds no run.
    """
    try:
        record = read_run(run_dir)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    path = out or run_dir / "report.html"
    write_file(path, render_report(record).encode())
    return path


def render_report(record: RunRecord) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("launch", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "shortened": shortened, "percent": percent}
    bounds = window_bounds(record.evaluations)
    return environment.get_template("report.html").render(
        record=record,
        headline=headline(record),
        facts=_facts(record),
        accuracy_chart=_accuracy_chart(record, bounds),
        bounds=bounds,
        trained_up_to=trained_up_to(record),
        cells={e.checkpoint: {b: accuracy_cell(e.windows.get(b)) for b in bounds} for e in record.evaluations},
        changes=_changes(record, bounds),
        charts=_charts(record),
        before=baseline(record.evaluations).checkpoint if record.evaluations else "",
        after=record.evaluations[-1].checkpoint if record.evaluations else "",
        versions=record.summary.get("versions") or record.meta.get("versions") or {},
        glossary=GLOSSARY,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def headline(record: RunRecord) -> str:
    """What happened, in one sentence with figures."""
    complete = record.last_step == record.num_steps or not record.num_steps
    done = (
        f"{record.last_step} step{'' if record.last_step == 1 else 's'}"
        if complete
        else f"{record.last_step} of {record.num_steps} steps"
    )
    stages = f" over {len(record.stages)} stages" if complete and len(record.stages) > 1 else ""
    wall = record.summary.get("wall_s")
    took = f" in {duration(wall)}" if isinstance(wall, (int, float)) else ""
    start = f"{done}{stages}{took}: "
    changes = _changes(record, window_bounds(record.evaluations))
    if not changes:
        return f"{start}{_told_reward(record)}"
    limit = trained_up_to(record)
    trained = [b for b in changes if int(b) <= limit] if limit else list(changes)
    beyond = [b for b in changes if limit and int(b) > limit]
    told = [_told(changes[b], f"up to {int(b):,} tokens") for b in trained[-1:]]
    told += [_told(changes[b], f"up to {int(b):,}, longer than any it trained on,") for b in beyond[-1:]]
    before, after = baseline(record.evaluations), record.evaluations[-1]
    return f"{start}from {before.checkpoint} to {after.checkpoint}, accuracy on prompts of {', and of '.join(told)}."


def _told_reward(record: RunRecord) -> str:
    rewards = [row["reward/mean"] for row in record.rows if row.get("reward/mean") is not None]
    if not rewards:
        return "nothing has been measured yet."
    tenth = max(1, len(rewards) // 10)
    first, last = sum(rewards[:tenth]) / tenth, sum(rewards[-tenth:]) / tenth
    return f"mean reward in training went from {first:.2f} to {last:.2f}; not yet evaluated before and after."


def _told(change: Change, where: str) -> str:
    if change.before == change.after:
        return f"{where} stayed at {percent(change.before)}"
    verb = "rose" if change.points > 0 else "fell"
    doubt = "" if change.is_clear or change.half_width is None else ", which may be chance"
    return f"{where} {verb} from {percent(change.before)} to {percent(change.after)}{doubt}"


def baseline(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The checkpoint that RL started from: `sft`, else the first one."""
    return next((e for e in evaluations if e.checkpoint == "sft"), evaluations[0])


def trained_up_to(record: RunRecord) -> int:
    """The longest prompt that the last evaluated checkpoint can have trained on, by the stages' windows; 0: unknown."""
    evaluated_at = record.evaluations[-1].step if record.evaluations else 0
    done, limit = 0, 0
    for stage in record.stages:
        if done < max(1, evaluated_at or record.last_step):
            limit = max(limit, int(stage["max_prompt_tokens"]))
        done += int(stage["steps"])
    return limit


def window_bounds(evaluations: Sequence[Evaluation]) -> list[str]:
    """Upper bounds of every evaluated window, ascending; a summary's names that are no bound are left out."""
    return sorted({bound for e in evaluations for bound in e.windows if bound.isdecimal()}, key=int)


def accuracy_cell(window: WindowAccuracy | None) -> AccuracyCell | None:
    """An evaluation's window with its uncertainty."""
    if window is None:
        return None
    low, high = wilson(window.greedy, window.num) if window.num else (0.0, 0.0)
    return AccuracyCell(
        greedy=window.greedy, half_width=(high - low) / 2 if window.num else None, sampled=window.sampled
    )


def wilson(share: float, num: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share of `num` > 0 trials (Wilson 1927), in [0, 1]."""
    scale = 1 + Z95**2 / num
    center = (share + Z95**2 / (2 * num)) / scale
    half = Z95 * math.sqrt(share * (1 - share) / num + Z95**2 / (4 * num**2)) / scale
    return max(0.0, center - half), min(1.0, center + half)


def change_between(before: WindowAccuracy, after: WindowAccuracy) -> Change:
    """The change with the interval of two independent shares, on its side towards zero (Newcombe 1998, method 10)."""
    if not before.num or not after.num:
        return Change(before=before.greedy, after=after.greedy, half_width=None)
    (low0, high0), (low1, high1) = wilson(before.greedy, before.num), wilson(after.greedy, after.num)
    down = math.hypot(after.greedy - low1, high0 - before.greedy)
    up = math.hypot(high1 - after.greedy, before.greedy - low0)
    towards_zero = down if after.greedy > before.greedy else up
    return Change(before=before.greedy, after=after.greedy, half_width=100 * towards_zero)


def _changes(record: RunRecord, bounds: Sequence[str]) -> dict[str, Change]:
    if not record.evaluations or baseline(record.evaluations) is record.evaluations[-1]:
        return {}
    first, last = baseline(record.evaluations).windows, record.evaluations[-1].windows
    return {b: change_between(first[b], last[b]) for b in bounds if b in first and b in last}


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    model, run = record.config.get("model", {}), record.config.get("run", {})
    speed = [r["perf/tokens_per_s"] for r in record.rows if r.get("perf/tokens_per_s")]
    facts = {
        "model": model.get("path"),
        "windows": ", ".join(f"≤{int(s['max_prompt_tokens']):,}" for s in record.stages) + " tokens"
        if record.stages
        else None,
        "throughput": f"{sum(speed) / len(speed):,.0f} tokens/s" if speed else None,
        "seed": record.summary.get("seed", run.get("seed")),
        "commit": str(record.summary.get("commit") or record.meta.get("commit") or "")[:12] or None,
        "non-finite metrics": sum(r.get("health/num_nonfinite") or 0 for r in record.rows) or None,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _accuracy_chart(record: RunRecord, bounds: Sequence[str]) -> Chart:
    limit = trained_up_to(record)
    beyond = [i for i, b in enumerate(bounds) if limit and int(b) > limit]
    series, intervals = [], []
    for evaluation in record.evaluations:
        windows = [evaluation.windows.get(b) for b in bounds]
        series.append(Series(label=evaluation.checkpoint, values=tuple(w.greedy if w else None for w in windows)))
        intervals.append([wilson(w.greedy, w.num) if w and w.num else None for w in windows])
    return category_chart(
        "Accuracy by prompt length",
        "greedy answers to held-out problems; bars: 95 % interval",
        [f"≤{int(b):,}" for b in bounds],
        series,
        intervals,
        [Band(first=beyond[0], last=beyond[-1], label="not trained on")] if beyond else [],
        text=lambda value: f"{value:.0%}",
    )


def _charts(record: RunRecord) -> list[Chart]:
    rows = record.rows
    steps = [int(row["step"]) for row in rows]
    bands = _stage_bands(record)

    def series(*named: tuple[str, str]) -> list[Series]:
        return [Series(label=label, values=tuple(_number(row.get(key)) for row in rows)) for label, key in named]

    def plain(value: float) -> str:
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"

    tasks = sorted(
        {
            key.split("/")[1]
            for row in rows
            for key in row
            if key.startswith("reward/") and key.endswith("/mean") and key.count("/") == 2
        }
    )

    def share(value: float) -> str:
        return f"{100 * value:.3g}%"

    charts = [
        line_chart("Reward", "mean outcome of valid rollouts", steps, series(("reward", "reward/mean")), bands,
                   text=lambda v: f"{v:.3g}", floor=0.0, ceiling=1.0),
        line_chart("Reward by task", "mean outcome of valid rollouts", steps,
                   series(*((task, f"reward/{task}/mean") for task in tasks)), bands,
                   text=lambda v: f"{v:.3g}", floor=0.0, ceiling=1.0),
        line_chart("Response length", "tokens, mean", steps, series(("tokens", "rollout/response_tokens_mean")), bands,
                   text=plain, floor=0.0),
        line_chart("Entropy", "nats per response token", steps, series(("entropy", "policy/entropy")), bands,
                   text=plain, floor=0.0),
        line_chart("KL", "nats per token, logarithmic", steps,
                   series(("to start model", "policy/kl_ref"), ("sampler to learner", "policy/kl_sampler"),
                          ("largest token difference", "policy/kl_sampler_max")), bands,
                   text=lambda v: f"{v:.0e}".replace("e-0", "e-").replace("e+0", "e+"), log=True),
        line_chart("Groups", "share of a step's groups", steps,
                   series(("dead: no gradient", "curriculum/dead_group_frac"), ("replayed", "curriculum/replay_frac")), bands,
                   text=share, floor=0.0),
        line_chart("Answers lost", "share of a step's rollouts", steps,
                   series(("cut off", "rollout/truncated_frac"), ("score unknown", "reward/invalid_frac")), bands,
                   text=share, floor=0.0),
        line_chart("Rule and judge", "share of the valid rollouts", steps,
                   series(("accepted by rule", "reward/rule_mean"), ("by the judge alone", "reward/judge_mean"),
                          ("very short answers", "reward/short_answer_frac")), bands,
                   text=share, floor=0.0),
        line_chart("The judge's health", "share of known cases it got right", steps,
                   series(("canaries right", "judge/canary_right_frac"), ("breaker open", "judge/breaker_open")), bands,
                   text=share, floor=0.0, ceiling=1.0),
        area_chart("Time per step", "share of all time in the legend", steps, _times(rows), bands, text=lambda v: f"{v:.3g} s"),
        line_chart("Updates", "gradient norm before clipping", steps, series(("norm", "optim/grad_norm")), bands,
                   text=plain, floor=0.0),
    ]  # fmt: skip
    hidden = {"Reward by task"} if len(tasks) < 2 else set()
    if not any(row.get("reward/judged_frac") for row in rows):
        hidden |= {"Rule and judge", "The judge's health"}
    return [chart for chart in charts if chart.title not in hidden] if rows else []


def _times(rows: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Seconds by part, and what the whole step took beyond them."""
    parts = ("rollout", "learn", "sync", "eval")
    seconds = [[_number(row.get(f"time/{part}_s")) for row in rows] for part in parts]
    whole = [_number(row.get("time/step_s")) for row in rows]
    known = [sum(value or 0.0 for value in step) for step in zip(*seconds, strict=True)]
    other = [None if w is None else max(0.0, w - k) for w, k in zip(whole, known, strict=True)]
    return [Series(label=part, values=tuple(v)) for part, v in zip((*parts, "other"), (*seconds, other), strict=True)]


def _stage_bands(record: RunRecord) -> list[Band]:
    bands, done = [], 0
    for stage in record.stages:
        label = f"≤{int(stage['max_prompt_tokens']):,}"
        bands.append(Band(first=done + 1, last=done + int(stage["steps"]), label=label))
        done += int(stage["steps"])
    return bands


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def percent(share: float) -> str:
    """0.785 -> 78.5%."""
    return f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """75 -> 1 min 15 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shortened(text: str) -> str:
    """A long text's two ends, and how much lies between them."""
    if len(text) <= MAX_SHOWN_CHARS:
        return text
    half = MAX_SHOWN_CHARS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"


def visible(text: str) -> str:
    """Control characters and marks that reorder or hide text, made visible; line breaks and tabs stay."""
    return "".join(
        chr(0x2400 + ord(c)) if c < " " and c not in "\n\t"
        else f"[U+{ord(c):04X}]" if c in HIDDEN or 0xD800 <= ord(c) < 0xE000 or "\x7f" <= c < "\xa0"
        else c
        for c in text
    )  # fmt: skip


HIDDEN = frozenset("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff")
"""Bidirectional controls and zero-width characters (the joiners of scripts and emoji are left alone)."""


if __name__ == "__main__":
    run_command(main)
