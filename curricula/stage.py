"""A stage: which prompts, for how many steps, how they are answered and learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curricula.index import Positions, ProblemIndex
from data.problem import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of growing context (QwenLong-L1 eq. 9)."""

    index: int
    """0 for the first."""
    low: int
    """The window's lower bound in prompt tokens, exclusive."""
    high: int
    """The window's upper bound in prompt tokens, inclusive."""
    steps: int
    """Optimizer steps."""
    max_response_tokens: int
    """Output limit."""
    replay_frac: float
    """Share of each draw that comes from earlier stages, in [0, 1)."""
    lr: float
    """Learning rate."""
    short_frac: float = 0.0
    """Share of each draw that comes from all problems of the earlier stages' windows, alike, in [0, 1)."""

    def __post_init__(self) -> None:
        where = f"stage {self.index}"
        if not 0 <= self.low < self.high:
            raise ValueError(f"{where}: window ({self.low}, {self.high}] is empty; needs 0 <= low < high")
        if self.steps < 1 or self.max_response_tokens < 1:
            raise ValueError(
                f"{where}: steps={self.steps} and max_response_tokens={self.max_response_tokens} must be at least 1"
            )
        if not 0.0 <= self.replay_frac < 1.0:
            raise ValueError(f"{where}: replay_frac={self.replay_frac} is outside [0, 1)")
        if not 0.0 <= self.short_frac < 1.0:
            raise ValueError(f"{where}: short_frac={self.short_frac} is outside [0, 1)")
        if self.replay_frac + self.short_frac >= 1.0:
            raise DataError(
                f"stages.{self.index}: replay_frac={self.replay_frac} and short_frac={self.short_frac} leave nothing to the "
                "stage's own window; lower one until their sum is below 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """What a stage would train on; what a dry run prints."""

    stage: Stage
    num_problems: int
    """Problems in the window."""
    num_by_task: dict[str, int]
    """The same, by task."""
    mean_prompt_tokens: float
    max_prompt_tokens: int
    histogram: tuple[tuple[int, int], ...]
    """(upper bound in tokens, inclusive; problems above the bound before and up to this one), over the whole window."""

    def num_epochs(self, problems_per_step: int) -> float:
        """How often the stage goes through its window, replay and refills not counted."""
        return self.stage.steps * problems_per_step / self.num_problems


def stage_window(index: ProblemIndex, stage: Stage) -> Positions:
    """Positions of the stage's problems.

    Raises: DataError, when there are none.
    """
    positions = index.window(stage.low, stage.high)
    if len(positions) == 0:
        seen = f"prompts of {index.num_tokens.min()} to {index.num_tokens.max()} tokens" if len(index) else "no problem"
        raise DataError(
            f"stages.{stage.index}: no problem in its window ({stage.low}, {stage.high}] of prompt tokens, the data has "
            f"{seen}; move the window, drop the stage or add data"
        )
    return positions


def is_short(num_tokens: int, stages: Sequence[Stage], stage: Stage) -> bool:
    """Whether a prompt of so many tokens belongs to a window before this stage's, and not to this stage's as well."""
    earlier = any(before.low < num_tokens <= before.high for before in stages[: stage.index])
    return earlier and not stage.low < num_tokens <= stage.high


def short_positions(index: ProblemIndex, stages: Sequence[Stage], stage: Stage) -> Positions:
    """Positions of the problems for which `is_short` holds; none in the first stage."""
    inside = np.zeros(len(index), dtype=bool)
    for before in stages[: stage.index]:
        inside[index.window(before.low, before.high)] = True
    inside[index.window(stage.low, stage.high)] = False
    return np.flatnonzero(inside).astype(np.int32)


def plan_stages(index: ProblemIndex, stages: Sequence[Stage], *, num_bins: int = 10) -> tuple[StagePlan, ...]:
    """The plan of every stage, its histogram in num_bins bins of equal width.

    Raises: DataError, when a window holds no problem.
    """
    plans = []
    for stage in stages:
        positions = stage_window(index, stage)
        tokens = index.num_tokens[positions]
        width = stage.high - stage.low
        edges = np.array([stage.low + width * (b + 1) // num_bins for b in range(num_bins)])
        counts = np.bincount(np.searchsorted(edges, tokens, side="left"), minlength=num_bins)
        by_task = np.bincount(index.task_codes[positions], minlength=len(index.tasks))
        plans.append(
            StagePlan(
                stage=stage,
                num_problems=len(positions),
                num_by_task={t: int(c) for t, c in zip(index.tasks, by_task, strict=True) if c},
                mean_prompt_tokens=float(tokens.mean()),
                max_prompt_tokens=int(tokens.max()),
                histogram=tuple(zip(edges.tolist(), counts.tolist(), strict=True)),
            )
        )
    return tuple(plans)


def num_outside_windows(index: ProblemIndex, stages: Sequence[Stage]) -> int:
    """Problems that no stage trains on."""
    inside = np.zeros(len(index), dtype=bool)
    for stage in stages:
        inside[index.window(stage.low, stage.high)] = True
    return len(index) - int(inside.sum())
