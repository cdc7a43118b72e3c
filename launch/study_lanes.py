"""Commands side by side: each lane runs one at a time, its output in a file, what is done already is left out."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One command, `python -m WORDS`."""

    name: str
    words: Sequence[object]
    done: Path
    """Exists once the command has ended well."""
    log: Path
    """Its output."""


def run_lanes(parts: Sequence[Part], lanes: int, threads: int) -> int:
    """Run the parts that are not done, at most `lanes` at a time, each with `threads` compute threads.

    After a failure nothing new starts. Returns the first failure's exit code, 0 without one. Ctrl-C reaches the commands
    as well, since they share the terminal.
    """
    failed: list[int] = []
    lock = threading.Lock()

    def run_part(part: Part) -> None:
        if failed or part.done.exists():
            return
        words = [str(word) for word in part.words]
        started = time.monotonic()
        with lock:
            print(f"$ python -m {shlex.join(words)}   > {part.log}", flush=True)
        part.log.parent.mkdir(parents=True, exist_ok=True)
        with part.log.open("ab") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            call = [sys.executable, "-m", *words]
            code = subprocess.run(call, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
        with lock:
            if code:
                failed.append(code)
                print(f"{part.name}: exit code {code}; {last_line(part.log)}", file=sys.stderr, flush=True)
            else:
                print(f"{part.name}: {time.monotonic() - started:.0f} s", flush=True)

    with ThreadPoolExecutor(max_workers=lanes) as pool:
        list(pool.map(run_part, parts))
    return failed[0] if failed else 0


def last_line(log: Path) -> str:
    """The last line of a command's output that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), f"nothing in {log}")
