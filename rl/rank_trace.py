"""What a learner rank leaves behind in the run's folder, so that those who outlive it can tell how it ended.

A killed process says nothing: its parent alone learns the signal, and that is Ray's daemon, which does not pass it on.
So a rank writes its memory down every second, and a stack at every signal that can be caught. What dies without a
trace was killed by SIGKILL (or called os._exit, which nothing here does), and whether for want of memory the kernel's
own counter of such kills tells.
Memory is read from Linux's /proc; elsewhere it is unknown.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

INTERVAL_S = 1.0
FOLDER = "learner"
"""In the run's folder: the ranks' traces."""

_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryState:
    """A process's memory and its machine's at one moment; -1: unknown."""

    resident_bytes: int
    free_bytes: int
    """Left to processes: of the machine, or of the container where that is less."""
    total_bytes: int
    num_oom_kills: int
    """Processes that the kernel killed for want of memory since the machine started."""


def memory_state() -> MemoryState:
    """Of this process and this machine, now."""
    machine = _numbers(Path("/proc/meminfo"))
    free, total = machine.get("MemAvailable:", -1) * 1024, machine.get("MemTotal:", -1) * 1024
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is not None and used is not None and limit < total:
        free, total = min(free, limit - used), limit
    return MemoryState(
        resident_bytes=max(_numbers(Path("/proc/self/status")).get("VmRSS:", -1) * 1024, -1),
        free_bytes=max(free, -1),
        total_bytes=max(total, -1),
        num_oom_kills=_numbers(Path("/proc/vmstat")).get("oom_kill", -1),
    )


def leave_trace(folder: Path, rank: int) -> None:
    """From now on until this process ends: its memory every INTERVAL_S in rank-N.json, a fatal signal's stack in rank-N.fault."""
    folder.mkdir(parents=True, exist_ok=True)
    faulthandler.enable(_fault_file(folder, rank).open("w", encoding="utf-8"))
    memory_file = _memory_file(folder, rank)
    memory_file.unlink(missing_ok=True)

    def keep_writing() -> None:
        partial = memory_file.with_suffix(".partial")
        while True:
            partial.write_text(json.dumps(asdict(memory_state())), encoding="utf-8")
            os.replace(partial, memory_file)
            time.sleep(INTERVAL_S)

    threading.Thread(target=keep_writing, daemon=True, name="rank-trace").start()


def last_memory(folder: Path, rank: int) -> MemoryState | None:
    """What the rank last wrote; None: nothing."""
    try:
        return MemoryState(**json.loads(_memory_file(folder, rank).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def describe_end(folder: Path, rank: int, ray_says: str, num_oom_kills: int) -> str:
    """How the rank's process ended.

    Args:
        ray_says: Ray's own words about the death.
        num_oom_kills: of the rank's machine, now; -1: unknown.
    """
    fault = _fault_file(folder, rank)
    told = re.match("Fatal Python error: (.*)", fault.read_text(encoding="utf-8")) if fault.exists() else None
    if told:
        return f"{_SIGNALS.get(told[1], 'a fatal signal')} ({told[1]}; its stack is in {fault})"
    if "connection error code" not in ray_says:  # Ray knows more than that the process is gone
        return " ".join(ray_says.rpartition("Worker exit detail:")[2].split())[:400]
    before = last_memory(folder, rank)
    if before is None or -1 in (num_oom_kills, before.num_oom_kills):
        return "SIGKILL (whether for want of memory is not known; the kernel's log tells)"
    if num_oom_kills > before.num_oom_kills:
        return "SIGKILL, out of memory: the kernel has killed a process there for want of memory since"
    return "SIGKILL, not from the kernel for want of memory"


def describe_memory(folder: Path, num_ranks: int, rank: int) -> str:
    """The ranks' resident memory, and the memory of `rank`'s machine, as last seen."""
    states = [last_memory(folder, i) for i in range(num_ranks)]
    resident = ", ".join(f"rank {i} {_gib(s.resident_bytes if s else -1)}" for i, s in enumerate(states))
    here = states[rank]
    free, total = (here.free_bytes, here.total_bytes) if here else (-1, -1)
    return f"resident memory last seen: {resident}; its machine had {_gib(free)} of {_gib(total)} free"


def _memory_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.json"


def _fault_file(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.fault"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 0 else "unknown"


def _numbers(file: Path) -> dict[str, int]:
    """Name to number of a /proc file with a pair a line; empty where there is none."""
    if not file.exists():
        return {}
    pairs = [line.split()[:2] for line in file.read_text(encoding="utf-8").splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _number(file: Path) -> int | None:
    text = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    return int(text) if text.isdecimal() else None
