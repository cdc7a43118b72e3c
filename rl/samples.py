"""A few of a step's rollouts as a table small enough for a tracker; the rollouts' own file has them all."""

from __future__ import annotations

from pathlib import Path

from rl.rollout_log import read_rollouts

COLUMNS = (
    "step", "problem", "task", "prompt tokens", "context", "question", "answers", "response", "answer", "score", "status",
    "source", "advantage",
)  # fmt: skip
MAX_ROWS = 8
MAX_CELL_CHARS = 4000
GAP = "\n[...]\n"


def sample_rows(rollouts: Path) -> list[list[str | int | float | None]]:
    """At most MAX_ROWS rows of COLUMNS, at even distances through a step's file; texts by their two ends.

    Raises:
        ValueError: not a rollouts' file. OSError: it cannot be read.
    """
    rows = read_rollouts(rollouts)
    num = min(MAX_ROWS, len(rows))
    picked = [rows[i * len(rows) // num] for i in range(num)]
    return [
        [
            row["step"],
            row["problem_id"],
            row["task"],
            row["num_prompt_tokens"],
            shortened(row["context_head"] + (GAP + row["context_tail"] if row["context_tail"] else "")),
            shortened(row["question"]),
            shortened(" | ".join(row["answers"])),
            shortened(row["response"]),
            shortened(row["score_answer"] or ""),
            row["score"],
            row["score_status"],
            row["score_source"],
            row["advantage"],
        ]
        for row in picked
    ]


def shortened(text: str) -> str:
    """A text of at most MAX_CELL_CHARS: a longer one's two ends."""
    if len(text) <= MAX_CELL_CHARS:
        return text
    half = (MAX_CELL_CHARS - len(GAP)) // 2
    return text[:half] + GAP + text[-half:]
