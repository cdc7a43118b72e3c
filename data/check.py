"""Looks at data before it is trained on: counts, lengths, duplicates, golds, options, overlap with evaluation sets.

    python -m data.check train.jsonl --tokenizer MODEL
    python -m data.check data/train --against dev.jsonl

A prepared set knows its lengths; a source is measured if a tokenizer is given. Problems are read once and not kept: what
stays is about 20 bytes and the id of each. Findings are printed, not judged: the exit code is 2 only for data that
cannot be used at all. data.prepare leaves out what is asked of it (--drop-...).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.contamination import EvaluationIndex, words_of
from data.fields import options_in
from data.filters import DuplicateFilter, add_contamination_arguments, index_from
from data.golds import mistyped_gold, unreadable_gold
from data.prepared import MANIFEST_FILE, load_prepared
from data.problem import ANSWER_TYPES, DataError, Problem, SourceProblem
from data.prompts import L1_PROMPT
from data.readers import read_problems
from data.source_args import add_source_arguments, columns_from, load_tokenizer, parsed_windows
from data.token_counts import TokenCounter, tokenizer_fingerprint
from data.windows import WindowHistogram, window_histogram

_SHOWN = 10


class Finding:
    """Something that was found, counted, with its first examples."""

    def __init__(self, title: str, max_examples: int) -> None:
        self.title = title
        self.num = 0
        self.examples: list[str] = []
        self._max_examples = max_examples

    def add(self, problem: SourceProblem, what: str | None) -> None:
        """Counts a problem of which something is to be told; None: nothing is."""
        if what is None:
            return
        self.num += 1
        if len(self.examples) < self._max_examples:
            self.examples.append(f"{problem.problem_id}: {what}" if what else problem.problem_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What a look at the data found."""

    num_problems: int
    counts: dict[str, Counter[str]]
    """Task to problems per answer type."""
    histogram: WindowHistogram | None
    """Prompt lengths by window; None where they were not measured."""
    findings: dict[str, Finding]
    """By short name: duplicates, unreadable, mistyped, options, answers, questions, documents; the last two only where
    there was an evaluation set to compare with."""


def check_problems(
    problems: Iterable[SourceProblem],
    windows: Sequence[int],
    *,
    against: EvaluationIndex | None = None,
    max_examples: int = _SHOWN,
) -> CheckReport:
    """Goes through the problems once, keeping hashes and ids, not texts.

    Args:
        windows: upper bounds in tokens for the histogram, made where every problem is measured.
        against: evaluation sets to look for.
        max_examples: examples kept of each finding.

    Raises:
        DataError: bad windows, or whatever reading `problems` raises.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    num_of_length: Counter[int] = Counter()
    seen = DuplicateFilter()
    findings = _empty_findings(max_examples, compared=against is not None)
    num_problems = 0
    for problem in problems:
        num_problems += 1
        counts[problem.task][problem.answer_type] += 1
        if isinstance(problem, Problem):
            num_of_length[problem.num_prompt_tokens] += 1
        findings["duplicates"].add(problem, seen.reason(problem))
        unreadable = unreadable_gold(problem)
        findings["unreadable"].add(problem, unreadable)
        findings["mistyped"].add(problem, None if unreadable else mistyped_gold(problem))
        findings["options"].add(problem, _missing_options(problem))
        findings["answers"].add(problem, _absent_answer(problem))
        for overlap in against.overlaps(problem) if against else ():
            findings[f"{overlap.part}s"].add(problem, str(overlap))
    is_measured = num_of_length.total() == num_problems
    return CheckReport(
        num_problems=num_problems,
        counts=dict(counts),
        histogram=window_histogram(num_of_length.elements(), windows) if is_measured else None,
        findings=findings,
    )


def _empty_findings(max_examples: int, *, compared: bool) -> dict[str, Finding]:
    titles = {
        "duplicates": "duplicates (same document and question as before, spacing aside)",
        "unreadable": "golds that no rule can read",
        "mistyped": "golds that do not look like their type (accepted word for word only)",
        "options": "choice questions whose options are not known (only the letter is read)",
        "answers": "text answers that stand nowhere in their document (for your information)",
    }
    if compared:
        titles["questions"] = "questions shared with the evaluation sets"
        titles["documents"] = "documents shared with the evaluation sets"
    return {name: Finding(title, max_examples) for name, title in titles.items()}


def _missing_options(problem: SourceProblem) -> str | None:
    known = problem.answer_type != "choice" or problem.options or options_in(problem.question)
    return None if known else ""


def _absent_answer(problem: SourceProblem) -> str | None:
    """The first accepted answer where none stands in the document, case and punctuation aside."""
    if problem.answer_type != "text" or any(answer in problem.context for answer in problem.answers):
        return None
    document = b" %b " % b" ".join(words_of(problem.context))
    if any(b" %b " % b" ".join(words_of(answer)) in document for answer in problem.answers):
        return None
    return repr(problem.answers[0][:60])


def rendered(report: CheckReport) -> str:
    """The report for a terminal, without colours."""
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
    for finding in report.findings.values():
        yield f"{finding.title}: {finding.num}"
        yield from (f"  {' '.join(example.split())}" for example in finding.examples)
        if finding.num > len(finding.examples):
            yield f"  ... and {finding.num - len(finding.examples)} more (--examples N shows N)"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 looked at, 2 data or arguments that cannot be used."""
    args = _parser().parse_args(argv)
    try:
        windows = parsed_windows(args.windows)
        if args.examples < 0:
            raise DataError(f"--examples: seen {args.examples}; it must be at least 0")
        against = index_from(args.against, args) if args.against else None
        print(rendered(check_problems(_problems(args), windows, against=against, max_examples=args.examples)))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    return 0


def _problems(args: argparse.Namespace) -> Iterable[SourceProblem]:
    if (Path(args.source) / MANIFEST_FILE).is_file():
        return load_prepared(args.source).problems
    problems = read_problems(args.source, columns=columns_from(args.columns), source_format=args.format)
    return problems if args.tokenizer is None else _measured(problems, args.tokenizer)


def _measured(problems: Iterator[SourceProblem], tokenizer_path: str) -> Iterator[Problem]:
    tokenizer = load_tokenizer(tokenizer_path)
    counter = TokenCounter(tokenizer, L1_PROMPT, fingerprint=tokenizer_fingerprint(tokenizer), cache_dir=None)
    yield from counter.measure(problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.check",
        description="Print counts, prompt lengths by window, duplicates, golds that no rule can read or that do not look "
        "like their type, choices without options, answers absent from the document, overlap with evaluation sets.",
        usage="%(prog)s DIR_OR_SOURCE [options]",
    )
    parser.add_argument("source", metavar="DIR_OR_SOURCE", help="a prepared set, or any source that data.prepare reads")
    parser.add_argument("--tokenizer", metavar="PATH", help="folder or hub id; measures a source's prompts")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="EVAL_SOURCE",
        help="also look for questions and documents of this evaluation set (prepared set or data file); repeatable",
    )
    add_contamination_arguments(parser)
    parser.add_argument(
        "--examples", type=int, default=_SHOWN, metavar="N", help="examples of each finding; default: %(default)s"
    )
    add_source_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
