"""Work on a stream in threads: chunks bounded by size, results in the stream's order, nothing left running.

Threads, not processes: fast tokenizers let go of the interpreter lock, and threads share the tokenizer, need no
copies of the documents and end with their process.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunked(
    items: Iterable[Item], size_of: Callable[[Item], int], *, max_items: int, max_size: int
) -> Iterator[list[Item]]:
    """The items in lists: one is full with `max_items`, or as soon as the items' sizes reach `max_size`."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += size_of(item)
        if len(chunk) >= max_items or size >= max_size:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """`work(item)` of each item, in order, by `workers` threads that are at most two items each ahead.

    What `items` or `work` raises passes through; no thread outlives the iteration. One worker is this thread.
    """
    if workers == 1:
        yield from map(work, items)
        return
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="in_order")
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
