"""Makes a prepared set: reads problems, counts their prompts' tokens once, applies the length limit.

    python -m data.prepare train.parquet more.jsonl.gz --tokenizer MODEL --out data/train

A prompt is never cut silently: what happens to one above `--max-prompt-tokens` is a choice, and counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.prepared import Manifest, PreparedSet, check_replaceable, load_prepared, write_prepared
from data.problem import DataError, Problem, SourceProblem
from data.prompts import L1_PROMPT, PromptTemplate, cut_middle
from data.readers import read_problems
from data.source_args import add_source_arguments, columns_from, load_tokenizer, parsed_windows
from data.token_counts import TokenCounter, tokenizer_fingerprint
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
    cache_dir: Path | None = None,
    sources: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Measures `problems` and writes them to `out` as a prepared set, whole or not at all.

    Args:
        windows: upper bounds in tokens, rising; they only shape the manifest's histogram.
        max_prompt_tokens: the longest prompt allowed; None: any.
        overlong: what happens to a longer one: left out, an error, or its document cut in the middle.
        cache_dir: where token counts are kept between calls; None: nowhere.
        sources: names of where the problems came from, for the manifest.
        on_progress: called after each problem with problems measured and how many of them came from the cache.

    Raises:
        DataError: an id used twice, a prompt over the limit under `error`, a document that cannot be cut
            far enough, nothing left to write, or `out` in use for something else. `out` is then as before.
    """
    windows_from(windows)
    if overlong not in _OVERLONG:
        raise DataError(f"overlong: seen {overlong!r}; allowed: {', '.join(_OVERLONG)}")
    if max_prompt_tokens is not None and max_prompt_tokens < 1:
        raise DataError(f"max_prompt_tokens: seen {max_prompt_tokens}; it must be at least 1")
    fingerprint = tokenizer_fingerprint(tokenizer)
    counter = TokenCounter(tokenizer, template, fingerprint=fingerprint, cache_dir=cache_dir)
    limit = _LengthLimit(tokenizer, template, max_prompt_tokens, overlong)

    def manifest(num_problems: int, sha256: str) -> Manifest:
        if num_problems == 0:
            why = f"all {limit.num_dropped} are longer than max_prompt_tokens={max_prompt_tokens}, raise it"
            raise DataError(f"{out}: no problems to write; {why if limit.num_dropped else 'give at least one'}")
        histogram = window_histogram(limit.lengths, windows)
        return Manifest(
            num_problems=num_problems,
            problems_sha256=sha256,
            tokenizer_fingerprint=fingerprint,
            template=template.text,
            windows=tuple(windows),
            window_counts=histogram.counts,
            num_beyond=histogram.num_beyond,
            max_prompt_tokens=max_prompt_tokens,
            overlong=overlong,
            num_dropped=limit.num_dropped,
            num_cut=limit.num_cut,
            num_cut_tokens=limit.num_cut_tokens,
            sources=tuple(sources),
        )

    return write_prepared(Path(out), _fitting(problems, counter, limit, on_progress), manifest)


def _fitting(
    problems: Iterable[SourceProblem],
    counter: TokenCounter,
    limit: _LengthLimit,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[Problem]:
    for num_done, problem in enumerate(counter.measure(_unique(problems)), start=1):
        fitting = limit.apply(problem)
        if fitting is not None:
            yield fitting
        if on_progress is not None:
            on_progress(num_done, counter.num_cached)


class _LengthLimit:
    """Applies the limit on prompt tokens and counts what it did."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        max_prompt_tokens: int | None,
        overlong: Overlong,
    ) -> None:
        self.lengths: list[int] = []
        """Prompt tokens of every problem kept."""
        self.num_dropped = 0
        self.num_cut = 0
        self.num_cut_tokens = 0
        self._tokenizer = tokenizer
        self._template = template
        self._max = max_prompt_tokens
        self._overlong = overlong

    def apply(self, problem: Problem) -> Problem | None:
        """The problem if it fits, what is left of it if it is cut, None if it is dropped."""
        if self._max is not None and problem.num_prompt_tokens > self._max:
            if self._overlong == "drop":
                self.num_dropped += 1
                return None
            problem = self._cut(problem, self._max)
        self.lengths.append(problem.num_prompt_tokens)
        return problem

    def _cut(self, problem: Problem, max_prompt_tokens: int) -> Problem:
        if self._overlong == "error":
            raise DataError(
                f"problem {problem.problem_id!r}: {problem.num_prompt_tokens} tokens > max_prompt_tokens="
                f"{max_prompt_tokens}; raise it, filter the data, or choose --overlong drop or cut_middle"
            )
        cut = cut_middle(self._tokenizer, problem, self._template, max_prompt_tokens)
        self.num_cut += 1
        self.num_cut_tokens += problem.num_prompt_tokens - cut.num_prompt_tokens
        return cut


def _unique(problems: Iterable[SourceProblem]) -> Iterator[SourceProblem]:
    seen: set[str] = set()
    for problem in problems:
        if problem.problem_id in seen:
            raise DataError(
                f"problem {problem.problem_id!r}: comes twice in the sources; ids must be unique, rename one"
            )
        seen.add(problem.problem_id)
        yield problem


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 2 bad input or arguments."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    out = Path(args.out)
    check_replaceable(out)
    windows = parsed_windows(args.windows)
    template = _template(args.template)
    columns = columns_from(args.columns)
    readers = [read_problems(source, columns=columns, source_format=args.format) for source in args.sources]
    tokenizer = load_tokenizer(args.tokenizer)
    with _Progress() as progress:
        manifest = prepare(
            (problem for reader in readers for problem in reader),
            tokenizer,
            out,
            template=template,
            windows=windows,
            max_prompt_tokens=args.max_prompt_tokens,
            overlong=args.overlong,
            cache_dir=Path(args.cache) if args.cache else out.absolute().parent / ".token_counts",
            sources=args.sources,
            on_progress=progress.update,
        )
    beyond = f", {manifest.num_beyond} beyond {manifest.windows[-1]}" if manifest.num_beyond else ""
    per_window = ", ".join(f"{n} <= {high}" for high, n in zip(manifest.windows, manifest.window_counts, strict=True))
    print(f"{out}: {manifest.num_problems} problems, prompt tokens {per_window}{beyond}")
    print(f"{progress.num_cached} counts came from the cache")
    if manifest.num_dropped or manifest.num_cut:
        print(f"over {manifest.max_prompt_tokens} tokens: {manifest.num_dropped} dropped, {manifest.num_cut} cut")


class _Progress:
    """A progress line on a terminal, silence elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.num_cached = 0
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("reading")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, num_done: int, num_cached: int) -> None:
        self.num_cached = num_cached
        self._bar.update(self._task, description=f"{num_done} problems measured, {num_cached} from cache")


def _template(path: str | None) -> PromptTemplate:
    if path is None:
        return L1_PROMPT
    try:
        return PromptTemplate(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--template {path}: cannot be read as text ({error}); name a UTF-8 file") from error
    except DataError as error:
        raise DataError(f"--template {path}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare",
        description="Read problems, count their prompts' tokens, and write a prepared set for training or evaluation.",
        usage="%(prog)s SOURCE... --tokenizer PATH --out DIR [options]",
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="data file: JSONL (.gz too) or verl parquet")
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
    parser.add_argument("--cache", metavar="DIR", help="token counts' cache; default: .token_counts beside DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
