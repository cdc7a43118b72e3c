"""`python -m data.synthesis --task chain --lengths 256,512 --count 1000 --split train --out FILE.jsonl`.

Writes JSON Lines that both data.prepare and launch.sft read. Lengths are those of the whole prompt under --tokenizer's
chat template; without a tokenizer, words.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data.problem import DataError, SourceProblem
from data.prompts import L1_PROMPT, PromptTemplate, count_prompt_tokens
from data.source_args import load_tokenizer
from data.synthesis.corpus import builtin_corpus, read_corpus
from data.synthesis.generate import TASKS, SynthesisExample, count_words, make_problems
from data.synthesis.words import SPLITS
from data.windows import windows_from


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 2 bad arguments."""
    args = _parser().parse_args(argv)
    try:
        num = _write(Path(args.out), _examples(args))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {num} problems")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.synthesis", description="Problems planted in real text.")
    parser.add_argument("--task", default="chain", help=f"comma-separated, of {', '.join(TASKS)}; default: %(default)s")
    parser.add_argument("--lengths", required=True, metavar="N,...", help="upper bounds of the windows, rising")
    parser.add_argument("--min-length", type=int, default=0, metavar="N", help="lower bound of the first window")
    parser.add_argument("--count", type=int, default=1000, help="problems per task and window; default: %(default)s")
    parser.add_argument("--split", choices=SPLITS, default="train", help="the splits share no keys")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, metavar="FILE.jsonl")
    parser.add_argument("--corpus", metavar="FOLDER", help="of .txt and .md files; default: the one Python ships")
    parser.add_argument("--tokenizer", metavar="PATH", help="a model's folder or hub id; default: count words")
    parser.add_argument("--template", metavar="FILE", help="user turn with {context} and {question}, for the lengths")
    parser.add_argument("--num-facts", type=int, default=8, help="facts per document; default: %(default)s")
    parser.add_argument("--num-keys", type=int, help="keys in use per split; default: all")
    return parser


def _examples(args: argparse.Namespace) -> Iterator[SynthesisExample]:
    try:
        uppers = [int(part) for part in args.lengths.split(",")]
    except ValueError as error:
        raise DataError(f"--lengths: seen {args.lengths!r}; write rising token counts, e.g. 256,512") from error
    windows_from(uppers)
    if args.count < 1:
        raise DataError(f"--count: {args.count} is below 1")
    corpus = read_corpus(args.corpus) if args.corpus else builtin_corpus()
    count_tokens = _counter(args.tokenizer, args.template)
    for task in args.task.split(","):
        for low, high in zip([args.min_length, *uppers], uppers, strict=False):
            yield from make_problems(
                task,
                split=args.split,
                seed=args.seed,
                count=args.count,
                min_tokens=low,
                max_tokens=high,
                corpus=corpus,
                count_tokens=count_tokens,
                num_facts=args.num_facts,
                num_keys=args.num_keys,
            )


def _counter(tokenizer_path: str | None, template_path: str | None) -> Callable[[SourceProblem], int]:
    if tokenizer_path is None:
        return count_words
    template = L1_PROMPT
    if template_path is not None:
        try:
            template = PromptTemplate(Path(template_path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--template {template_path}: cannot be read ({error}); name a text file") from error
    tokenizer = load_tokenizer(tokenizer_path)
    return lambda problem: count_prompt_tokens(tokenizer, [problem], template)[0]


def _write(out: Path, examples: Iterator[SynthesisExample]) -> int:
    """Writes the whole file or leaves it as it was; returns the number of rows."""
    temporary = out.with_name(f".tmp-{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        num = 0
        with temporary.open("w", encoding="utf-8") as stream:
            for num, example in enumerate(examples, start=1):  # noqa: B007 (the last number is the count)
                stream.write(json.dumps(example.as_row(), ensure_ascii=False) + "\n")
        temporary.replace(out)
    except OSError as error:
        raise DataError(
            f"--out {out}: cannot be written ({error.strerror}); name a file in a writable folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return num


if __name__ == "__main__":
    sys.exit(main())
