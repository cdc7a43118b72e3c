"""A whole tiny run whose judge goes away in the middle, and one whose judge never comes back."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from rl.metrics import read_metrics
from rl.rollout_log import read_rollouts, rollout_files
from tests.rewards.judge_server import JudgeServer, judge_server, strict
from tests.rl.tiny_run import write_inputs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def start(folder: Path, server: JudgeServer, stages: list[int], reward: dict[str, Any]) -> subprocess.Popen[str]:
    config = write_inputs(folder)
    for stage, steps in zip(config["stages"], stages, strict=True):
        stage["steps"] = steps
    config["evaluation"] = {"every_stage": False, "sampled": False, "problems_per_window": 2}
    config["reward"] = {"judge_url": server.url, "judge_model": "strict", "judge_cooldown_s": 1.0, **reward}
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(config))
    command = [sys.executable, "-m", "launch.rl", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(folder: Path, step: int) -> None:
    """Until metrics.jsonl holds the step."""
    deadline = time.monotonic() + 120
    while not any(row["step"] >= step for row in read_metrics(folder / "run" / "metrics.jsonl")):
        assert time.monotonic() < deadline, f"no step {step} in two minutes"
        time.sleep(0.02)


def test_a_run_goes_on_through_an_outage_and_no_unknown_becomes_a_zero(tmp_path: Path) -> None:
    with judge_server() as server:
        server.decide = strict
        run = start(tmp_path, server, [30, 30], {"judge_cache": False})
        wait_for_step(tmp_path, 2)
        server.mode = "500"
        wait_for_step(tmp_path, 4)
        server.mode = "ok"
        _, errors = run.communicate(timeout=200)
    assert (run.returncode, errors) == (0, "")
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) == 60
    down = [row["step"] for row in rows if row["judge/breaker_open"]]
    assert down and down[0] in (3, 4) and rows[-1]["judge/breaker_open"] == 0.0
    assert rows[-1]["reward/invalid_frac"] == 0.0
    rollouts = [row for _, path in rollout_files(tmp_path / "run") for row in read_rollouts(path)]
    unknown = [row for row in rollouts if row["score_status"] != "ok"]
    assert unknown and all(row["score"] is None and row["reward"] is None for row in unknown)
    assert all(row["advantage"] is None or row["advantage"] == 0.0 for row in unknown)


def test_a_judge_that_stays_away_ends_the_run_with_exit_4(tmp_path: Path) -> None:
    with judge_server("500") as server:
        run = start(tmp_path, server, [30, 30], {"max_invalid_frac": 0.05})
        output, errors = run.communicate(timeout=200)
    assert run.returncode == 4
    assert "had no valid score for 3 steps in a row (for instance abstain: judge: " in errors
    assert errors.count("\n") == 1
    assert output.count("JUDGE DOWN (breaker open)") == 3
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3
    assert (tmp_path / "run" / "checkpoints" / "latest").resolve().name == "step-000003"
