"""Symbolic equality in processes that can be killed, so that no answer stalls a batch or reaches the trainer's memory.

Each worker is `python -m rewards.symbolic_worker` in a process group of its own, with an environment that holds no keys.
It keeps every comparison to the deadline; the pool keeps the worker to `1.2 * deadline_s + GRACE_S` and replaces one
that is late, dead, or has answered `recycle_after` times. Started on first use; sympy is never imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SymbolicStatus = Literal["equal", "different", "unreadable", "too_heavy", "timeout", "failed"]
SYMBOLIC_STATUSES: tuple[SymbolicStatus, ...] = ("equal", "different", "unreadable", "too_heavy", "timeout", "failed")

GRACE_S = 2.0
"""A worker may be this late beyond 1.2 times the deadline before it is taken for hung."""
START_S = 60.0
"""A worker that is not ready after this long cannot start."""
MAX_START_FAILURES = 2
"""After so many in a row, the rest of the batch fails."""
MAX_TEXT_CHARS = 2_000
"""A longer side is unreadable without asking: a request always fits the pipe, so that writing never waits."""
_ATTEMPTS = 2
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True, kw_only=True, slots=True)
class SymbolicReply:
    """What became of one comparison."""

    status: SymbolicStatus
    """`equal`: accept. `different`, `unreadable` (a side is no formula), `too_heavy` (it used up its CPU or memory): do
    not accept. `timeout` (the machine was busy) and `failed` (no worker answered) say nothing about the answer."""
    detail: str = ""
    """For people."""
    cpu_s: float = 0.0
    """CPU time of the comparison."""
    wall_s: float = 0.0
    """From its start to its end, by the worker's clock."""
    held_s: float = 0.0
    """From sending it to having the reply, by the pool's clock; the last attempt's."""


@dataclass(slots=True)
class _Item:
    index: int
    request: bytes
    attempts: int = 0


class _Worker:
    """One process, what it is doing, and by when it has to answer."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rewards.symbolic_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
        self.ready = False
        self.item: _Item | None = None
        self.num_answered = 0
        self.asked_at = time.monotonic()
        self.until = self.asked_at + START_S
        self._received = b""

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def stdout(self) -> Any:
        return self.process.stdout

    def ask(self, item: _Item, guard_s: float) -> bool:
        """Sends one request; False where the worker is gone."""
        self.item = item
        item.attempts += 1
        self.asked_at = time.monotonic()
        self.until = self.asked_at + guard_s
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(item.request)
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """The line that has arrived; {} where only part of it has, None where the worker is gone or speaks nonsense."""
        chunk = os.read(self.stdout.fileno(), 65_536)
        self._received += chunk
        line, complete, self._received = self._received.partition(b"\n")
        if not complete:
            self._received = line
            return {} if chunk else None
        try:
            message = json.loads(line)
        except ValueError:
            return None
        return message if isinstance(message, dict) else None

    def kill(self) -> None:
        """Ends the process and its children, and reaps it."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class SymbolicPool:
    """Compares formulas in `workers` processes; thread-safe, one batch at a time."""

    def __init__(
        self, *, workers: int = 1, deadline_s: float = 1.0, memory_bytes: int = 2**30, recycle_after: int = 1000
    ) -> None:
        """Starts nothing yet.

        Args:
            workers: processes; more than there are free cores makes comparisons time out.
            deadline_s: wall-clock seconds for one comparison.
            memory_bytes: address space that one comparison may take beyond what the worker has.
            recycle_after: comparisons after which a worker is replaced.

        Raises:
            ValueError: a number that is not positive.
        """
        if workers < 1 or deadline_s <= 0.0 or memory_bytes < 1 or recycle_after < 1:
            raise ValueError(
                f"SymbolicPool: workers={workers}, deadline_s={deadline_s}, memory_bytes={memory_bytes} and"
                f" recycle_after={recycle_after} must all be positive"
            )
        self._num_workers = workers
        self._deadline_s = deadline_s
        self._guard_s = 1.2 * deadline_s + GRACE_S
        self._memory_bytes = memory_bytes
        self._recycle_after = recycle_after
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._workers: list[_Worker] = []
        self._num_start_failures = 0
        self._why = ""
        self._end = weakref.finalize(self, _end_all, self._workers, self._owner)

    @property
    def num_alive(self) -> int:
        """Worker processes that are running; 0 before the first comparison and after `close`."""
        return sum(worker.is_alive for worker in self._workers)

    @property
    def pids(self) -> tuple[int, ...]:
        """The workers' process ids, each the leader of its own process group."""
        return tuple(worker.process.pid for worker in self._workers)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[SymbolicReply]:
        """One reply for each (answer, gold), in order.

        Raises:
            RuntimeError: the pool is closed, or was made by another process.
        """
        with self._lock:
            if not self._end.alive or os.getpid() != self._owner:
                raise RuntimeError("SymbolicPool: closed, or made by another process; make one here")
            replies: dict[int, SymbolicReply] = {}
            waiting: deque[_Item] = deque()
            for index, (answer, gold) in enumerate(pairs):
                if max(len(answer), len(gold)) > MAX_TEXT_CHARS:
                    detail = f"longer than {MAX_TEXT_CHARS} characters"
                    replies[index] = SymbolicReply(status="unreadable", detail=detail)
                else:
                    waiting.append(_Item(index, self._request(answer, gold)))
            if waiting:
                self._num_start_failures = 0
                try:
                    self._work(waiting, replies)
                except BaseException:
                    self._drop_unfinished()
                    raise
            return [replies[index] for index in range(len(pairs))]

    def close(self) -> None:
        """Ends all workers; a second call does nothing. Happens at the interpreter's exit too."""
        with self._lock:
            self._end()

    @property
    def _cannot_start(self) -> bool:
        return self._num_start_failures >= MAX_START_FAILURES

    def _awaited(self) -> list[_Worker]:
        """Those that owe a word: a reply, or that they are ready."""
        return [worker for worker in self._workers if worker.item is not None or not worker.ready]

    def _request(self, answer: str, gold: str) -> bytes:
        limits = {"deadline_s": self._deadline_s, "memory_bytes": self._memory_bytes}
        return json.dumps({"answer": answer, "gold": gold, **limits}).encode("ascii") + b"\n"

    def _work(self, waiting: deque[_Item], replies: dict[int, SymbolicReply]) -> None:
        """Hands items to free workers and takes their replies until every item has one."""
        num_open = len(waiting)
        self._fill()
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
            while num_open:
                for worker in [one for one in self._workers if one.ready and one.item is None]:
                    if waiting and not worker.ask(waiting.popleft(), self._guard_s):
                        num_open -= self._replace(worker, selector, waiting, replies, "died")
                now = time.monotonic()
                heard = selector.select(max(0.0, min((one.until for one in self._awaited()), default=now) - now))
                for key, _ in heard:
                    num_open -= self._hear(key.data, selector, waiting, replies)
                now = time.monotonic()
                for worker in [one for one in self._awaited() if now > one.until]:
                    num_open -= self._replace(worker, selector, waiting, replies, "gave no reply in time")
                if self._cannot_start and not any(worker.ready for worker in self._workers):
                    detail = f"no worker can start: the last one {self._why}"
                    replies.update((item.index, SymbolicReply(status="failed", detail=detail)) for item in waiting)
                    self._drop_unfinished()
                    return

    def _hear(
        self,
        worker: _Worker,
        selector: selectors.BaseSelector,
        waiting: deque[_Item],
        replies: dict[int, SymbolicReply],
    ) -> int:
        """Takes what a worker wrote; returns how many items got their reply."""
        message = worker.receive()
        if message == {}:
            return 0
        if message and "ready" in message and not worker.ready:
            worker.ready = True
            self._num_start_failures = 0
            return 0
        if message is None or worker.item is None or message.get("status") not in SYMBOLIC_STATUSES:
            why = f"said {message['cannot_start']}" if message and "cannot_start" in message else "died"
            return self._replace(worker, selector, waiting, replies, why)
        replies[worker.item.index] = SymbolicReply(
            status=message["status"],
            detail=message["detail"],
            cpu_s=message["cpu_s"],
            wall_s=message["wall_s"],
            held_s=time.monotonic() - worker.asked_at,
        )
        worker.item = None
        worker.num_answered += 1
        if worker.num_answered >= self._recycle_after:
            self._replace(worker, selector, waiting, replies, "recycled")
        return 1

    def _replace(
        self,
        worker: _Worker,
        selector: selectors.BaseSelector,
        waiting: deque[_Item],
        replies: dict[int, SymbolicReply],
        why: str,
    ) -> int:
        """Kills a worker and starts another; its item is tried once more, then failed. Returns the items failed."""
        selector.unregister(worker.stdout)
        worker.kill()
        self._workers.remove(worker)
        self._num_start_failures += not worker.ready
        self._why = f"{why} (exit code {worker.process.returncode})"
        if not self._cannot_start:
            self._fill(selector)
        item = worker.item
        if item is None:
            return 0
        if item.attempts < _ATTEMPTS:
            waiting.appendleft(item)
            return 0
        held_s = time.monotonic() - worker.asked_at
        detail = f"the worker {self._why}, {item.attempts} times"
        replies[item.index] = SymbolicReply(status="failed", detail=detail, held_s=held_s)
        return 1

    def _fill(self, selector: selectors.BaseSelector | None = None) -> None:
        """Starts workers until there are as many as there should be, the dead ones replaced."""
        for worker in [one for one in self._workers if not one.is_alive]:
            if selector is not None:
                continue  # its end has yet to be heard, and its item with it
            worker.kill()
            self._workers.remove(worker)
        while len(self._workers) < self._num_workers:
            try:
                worker = _Worker()
            except OSError as error:
                self._num_start_failures += 1
                self._why = f"did not come to be: {error}"
                if self._cannot_start:
                    return
                continue
            self._workers.append(worker)
            if selector is not None:
                selector.register(worker.stdout, selectors.EVENT_READ, worker)

    def _drop_unfinished(self) -> None:
        """After a batch that was broken off: what comes late must not be taken for a reply to the next."""
        for worker in self._awaited():
            worker.kill()
            self._workers.remove(worker)


def _environment() -> dict[str, str]:
    """What a worker needs to find Python, this package and sympy, and nothing else: no keys, no thread pools."""
    here = str(Path(__file__).resolve().parent.parent)
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def _end_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked copy of the owner: the workers are not its own
    for worker in workers:
        worker.kill()
    workers.clear()
