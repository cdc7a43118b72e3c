"""A judge's server as a child process: what it refuses, how it ends, and that nobody else can reach it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import orjson
import pytest

import rl.judge_watch
from rl.judge_process import JudgeFailed, JudgeProcess, JudgeSettings, JudgeUnusable
from rl.rollout.choose import EngineMissing
from tests.rl.tiny_model import write_tiny_model

GRACE_S = 0.5
WATCH = [sys.executable, "-I", rl.judge_watch.__file__, str(GRACE_S)]


def settings(model: Path, folder: Path, **changes: object) -> JudgeSettings:
    return JudgeSettings(**{"model": str(model), "log": str(folder / "judge.log"), "dtype": "float32", **changes})


def watched(program: str) -> subprocess.Popen[bytes]:
    command = [*WATCH, sys.executable, "-c", program]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def comes_true(claim: Callable[[], bool], within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if claim():
            return True
        time.sleep(0.05)
    return claim()


def is_gone(pid: int) -> bool:
    """No such process, or one that only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def family(process: subprocess.Popen[bytes]) -> list[int]:
    assert process.stdout is not None
    return [int(pid) for pid in process.stdout.readline().split()]


def test_the_watched_command_ends_with_its_whole_family_when_the_pipe_closes() -> None:
    process = watched(FAMILY)
    pids = family(process)
    assert not any(is_gone(pid) for pid in pids)
    process.stdin.close()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert comes_true(lambda: all(is_gone(pid) for pid in pids))
    process.stdout.close()


def test_the_watched_command_ends_when_the_driver_is_killed() -> None:
    program = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen({[*WATCH, sys.executable, '-c', FAMILY]!r}, stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    pids = family(driver)
    driver.kill()
    driver.wait()
    assert comes_true(lambda: all(is_gone(pid) for pid in pids))
    driver.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_the_watched_command_ends_when_its_watcher_is_killed() -> None:
    process = watched(FAMILY)
    pids = family(process)
    process.kill()
    process.wait()
    assert comes_true(lambda: is_gone(pids[0]))
    os.kill(pids[1], signal.SIGKILL)  # the command's own child was its to end
    process.stdin.close()
    process.stdout.close()


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    process = watched(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('1', flush=True)\ntime.sleep(600)"
    )
    process.stdout.readline()
    started = time.monotonic()
    process.stdin.close()
    assert process.wait(30) == 128 + signal.SIGKILL
    assert time.monotonic() - started > 0.9 * GRACE_S
    process.stdout.close()


def test_the_commands_own_exit_code_comes_through() -> None:
    process = watched("raise SystemExit(7)")
    assert process.wait(20) == 7
    process.stdin.close()
    process.stdout.close()


def test_without_vllm_the_judge_is_refused_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own mark for a package that cannot be imported
    with pytest.raises(EngineMissing, match=r"^judge: vLLM is not installed here; install .*make setup") as told:
        JudgeProcess(settings(tmp_path, tmp_path))
    assert told.value.exit_code == 3


def test_what_is_no_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    with pytest.raises(JudgeUnusable, match="there is no folder"):
        JudgeProcess(settings(tmp_path / "none", tmp_path))
    with pytest.raises(JudgeUnusable, match=r"holds no model that can be read .* it needs config.json") as told:
        JudgeProcess(settings(tmp_path, tmp_path))
    assert told.value.exit_code == 2
    assert not (tmp_path / "judge.log").exists()


def test_a_port_in_use_is_refused_and_zero_takes_a_free_one(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    model = Path(write_tiny_model(tmp_path / "model"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(JudgeUnusable, match=rf"port {port} on 127\.0\.0\.1 cannot be used .* name another") as told:
            JudgeProcess(settings(model, tmp_path, port=port))
        assert told.value.exit_code == 2
        assert JudgeProcess(settings(model, tmp_path)).url != f"http://127.0.0.1:{port}/v1"


@pytest.mark.vllm
def test_a_server_that_cannot_load_its_model_is_told_with_its_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    model = Path(write_tiny_model(tmp_path / "model"))
    (model / "model.safetensors").write_bytes(b"no weights")
    process = JudgeProcess(settings(model, tmp_path))
    with pytest.raises(JudgeFailed, match=r"its server ended with exit code 1; .*judge\.log ends with: ") as told:
        process.__enter__()
    assert told.value.exit_code == 3
    assert "\n" not in str(told.value)


@pytest.mark.vllm
def test_a_server_answers_on_the_loopback_alone_comes_back_at_its_address_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    model = Path(write_tiny_model(tmp_path / "model"))
    with JudgeProcess(settings(model, tmp_path, name="small", kv_cache_gib=0.05)) as judge:
        assert served(judge) == ["small"]
        judge.check()
        pids = family_of(judge)
        addresses = [address for pid in pids for address in listening(pid)]
        assert addresses and set(addresses) == {"0100007F"}  # 127.0.0.1 as the kernel writes it
        [server] = [
            pid for pid in pids if b"api_server" in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != pids[0]
        ]
        os.kill(server, signal.SIGKILL)
        assert comes_true(lambda: all(is_gone(pid) for pid in pids))
        with pytest.raises(JudgeFailed, match="ended with signal 9"):
            judge.check()
        url = judge.url
        judge.restart()
        assert judge.url == url and served(judge) == ["small"]
        pids = family_of(judge)
    assert comes_true(lambda: all(is_gone(pid) for pid in pids))


def served(judge: JudgeProcess) -> list[str]:
    with urlopen(Request(f"{judge.url}/models"), timeout=20) as reply:
        return [model["id"] for model in orjson.loads(reply.read())["data"]]


def family_of(judge: JudgeProcess) -> list[int]:
    """The watcher first, then everything below it."""
    assert judge._watcher is not None
    found = [judge._watcher.pid]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def listening(pid: int) -> list[str]:
    """Addresses that a process listens on, TCP over IPv4 and IPv6, in the kernel's hexadecimal."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(entry))
        except FileNotFoundError:
            continue
    rows = [
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]
    ]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
