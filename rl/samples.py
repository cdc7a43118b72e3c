"""A few of a step's rollouts as a table small enough for a tracker; the rollouts' own file has them all."""

from __future__ import annotations

from pathlib import Path

from rl.rollout_log import read_rollouts

COLUMNS = (
    "step", "problem", "task", "prompt tokens", "context", "question", "answers", "response", "answer", "score", "status",
    "source", "advantage",
)  # fmt: skip
MAX_ROWS = 8
MAX_SHOWN_CHARS = 4000
"""Of a longer text the two ends are shown, so many characters together."""
GAP = "\n[...]\n"
"""Between a document's ends, which are all that a row has of it."""


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


def shortened(text: str, max_chars: int = MAX_SHOWN_CHARS) -> str:
    """A long text's two ends, and how much lies between them."""
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
