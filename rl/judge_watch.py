"""Runs one command and ends it, with everything it started, when the process at the other end of stdin goes away.

`python -I judge_watch.py GRACE_S COMMAND...`, with a pipe as stdin; GRACE_S seconds lie between SIGTERM and SIGKILL. Whoever holds the pipe's other end ends the command by
closing it, and by dying in whatever way. Exits with the command's own code, 128 + signal where a signal ended it.
Standard library alone, since it runs by its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def watch(command: list[str], grace_s: float) -> int:
    """Run `command` in a process group of its own until it ends or stdin does; nothing of the group is left."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_end_with_parent)
    threading.Thread(target=_end_with_stdin, args=(child, grace_s), daemon=True).start()
    code = child.wait()
    _kill_group(child)
    return code if code >= 0 else 128 - code


def _end_with_parent() -> None:
    """Asks the kernel for SIGTERM should this watcher be killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end_with_stdin(child: subprocess.Popen[bytes], grace_s: float) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    child.terminate()
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        _kill_group(child)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(watch(sys.argv[2:], float(sys.argv[1])))
