"""Looks at data before it is trained on: counts, lengths, duplicates, golds that no rule can read.

    python -m data.check train.jsonl --tokenizer MODEL
    python -m data.check data/train

A prepared set knows its lengths; a source file is measured if a tokenizer is given. Findings are
printed, not judged: the exit code is 2 only for data that cannot be used at all.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.golds import unreadable_gold
from data.prepared import load_prepared
from data.problem import ANSWER_TYPES, DataError, Problem, SourceProblem
from data.prompts import L1_PROMPT
from data.readers import read_problems
from data.source_args import add_source_arguments, columns_from, load_tokenizer, parsed_windows
from data.token_counts import TokenCounter, tokenizer_fingerprint
from data.windows import WindowHistogram, window_histogram

_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What a look at the data found."""

    num_problems: int
    counts: dict[str, Counter[str]]
    """Task to problems per answer type."""
    histogram: WindowHistogram | None
    """Prompt lengths by window; None where they were not measured."""
    duplicates: tuple[tuple[str, ...], ...]
    """Ids of problems with the same document and question, one tuple a set of them."""
    unreadable: tuple[tuple[str, str], ...]
    """Id and reason of each problem whose gold no rule can read."""


def check_problems(problems: Iterable[SourceProblem], windows: Sequence[int]) -> CheckReport:
    """Goes through the problems once, keeping hashes, not texts.

    Args:
        windows: upper bounds in tokens for the histogram, made where every problem is measured.

    Raises:
        DataError: bad windows, or whatever reading `problems` raises.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    ids_of: dict[bytes, list[str]] = defaultdict(list)
    lengths: list[int] = []
    unreadable: list[tuple[str, str]] = []
    num_problems = 0
    for problem in problems:
        num_problems += 1
        counts[problem.task][problem.answer_type] += 1
        content = f"{len(problem.context)}\0{problem.context}{problem.question}"
        ids_of[hashlib.sha256(content.encode()).digest()].append(problem.problem_id)
        if isinstance(problem, Problem):
            lengths.append(problem.num_prompt_tokens)
        reason = unreadable_gold(problem)
        if reason:
            unreadable.append((problem.problem_id, reason))
    return CheckReport(
        num_problems=num_problems,
        counts=dict(counts),
        histogram=window_histogram(lengths, windows) if len(lengths) == num_problems else None,
        duplicates=tuple(tuple(ids) for ids in ids_of.values() if len(ids) > 1),
        unreadable=tuple(unreadable),
    )


def rendered(report: CheckReport) -> str:
    """The report for a terminal, without colours, at most ten lines a finding."""
    return "\n".join([*_count_lines(report), "", *_length_lines(report.histogram), "", *_finding_lines(report)])


def _count_lines(report: CheckReport) -> Iterator[str]:
    width = max(len(task) for task in (*report.counts, "total"))
    row = f"{{:{width}}}" + "  {:>7}" * (len(ANSWER_TYPES) + 1)
    yield row.format("task", *ANSWER_TYPES, "all")
    total: Counter[str] = Counter()
    for task in sorted(report.counts):
        of_type = report.counts[task]
        total += of_type
        yield row.format(task, *(of_type[kind] for kind in ANSWER_TYPES), of_type.total())
    yield row.format("total", *(total[kind] for kind in ANSWER_TYPES), total.total())


def _length_lines(histogram: WindowHistogram | None) -> Iterator[str]:
    if histogram is None:
        yield "prompt tokens: not measured; give --tokenizer PATH"
        return
    yield "prompt tokens"
    names = [f"{window.low + 1}..{window.high}" for window in histogram.windows]
    bins = list(zip(names, histogram.counts, strict=True))
    bins.append((f"above {histogram.windows[-1].high}", histogram.num_beyond))
    most = max(1, *(n for _, n in bins))
    for name, n in bins:
        yield f"  {name:>16}  {n:>7}  {'#' * round(40 * n / most)}".rstrip()


def _finding_lines(report: CheckReport) -> Iterator[str]:
    yield f"duplicates (same document and question): {len(report.duplicates)}"
    yield from _first_few([" = ".join(ids) for ids in report.duplicates])
    yield f"golds that no rule can read: {len(report.unreadable)}"
    yield from _first_few([f"{problem_id}: {reason}" for problem_id, reason in report.unreadable])


def _first_few(lines: Sequence[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"  ... and {len(lines) - _SHOWN} more"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 looked at, 2 data or arguments that cannot be used."""
    args = _parser().parse_args(argv)
    try:
        windows = parsed_windows(args.windows)
        print(rendered(check_problems(_problems(args), windows)))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _problems(args: argparse.Namespace) -> Iterable[SourceProblem]:
    path = Path(args.source)
    if path.is_dir():
        return load_prepared(path).problems
    problems = read_problems(path, columns=columns_from(args.columns), source_format=args.format)
    return problems if args.tokenizer is None else _measured(problems, args.tokenizer)


def _measured(problems: Iterator[SourceProblem], tokenizer_path: str) -> Iterator[Problem]:
    tokenizer = load_tokenizer(tokenizer_path)
    counter = TokenCounter(tokenizer, L1_PROMPT, fingerprint=tokenizer_fingerprint(tokenizer), cache_dir=None)
    yield from counter.measure(problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.check",
        description="Print counts, prompt lengths by window, duplicates, and golds that no rule can read.",
        usage="%(prog)s DIR_OR_SOURCE [options]",
    )
    parser.add_argument("source", metavar="DIR_OR_SOURCE", help="a prepared set, a JSONL file or a verl parquet file")
    parser.add_argument("--tokenizer", metavar="PATH", help="folder or hub id; measures a source file's prompts")
    add_source_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
