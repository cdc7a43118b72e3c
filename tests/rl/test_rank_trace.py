"""How a process ended, told from what it left behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl.rank_trace import describe_end, describe_memory, last_memory, memory_state

ROOT = Path(__file__).resolve().parents[2]
GONE = "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file."


def end_one(folder: Path, with_signal: signal.Signals) -> None:
    """A process that leaves the trace of rank 1 and is ended by a signal."""
    program = (
        "import sys, time, pathlib, rl.rank_trace as t; t.leave_trace(pathlib.Path(sys.argv[1]), 1); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while last_memory(folder, 1) is None:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(process.pid, with_signal)
        process.wait()
    assert process.returncode == -with_signal


def test_a_fatal_signal_is_named_with_its_stack(tmp_path: Path) -> None:
    end_one(tmp_path, signal.SIGSEGV)
    assert describe_end(tmp_path, 1, GONE, 0).startswith("SIGSEGV (Segmentation fault; its stack is in ")
    assert (
        "time.sleep" in (tmp_path / "rank-1.fault").read_text() or "<string>" in (tmp_path / "rank-1.fault").read_text()
    )


def test_what_leaves_no_trace_was_killed_and_the_kernels_counter_tells_whether_for_memory(tmp_path: Path) -> None:
    end_one(tmp_path, signal.SIGKILL)
    last = last_memory(tmp_path, 1)
    assert last is not None
    if not Path("/proc/vmstat").exists():
        pytest.skip("memory is read from /proc")
    assert 2**20 < last.resident_bytes < last.total_bytes
    assert 0 < last.free_bytes <= last.total_bytes
    before = last.num_oom_kills
    assert describe_end(tmp_path, 1, GONE, before) == "SIGKILL, not from the kernel for want of memory"
    assert describe_end(tmp_path, 1, GONE, before + 1).startswith("SIGKILL, out of memory")
    assert "not known" in describe_end(tmp_path, 1, GONE, -1)
    told = describe_memory(tmp_path, 2, 1)
    assert told.startswith(f"resident memory last seen: rank 0 unknown, rank 1 {last.resident_bytes / 2**30:.2f} GiB; ")
    assert told.endswith(f"of {last.total_bytes / 2**30:.2f} GiB free")


def test_what_ray_knows_about_an_end_is_passed_on(tmp_path: Path) -> None:
    told = (
        "The actor died.\npid: 7\nWorker exit detail: Worker exits with an exit code 1. The process receives a SIGTERM."
    )
    assert describe_end(tmp_path, 0, told, 0) == "Worker exits with an exit code 1. The process receives a SIGTERM."


def test_the_kernels_counter_does_not_move_by_itself() -> None:
    one, other = (dataclasses.replace(memory_state(), resident_bytes=0, free_bytes=0) for _ in range(2))
    assert one == other
