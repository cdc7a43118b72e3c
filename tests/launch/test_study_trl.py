"""TRL's GRPOTrainer under a run's configuration: the same prompts, problems, rates, rewards and evaluation as in a run of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

pytest.importorskip("trl", reason="TRL is not installed")

from curricula.stage import Stage
from data.problem import DataError
from launch.cli import exit_code
from launch.study_trl import open_study, run
from launch.study_trl_config import StudyTrlConfig
from launch.study_trl_record import Study
from launch.study_trl_trainer import problem_order
from rewards.types import Score
from rl.metrics import GLOSSARY, read_metrics
from rl.run_folder import read_config, read_evaluations
from tests.rl.tiny_run import write_inputs

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL, accelerate and torch warn of each other


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two stages of two steps; the second cuts every response off after four tokens of the seven."""
    config = write_inputs(tmp_path_factory.mktemp("study"))
    for stage in config["stages"]:
        stage["steps"] = 2
    config["stages"][1] |= {"max_response_tokens": 4, "lr": 1e-3}
    config["learner"]["warmup_steps"] = 3
    config["evaluation"]["every_steps"] = 1
    return config


@pytest.fixture(scope="module")
def study(asked: dict[str, Any]) -> Iterator[Study]:
    """A study that has been trained."""
    from rl.inputs import load_inputs

    config = StudyTrlConfig.model_validate(asked)
    with open_study(config, load_inputs(config), Path(config.run.dir)) as opened:
        opened.train()
        yield opened


@pytest.fixture(scope="module")
def rows(study: Study) -> list[dict[str, Any]]:
    return read_metrics(study.folder / "metrics.jsonl")


def stage(index: int, low: int, high: int, steps: int) -> Stage:
    return Stage(index=index, low=low, high=high, steps=steps, max_response_tokens=8, replay_frac=0.0, lr=1e-3)


def test_trl_makes_the_same_token_ids_of_every_prompt(study: Study) -> None:
    dataset, inputs = study.trainer.train_dataset, study.inputs
    assert len(dataset) == 4 * 4
    ids, *_ = study.trainer._tokenize_prompts(list(dataset["prompt"]))
    assert [list(one) for one in ids] == [inputs.prompt_ids(inputs.train[i]) for i in dataset["problem"]]


def test_a_step_takes_distinct_problems_of_its_stage_and_an_epoch_takes_each_once() -> None:
    lengths = [5, 15, 25] * 7  # seven problems in each of the windows (0, 10], (10, 20], (20, 30]
    order = problem_order(lengths, [stage(0, 0, 10, 4), stage(1, 10, 20, 2)], 3, seed=0)
    assert len(order) == (4 + 2) * 3
    assert {lengths[i] for i in order[:12]} == {5}
    assert {lengths[i] for i in order[12:]} == {15}
    for epoch in (order[:6], order[6:12], order[12:]):  # two steps of three: the seventh problem is left out
        assert len(set(epoch)) == 6
    assert order != problem_order(lengths, [stage(0, 0, 10, 4), stage(1, 10, 20, 2)], 3, seed=1)


def test_a_window_smaller_than_a_step_is_refused() -> None:
    with pytest.raises(DataError, match=r"stage 0 has 2 problems in \(0, 10\] < curriculum.problems_per_step=3"):
        problem_order([5, 5, 15], [stage(0, 0, 10, 1)], 3, seed=0)


def test_the_folder_is_a_run_s(study: Study, rows: list[dict[str, Any]], asked: dict[str, Any]) -> None:
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["curriculum/stage"] for row in rows] == [0, 0, 1, 1]
    names = {key for row in rows for key in row if not key.startswith("eval/")}
    assert names <= {*GLOSSARY, "step"}
    assert {"reward/mean", "policy/entropy", "time/step_s", "time/learn_s", "optim/grad_norm"} <= names
    evaluations = read_evaluations(study.folder)
    assert {(e.checkpoint, e.step) for e in evaluations} == {("sft", 0), ("stage-1", 2), ("stage-2", 4), ("final", 4)}
    config, meta = read_config(study.folder)
    assert config["stages"][1]["max_response_tokens"] == 4
    assert meta["trl"]["generation"] == "auto"


def test_each_stage_has_its_limit_and_its_rate(rows: list[dict[str, Any]], study: Study) -> None:
    assert [row["rollout/response_tokens_mean"] for row in rows[2:]] == [4.0, 4.0]
    assert all(row["rollout/response_tokens_mean"] > 6 for row in rows[:2])
    # 3e-3, then 1e-3, over a warm-up of three steps: a third, two thirds, whole.
    rates = [1e-3, 2e-3, 1e-3, 1e-3]
    assert [row["optim/lr"] for row in rows] == pytest.approx(rates)
    # What AdamW gets, for the step after those done.
    assert [study.trainer.lr_scheduler.lr_lambdas[0](done) * 3e-3 for done in range(4)] == pytest.approx(rates)


def test_adamw_goes_on_across_stages(study: Study) -> None:
    steps = {int(state["step"]) for state in study.trainer.optimizer.state.values()}
    assert steps == {4}


def test_train_seconds_are_those_of_the_steps_without_evaluation(study: Study, rows: list[dict[str, Any]]) -> None:
    summary = json.loads((study.folder / "summary.json").read_text())
    assert summary["train_s"] == pytest.approx(sum(row["time/step_s"] - row["time/eval_s"] for row in rows))
    assert summary["train_s"] < summary["wall_s"]
    assert all(row["time/rollout_s"] + row["time/learn_s"] < row["time/step_s"] for row in rows)
    curve = summary["curve"]
    assert [point["step"] for point in curve] == [0, 1, 2, 3, 4]
    assert [point["train_s"] for point in curve] == sorted(point["train_s"] for point in curve)
    assert curve[-1]["train_s"] == summary["train_s"]
    assert curve[-1]["accuracy"] == summary["accuracy"]["final"]["48"]
    assert curve[1]["accuracy"] == rows[0]["eval/greedy/48/accuracy"]


def test_the_reward_is_the_run_s_scorer_on_the_run_s_text(study: Study) -> None:
    inputs, words = study.inputs, study.inputs.tokenizer
    answers = inputs.train[0].answers[0], "ash" if inputs.train[0].answers[0] == "oak" else "oak"
    texts = [f"red </think> the answer is {answer} <|end|>" for answer in answers]
    unclosed = f"the answer is {answers[0]} <|end|>"  # the prompt opens <think>
    ids = [words(text, add_special_tokens=False).input_ids for text in [*texts, unclosed]]
    assert study.trainer.reward(completion_ids=ids, problem=[0, 0, 0]) == [1.0, 0.0, 0.0]


def test_a_response_without_a_score_has_no_reward(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def score(self, items: list[Any]) -> list[Score]:
            return [Score(value=None, status="timeout", source="judge", answer=None) for _ in items]

    monkeypatch.setattr(study.trainer, "_scorer", Silent())
    assert study.trainer.reward(completion_ids=[[5]], problem=[0]) == [None]


def test_a_head_on_responses_alone_scores_what_trl_s_own_does(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    torch.manual_seed(0)
    ids, mask = torch.randint(4, 20, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    mask[1, :3] = 0  # left padding
    score = study.trainer._get_per_token_logps_and_entropies
    monkeypatch.setattr(study.trainer, "temperature", 1.0)
    own = score(study.trainer.model, ids, mask, 5, compute_entropy=True)
    options = study.config.trl.model_copy(update={"response_head": True})
    monkeypatch.setattr(study.trainer, "_config", study.config.model_copy(update={"trl": options}))
    ours = score(study.trainer.model, ids, mask, 5, batch_size=2, compute_entropy=True)
    assert ours[0].shape == (3, 5)
    torch.testing.assert_close(ours[0], own[0])
    torch.testing.assert_close(ours[1], own[1])


@pytest.mark.ray
def test_our_own_run_measures_the_same_accuracy_of_the_same_weights(study: Study, tmp_path: Path) -> None:
    """Exactly: one engine class, the same requests in the same order, one thread on both sides, so the same tokens."""
    from rl.inputs import load_inputs
    from rl.run import open_run

    update = {
        "run": {"dir": str(tmp_path / "ours")},
        "model": {"path": str(study.folder / "model"), "dtype": "float32"},
    }
    config = StudyTrlConfig.model_validate(study.config.model_dump() | update)
    with open_run(config, load_inputs(config), resume=False) as ours:
        ours.evaluate_start_models()
    [measured] = read_evaluations(tmp_path / "ours")
    final = next(e for e in read_evaluations(study.folder) if e.checkpoint == "final")
    assert measured.windows == final.windows


@pytest.mark.vllm
def test_vllm_samples_from_the_weights_of_each_step(asked: dict[str, Any], tmp_path: Path) -> None:
    """Every sync compares log-probabilities on both sides and ends a run where they differ; weight decay moves the weights."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    torch.manual_seed(0)
    start = asked["model"]["path"]
    wider = AutoConfig.from_pretrained(
        start, hidden_size=64, head_dim=32, initializer_range=0.3
    )  # vLLM has no heads of 16
    LlamaForCausalLM(wider).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(start).save_pretrained(tmp_path / "model")
    changed = {
        "run": {"dir": str(tmp_path / "run")},
        "model": asked["model"] | {"path": str(tmp_path / "model")},
        "data": {"train": asked["data"]["train"]},
        "stages": [{"max_prompt_tokens": 48, "steps": 3, "max_response_tokens": 4}],
        "rollout": {"engine": "vllm", "threads": 1},
        "learner": {"lr": 0.1, "weight_decay": 1.0, "threads": 1},
    }
    (tmp_path / "run.toml").write_text(tomli_w.dumps(asked | changed))
    command = [sys.executable, "-m", "launch.study_trl", str(tmp_path / "run.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["trl"]["generation"] == "vllm"
    assert all(row["time/sync_s"] > 0 for row in read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert distance(tmp_path / "model", tmp_path / "run" / "model") > 0.1


def distance(one: Path, other: Path) -> float:
    """Largest difference of a weight between two models' folders."""
    from rl.rollout.weight_files import iter_weights

    weights = dict(iter_weights(str(one)))
    return max(float((tensor - weights[name]).abs().max()) for name, tensor in iter_weights(str(other)))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (["--learner.advantage_std", "task"], "learner.advantage_std: seen 'task', allowed beside TRL's GRPOTrainer: 'none'"),
        (["--learner.updates_per_step", "2"], "learner.updates_per_step: seen 2, allowed beside TRL's GRPOTrainer: 1"),
        (["--trl.generation", "vllm"], "trl.generation: seen 'vllm' beside rollout.engine='transformers'"),
        (["--trl.micro_batch", "2"], "trl.micro_batch: unknown key; did you mean"),
        (["--curriculum.problems_per_step", "61"], "stage 0 has 60 problems in (0, 24] < curriculum.problems_per_step=61"),
        ([], "holds a run already, and this command cannot resume"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_ends_in_one_line_and_exit_2(
    asked: dict[str, Any],
    study: Study,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: list[str],
    told: str,
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(asked))
    folder = str(study.folder if not override else tmp_path / "run")
    assert exit_code(run, [str(path), "--run.dir", folder, *override]) == 2
    stderr = capsys.readouterr().err
    assert told in stderr
    assert stderr.count("\n") == 1


def test_a_limit_of_seconds_ends_the_run_with_the_step_in_progress(asked: dict[str, Any], tmp_path: Path) -> None:
    from rl.inputs import load_inputs

    limited = asked | {"run": {"dir": str(tmp_path / "limited")}, "trl": {"max_train_s": 1e-3}}
    config = StudyTrlConfig.model_validate(limited)
    with open_study(config, load_inputs(config), Path(config.run.dir)) as opened:
        opened.train()
    assert [row["step"] for row in read_metrics(tmp_path / "limited" / "metrics.jsonl")] == [1]
    evaluations = read_evaluations(tmp_path / "limited")
    assert {(e.checkpoint, e.step) for e in evaluations} == {("sft", 0), ("stage-1", 1), ("final", 1)}
    assert "final" in json.loads((tmp_path / "limited" / "summary.json").read_text())["accuracy"]
