"""`python -m data.synthesis --task chain --lengths 256,512 --count 1000 --split train --out FILE.jsonl`.

Writes JSON Lines that both data.prepare and launch.sft read. `--help` says what can be asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn

from data.problem import DataError
from data.source_args import load_tokenizer, template_from
from data.synthesis.cells import DEFAULT_HOPS, DISTRACTORS, MAX_HOPS, Cell, cells_between, grid_cells
from data.synthesis.corpus import builtin_corpus, read_corpus
from data.synthesis.generate import TASKS, check_cell
from data.synthesis.resume import ResumableFile, unwritable
from data.synthesis.words import SPLITS
from data.synthesis.workers import Source, rows_in_order
from data.token_counts import tokenizer_fingerprint
from data.windows import windows_from

_AFTER = """\
A problem is a function of what is asked, the seed and its number, so the file's bytes depend neither on --workers nor on
interruptions. Until it is whole it is FILE.jsonl.partial; the same command run again goes on with it.

Rows are those of data.prepare (problem_id, task, context, question, answers, answer_type, options) with chain_of_thought,
final_answer and num_prompt_tokens for SFT, and labels: length, depth, needle_depths, num_hops, distractors.

A problem_id is TASK-SPLIT-SEED-LENGTH[-hopsK][-similar][-depthD[-spreadS]]-NUMBER; its part before the last - names the
cell, also after data.prepare and in rollouts; data.synthesis.cells.cell_of_id reads it.

An evaluation grid of 2 tasks x 3 lengths x 5 depths:
  python -m data.synthesis --grid --task lookup,chain --lengths 4000,16000,64000 --count 20 --split test \\
      --tokenizer MODEL --out grid.jsonl
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says what is allowed\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 done, 2 bad arguments, 3 a worker was killed, 130 interrupted."""
    args = _parser().parse_args(argv)
    again = f"{args.out}.partial is kept: run the same command again to go on"
    try:
        cells, source = _cells(args), _source(args)
        num_rows = _write(args, cells, source)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(f"error: a worker was killed, for lack of memory perhaps; lower --workers. {again}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"interrupted; {again}", file=sys.stderr)
        return 130
    print(f"{args.out}: {num_rows} problems")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m data.synthesis",
        description="Problems of any length, planted in real text, with gold reasoning. Lengths are those of the whole "
        "prompt under --tokenizer's chat template; without a tokenizer, words.",
        epilog=_AFTER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is asked")
    what.add_argument("--task", default="chain", help=f"comma-separated, of {', '.join(TASKS)}; default: %(default)s")
    what.add_argument(
        "--hops", type=int, metavar="K", help=f"facts in a chain, 2 to {MAX_HOPS}; default: {DEFAULT_HOPS}"
    )
    what.add_argument("--num-facts", type=int, default=8, help="facts per document; default: %(default)s")
    what.add_argument(
        "--distractors",
        choices=DISTRACTORS,
        default="plain",
        help="the facts not needed have the same form and are about other people; similar: whose names differ from the "
        "needed ones in one letter or the last syllable; default: %(default)s",
    )
    what.add_argument("--num-keys", type=int, help="keys (names) in use per split; default: all")
    what.add_argument("--split", choices=SPLITS, default="train", help="the splits share no names")
    what.add_argument("--seed", type=int, default=0)
    what.add_argument("--count", type=int, default=1000, help="problems per cell (task, length, depth); default: 1000")
    where = parser.add_argument_group("how long, and where the answer stands")
    where.add_argument("--lengths", required=True, metavar="N,...", help="upper bounds of the windows, rising")
    where.add_argument("--min-length", type=int, metavar="N", help="lower bound of the first window; default: 0")
    where.add_argument(
        "--depth",
        metavar="FRAC,...",
        help="where the needed facts stand, 0 (start) to 1 (end); of several, each is a cell with the same questions; "
        "default: anywhere",
    )
    where.add_argument(
        "--spread",
        type=float,
        default=0.0,
        metavar="FRAC",
        help="share of the document that several needed facts are spread over, around --depth; default: 0, side by side",
    )
    where.add_argument(
        "--grid",
        action="store_true",
        help="for evaluation: prompts at most 5 %% (or 10 tokens) shorter than each length; depths 0,0.25,0.5,0.75,1 "
        "where --depth names none",
    )
    made = parser.add_argument_group("from what, and into what")
    made.add_argument("--out", required=True, metavar="FILE.jsonl")
    made.add_argument("--corpus", metavar="FOLDER", help="of .txt and .md files; default: the one Python ships")
    made.add_argument("--tokenizer", metavar="PATH", help="a model's folder or hub id; default: count words")
    made.add_argument("--template", metavar="FILE", help="user turn with {context} and {question}, for the lengths")
    made.add_argument("--workers", type=int, metavar="N", help="processes; default: all cores where it is worth it")
    return parser


def _cells(args: argparse.Namespace) -> list[Cell]:
    for name, value in (("--count", args.count), ("--workers", args.workers)):
        if value is not None and value < 1:
            raise DataError(f"{name}: {value} is below 1")
    if args.grid and args.min_length is not None:
        raise DataError("--min-length: a grid's prompts are just below its lengths; leave it out")
    tasks = [part.strip() for part in args.task.split(",")]
    if args.hops is not None and "chain" not in tasks:
        raise DataError(f"--hops: {args.task} has no hops; add the task chain or leave --hops out")
    lengths = [int(number) for number in _numbers("--lengths", args.lengths, "rising token counts, e.g. 256,512", int)]
    windows_from(lengths)
    depths = _numbers("--depth", args.depth, "shares of the document, e.g. 0.5 or 0,0.5,1", float) if args.depth else []
    kind = Cell(
        task=tasks[0],
        split=args.split,
        seed=args.seed,
        min_tokens=args.min_length or 0,
        max_tokens=lengths[0],
        num_facts=args.num_facts,
        num_keys=args.num_keys,
        num_hops=args.hops if args.hops is not None else DEFAULT_HOPS,
        distractors=args.distractors,
        spread=args.spread,
    )
    cells = (grid_cells if args.grid else cells_between)(kind, tasks, lengths, depths)
    for cell in cells:
        check_cell(cell)
    return cells


def _numbers(name: str, text: str, wanted: str, number: type[int] | type[float]) -> list[float]:
    try:
        return [number(part) for part in text.split(",")]
    except ValueError as error:
        raise DataError(f"{name}: seen {text!r}; write {wanted}") from error


def _source(args: argparse.Namespace) -> Source:
    return Source(
        corpus=read_corpus(args.corpus) if args.corpus else builtin_corpus(),
        tokenizer=load_tokenizer(args.tokenizer) if args.tokenizer else None,
        template=template_from(args.template),
    )


def _write(args: argparse.Namespace, cells: Sequence[Cell], source: Source) -> int:
    """Writes the file, or goes on writing it; returns the number of rows."""
    num_wanted: int = len(cells) * args.count
    shown_at = time.monotonic()
    with ResumableFile(Path(args.out), _made_from(args, source)) as file:
        if file.num_rows:
            print(f"{args.out}: going on after {file.num_rows} of {num_wanted} problems", flush=True)
        try:
            for rows in rows_in_order(cells, args.count, source, start=file.num_rows, num_workers=args.workers):
                file.append(rows.data, rows.num_rows)
                if time.monotonic() - shown_at > 10:
                    shown_at = time.monotonic()
                    print(f"{args.out}: {file.num_rows} of {num_wanted} problems", file=sys.stderr, flush=True)
            file.finish()
        except OSError as error:
            raise unwritable(Path(args.out), error) from error
        except DataError:
            file.discard()
            raise
    return num_wanted


def _made_from(args: argparse.Namespace, source: Source) -> dict[str, Any]:
    """All that decides the file's bytes: the arguments, and fingerprints of what they name and of this code."""
    arguments = {name: value for name, value in vars(args).items() if name not in ("out", "workers")}
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return arguments | {
        "corpus": _short_hash("\n".join(source.corpus.sentences).encode()),
        "tokenizer": tokenizer_fingerprint(source.tokenizer)[:16] if source.tokenizer else None,
        "template": _short_hash(source.template.text.encode()),
        "code": _short_hash(code),
    }


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
