"""Answers written by hand: `attacks`, none of which may pay, and `fair` ones, all of which must be accepted.

A row is what `python -m rewards.score` reads, with a `kind` and sometimes a `note` beside it. Two flags: `judge` (fair)
marks a row that only a judge can accept; `comprehension` (attacks) one that the rule must refuse and that a judge can
tell from a right answer only by understanding it, so that a judge which obeys proves nothing there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.problem import Question


def load(name: str) -> list[dict[str, Any]]:
    """The rows of `name` (`attacks` or `fair`) in file order, `{repeat}` in their responses written out.

    Raises:
        ValueError: a row's placeholder has no `repeat`, or the other way round.
    """
    lines = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [_written_out(json.loads(line)) for line in lines]


def question_of(row: dict[str, Any]) -> Question:
    """What a scorer is given beside `row["response"]`."""
    return Question(
        question=row["question"],
        answers=tuple(row["answers"]),
        answer_type=row["answer_type"],
        options=tuple(row.get("options", ())),
    )


def _written_out(row: dict[str, Any]) -> dict[str, Any]:
    repeat = row.pop("repeat", None)
    if (repeat is None) == ("{repeat}" in row["response"]):
        raise ValueError(f"{row['id']}: {{repeat}} in the response and the field repeat go together")
    if repeat is not None:
        row["response"] = row["response"].replace("{repeat}", repeat["text"] * repeat["times"])
    return row
