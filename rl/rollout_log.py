"""rollouts/step-000012.parquet: every rollout of a step, those that were not trained on included.

Long prompts are kept by their two ends only; the problem's id finds the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.run_folder import sync_path
from rl.types import Rollout, RolloutGroup

if TYPE_CHECKING:
    import pyarrow

PROMPT_END_CHARS = 400
"""Characters of the document's beginning and of its end that a row keeps."""
FILE_NAME = re.compile(r"step-(\d{6,})\.parquet")

Advantages = Sequence[float | None]
"""One per rollout of a group; None: this rollout was not trained on."""


def write_rollouts(
    run_dir: Path,
    step: int,
    trained: Iterable[tuple[RolloutGroup, Advantages]],
    untrained: Iterable[RolloutGroup] = (),
) -> Path:
    """Write one step's rollouts, replacing an earlier file of that step; returns its path.

    `trained` are the groups that the step learned from, with their advantages; `untrained` were sampled in this step
    and not learned from: dead groups, and the surplus carried over.

    Raises:
        ValueError: a group whose advantages are not one per rollout.
    """
    import pyarrow
    from pyarrow import parquet

    rows = [_row(step, group, r, a) for group, advantages in trained for r, a in _paired(group, advantages)]
    rows += [_row(step, group, rollout, None) for group in untrained for rollout in group.rollouts]
    path = run_dir / "rollouts" / f"step-{step:06d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}.{os.getpid()}")
    try:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema()), temporary, compression="zstd")
        sync_path(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_path(path.parent)
    return path


def read_rollouts(path: Path) -> list[dict[str, Any]]:
    """One step's rollouts as rows.

    Raises:
        ValueError: not a parquet file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a readable parquet file ({error})") from error
    return rows


def rollout_files(run_dir: Path) -> list[tuple[int, Path]]:
    """(step, path) of every rollout file, by step."""
    folder = run_dir / "rollouts"
    names = [(FILE_NAME.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), path) for match, path in names if match is not None)


def drop_rollouts_after(run_dir: Path, step: int) -> None:
    """Remove the files of steps that a resumed run will do again."""
    for other, path in rollout_files(run_dir):
        if other > step:
            path.unlink()


def _paired(group: RolloutGroup, advantages: Advantages) -> list[tuple[Rollout, float | None]]:
    if len(advantages) != len(group.rollouts):
        raise ValueError(
            f"problem {group.problem.problem_id!r}: {len(advantages)} advantages for {len(group.rollouts)} rollouts; "
            "give one each, None where a rollout was not trained on"
        )
    return list(zip(group.rollouts, advantages, strict=True))


def _row(step: int, group: RolloutGroup, rollout: Rollout, advantage: float | None) -> dict[str, Any]:
    problem, score = group.problem, rollout.score
    return {
        "step": step,
        "problem_id": problem.problem_id,
        "task": problem.task,
        "sample_index": rollout.sample_index,
        "question": problem.question,
        "answers": list(problem.answers),
        "context_head": problem.context[:PROMPT_END_CHARS],
        "context_tail": problem.context[PROMPT_END_CHARS:][-PROMPT_END_CHARS:],
        "num_prompt_tokens": problem.num_prompt_tokens,
        "response": rollout.text,
        "num_response_tokens": len(rollout.token_ids),
        "finish_reason": rollout.finish_reason,
        "score": score.value,
        "score_status": score.status,
        "score_source": score.source,
        "score_answer": score.answer,
        "score_reason": score.reason,
        "reward": rollout.reward,
        "advantage": advantage,
        "trained": advantage is not None,
        "policy_version": group.policy_version,
    }


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    kinds: dict[str, Any] = {
        "step": pa.int64(),
        "problem_id": text,
        "task": text,
        "sample_index": pa.int32(),
        "question": text,
        "answers": pa.list_(text),
        "context_head": text,
        "context_tail": text,
        "num_prompt_tokens": pa.int64(),
        "response": text,
        "num_response_tokens": pa.int64(),
        "finish_reason": text,
        "score": number,
        "score_status": text,
        "score_source": text,
        "score_answer": text,
        "score_reason": text,
        "reward": number,
        "advantage": number,
        "trained": pa.bool_(),
        "policy_version": pa.int64(),
    }
    return pa.schema(list(kinds.items()))
