"""What a run leaves on disk when SIGTERM comes or the judge stays away, and how it goes on: without Ray, engine or model."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from curricula.stage import Stage
from curricula.surplus import SurplusBuffer
from data.problem import Problem
from rewards.hybrid import RuleScorer
from rl.aepo import EntropyGate
from rl.alarms import Alarms
from rl.checkpoint import find_latest
from rl.config import RunConfig
from rl.health import Health, Preempted, ScoringUnavailable, check_invalid_scores
from rl.held_out import start_hash
from rl.metrics import MetricsLog, read_metrics
from rl.rollout.collect import Collected
from rl.rollout.engine import SampleRequest
from rl.run import Run
from rl.run_folder import keep_evaluations, read_evaluations
from rl.types import Completion

STAGES = tuple(
    Stage(index=i, low=i * 10, high=i * 10 + 10, steps=5, max_response_tokens=4, replay_frac=0.0, lr=1e-3)
    for i in (0, 1)
)


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    """What SIGTERM does to the tests themselves."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@dataclass
class FakeWorkers:
    """Answers `oak`; `stop_in` is the call, counted from 1, in which a SIGTERM comes."""

    stop_in: int = 0
    num_calls: int = 0
    loaded: list[str] = field(default_factory=list)

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        self.num_calls += 1
        if self.num_calls == self.stop_in:
            os.kill(os.getpid(), signal.SIGTERM)
        oak = Completion(token_ids=(1,), logprobs=(0.0,), text="the answer is oak", finish_reason="stop")
        return [[oak] * len(request.seeds) for request in requests]

    def update_weights(self, path: str, version: int, *, rewrite: object = None) -> None:
        self.loaded.append(Path(path).name)

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> dict[str, list[float]]:
        return {}


class FakeLearner:
    def save_model(self, folder: str) -> None:
        Path(folder, "model.safetensors").write_bytes(b"weights")

    def save(self, folder: str) -> None:
        Path(folder, "learner.json").write_bytes(b"{}")

    def load(self, folder: str) -> None:
        assert Path(folder, "learner.json").exists()

    def write_weights(self, path: str) -> None:
        Path(path).write_bytes(b"weights")

    def logprobs(self, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        return [0.0] * len(response)


@dataclass
class FakeCurriculum:
    stage: Stage | None = STAGES[0]

    def state_dict(self) -> dict[str, Any]:
        return {"stage": None if self.stage is None else self.stage.index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stage = None if state["stage"] is None else STAGES[state["stage"]]


def configured(folder: Path, **evaluation: Any) -> RunConfig:
    (folder / "base").mkdir(exist_ok=True)
    return RunConfig.model_validate(
        {
            "run": {"dir": str(folder / "run"), "checkpoint_every": 100, "max_failed_rounds": 2},
            "model": {"path": str(folder / "base")},
            "data": {"train": "d"},
            "stages": [{"max_prompt_tokens": 10, "steps": 5}, {"max_prompt_tokens": 20, "steps": 5}],
            "evaluation": {"sampled": False, **evaluation},
        }
    )


def held_out(length: int) -> Problem:
    return Problem(
        problem_id=f"p{length}",
        task="door",
        context="c",
        question="q",
        answers=("oak",),
        answer_type="text",
        num_prompt_tokens=length,
    )


def opened(config: RunConfig, workers: FakeWorkers) -> Run:
    """A run whose folder is as `open_run` leaves it before the first step."""
    inputs: Any = SimpleNamespace(
        stages=STAGES,
        test={stage.high: [held_out(stage.high)] for stage in STAGES},
        prompt_ids=lambda problem: [1, 2],
        tokenizer=SimpleNamespace(save_pretrained=lambda folder: None),
        model_config=SimpleNamespace(),
        train_fingerprint="f",
    )
    cluster: Any = SimpleNamespace(workers=workers, scorer=RuleScorer())
    curriculum: Any = FakeCurriculum()
    learner: Any = FakeLearner()
    folder = Path(config.run.dir)
    folder.mkdir(exist_ok=True)
    run = Run(
        config=config,
        inputs=inputs,
        folder=folder,
        learner=learner,
        cluster=cluster,
        curriculum=curriculum,
        surplus=SurplusBuffer(max_age=1),
        gate=EntropyGate.between(None, None),
        alarms=Alarms(config.health, last_stage=1, accuracy_metric="eval/greedy/20/accuracy"),
        log=MetricsLog(folder, config.tracking, config.model_dump(), None),
        start_hash=start_hash(config, inputs),
    )
    run.health.listen()
    return run


def step(run: Run, *, invalid_frac: float = 0.0, ends_stage: bool = False) -> None:
    """A step of the loop that learned from nothing."""
    batch = Collected(
        groups=(),
        untrained=(),
        num_sampled_groups=0,
        num_dead_groups=0,
        num_invalid_groups=0,
        num_invalid_rollouts=0,
        num_refill_rounds=0,
        num_carried_groups=0,
        num_surplus_groups=0,
        metrics={"reward/invalid_frac": invalid_frac},
    )
    stage = run.curriculum.stage
    assert stage is not None
    if ends_stage:
        run.curriculum.load_state_dict({"stage": stage.index + 1 if stage.index + 1 < len(STAGES) else None})
    run.finish_step(stage, batch, [], dict(batch.metrics), 0.0)
    check_invalid_scores(run.health, run.config)


def checkpoints(run: Run) -> list[str]:
    folder = run.folder / "checkpoints"
    return sorted(path.name for path in folder.glob("step-*")) if folder.exists() else []


def test_a_run_that_ends_because_scores_stay_unknown_keeps_its_steps_and_counts_anew_when_resumed(
    tmp_path: Path,
) -> None:
    config = configured(tmp_path)
    run = opened(config, FakeWorkers())
    step(run, invalid_frac=1.0)
    assert checkpoints(run) == []
    with pytest.raises(ScoringUnavailable):
        step(run, invalid_frac=1.0)
    run.log.close()
    assert checkpoints(run) == ["step-000002"]

    again = opened(config, FakeWorkers())
    again.log.last_step = 2
    again.restore(find_latest(again.folder))
    step(again, invalid_frac=1.0)
    with pytest.raises(ScoringUnavailable, match="for 2 steps in a row"):
        step(again, invalid_frac=1.0)
    again.log.close()
    assert checkpoints(again) == ["step-000002", "step-000004"]


def test_a_count_below_the_bound_goes_on_where_it_was() -> None:
    health = Health()
    health.resume(1, max_failed_rounds=2)
    assert health.failed_rounds == 1


@pytest.mark.parametrize("stop_in", [0, 1, 2], ids=["before", "in its first window", "in its second"])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_stages_evaluation_that_sigterm_cuts_off_writes_nothing_and_is_made_by_the_resumed_run(
    tmp_path: Path, stop_in: int, is_last: bool
) -> None:
    config = configured(tmp_path)
    workers = FakeWorkers(stop_in=stop_in)
    run = opened(config, workers)
    if is_last:
        run.curriculum.load_state_dict({"stage": 1})
    if not stop_in:
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Preempted, match="stopped by SIGTERM after step 1; ") as stopped:
        step(run, ends_stage=True)
    run.log.close()
    assert stopped.value.exit_code == 75
    assert workers.num_calls == stop_in
    assert read_evaluations(run.folder) == []
    assert checkpoints(run) == ["step-000001"]
    [row] = read_metrics(run.folder / "metrics.jsonl")
    assert not any(name.startswith("eval/") for name in row)

    again = opened(config, FakeWorkers())
    again.restore(find_latest(again.folder))
    again.log.close()
    [evaluation] = read_evaluations(again.folder)
    name = "stage-2" if is_last else "stage-1"
    assert (evaluation.checkpoint, evaluation.step, len(evaluation.windows)) == (name, 1, 2)
    assert again.evaluation_due == ""


def test_a_stages_evaluation_that_ended_is_not_due_again(tmp_path: Path) -> None:
    run = opened(configured(tmp_path), FakeWorkers())
    step(run, ends_stage=True)
    run.log.close()
    assert [e.checkpoint for e in read_evaluations(run.folder)] == ["stage-1"]
    assert run.evaluation_due == ""


def test_an_evaluation_between_a_stages_steps_is_left_out_when_sigterm_cuts_it_off(tmp_path: Path) -> None:
    run = opened(configured(tmp_path, every_steps=1), FakeWorkers(stop_in=1))
    with pytest.raises(Preempted):
        step(run)
    run.log.close()
    assert checkpoints(run) == ["step-000001"] and run.evaluation_due == ""


def test_a_start_that_sigterm_ends_keeps_what_it_evaluated_and_the_next_one_makes_the_rest(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(b"1")
    config = configured(tmp_path, checkpoints={"other": str(tmp_path / "other")})
    run = opened(config, FakeWorkers(stop_in=4))  # two windows of `other`, then the second one of the start model
    with pytest.raises(Preempted, match="stopped by SIGTERM before the first step; "):
        run.evaluate_start_models()
    run.log.close()
    assert [e.checkpoint for e in read_evaluations(run.folder)] == ["other"]

    workers = FakeWorkers()
    again = opened(config, workers)
    assert keep_evaluations(again.folder, again.start_hash) == ["other"]
    again.evaluate_start_models()
    again.log.close()
    assert workers.loaded == ["model.safetensors"]  # the start model's, on its way from the learner
    assert [e.checkpoint for e in read_evaluations(again.folder)] == ["other", "sft"]

    weights.write_bytes(b"22")
    assert keep_evaluations(again.folder, start_hash(config, again.inputs)) == []
    assert list((again.folder / "evaluations").iterdir()) == []


def test_start_evaluations_are_not_kept_under_other_settings(tmp_path: Path) -> None:
    run = opened(configured(tmp_path), FakeWorkers())
    run.log.close()
    changed = configured(tmp_path, problems_per_window=3)
    assert start_hash(changed, run.inputs) != run.start_hash == start_hash(configured(tmp_path), run.inputs)


def test_sigterm_ends_at_once_what_can_be_made_again() -> None:
    health = Health()
    health.listen()
    with (
        pytest.raises(Preempted, match=r"^stopped by SIGTERM while it started; "),
        health.interruptible("while it started"),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")
    os.kill(os.getpid(), signal.SIGTERM)  # a second one, while everything is being shut down
    with pytest.raises(Preempted), health.interruptible("later"):
        pytest.fail("it began")


def test_the_exit_of_rays_own_handler_is_a_stop_and_ctrl_c_is_none() -> None:
    health = Health()
    with pytest.raises(KeyboardInterrupt), health.interruptible("x"):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit), health.interruptible("x"):
        raise SystemExit(3)
    with pytest.raises(Preempted), health.interruptible("x"):
        raise SystemExit(int(signal.SIGTERM))
