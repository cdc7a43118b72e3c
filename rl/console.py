"""What a run shows while it runs: a progress display on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rl.alarms import PREFIX

if TYPE_CHECKING:
    from rich.progress import Progress


Stages = Sequence[Mapping[str, Any]]
"""The configuration's stages, dumped."""


class StepDisplay(Protocol):
    """Shows rows as they come."""

    def show(self, row: Mapping[str, Any]) -> None: ...

    def tell(self, line: str) -> None:
        """Something that happened in the row shown last."""

    def close(self) -> None: ...


class PlainLines:
    """One line a step, for log files."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def show(self, row: Mapping[str, Any]) -> None:
        """Print the step's line."""
        print(step_line(row, self._stages), flush=True)

    def tell(self, line: str) -> None:
        """Print it."""
        print(line, flush=True)

    def close(self) -> None:
        """Nothing is held."""


class LiveProgress:
    """A bar with the step's numbers beside it and the time that is left."""

    def __init__(self, stages: Stages, done: int, *, file: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._stages = stages
        self._progress: Progress = Progress(
            TextColumn("{task.fields[where]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=None if file is None else Console(file=file, force_terminal=True, width=160),
        )
        self._task = self._progress.add_task("", total=_num_steps(stages), completed=done, where="starting", numbers="")
        self._progress.start()

    def show(self, row: Mapping[str, Any]) -> None:
        """Move the bar to the row's step."""
        self._progress.update(
            self._task, completed=row["step"], where=_where(row, self._stages), numbers="  ".join(_numbers(row))
        )

    def tell(self, line: str) -> None:
        """Print it above the bar."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._progress.stop()


def open_console(config: Mapping[str, Any], done: int) -> StepDisplay:
    """The display that fits the standard output; `done` steps lie behind a resumed run."""
    stages = config.get("stages") or []
    return LiveProgress(stages, done) if sys.stdout.isatty() else PlainLines(stages)


def step_line(row: Mapping[str, Any], stages: Stages) -> str:
    """`step 12/60 stage 2/3 <=512 tok  reward 0.61  len 18.2 ...`; what the row lacks is left out."""
    parts = [f"step {row['step']}/{_num_steps(stages)} {_where(row, stages)}".rstrip(), *_numbers(row)]
    times = [
        f"{name} {row[key]:.1f}s"
        for name, key in (("rollout", "time/rollout_s"), ("learn", "time/learn_s"))
        if _is_number(row.get(key))
    ]
    return "  ".join(parts + ([" ".join(times)] if times else []))


def _num_steps(stages: Stages) -> int:
    return sum(stage["steps"] for stage in stages)


def _where(row: Mapping[str, Any], stages: Stages) -> str:
    index = row.get("curriculum/stage")
    if not isinstance(index, int) or not 0 <= index < len(stages):
        return ""
    return f"stage {index + 1}/{len(stages)} <={stages[index]['max_prompt_tokens']} tok"


def _numbers(row: Mapping[str, Any]) -> list[str]:
    kl = "policy/kl_ref" if _is_number(row.get("policy/kl_ref")) else "policy/kl_sampler"
    shown = (
        ("reward", "reward/mean", ".2f"),
        ("len", "rollout/response_tokens_mean", ".1f"),
        ("entropy", "policy/entropy", ".2f"),
        ("kl", kl, ".0e"),
        ("tok/s", "perf/tokens_per_s", ".0f"),
    )
    numbers = [f"{name} {_short(row[key], form)}" for name, key, form in shown if key in row]
    if invalid := row.get("reward/invalid_frac"):
        numbers.append(f"invalid {invalid:.0%}")
    if row.get("judge/breaker_open"):
        numbers.append("JUDGE DOWN (breaker open)")
    if row.get("judge/canary_alarm"):
        numbers.append("JUDGE UNSOUND (wrong about known answers, abstains)")
    if raised := [name.removeprefix(PREFIX) for name, value in row.items() if name.startswith(PREFIX) and value]:
        numbers.append(f"ALARM {', '.join(raised)}")
    return numbers


def _short(value: Any, form: str) -> str:
    if not _is_number(value):
        return "n/a"
    return f"{value:{form}}".replace("e-0", "e-").replace("e+0", "e+")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
