"""`python -m rewards.score [--judge URL --judge-model NAME] < in.jsonl > out.jsonl`: scores responses.

In, one object a line: `{id, question, answers, answer_type, options?, response}` (`options`: the
choices' texts, A first). Out, in the same order: `{id, value, status, source, answer}`. A row that
cannot be used comes out as `parse_error` with an `error` that names its line; the others are scored.
Exit codes: 0 done, 1 the reader of the output went away, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import orjson

from data.problem import ANSWER_TYPES, DataError, Question
from rewards.service import ScorerConfig, build_scorer
from rewards.types import Scorer

BATCH_ROWS = 256
"""Rows held at one time."""
_REQUIRED = ("id", "question", "answers", "answer_type", "response")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on stdin and stdout; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        scorer = build_scorer(
            ScorerConfig(
                judge_url=arguments.judge,
                judge_model=arguments.judge_model,
                require_closed_think=arguments.require_closed_think,
            )
        )
    except ValueError as error:
        _parser().error(str(error))
    try:
        score_stream(sys.stdin.buffer, sys.stdout.buffer, scorer, explain=arguments.explain)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        scorer.close()
    return 0


def score_stream(lines: Iterable[bytes], out: BinaryIO, scorer: Scorer, *, explain: bool = False) -> None:
    """Scores JSON lines in batches of `BATCH_ROWS`, writing one line per non-blank line, in order."""
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    while batch := list(islice(numbered, BATCH_ROWS)):
        for row in _score_batch(batch, scorer, explain):
            out.write(orjson.dumps(row) + b"\n")
        out.flush()


def _score_batch(batch: list[tuple[int, bytes]], scorer: Scorer, explain: bool) -> Iterator[dict[str, Any]]:
    rows = [_read_row(number, line) for number, line in batch]
    scores = iter(scorer.score([(row[1], row[2]) for row in rows if not isinstance(row, dict)]))
    for row in rows:
        if isinstance(row, dict):
            yield row
            continue
        score = next(scores)
        shown = {
            "id": row[0],
            "value": score.value,
            "status": score.status,
            "source": score.source,
            "answer": score.answer,
        }
        yield {**shown, "reason": score.reason} if explain else shown


def _read_row(number: int, line: bytes) -> tuple[Any, Question, str] | dict[str, Any]:
    """(id, question, response) of one line, or the output row that says why there is none."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _bad_row(number, None, f"not JSON: {error}")
    if not isinstance(row, dict):
        return _bad_row(number, None, f"a {type(row).__name__}, not an object; expected {{{', '.join(_REQUIRED)}}}")
    row_id = row.get("id") if isinstance(row.get("id"), str | int) else None
    problem = _fault(row)
    if problem:
        return _bad_row(number, row_id, problem)
    try:
        question = Question(
            question=row["question"],
            answers=tuple(row["answers"]),
            answer_type=row["answer_type"],
            options=tuple(row.get("options") or ()),
        )
    except DataError as error:
        return _bad_row(number, row_id, str(error))
    return row_id, question, row["response"]


def _fault(row: dict[str, Any]) -> str:
    """What is wrong with a row's fields; "" where nothing is."""
    missing = [key for key in _REQUIRED if key not in row]
    if missing:
        return f"missing {', '.join(missing)}"
    if not isinstance(row["id"], str | int):
        return f"id is a {type(row['id']).__name__}; a string or an integer is needed"
    for key in ("question", "response"):
        if not isinstance(row[key], str):
            return f"{key} is a {type(row[key]).__name__}; a string is needed"
    for key in ("answers", "options"):
        texts = row.get(key) if row.get(key) is not None else []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f"{key} is {str(row[key])[:60]!r}; a list of strings is needed"
    if row["answer_type"] not in ANSWER_TYPES:
        return f"answer_type {str(row['answer_type'])[:60]!r} is not one of {', '.join(ANSWER_TYPES)}"
    return ""


def _bad_row(number: int, row_id: str | int | None, problem: str) -> dict[str, Any]:
    error = f"line {number}: {problem}"
    return {"id": row_id, "value": None, "status": "parse_error", "source": "rule", "answer": None, "error": error}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rewards.score",
        description="Scores responses: JSON lines in on stdin, JSON lines out on stdout, in the same order.",
        allow_abbrev=False,
    )
    parser.add_argument("--judge", default="", metavar="URL", help="base URL of an OpenAI-compatible judge")
    parser.add_argument("--judge-model", default="", metavar="NAME", help="the judge's model name there")
    parser.add_argument("--explain", action="store_true", help="add a reason to every row")
    parser.add_argument(
        "--require-closed-think",
        action="store_true",
        help="the prompt opened <think>: a response without </think> has no answer",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
