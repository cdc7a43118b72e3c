"""What a run shows while it runs: a progress display on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress


class StepDisplay(Protocol):
    """Shows rows as they come."""

    def show(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class PlainLines:
    """One line a step, for log files."""

    def __init__(self, num_steps: int, num_stages: int) -> None:
        self._num_steps, self._num_stages = num_steps, num_stages

    def show(self, row: Mapping[str, Any]) -> None:
        """Print the step's line."""
        print(step_line(row, self._num_steps, self._num_stages), flush=True)

    def close(self) -> None:
        """Nothing is held."""


class LiveProgress:
    """A bar with the step's numbers beside it and the time that is left."""

    def __init__(self, num_steps: int, num_stages: int, done: int, *, file: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._num_stages = num_stages
        self._progress: Progress = Progress(
            TextColumn("{task.fields[where]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=None if file is None else Console(file=file, force_terminal=True, width=160),
        )
        self._task = self._progress.add_task("", total=num_steps, completed=done, where="starting", numbers="")
        self._progress.start()

    def show(self, row: Mapping[str, Any]) -> None:
        """Move the bar to the row's step."""
        self._progress.update(
            self._task, completed=row["step"], where=_where(row, self._num_stages), numbers="  ".join(_numbers(row))
        )

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()


def open_console(config: Mapping[str, Any], done: int) -> StepDisplay:
    """The display that fits the standard output; `done` steps lie behind a resumed run."""
    stages = config.get("stages") or []
    num_steps = sum(stage["steps"] for stage in stages)
    if sys.stdout.isatty():
        return LiveProgress(num_steps, len(stages), done)
    return PlainLines(num_steps, len(stages))


def step_line(row: Mapping[str, Any], num_steps: int, num_stages: int) -> str:
    """`step 12/60 stage 2/3 <=512 tok  reward 0.61  len 18.2 ...`; what the row lacks is left out."""
    parts = [f"step {row['step']}/{num_steps} {_where(row, num_stages)}".rstrip(), *_numbers(row)]
    times = [
        f"{name} {row[key]:.1f}s"
        for name, key in (("rollout", "time/rollout_s"), ("learn", "time/learn_s"))
        if _is_number(row.get(key))
    ]
    return "  ".join(parts + ([" ".join(times)] if times else []))


def _where(row: Mapping[str, Any], num_stages: int) -> str:
    stage, window = row.get("curriculum/stage"), row.get("curriculum/max_prompt_tokens")
    text = f"stage {stage}/{num_stages}" if stage is not None else ""
    return f"{text} <={window} tok" if window is not None else text


def _numbers(row: Mapping[str, Any]) -> list[str]:
    kl = "policy/kl_ref" if _is_number(row.get("policy/kl_ref")) else "policy/kl_sampler"
    shown = (
        ("reward", "reward/mean", ".2f"),
        ("len", "response/tokens_mean", ".1f"),
        ("entropy", "policy/entropy", ".2f"),
        ("kl", kl, ".0e"),
        ("tok/s", "perf/tokens_per_s", ".0f"),
    )
    numbers = [f"{name} {_short(row[key], form)}" for name, key, form in shown if key in row]
    invalid = row.get("reward/invalid_frac")
    return [*numbers, f"invalid {invalid:.0%}"] if invalid else numbers


def _short(value: Any, form: str) -> str:
    if not _is_number(value):
        return "n/a"
    return f"{value:{form}}".replace("e-0", "e-").replace("e+0", "e+")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
