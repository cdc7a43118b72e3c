"""One process at a time trains in a run's folder."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from rl.config import DataSection, ModelSection, RunConfig, RunSection, StageSection
from rl.inputs import Inputs
from rl.run import open_run
from rl.run_folder import RunFolderInUse, lock_run

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from rl.run_folder import lock_run
with lock_run(Path(sys.argv[1])):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = subprocess.Popen(sleep, stdout=subprocess.DEVNULL, close_fds=False)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_a_second_run_in_the_folder_is_refused_before_it_touches_anything(tmp_path: Path) -> None:
    config = RunConfig(
        run=RunSection(dir=str(tmp_path)),
        model=ModelSection(path="m"),
        data=DataSection(train="d"),
        stages=[StageSection(max_prompt_tokens=10, steps=1)],
    )
    half_written = tmp_path / "checkpoints" / ".tmp-step-000002.7"
    half_written.mkdir(parents=True)
    no_inputs = cast(Inputs, None)  # the refusal comes before they are looked at
    with (
        lock_run(tmp_path),
        pytest.raises(RunFolderInUse, match=f"^run.dir: {tmp_path} is held by process {os.getpid()} on ") as refused,
        open_run(config, no_inputs, resume=True),
    ):
        pytest.fail("the run was opened")
    assert refused.value.exit_code == 2
    assert platform.node() in str(refused.value) and "name another folder" in str(refused.value)
    assert half_written.is_dir() and not (tmp_path / "config.toml").exists()


def test_the_lock_ends_with_a_killed_process_whatever_it_had_started(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(RunFolderInUse, match=f"process {holder.pid} on"), lock_run(tmp_path):
            pytest.fail("both hold it")
        holder.kill()
        holder.communicate()
        os.kill(child, 0)  # it lives on
        with lock_run(tmp_path):
            assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} on {platform.node()}\n"
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_lock_is_free_again_after_the_run(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_run(tmp_path / "new"):
            assert (tmp_path / "new" / ".lock").exists()


def test_a_file_system_without_locks_is_told_of_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock_run(tmp_path):
        pass
    told = capsys.readouterr().out
    assert told.startswith(f"run.dir: {tmp_path}: its file system has no locks") and told.count("\n") == 1
