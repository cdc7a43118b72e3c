"""Whether a saved curriculum may go on under this configuration and this data, or why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from curricula.identity import WindowIdentity, describe_difference, named
from curricula.index import ABSENT, Positions, ProblemIndex
from curricula.packed import unpack, unpack_strings
from curricula.stage import Stage
from data.columns import PackedStrings
from data.problem import DataError

FORMAT = 2
"""Of the state; another is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """What the data holds for the stages that a state has begun."""

    index: ProblemIndex
    positions: Sequence[Positions]
    """By stage."""
    identities: Sequence[WindowIdentity]
    """By stage."""


def refuse_other_run(
    state: Mapping[str, Any], *, settings: Mapping[str, Any], stages: Sequence[Stage], windows: Windows
) -> None:
    """Compare a saved state with what it would be loaded into.

    settings: those that must be the same, by name.
    windows: those of the stages that the state has begun, as they are now.

    Raises: DataError, when going on would not be the same run, naming the first difference.
    """
    if state.get("format") != FORMAT:
        raise DataError(
            f"curriculum: the checkpoint's state has format {state.get('format', 1)}, this version reads {FORMAT}; go on with the "
            "version that wrote it or start a new run"
        )
    for name, now in settings.items():
        if state[name] != now:
            raise DataError(
                f"curriculum: the checkpoint has {name}={state[name]}, the configuration {now}; use the former"
            )
    stage_index, num_begun = state["stage_index"], len(state["stages"])
    if stage_index >= len(stages):
        raise DataError(
            f"curriculum: the checkpoint is in stage {stage_index}, the configuration ends with stage {len(stages) - 1}; "
            "give it the stages the checkpoint has"
        )
    for k, then in enumerate(state["stages"]):
        _refuse_other_stage(then, stages[k], state["steps_in_stage"] if k == stage_index else None)
    for k in range(num_begun):
        then_window, now_window = WindowIdentity(**state["windows"][k]), windows.identities[k]
        if then_window != now_window:
            parts, told = _Visited(state["difficulty"], windows.index).changes(stages[k])
            rest = describe_difference(then_window, now_window, windows.index, windows.positions[k], told)
            raise DataError(
                f"curriculum: the window ({stages[k].low}, {stages[k].high}] of stage {k} is not what it was: "
                f"{'; '.join([rest, *parts])}; only stages not begun may get new data: use the former data or start a new run"
            )


class _Visited:
    """The visited problems as the checkpoint knew them, beside the data as it is."""

    def __init__(self, table: Mapping[str, Any], index: ProblemIndex) -> None:
        self._index = index
        self._ids = PackedStrings(*unpack_strings(table["problem_ids"]))
        self._positions = index.positions_of(self._ids)
        self._tokens = unpack(table["num_tokens"]).astype(np.int64)
        self._tasks, self._task_codes = table["tasks"], unpack(table["task_codes"])

    def changes(self, stage: Stage) -> tuple[list[str], frozenset[str]]:
        """What became of those that were in this stage's window or are now: in words, and whose."""
        present = self._positions != ABSENT
        now_tokens = np.where(present, self._index.num_tokens[self._positions], 0)
        was_in = (self._tokens > stage.low) & (self._tokens <= stage.high)
        concerned = was_in | ((now_tokens > stage.low) & (now_tokens <= stage.high))
        gone = [self._ids[int(record)] for record in np.flatnonzero(was_in & ~present)]
        parts = [f"gone: {named(gone)}"] if gone else []
        longer = np.flatnonzero(concerned & present & (now_tokens != self._tokens)).tolist()
        names = [self._ids[r] for r in longer]
        if longer:
            parts.append(
                f"other prompt tokens: {named(names)} ({names[0]!r} had {self._tokens[longer[0]]}, has {now_tokens[longer[0]]})"
            )
        moved = [r for r in np.flatnonzero(concerned & present).tolist() if self._task_then(r) != self._task_now(r)]
        if moved:
            first = moved[0]
            parts.append(
                f"other task: {named([self._ids[r] for r in moved])} "
                f"({self._ids[first]!r} was of {self._task_then(first)!r}, is of {self._task_now(first)!r})"
            )
        return parts, frozenset([*gone, *names, *(self._ids[r] for r in moved)])

    def _task_then(self, record: int) -> str:
        return str(self._tasks[self._task_codes[record]])

    def _task_now(self, record: int) -> str:
        return self._index.task_of(int(self._positions[record]))


def _refuse_other_stage(then: Mapping[str, Any], now: Stage, steps_in_progress: int | None) -> None:
    # A stage in progress stands or falls with its window; the rest of it only concerns steps to come.
    fields = list(then) if steps_in_progress is None else ["low", "high"]
    for field in fields:
        seen = asdict(now)[field]
        if seen != then[field]:
            part = "over" if steps_in_progress is None else "in progress"
            raise DataError(
                f"curriculum: stage {now.index} is {part} in the checkpoint with {field}={then[field]}, the configuration "
                f"has {seen}; restore it or start a new run"
            )
    if steps_in_progress is not None and steps_in_progress > now.steps:
        raise DataError(
            f"curriculum: the checkpoint has done {steps_in_progress} steps of stage {now.index}, the configuration allows "
            f"{now.steps}; raise stages.{now.index}.steps"
        )
