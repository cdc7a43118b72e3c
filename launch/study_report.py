"""What a study's runs come to: a table with intervals over seeds, verdicts, and pictures; for a terminal and for docs.

Everything is read from the runs' folders, so it can be told at any time, of whatever has ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from launch.study import StudyConfig, VariantSection
from launch.study_charts import band_chart, interval_chart
from launch.study_curves import Curve, mean_interval, read_curve, training_seconds
from rl.metrics import FILE, read_metrics
from rl.run_folder import write_file

START = "sft"
MARKS = ("<!-- study -->", "<!-- /study -->")
"""Around what the command writes in docs/study.md."""
CURVES = {
    "reward/mean": "Reward of the training rollouts",
    "policy/entropy": "Entropy of the policy, nats a token",
    "policy/kl_sampler": "KL(sampler || learner), nats a token",
}
SMOOTH_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One variant's finished runs, a value a seed in each list."""

    title: str
    seeds: tuple[int, ...]
    folders: tuple[Path, ...]
    accuracy: Mapping[str, list[float]]
    """By window's upper bound: greedy accuracy at the end."""
    train_s: tuple[float, ...]
    """Sampling, scoring, learning and syncing; no start-up, no evaluation."""
    reached_s: tuple[float | None, ...]
    """Of those, until the last trained window was first seen at the target; None: not reached."""


def write_study(config: StudyConfig, *, wall_s: float, docs: Path | None) -> Path | None:
    """Write study.md, its pictures and study.json into the study's folder, and into docs if given; the page, if any."""
    outcomes = {v.name: o for v in config.variants if (o := read_outcome(config, v)) is not None}
    if not outcomes:
        return None
    folder = Path(config.dir)
    pictures = draw(config, outcomes)
    for name, svg in pictures.items():
        write_file(folder / name, svg.encode())
    text = page(config, outcomes, list(pictures), folder="")
    write_file(folder / "study.json", orjson.dumps(_figures(config, outcomes, wall_s), option=orjson.OPT_INDENT_2))
    write_file(folder / "study.md", text.encode())
    if docs is not None:
        for name, svg in pictures.items():
            write_file(docs / "study" / name, svg.encode())
        _replace_between_marks(docs / "study.md", page(config, outcomes, list(pictures), folder="study/"))
    return folder / "study.md"


def read_outcome(config: StudyConfig, variant: VariantSection) -> Outcome | None:
    """A variant's finished runs; None where there is none."""
    runs = {seed: config.run_folder(variant.name, seed) for seed in config.seeds_of(variant)}
    done = {seed: folder for seed, folder in runs.items() if (folder / "summary.json").exists()}
    folders = list(done.values())
    if not folders:
        return None
    summaries = [orjson.loads((folder / "summary.json").read_bytes()) for folder in folders]
    accuracy = {str(w): [s["accuracy"]["final"][str(w)] for s in summaries] for w in config.windows}
    last = config.windows[-2]
    return Outcome(
        title=variant.title,
        seeds=tuple(done),
        folders=tuple(folders),
        accuracy=accuracy,
        train_s=tuple(training_seconds(folder) for folder in folders),
        reached_s=tuple(time_to(folder, last, config.target) for folder in folders),
    )


def time_to(folder: Path, window: int, target: float) -> float | None:
    """Training seconds until an evaluation of `window` first gave at least `target`; None: none did."""
    curve = accuracy_curve(folder, window, over_seconds=True)
    return next((seconds for seconds, accuracy in curve if accuracy >= target), None)


def accuracy_curve(folder: Path, window: int, *, over_seconds: bool) -> Curve:
    """Held-out accuracy in one window at every evaluation after the start."""
    return read_curve(folder, f"eval/greedy/{window}/accuracy", over="seconds" if over_seconds else "steps")


def page(config: StudyConfig, outcomes: Mapping[str, Outcome], pictures: Sequence[str], *, folder: str) -> str:
    """Table, verdicts and pictures as Markdown."""
    lines = [*_table(config, outcomes), "", *verdicts(config, outcomes), ""]
    return "\n".join([*lines, *(f"![{name.removesuffix('.svg')}]({folder}{name})" for name in pictures)]) + "\n"


def _table(config: StudyConfig, outcomes: Mapping[str, Outcome]) -> list[str]:
    """Rows: base, SFT, every variant; columns: windows."""
    heads = [f"<= {w}" for w in config.windows]
    heads[0] += " (SFT's)"
    heads[-1] += " (never trained)"
    lines = ["| " + " | ".join(["", "seeds", *heads, "training, s", f"{config.target:g} after, s"]) + " |"]
    lines.append("|" + "---|" * (len(heads) + 4))
    for name, title in (("base", "base"), (START, "after SFT")):
        starts = [values for w in config.windows if (values := _at_start(config, name, w))]
        if starts:
            lines.append(f"| {title} | {len(starts[0])} | {' | '.join(map(_shown, starts))} | | |")
    for outcome in outcomes.values():
        cells = [_shown(outcome.accuracy[str(w)]) for w in config.windows]
        seconds = f"{mean_interval(outcome.train_s)[0]:.0f}"
        num_seeds = len(outcome.folders)
        lines.append(f"| {outcome.title} | {num_seeds} | {' | '.join(cells)} | {seconds} | {_reached(outcome)} |")
    return lines


def _reached(outcome: Outcome) -> str:
    known = [seconds for seconds in outcome.reached_s if seconds is not None]
    if not known:
        return "not reached"
    shown = f"{mean_interval(known)[0]:.0f}"
    return (
        shown if len(known) == len(outcome.reached_s) else f"{shown} ({len(known)} of {len(outcome.reached_s)} seeds)"
    )


def _at_start(config: StudyConfig, checkpoint: str, window: int) -> list[float]:
    """Accuracy before training, of each seed as the first variant that evaluated it says."""
    found = []
    for seed in config.all_seeds():
        for path in (config.run_folder(variant.name, seed) / "summary.json" for variant in config.variants):
            known = orjson.loads(path.read_bytes())["accuracy"].get(checkpoint) if path.exists() else None
            if known is not None:
                found.append(known[str(window)])
                break
    return found


def verdicts(config: StudyConfig, outcomes: Mapping[str, Outcome]) -> list[str]:
    """What each variant's last trained window is above the control's: mean against mean, and seed by seed."""
    last = str(config.windows[-2])
    control = outcomes.get(config.control)
    if control is None:
        return []
    mean, low, high = mean_interval(control.accuracy[last])
    lines = [f"In the window up to {last}, against {control.title} ({mean:.2f} [{low:.2f}, {high:.2f}]):", ""]
    for name, outcome in outcomes.items():
        if name == config.control:
            continue
        other, other_low, other_high = mean_interval(outcome.accuracy[last])
        lines.append(
            f"- {outcome.title}: {other - mean:+.2f}, {other:.2f} [{other_low:.2f}, {other_high:.2f}]; "
            f"{_overlap((low, high), (other_low, other_high))}{_paired(control, outcome, last)}"
        )
    return lines


def _paired(control: Outcome, other: Outcome, window: str) -> str:
    """The mean difference on the seeds that both ran, which share start model and problems."""
    ours, theirs = (dict(zip(o.seeds, o.accuracy[window], strict=True)) for o in (other, control))
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if len(differences) < 2:
        return ""
    mean, low, high = mean_interval(differences)
    return f"; seed by seed {mean:+.2f} [{low:+.2f}, {high:+.2f}] on {len(differences)} seeds"


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> str:
    if one[0] == one[1] or other[0] == other[1]:
        return "without an interval, for want of seeds or of any spread between them"
    apart = other[0] > one[1] or other[1] < one[0]
    return f"the intervals {'do not overlap' if apart else 'overlap'}"


def draw(config: StudyConfig, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """File name to SVG."""
    last = config.windows[-2]
    rows = [(o.title, *mean_interval(o.accuracy[str(last)])) for o in outcomes.values()]
    reference = mean_interval(outcomes[config.control].accuracy[str(last)])[0] if config.control in outcomes else None
    title = f"Held-out accuracy on prompts up to {last} tokens"
    pictures = {
        "accuracy.svg": interval_chart(
            rows, title=title, x_label="greedy accuracy, mean of seeds and 95 % interval", reference=reference
        ),
        "accuracy_over_time.svg": band_chart(
            _curves(outcomes, lambda folder: accuracy_curve(folder, last, over_seconds=True)),
            title=title,
            x_label="seconds of training",
            y_label="greedy accuracy",
        ),
    }
    for metric, told in CURVES.items():
        curves = _curves(outcomes, lambda folder, metric=metric: _known_curve(folder, metric))  # type: ignore[misc]
        if any(curves.values()):
            name = metric.replace("/", "_") + ".svg"
            pictures[name] = band_chart(
                {variant: own for variant, own in curves.items() if own},
                title=told,
                x_label="step",
                y_label=metric,
                log=metric == "policy/kl_sampler",
            )
    return pictures


def _curves(outcomes: Mapping[str, Outcome], read: Callable[[Path], Curve]) -> dict[str, list[Curve]]:
    return {o.title: [curve for folder in o.folders if (curve := read(folder))] for o in outcomes.values()}


def _known_curve(folder: Path, metric: str) -> Curve:
    """Empty where the run's trainer does not log the metric."""
    known = any(metric in row for row in read_metrics(folder / FILE))
    return read_curve(folder, metric, smooth_steps=SMOOTH_STEPS) if known else []


def _figures(config: StudyConfig, outcomes: Mapping[str, Outcome], wall_s: float) -> dict[str, Any]:
    return {
        "seeds": list(config.seeds),
        "wall_s": wall_s,
        "cores": os.cpu_count(),
        "variants": {
            name: {
                "title": outcome.title,
                "seeds": list(outcome.seeds),
                "accuracy": dict(outcome.accuracy),
                "train_s": list(outcome.train_s),
                "target": config.target,
                "reached_s": list(outcome.reached_s),
            }
            for name, outcome in outcomes.items()
        },
    }


def _shown(values: Sequence[float]) -> str:
    mean, low, high = mean_interval(values)
    return f"{mean:.2f} ± {(high - low) / 2:.2f}" if len(values) > 1 else f"{mean:.2f}"


def _replace_between_marks(path: Path, text: str) -> None:
    before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise ValueError(f"{path}: {MARKS[0]} and {MARKS[1]} are not both there; put them where the table belongs")
    write_file(path, f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}".encode())
