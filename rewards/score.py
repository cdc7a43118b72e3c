"""`python -m rewards.score [--judge URL --judge-model NAME] < in.jsonl > out.jsonl`: scores responses.

In, one object a line: `{id, question, answers, answer_type, options?, response}` (`options`: the
choices' texts, A first). Out, in the same order: `{id, value, status, source, answer}`. A row that
cannot be used comes out as `parse_error` with an `error` that names its line; the others are scored.
Whatever the input's size, only one batch of it is held. What has no value is summed up on stderr.
Exit codes: 0 done, 1 the reader of the output went away, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import orjson

from data.problem import ANSWER_TYPES, DataError, Question
from rewards.service import ScorerConfig, build_scorer
from rewards.types import Scorer

BATCH_ROWS = 256
"""Rows held at one time, at most."""
BATCH_BYTES = 16 * 2**20
"""A batch ends with the row that brings it over this many bytes."""
MAX_LINE_BYTES = 64 * 2**20
"""A longer line is skipped, not held, and comes out as a bad row."""
_REQUIRED = ("id", "question", "answers", "answer_type", "response")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on stdin and stdout; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if not arguments.judge and (arguments.judge_cache or arguments.second_opinion or arguments.canaries):
        _parser().error("--judge-cache, --second-opinion and --canaries need --judge")
    try:
        scorer = build_scorer(
            ScorerConfig(
                factory=arguments.scorer,
                judge_url=arguments.judge,
                judge_model=arguments.judge_model,
                judge_concurrency=arguments.judge_concurrency,
                judge_timeout_s=arguments.judge_timeout,
                judge_cache=arguments.judge_cache,
                second_opinion=arguments.second_opinion,
                canaries_per_batch=arguments.canaries,
                contain=arguments.contain,
                require_closed_think=arguments.require_closed_think,
            )
        )
    except ValueError as error:
        _parser().error(str(error))
    try:
        told = score_stream(sys.stdin.buffer, sys.stdout.buffer, scorer, explain=arguments.explain)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        scorer.close()
    if told:
        print(told, file=sys.stderr)
    return 0


def score_stream(lines: BinaryIO, out: BinaryIO, scorer: Scorer, *, explain: bool = False) -> str:
    """Scores JSON lines batch by batch, writing one line per non-blank line, in order.

    Returns what to tell of the rows without a value: how many there are of each status, and one of them; "" for none.
    """
    num_rows, unknown, example = 0, Counter[str](), ""
    for batch in _batches(lines):
        for row, why in _score_batch(batch, scorer, explain):
            num_rows += 1
            if row["value"] is None:
                unknown[row["status"]] += 1
                example = example or why
            out.write(orjson.dumps(row) + b"\n")
        out.flush()
    if not unknown:
        return ""
    counts = ", ".join(f"{status} {count}" for status, count in unknown.most_common())
    return f"score: {unknown.total()} of {num_rows} rows have no value ({counts}); the first: {example}"


def _batches(lines: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """Numbered non-blank lines in batches; an overlong line comes as its number and its first bytes."""
    batch: list[tuple[int, bytes]] = []
    size, number = 0, 0
    while line := lines.readline(MAX_LINE_BYTES + 1):
        number += 1
        rest = line
        while len(line) > MAX_LINE_BYTES and rest and not rest.endswith(b"\n"):
            rest = lines.readline(MAX_LINE_BYTES)
        if line.strip():
            batch.append((number, line))
            size += len(line)
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _score_batch(batch: list[tuple[int, bytes]], scorer: Scorer, explain: bool) -> Iterator[tuple[dict[str, Any], str]]:
    """The output row of each line, and why it has no value (where it has none)."""
    rows = [_read_row(number, line) for number, line in batch]
    scores = iter(scorer.score([(row[1], row[2]) for row in rows if not isinstance(row, dict)]))
    for row in rows:
        if isinstance(row, dict):
            yield row, row["error"]
            continue
        score = next(scores)
        shown = {
            "id": row[0],
            "value": score.value,
            "status": score.status,
            "source": score.source,
            "answer": score.answer,
        }
        yield {**shown, "reason": score.reason} if explain else shown, score.reason


def _read_row(number: int, line: bytes) -> tuple[Any, Question, str] | dict[str, Any]:
    """(id, question, response) of one line, or the output row that says why there is none."""
    if len(line) > MAX_LINE_BYTES:
        return _bad_row(number, None, f"longer than {MAX_LINE_BYTES} bytes")
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
    parser.add_argument("--scorer", default="", metavar="MODULE:FUNCTION", help="makes a scorer of your own instead")
    parser.add_argument("--judge-model", default="", metavar="NAME", help="the judge's model name there")
    parser.add_argument(
        "--judge-concurrency", type=int, default=64, metavar="N", help="calls to the judge in flight (%(default)s)"
    )
    parser.add_argument(
        "--judge-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds for one verdict, retries included (%(default)s)",
    )
    parser.add_argument(
        "--judge-cache", default="", metavar="FILE", help="keep the judge's verdicts here and ask nothing twice"
    )
    parser.add_argument(
        "--second-opinion",
        action="store_true",
        help="count a judge's YES only where it says NO to the same answer beside a wrong reference",
    )
    parser.add_argument(
        "--canaries",
        type=int,
        default=0,
        metavar="N",
        help=f"known cases asked beside every {BATCH_ROWS} rows; a judge that gets too many wrong abstains (%(default)s)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="add to every row which rule spoke, why, and where the answer was read"
    )
    parser.add_argument(
        "--contain", action="store_true", help="accept a short text answer that holds a gold as whole words, guarded"
    )
    parser.add_argument(
        "--require-closed-think",
        action="store_true",
        help="the prompt opened <think>: a response without </think> has no answer",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
