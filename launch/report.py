"""`python -m launch.report RUN_DIR [--out FILE]`: one self-contained HTML page about a run, ended or still going.

The page has no script, no link and nothing to fetch. What a model wrote is text in it and can be nothing else:
the template escapes everything, and the content policy would refuse a script even so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from launch.cli import ConfigError
from launch.cli import main as run_command
from launch.report_accuracy import Change, accuracy_cell, accuracy_changes, accuracy_chart, baseline, window_bounds
from launch.report_curriculum import curriculum_view
from launch.report_stages import num_planned_steps, trained_up_to
from launch.report_training import training_charts
from launch.run_record import RunRecord, read_run
from rl.metrics import GLOSSARY
from rl.run_folder import write_file

if TYPE_CHECKING:
    from jinja2 import Template

MAX_SHOWN_CHARS = 6000
"""Longer responses are shown by their two ends."""


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
    bounds = window_bounds(record.evaluations)
    return _template().render(
        record=record,
        headline=headline(record),
        facts=_facts(record),
        accuracy_chart=accuracy_chart(record, bounds),
        bounds=bounds,
        trained_up_to=trained_up_to(record),
        cells={e.checkpoint: {b: accuracy_cell(e.windows.get(b)) for b in bounds} for e in record.evaluations},
        changes=accuracy_changes(record, bounds),
        curriculum=curriculum_view(record),
        charts=training_charts(record),
        before=baseline(record.evaluations).checkpoint if record.evaluations else "",
        after=record.evaluations[-1].checkpoint if record.evaluations else "",
        versions=record.summary.get("versions") or record.meta.get("versions") or {},
        glossary=GLOSSARY,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("launch", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "shortened": shortened, "percent": percent}
    return environment.get_template("report.html")


def headline(record: RunRecord) -> str:
    """What happened, in one sentence with figures."""
    num_steps = num_planned_steps(record)
    complete = record.last_step >= num_steps
    done = (
        f"{record.last_step} step{'' if record.last_step == 1 else 's'}"
        if complete
        else f"{record.last_step} of {num_steps} steps"
    )
    stages = f" over {len(record.stages)} stages" if complete and len(record.stages) > 1 else ""
    wall = record.summary.get("wall_s")
    took = f" in {duration(wall)}" if isinstance(wall, (int, float)) else ""
    start = f"{done}{stages}{took}: "
    changes = accuracy_changes(record, window_bounds(record.evaluations))
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
