"""Makes a prepared set: reads problems, counts their prompts' tokens once, applies the length limit.

    python -m data.prepare train.parquet more.jsonl.gz --tokenizer MODEL --out data/train

A prompt is never cut silently: what happens to one above `--max-prompt-tokens` is a choice, and counted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from data.dropped import OVERLONG, Dropped, filtered
from data.fields import Place, SeenIds
from data.filters import AnswerableFilter, Filter, add_filter_arguments, filters_from
from data.in_order import chunked, in_order, num_cores
from data.prepared import DROPPED_FILE, Manifest, PreparedSet, Written, check_replaceable, load_prepared, write_prepared
from data.problem import DataError, Problem, SourceProblem
from data.progress import Progress
from data.prompts import L1_PROMPT, PromptTemplate, find_cut
from data.readers import read_problems
from data.source_args import add_source_arguments, columns_from, load_tokenizer, parsed_windows, template_from
from data.token_counts import CHUNK_CHARACTERS, CHUNK_PROBLEMS, TokenCounter, num_characters, tokenizer_fingerprint
from data.windows import window_histogram, windows_from

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Overlong", "PreparedSet", "load_prepared", "main", "prepare", "tokenizer_fingerprint"]

Overlong = Literal["drop", "error", "cut_middle"]
_OVERLONG: tuple[Overlong, ...] = ("drop", "error", "cut_middle")


def prepare(
    problems: Iterable[SourceProblem],
    tokenizer: PreTrainedTokenizerBase,
    out: str | Path,
    *,
    template: PromptTemplate = L1_PROMPT,
    windows: Sequence[int] = (20_000, 60_000),
    max_prompt_tokens: int | None = None,
    overlong: Overlong = "drop",
    filters: Sequence[Filter] = (),
    workers: int | None = None,
    cache_dir: Path | None = None,
    sources: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Measures `problems` and writes them to `out` as a prepared set, whole or not at all.

    Memory holds about 50 bytes a problem and its id, and a few documents for each worker.

    Args:
        windows: upper bounds in tokens, rising; they only shape the manifest's histogram.
        max_prompt_tokens: the longest prompt allowed; None: any.
        overlong: what happens to a longer one: left out, an error, or its document cut in the middle.
        filters: asked in order about each problem; what one leaves out is not measured, and goes to dropped.jsonl.
        workers: threads that count tokens; None: as many as cores. The set is the same with any number.
        cache_dir: where token counts are kept between calls; None: nowhere.
        sources: names of where the problems came from, for the manifest.
        on_progress: called now and then with problems gone through and how many counts came from the cache.

    Raises:
        DataError: an id used twice, a prompt over the limit under `error`, a document that cannot be cut
            far enough, nothing left to write, or `out` or `cache_dir` in use for something else. `out` is then
            as before.
    """
    _check_options(windows, max_prompt_tokens, overlong, workers)
    fingerprint = tokenizer_fingerprint(tokenizer)
    counter = TokenCounter(tokenizer, template, fingerprint=fingerprint, cache_dir=cache_dir)
    stages = _Stages(counter, _LengthLimit(tokenizer, template, max_prompt_tokens, overlong), filters)

    def manifest(written: Written) -> Manifest:
        if len(written.num_prompt_tokens) == 0:
            why = _why_none(written.num_dropped, [each.name for each in filters], max_prompt_tokens)
            raise DataError(f"{out}: no problems to write; {why}")
        return stages.manifest(written, fingerprint=fingerprint, windows=windows, sources=sources)

    passed = stages.passed(problems, workers=workers or num_cores(), on_progress=on_progress)
    with closing(passed):
        return write_prepared(Path(out), passed, manifest)


def _check_options(
    windows: Sequence[int], max_prompt_tokens: int | None, overlong: Overlong, workers: int | None
) -> None:
    windows_from(windows)
    if overlong not in _OVERLONG:
        raise DataError(f"overlong: seen {overlong!r}; allowed: {', '.join(_OVERLONG)}")
    for name, number in (("max_prompt_tokens", max_prompt_tokens), ("workers", workers)):
        if number is not None and number < 1:
            raise DataError(f"{name}: seen {number}; it must be at least 1")


def _why_none(num_dropped: Mapping[str, int], filters: Sequence[str], max_prompt_tokens: int | None) -> str:
    num_long = num_dropped.get(OVERLONG, 0)
    left_out = [f"{name} left out {num_dropped[name]}" for name in filters if num_dropped.get(name)]
    if num_long and not left_out:
        return f"all {num_long} are longer than max_prompt_tokens={max_prompt_tokens}, raise it"
    if num_long:
        left_out.append(f"{num_long} are longer than max_prompt_tokens={max_prompt_tokens}")
    return f"{', '.join(left_out)}; ask for less" if left_out else "give at least one"


class _Stages:
    """What a problem goes through: filters in its order, then, in a worker, its measure and the limit on it."""

    def __init__(self, counter: TokenCounter, limit: _LengthLimit, filters: Sequence[Filter]) -> None:
        self.num_cut = 0
        self.num_cut_tokens = 0
        self._counter = counter
        self._limit = limit
        self._filters = filters

    def passed(
        self, problems: Iterable[SourceProblem], *, workers: int, on_progress: Callable[[int, int], None] | None
    ) -> Generator[Problem | Dropped, None, None]:
        """Every problem, measured or left out, in order."""
        kept = (filtered(problem, self._filters) for problem in _unique(problems))
        chunks = chunked(kept, _size, max_items=CHUNK_PROBLEMS, max_size=CHUNK_CHARACTERS)
        num_done = num_cached = 0
        for chunk in in_order(self._measured, chunks, workers=workers):
            self.num_cut += chunk.num_cut
            self.num_cut_tokens += chunk.num_cut_tokens
            yield from chunk.problems
            num_done += len(chunk.problems)
            num_cached += chunk.num_cached
            if on_progress is not None:
                on_progress(num_done, num_cached)

    def manifest(
        self, written: Written, *, fingerprint: str, windows: Sequence[int], sources: Sequence[str]
    ) -> Manifest:
        """What the set says about itself, once every problem went through; `fingerprint` is the tokenizer's."""
        histogram = window_histogram(written.num_prompt_tokens, windows)
        return Manifest(
            num_problems=len(written.num_prompt_tokens),
            problems_sha256=written.problems_sha256,
            columns_sha256=written.columns_sha256,
            tokenizer_fingerprint=fingerprint,
            template=self._limit.template.text,
            windows=tuple(windows),
            window_counts=histogram.counts,
            num_beyond=histogram.num_beyond,
            max_prompt_tokens=self._limit.max_prompt_tokens,
            overlong=self._limit.overlong,
            num_dropped=written.num_dropped[OVERLONG],
            num_filtered={each.name: written.num_dropped[each.name] for each in self._filters},
            num_cut=self.num_cut,
            num_cut_tokens=self.num_cut_tokens,
            sources=tuple(sources),
        )

    def _measured(self, chunk: Sequence[SourceProblem | Dropped]) -> _Chunk:
        measured, num_cached = self._counter.measured_chunk([p for p in chunk if not isinstance(p, Dropped)])
        lengths = iter(measured)
        whole = [p if isinstance(p, Dropped) else next(lengths) for p in chunk]
        fitting = [p if isinstance(p, Dropped) else self._limit.applied(p) for p in whole]
        cut = [
            before.num_prompt_tokens - after.num_prompt_tokens
            for before, after in zip(whole, fitting, strict=True)
            if isinstance(before, Problem) and isinstance(after, Problem) and before is not after
        ]
        return _Chunk(problems=fitting, num_cached=num_cached, num_cut=len(cut), num_cut_tokens=sum(cut))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chunk:
    """A chunk that went through, in order."""

    problems: list[Problem | Dropped]
    num_cached: int
    num_cut: int
    num_cut_tokens: int


@dataclass(frozen=True, slots=True)
class _LengthLimit:
    """The limit on prompt tokens, and what happens over it."""

    tokenizer: PreTrainedTokenizerBase
    template: PromptTemplate
    max_prompt_tokens: int | None
    overlong: Overlong

    def applied(self, problem: Problem) -> Problem | Dropped:
        """The problem if it fits, what is left of it if it is cut, else why it is dropped."""
        if self.max_prompt_tokens is None or problem.num_prompt_tokens <= self.max_prompt_tokens:
            return problem
        over = f"{problem.num_prompt_tokens} tokens > max_prompt_tokens={self.max_prompt_tokens}"
        if self.overlong == "drop":
            return Dropped(problem_id=problem.problem_id, filter=OVERLONG, reason=over)
        if self.overlong == "error":
            fix = "raise it, filter the data, or choose --overlong drop or cut_middle"
            raise DataError(f"problem {problem.problem_id!r}: {over}; {fix}")
        return find_cut(self.tokenizer, problem, self.template, self.max_prompt_tokens).applied(problem)


def _size(problem: SourceProblem | Dropped) -> int:
    return 0 if isinstance(problem, Dropped) else num_characters(problem)


def _unique(problems: Iterable[SourceProblem]) -> Iterator[SourceProblem]:
    seen, sources = SeenIds(), Path("sources")
    for number, problem in enumerate(problems, start=1):
        if problem.problem_id in seen:
            raise DataError(
                f"problem {problem.problem_id!r}: comes twice in the sources; ids must be unique, rename one"
            )
        seen.add(problem.problem_id, Place(sources, number), "problem_id")
        yield problem


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 2 bad input or arguments, 3 disk trouble, 130 or 143 stopped."""
    args = _parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        _run(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    except OSError as error:
        print(f"error: {args.out}: {error}; nothing was written there", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"interrupted; nothing was written to {args.out}, counts so far are in the cache", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    # So that a killed command cleans up behind itself.
    raise SystemExit(128 + number)


def _run(args: argparse.Namespace) -> None:
    out = Path(args.out)
    check_replaceable(out)
    windows = parsed_windows(args.windows)
    template = template_from(args.template)
    columns = columns_from(args.columns)
    filters = filters_from(args)
    readers = [read_problems(source, columns=columns, source_format=args.format) for source in args.sources]
    tokenizer = load_tokenizer(args.tokenizer)
    with Progress(readers) as progress:
        manifest = prepare(
            (problem for reader in readers for problem in reader),
            tokenizer,
            out,
            template=template,
            windows=windows,
            max_prompt_tokens=args.max_prompt_tokens,
            overlong=args.overlong,
            filters=filters,
            workers=args.workers,
            cache_dir=Path(args.cache) if args.cache else out.absolute().parent / ".token_counts",
            sources=args.sources,
            on_progress=progress.update,
        )
    beyond = f", {manifest.num_beyond} beyond {manifest.windows[-1]}" if manifest.num_beyond else ""
    per_window = ", ".join(f"{n} <= {high}" for high, n in zip(manifest.windows, manifest.window_counts, strict=True))
    print(f"{out}: {manifest.num_problems} problems, prompt tokens {per_window}{beyond}")
    print(f"{progress.num_cached} counts came from the cache")
    if manifest.num_dropped or manifest.num_cut:
        cut = f"{manifest.num_cut} cut by {manifest.num_cut_tokens} tokens"
        print(f"over {manifest.max_prompt_tokens} tokens: {manifest.num_dropped} dropped, {cut}")
    for each in filters:
        if isinstance(each, AnswerableFilter) and each.num_not_evaluated:
            print(
                f"{each.name}: {each.num_not_evaluated} problems stand in none of its files and were not judged by it"
            )
    if filters:
        print(f"left out: {', '.join(f'{name} {count}' for name, count in manifest.num_filtered.items())}")
    if manifest.num_dropped or any(manifest.num_filtered.values()):
        print(f"which and why: {out / DROPPED_FILE}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare",
        description="Read problems, count their prompts' tokens, and write a prepared set for training or evaluation.",
        usage="%(prog)s SOURCE... --tokenizer PATH --out DIR [options]",
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="file, folder of files, or Hub id (owner/name@split)"
    )
    parser.add_argument("--tokenizer", required=True, metavar="PATH", help="folder or hub id; its chat template counts")
    parser.add_argument("--out", required=True, metavar="DIR", help="the prepared set; an older one there is replaced")
    add_source_arguments(parser)
    parser.add_argument(
        "--template", metavar="FILE", help="prompt with {context} and {question}; default: that of QwenLong-L1"
    )
    parser.add_argument("--max-prompt-tokens", type=int, metavar="N", help="longest prompt allowed; default: any")
    parser.add_argument(
        "--overlong", choices=_OVERLONG, default="drop", help="what happens to a longer prompt; default: %(default)s"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads that count tokens; default: one a core")
    parser.add_argument("--cache", metavar="DIR", help="token counts' cache; default: .token_counts beside DIR")
    add_filter_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
