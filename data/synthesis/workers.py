"""Rows of many cells, in order, made by this process or by several; the bytes do not depend on how many."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING

import orjson

from data.in_order import num_cores
from data.prompts import PromptTemplate, count_prompt_tokens
from data.synthesis.cells import Cell
from data.synthesis.corpus import Corpus
from data.synthesis.generate import ProblemMaker, count_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_CHUNK_PROBLEMS = 128
_MAX_CHUNK_TOKENS = 500_000
_WORTH_WORKERS_TOKENS = 10_000_000
"""Below this, about ten seconds of counting, starting processes takes longer than it saves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What problems are made of, and how they are counted."""

    corpus: Corpus
    tokenizer: PreTrainedTokenizerBase | None
    """None: words are counted."""
    template: PromptTemplate

    def maker(self) -> ProblemMaker:
        """A maker that counts as data.prompts.count_prompt_tokens does."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            return ProblemMaker(self.corpus, lambda problems: [count_words(problem) for problem in problems])
        return ProblemMaker(self.corpus, lambda problems: count_prompt_tokens(tokenizer, problems, self.template))


@dataclass(frozen=True, slots=True)
class Rows:
    """JSON Lines of consecutive problems."""

    num_rows: int
    data: bytes


def rows_in_order(
    cells: Sequence[Cell], count: int, source: Source, *, start: int = 0, num_workers: int | None = None
) -> Iterator[Rows]:
    """Rows of problems 0..count-1 of every cell, cell after cell, from row `start` on.

    Args:
        num_workers: processes; None: every core where there is much to do, else this process.

    Raises:
        DataError: a cell that no document fits.
        BrokenProcessPool: a worker was killed.
    """
    chunks = _chunks(cells, count, start)
    if num_workers is None:
        much = sum(cell.max_tokens for cell in cells) * count >= _WORTH_WORKERS_TOKENS
        num_workers = num_cores() if much else 1
    if num_workers == 1:
        maker = source.maker()
        yield from (_rows(maker, cell, numbers) for cell, numbers in chunks)
        return
    # Spawned: a forked child of a process that has threads (a tokenizer's) may hang.
    with ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(source,)
    ) as pool:
        waiting: deque[Future[Rows]] = deque()
        try:
            for cell, numbers in chunks:
                waiting.append(pool.submit(_rows_in_worker, cell, numbers))
                if len(waiting) > 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _chunks(cells: Sequence[Cell], count: int, start: int) -> Iterator[tuple[Cell, range]]:
    for place, cell in enumerate(cells):
        size = max(1, min(_MAX_CHUNK_PROBLEMS, _MAX_CHUNK_TOKENS // cell.max_tokens))
        for first in range(max(0, start - place * count), count, size):
            yield cell, range(first, min(first + size, count))


def _rows(maker: ProblemMaker, cell: Cell, numbers: range) -> Rows:
    examples = maker.numbered(cell, numbers)
    lines = [orjson.dumps(example.as_labelled_row(), option=orjson.OPT_APPEND_NEWLINE) for example in examples]
    return Rows(len(lines), b"".join(lines))


_maker_of_worker: list[ProblemMaker] = []


def _start_worker(source: Source) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each; the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _maker_of_worker.append(source.maker())


def _die_with_parent() -> None:
    """A pool's workers outlive a parent that was killed, unless they look."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _rows_in_worker(cell: Cell, numbers: range) -> Rows:
    return _rows(_maker_of_worker[0], cell, numbers)
