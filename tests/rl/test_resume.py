"""A killed run comes back as if nothing had happened: same parameters, bit for bit, and no step twice."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import tomli_w

from rl.checkpoint import MANIFEST, STATE, find_latest, load_state
from rl.metrics import read_metrics
from tests.rl.tiny_run import write_inputs

pytestmark = pytest.mark.ray
NUM_STEPS = 8
KILLED_AFTER = sorted(random.Random(20261122).sample(range(1, NUM_STEPS), 3))
EXACT = ("model/model.safetensors", "trainer/parameters-00001.safetensors", "trainer/moments-00001.safetensors")


def command(config: dict[str, Any], folder: Path, name: str) -> tuple[list[str], Path]:
    """The command line of a run called `name`, and its folder."""
    run_dir = folder / name
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(config | {"run": config["run"] | {"dir": str(run_dir)}}))
    return [sys.executable, "-m", "launch.rl", str(path)], run_dir


def last_checkpoint(run_dir: Path) -> dict[str, bytes]:
    """The exact files of the newest checkpoint."""
    latest = run_dir / "checkpoints" / "latest"
    assert latest.resolve().name == f"step-{NUM_STEPS:06d}"
    return {name: (latest / name).read_bytes() for name in EXACT}


def kill_after(arguments: list[str], run_dir: Path, step: int) -> None:
    """Start the command and SIGKILL its driver as soon as metrics.jsonl holds `step` steps."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while len(read_metrics(run_dir / "metrics.jsonl")) < step:
            assert process.poll() is None, f"the run ended before step {step}"
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def forget_alarms(run_dir: Path) -> None:
    """Leave in the newest checkpoint what one written before there were alarms has."""
    path = find_latest(run_dir).path
    assert path is not None
    state = load_state(path)
    del state["alarms"]
    content = orjson.dumps(state)
    (path / STATE).write_bytes(content)
    manifest = orjson.loads((path / MANIFEST).read_bytes())
    manifest["files"][STATE] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / MANIFEST).write_bytes(orjson.dumps(manifest))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The configuration of a tiny run and the folder its inputs are in."""
    folder = tmp_path_factory.mktemp("resume")
    return write_inputs(folder), folder


@pytest.fixture(scope="module")
def uninterrupted(inputs: tuple[dict[str, Any], Path]) -> Path:
    """The folder of a run that nobody disturbed."""
    arguments, run_dir = command(*inputs, "whole")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return run_dir


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("step", "knows_alarms"), list(zip(KILLED_AFTER, (True, True, False), strict=True)))
def test_a_run_killed_at_a_random_step_ends_with_the_same_bits(
    inputs: tuple[dict[str, Any], Path], uninterrupted: Path, step: int, knows_alarms: bool
) -> None:
    arguments, run_dir = command(*inputs, f"killed-{step}")
    kill_after(arguments, run_dir, step)
    if not knows_alarms:
        forget_alarms(run_dir)
    done = subprocess.run([*arguments, "--resume", "auto"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("knows of no alarms: none are raised" in done.stdout) is not knows_alarms
    assert last_checkpoint(run_dir) == last_checkpoint(uninterrupted)
    steps = [row["step"] for row in read_metrics(run_dir / "metrics.jsonl")]
    assert steps == list(range(1, NUM_STEPS + 1))
    rewards = [[row["reward/mean"] for row in read_metrics(d / "metrics.jsonl")] for d in (run_dir, uninterrupted)]
    assert rewards[0] == rewards[1]


def test_the_runs_parameters_really_moved(inputs: tuple[dict[str, Any], Path], uninterrupted: Path) -> None:
    start = Path(inputs[0]["model"]["path"], "model.safetensors").read_bytes()
    assert last_checkpoint(uninterrupted)["model/model.safetensors"] != start


@pytest.mark.timeout(120)
def test_sigterm_ends_a_run_with_a_checkpoint_and_exit_code_75(inputs: tuple[dict[str, Any], Path]) -> None:
    arguments, run_dir = command(*inputs, "preempted")
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not read_metrics(run_dir / "metrics.jsonl"):
        assert process.poll() is None, "the run ended before its first step"
        time.sleep(0.002)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told[-2000:]
    last_step = read_metrics(run_dir / "metrics.jsonl")[-1]["step"]
    assert (run_dir / "checkpoints" / "latest").resolve().name == f"step-{last_step:06d}"
    assert last_step < NUM_STEPS


@pytest.mark.timeout(120)
def test_sigterm_while_a_run_starts_ends_it_with_exit_code_75(inputs: tuple[dict[str, Any], Path]) -> None:
    arguments, run_dir = command(*inputs, "starting")
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (run_dir / "config.toml").exists():  # Ray starts next
        assert process.poll() is None, "the run ended before it had a folder"
        time.sleep(0.01)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told[-2000:]
    assert told == "error: stopped by SIGTERM while it started; the same command with --resume auto goes on\n"


def test_a_folder_that_holds_a_run_is_not_written_over_without_resume(
    inputs: tuple[dict[str, Any], Path], uninterrupted: Path
) -> None:
    arguments, _ = command(*inputs, "whole")
    done = subprocess.run([*arguments, "--resume", "never"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds a run already" in done.stderr
    assert done.stderr.count("\n") == 1
