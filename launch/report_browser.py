"""The rollouts that a page lets its reader search: chosen evenly, shortened by their ends, small enough for one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from launch.report_page import json_block, visible
from launch.report_rollouts import MAX_ROLLOUTS, evenly, telling
from launch.run_record import RunRecord
from rl.samples import shortened

MAX_BYTES = 8_000_000
"""Of all rollouts in one page, as JSON."""
MAX_RESPONSE_CHARS = 4000
MAX_QUESTION_CHARS = 2000
MAX_ANSWER_CHARS = 400

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Browser:
    """What the page embeds, and what it says about the choice."""

    data: str
    """JSON for the script, safe inside a page: runs, problems, rollouts; texts are already visible and shortened."""
    told: str
    """How many of how many, and how they were chosen."""
    few: tuple[Row, ...]
    """Those that a reader without JavaScript sees."""


def browser_of(runs: Sequence[tuple[str, RunRecord]], max_bytes: int = MAX_BYTES) -> Browser | None:
    """The browser over (label, run)s; None where no run has a rollout."""
    groups = [
        (number, [row for _, row in group])
        for number, (_, record) in enumerate(runs)
        for _, group in groupby(enumerate(record.rollouts.rows), key=lambda pair: _group_key(pair[1]))
    ]
    if not groups:
        return None
    data = _data(runs, groups)
    while (size := len(orjson.dumps(data))) > max_bytes and len(groups) > 1:
        groups = evenly(groups, max(1, min(len(groups) - 1, int(0.95 * len(groups) * max_bytes / size))))
        data = _data(runs, groups)
    return Browser(
        data=json_block(data), told=_told(runs, groups, max_bytes), few=tuple(_few(runs[0][1].rollouts.rows))
    )


def _group_key(row: Row) -> tuple[Any, ...]:
    return row["step"], row["problem_id"], row["policy_version"]


def _data(runs: Sequence[tuple[str, RunRecord]], groups: Sequence[tuple[int, Sequence[Row]]]) -> dict[str, Any]:
    """A problem's texts stand once, however many answers it has."""
    places: dict[tuple[int, str], int] = {}
    problems: list[dict[str, Any]] = []
    rollouts = []
    for number, rows in groups:
        for row in rows:
            key = (number, row["problem_id"])
            if key not in places:
                places[key] = len(problems)
                problems.append(_problem(row))
            rollouts.append({"run": number, "problem": places[key], **_rollout(row)})
    return {"runs": [visible(label) for label, _ in runs], "problems": problems, "rollouts": rollouts}


def _problem(row: Row) -> dict[str, Any]:
    return {
        "id": _text(row["problem_id"], MAX_ANSWER_CHARS),
        "task": _text(row["task"], MAX_ANSWER_CHARS),
        "question": _text(row["question"], MAX_QUESTION_CHARS),
        "gold": [_text(answer, MAX_ANSWER_CHARS) for answer in (row["answers"] or [])[:20]],
        "head": _text(row["context_head"], MAX_QUESTION_CHARS),
        "tail": _text(row["context_tail"], MAX_QUESTION_CHARS),
        "tokens": row["num_prompt_tokens"],
    }


def _rollout(row: Row) -> dict[str, Any]:
    return {
        "step": row["step"],
        "sample": row["sample_index"],
        "response": _text(row["response"], MAX_RESPONSE_CHARS),
        "tokens": row["num_response_tokens"],
        "cut": row["finish_reason"] == "length",
        "score": row["score"],
        "status": _text(row["score_status"], MAX_ANSWER_CHARS),
        "source": _text(row["score_source"], MAX_ANSWER_CHARS),
        "answer": None if row["score_answer"] is None else _text(row["score_answer"], MAX_ANSWER_CHARS),
        "reason": _text(row["score_reason"], MAX_QUESTION_CHARS),
        "reward": row["reward"],
        "advantage": row["advantage"],
    }


def _text(value: str | None, max_chars: int) -> str:
    return visible(shortened(value or "", max_chars))


def _told(runs: Sequence[tuple[str, RunRecord]], groups: Sequence[tuple[int, Sequence[Row]]], max_bytes: int) -> str:
    num_shown = sum(len(rows) for _, rows in groups)
    num_all = sum(record.rollouts.num_rows for _, record in runs)
    num_steps = len({(number, rows[0]["step"]) for number, rows in groups})
    num_all_steps = sum(record.rollouts.num_steps for _, record in runs)
    if num_shown == num_all:
        return f"All {num_all:,} rollouts of {num_all_steps:,} steps."
    return (
        f"{num_shown:,} of {num_all:,} rollouts, from {num_steps:,} of {num_all_steps:,} steps: whole groups, chosen evenly; "
        f"a page holds {MAX_ROLLOUTS:,} rollouts and {max_bytes / 1e6:g} MB at most. The others are in rollouts/."
    )


def _few(rows: Sequence[Row]) -> list[Row]:
    """Telling rows of the first, a middle and the last step."""
    by_step = [list(group) for _, group in groupby(rows, key=lambda row: row["step"])]
    return [row for step in evenly(by_step, 3) for row in telling(step)]
