"""A whole tiny run as a user starts it, and everything it leaves behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from launch.report import write_report
from rl.config import RunConfig
from rl.metrics import ALARMS_FILE, GLOSSARY, read_alarms, read_metrics
from rl.rollout.weight_files import iter_weights, weight_names
from rl.rollout_log import read_rollouts
from rl.run import NEEDED
from rl.run_folder import read_config
from rl.samples import MAX_ROWS
from tests.rewards.judge_server import judge_server, strict
from tests.rl.test_tracker import assert_same, offline_files, offline_rows, tensorboard_scalars
from tests.rl.tiny_run import write_inputs

pytestmark = pytest.mark.ray
NUM_STEPS = 3


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two stages, one step and two; KL, a judge, AEPO, a plateau's end and trackers, so that what they leave is there too."""
    config = write_inputs(tmp_path_factory.mktemp("run"))
    config["stages"][0]["steps"], config["stages"][1]["steps"] = 1, 2
    config["learner"] |= {"kl_coef": 0.01, "aepo_entropy_high": 0.01}  # lower than it will be: negatives are left out
    config["curriculum"]["advance_on_plateau"] = 50
    config["evaluation"]["every_steps"] = 1
    config["health"] = {"patience": 1, "entropy_min": 100.0}  # more than it will be: an alarm
    config["tracking"] = {"wandb": "offline", "tensorboard": True, "sample_every": 2}
    return config


@pytest.fixture(scope="module")
def folder(asked: dict[str, Any]) -> Path:
    return run(asked)


def run(asked: dict[str, Any]) -> Path:
    """Run it to its end, with a judge; the run's folder."""
    run_dir = Path(asked["run"]["dir"])
    path = run_dir.with_suffix(".toml")
    with judge_server() as server:
        server.decide = strict
        asked["reward"] = {"judge_url": server.url, "judge_model": "strict", "judge_cache": False}
        path.write_text(tomli_w.dumps(asked))
        command = [sys.executable, "-m", "launch.rl", str(path)]
        environment = os.environ | {"WANDB_SILENT": "true"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    return run_dir


def test_every_metric_is_in_the_glossary_and_every_step_has_them_all(folder: Path) -> None:
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    patterns = [re.sub("<[a-z]+>", "[^/]+", name) for name in GLOSSARY]
    unknown = {name for row in rows for name in row if not any(re.fullmatch(p, name) for p in patterns)} - {"step"}
    assert unknown == set()
    # Where older weights sampled a group; where the pool gave some.
    sometimes = {"policy/kl_stale", "curriculum/replay_reward_mean", "curriculum/replay_gain"}
    plain = {name for name in GLOSSARY if "<" not in name} - sometimes
    for row in rows:
        assert plain - set(row) == set()
    assert rows[0]["reward/door/mean"] == rows[0]["reward/mean"]
    assert [row["curriculum/stage"] for row in rows] == [0, 1, 1]
    # At a stage's end every window, after the other steps the last stage's alone.
    assert ["eval/greedy/24/accuracy" in row for row in rows] == [True, False, True]
    assert all("eval/greedy/48/accuracy" in row for row in rows)


def test_negative_advantages_are_left_out_while_entropy_is_too_high(folder: Path) -> None:
    rows = read_metrics(folder / "metrics.jsonl")
    assert all(row["policy/sampled_entropy"] > 0.01 for row in rows)
    assert all(row["loss/num_masked_negatives"] > 0 for row in rows)
    for path in (folder / "rollouts").iterdir():
        advantages = [row["advantage"] for row in read_rollouts(path) if row["advantage"] is not None]
        assert max(advantages) > 0
        assert min(advantages) == 0
    state = json.loads((folder / "checkpoints" / "latest" / "state.json").read_bytes())
    assert state["negatives_masked"] is True
    assert set(state) == {*NEEDED, "policy_version", "alarms", "evaluation_due"}


def test_every_step_has_its_rollouts(folder: Path) -> None:
    files = sorted(path.name for path in (folder / "rollouts").iterdir())
    assert files == [f"step-{step:06d}.parquet" for step in range(1, NUM_STEPS + 1)]
    rows = read_rollouts(folder / "rollouts" / files[-1])
    assert len(rows) % 4 == 0  # groups of four
    assert {row["task"] for row in rows} == {"door"}
    assert {row["score_status"] for row in rows} == {"ok"}
    assert {row["score_source"] for row in rows} == {"rule", "judge"}


def test_the_written_configuration_is_the_one_that_ran(folder: Path, asked: dict[str, Any]) -> None:
    config, meta = read_config(folder)
    assert RunConfig.model_validate(config) == RunConfig.model_validate(asked)
    assert "torch" in meta["versions"]


def test_the_trackers_hold_what_metrics_jsonl_holds(folder: Path) -> None:
    rows = read_metrics(folder / "metrics.jsonl")
    [path] = offline_files(folder)
    tracked = offline_rows([path])
    assert_same(tracked, folder)
    wanted = {
        "policy/kl_ref",
        "policy/kl_sampler",
        "policy/entropy",
        "reward/mean",
        "curriculum/stage",
        "health/skipped_updates",
    }
    assert all(wanted <= set(row) for row in tracked)
    assert [row.get("samples.nrows") for row in tracked] == [None, MAX_ROWS, None]
    scalars = tensorboard_scalars(folder)
    for name in wanted:
        assert scalars[name] == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]


def test_an_alarm_is_in_every_row_in_its_file_and_in_the_summary(folder: Path) -> None:
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["health/alarm/entropy_collapse"] for row in rows] == [1.0] * NUM_STEPS
    alarms = read_alarms(folder / ALARMS_FILE)
    assert [(event["step"], event["name"], event["raised"]) for event in alarms] == [(1, "entropy_collapse", True)]
    assert json.loads((folder / "summary.json").read_bytes())["alarms"] == alarms


def test_the_summary_holds_every_checkpoints_accuracy_in_every_window(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_bytes())
    assert summary["wall_s"] > 0
    assert set(summary["accuracy"]) == {"sft", "stage-1", "stage-2", "final"}
    assert all(set(windows) == {"24", "48"} for windows in summary["accuracy"].values())
    assert summary["accuracy"]["final"] == summary["accuracy"]["stage-2"]
    assert summary["num_problems"] == {"24": 60, "48": 60}


def test_the_report_shows_the_run(folder: Path, tmp_path: Path) -> None:
    page = write_report(folder, tmp_path / "report.html").read_text(encoding="utf-8")
    for shown in ("stage-1", "final", "reward/mean", "eval/&lt;decoding&gt;/&lt;window&gt;/accuracy"):
        assert shown in page


def test_a_learner_in_two_processes_makes_the_run_that_one_process_makes(asked: dict[str, Any], folder: Path) -> None:
    """Each prompt and its responses shared by both, parameters sharded over both."""
    learner = asked["learner"] | {"processes": 2, "sequence_parallel": 2}
    got = read_metrics(
        run(asked | {"run": {"dir": f"{folder}-two"}, "learner": learner, "tracking": {}}) / "metrics.jsonl"
    )
    expected = read_metrics(folder / "metrics.jsonl")
    assert len(got) == len(expected) == NUM_STEPS
    measured = re.compile("time/|perf/|judge/.*_s$")
    for row, other in zip(got, expected, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {n for n in row if measured.match(n)}:
            assert row[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4), (row["step"], name)


def test_an_alarm_of_stop_on_ends_a_run_after_a_checkpoint_with_exit_2_and_stays_raised(
    asked: dict[str, Any], folder: Path
) -> None:
    stopped = Path(f"{folder}-stopped")
    config = asked | {"run": {"dir": str(stopped)}, "tracking": {}, "reward": {}, "evaluation": {}}
    config["data"] = {"train": asked["data"]["train"]}
    config["health"] = asked["health"] | {"stop_on": ["entropy_collapse"]}
    path = stopped.with_suffix(".toml")
    path.write_text(tomli_w.dumps(config))
    command = [sys.executable, "-m", "launch.rl", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 2
    assert done.stderr.startswith("error: health.stop_on: entropy_collapse is raised after step 1 (")
    assert done.stderr.count("\n") == 1
    state = json.loads((stopped / "checkpoints" / "latest" / "state.json").read_bytes())
    assert state["step"] == 1 and state["alarms"]["states"]["entropy_collapse"]["is_raised"] is True


def test_a_run_that_trains_adapters_syncs_them_and_leaves_a_whole_model(asked: dict[str, Any], folder: Path) -> None:
    learner = asked["learner"] | {"lora_rank": 4, "lora_alpha": 8.0, "kl_coef": 0.01, "entropy_coef": 0.001}
    del learner["aepo_entropy_high"]
    made = run(asked | {"run": {"dir": f"{folder}-lora"}, "learner": learner, "tracking": {}})
    rows = read_metrics(made / "metrics.jsonl")
    assert len(rows) == NUM_STEPS
    assert all(row["policy/sync_probe_max_diff"] < 1e-4 for row in rows)
    assert abs(rows[0]["policy/kl_ref"]) < 1e-6 < rows[-1]["policy/kl_ref"]
    checkpoint = made / "checkpoints" / "latest"
    names = weight_names(str(checkpoint / "model"))
    assert names == weight_names(asked["model"]["path"])
    start, trained = (dict(iter_weights(str(path))) for path in (asked["model"]["path"], checkpoint / "model"))
    moved = {name for name in names if not torch.equal(start[name], trained[name])}
    assert moved and all("_proj." in name for name in moved)
    assert {"adapter_config.json", "adapter_model.safetensors"} == {
        path.name for path in (checkpoint / "model" / "adapter").iterdir()
    }
