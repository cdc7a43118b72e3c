"""Whether a saved curriculum may go on under this configuration and this data, or why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curricula.index import ProblemIndex
from curricula.stage import Stage
from data.problem import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowIdentity:
    """Which problems a stage's window holds."""

    num_problems: int
    fingerprint: str
    """See `ProblemIndex.fingerprint`."""


def refuse_other_run(
    state: Mapping[str, Any],
    *,
    seed: int,
    task_balanced: bool,
    stages: Sequence[Stage],
    windows: Sequence[WindowIdentity],
    index: ProblemIndex,
) -> None:
    """Compare a saved state with what it would be loaded into.

    windows: those of the stages that the state has begun, as they are now.

    Raises: DataError, when going on would not be the same run, naming the first difference.
    """
    for name, now in (("seed", seed), ("task_balanced", task_balanced)):
        if state[name] != now:
            raise DataError(
                f"curriculum: the checkpoint has {name}={state[name]}, the configuration {now}; use the former"
            )
    num_begun = len(state["stages"])
    if num_begun > len(stages):
        raise DataError(
            f"curriculum: the checkpoint is in stage {num_begun - 1}, the configuration ends with stage {len(stages) - 1}; "
            "give it the stages the checkpoint has"
        )
    for k, then in enumerate(state["stages"]):
        _refuse_other_stage(then, stages[k], state["steps_in_stage"] if k == num_begun - 1 else None)
        _refuse_other_window(WindowIdentity(**state["windows"][k]), windows[k], stages[k])
    for problem_id in state["difficulty"]["problem_ids"]:
        index.position_of(problem_id)


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


def _refuse_other_window(then: WindowIdentity, now: WindowIdentity, stage: Stage) -> None:
    if then == now:
        return
    if then.num_problems != now.num_problems:
        difference = f"{then.num_problems} problems in the checkpoint and {now.num_problems} in the data"
    else:
        difference = f"{now.num_problems} problems as in the checkpoint, but other ids, token counts, tasks or order"
    raise DataError(
        f"curriculum: the window ({stage.low}, {stage.high}] of stage {stage.index} has {difference}; only later stages may "
        "get new data: use the former data or start a new run"
    )
