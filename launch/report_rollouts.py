"""What a report takes from rollouts/: rows to read, chosen evenly over the steps, and how many answers of each group were right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rl.evaluate import RIGHT_FROM
from rl.rollout_log import rollout_files

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")

MAX_ROLLOUTS = 2000
"""Rows on one page."""
MAX_STEPS = 60
"""Steps they come from: fewer would hide changes, more would leave few answers of each step."""
COLUMNS = (
    "step", "problem_id", "task", "sample_index", "question", "answers", "context_head", "context_tail",
    "num_prompt_tokens", "response", "num_response_tokens", "finish_reason", "score", "score_status", "score_source",
    "score_answer", "score_reason", "reward", "advantage", "policy_version",
)  # fmt: skip
COUNTED = ("problem_id", "num_prompt_tokens", "score", "policy_version")


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCount:
    """The answers to one problem in one step, counted."""

    step: int
    num_prompt_tokens: int
    num_valid: int
    """Answers with a score."""
    num_right: int
    mean: float | None
    """Mean score of the valid answers; None where there are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """What a run's rollout files hold."""

    rows: tuple[Mapping[str, Any], ...]
    """Those to be read: whole groups, evenly over the steps and over each step's groups; every name of COLUMNS."""
    num_rows: int
    """In all files."""
    num_steps: int
    """With a file that could be read."""
    groups: tuple[GroupCount, ...]
    """All of them, each once, in the step that sampled it."""


NO_ROLLOUTS = Rollouts(rows=(), num_rows=0, num_steps=0, groups=())


def read_run_rollouts(run_dir: Path, max_rows: int, missing: list[str]) -> Rollouts:
    """Read a run's rollout files; what cannot be read is named in `missing`. Of large files only chosen rows become Python's."""
    files = rollout_files(run_dir)
    if not files:
        missing.append("rollouts/ is missing or empty: no responses can be shown.")
    chosen = {step for step, _ in evenly(files, MAX_STEPS)}
    quota = max(1, max_rows // max(1, len(chosen)))
    rows: list[Mapping[str, Any]] = []
    groups: list[GroupCount] = []
    seen: set[tuple[str, int]] = set()
    num_rows = num_steps = 0
    for step, path in files:
        try:
            counted = _columns(path, COUNTED)
            told = _chosen_rows(path, counted["problem_id"].to_pylist(), quota) if step in chosen else []
        except ValueError as error:
            missing.append(f"{error}.")
            continue
        num_steps, num_rows = num_steps + 1, num_rows + counted.num_rows
        groups += _counts(step, counted.to_pylist(), seen)
        rows += told
    return Rollouts(rows=tuple(rows[:max_rows]), num_rows=num_rows, num_steps=num_steps, groups=tuple(groups))


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, the first and the last among them, the others at even distances."""
    if len(items) <= count:
        return list(items)
    if count < 2:
        return list(items[-1:]) if count else []
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def telling(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of a step's rows the best and the worst answer to one problem answered both ways, one unknown, one cut off."""
    picked: list[Mapping[str, Any]] = []
    for _, group in groupby(rows, key=lambda row: row["problem_id"]):
        scored = sorted((row for row in group if row["score"] is not None), key=lambda row: -row["score"])
        if scored and scored[0]["score"] > scored[-1]["score"]:
            picked = [scored[0], scored[-1]]
            break
    picked = picked or list(rows[:1])
    kinds = (lambda row: row["score_status"] != "ok", lambda row: row["finish_reason"] == "length")
    for is_kind in kinds:
        picked += [row for row in rows if is_kind(row) and row not in picked][:1]
    return picked


def _chosen_rows(path: Path, problem_ids: Sequence[str], quota: int) -> list[dict[str, Any]]:
    """Whole groups at even distances, about `quota` rows, at least one group."""
    groups = [[i for i, _ in group] for _, group in groupby(enumerate(problem_ids), key=lambda pair: pair[1])]
    if not groups:
        return []
    chosen = evenly(groups, max(1, quota * len(groups) // len(problem_ids)))
    rows: list[dict[str, Any]] = _columns(path, COLUMNS).take([i for group in chosen for i in group]).to_pylist()
    return rows


def _columns(path: Path, names: Sequence[str]) -> pyarrow.Table:
    """Raises: ValueError, when it is no parquet file or lacks one of the columns."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if absent := [name for name in names if name not in file.schema_arrow.names]:
                raise ValueError(f"{path}: has no column {', '.join(absent)}; its rollouts are left out")
            return file.read(columns=list(names))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); its rollouts are left out") from error


def _counts(step: int, rows: Sequence[Mapping[str, Any]], seen: set[tuple[str, int]]) -> list[GroupCount]:
    """A step's groups, without those that an earlier step sampled and left over for this one."""
    counts = []
    for key, group in groupby(rows, key=lambda row: (row["problem_id"], row["policy_version"])):
        answers = list(group)
        if key in seen:
            continue
        seen.add(key)
        scores = [row["score"] for row in answers if row["score"] is not None]
        counts.append(
            GroupCount(
                step=step,
                num_prompt_tokens=answers[0]["num_prompt_tokens"],
                num_valid=len(scores),
                num_right=sum(score >= RIGHT_FROM for score in scores),
                mean=sum(scores) / len(scores) if scores else None,
            )
        )
    return counts
