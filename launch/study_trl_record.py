"""What a run with TRL's trainer puts on disk, and when it is evaluated: a folder like those of our own runs."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from transformers import TrainerCallback

from launch.study_trl_config import StudyTrlConfig
from launch.study_trl_trainer import StudyTrainer
from rewards.metrics import score_metrics
from rewards.types import Scorer
from rl.health import Health, check_invalid_scores
from rl.held_out import evaluate_last_window, evaluate_windows, last_window_metric
from rl.inputs import Inputs
from rl.metrics import MetricsLog
from rl.rollout.engine import Engine
from rl.run_folder import (
    git_commit,
    installed_versions,
    read_evaluations,
    write_evaluation,
    write_file,
    write_summary,
)

PROJECT = Path(__file__).resolve().parent
START = "sft"
"""The start model's name among the evaluated checkpoints, as in a run of ours."""
RENAMED = {
    "loss": "loss/policy",
    "entropy": "policy/entropy",
    "grad_norm": "optim/grad_norm",
    "clip_ratio/region_mean": "loss/clip_frac",
    "completions/mean_length": "rollout/response_tokens_mean",
    "completions/clipped_ratio": "rollout/truncated_frac",
    "frac_reward_zero_std": "curriculum/dead_group_frac",
}
"""TRL's metric -> ours; TRL's are means over its micro-batches."""


@dataclass(kw_only=True)
class Study:
    """What a run with TRL's trainer is made of, and how it is put on disk."""

    config: StudyTrlConfig
    inputs: Inputs
    folder: Path
    engine: Engine
    """Evaluates; where vLLM generates, TRL samples with it too."""
    scorer: Scorer
    trainer: StudyTrainer
    log: MetricsLog
    health: Health = field(default_factory=Health)
    train_s: float = 0.0
    """Seconds of sampling, scoring, syncing and learning so far; no start-up, no evaluation."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """step, train_s behind it, greedy accuracy in the last stage's window."""
    opened_at: float = field(default_factory=time.monotonic)
    step_started: float = 0.0

    def train(self) -> None:
        """The whole run.

        Raises:
            ScoringUnavailable: too many rollouts stayed without a valid score for too many steps.
            RuntimeError: the engine's weights are not the trainer's.
        """
        for name, path in self.config.evaluation.checkpoints.items():
            self.engine.update_weights(path, 0)
            self.evaluate(name, 0)
        self.trainer.sync_engine(self.engine)
        self.evaluate(START, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' and accelerate's, about settings that TRL gives them
            self.trainer.train()
        self.finish()

    def is_last(self, step: int) -> bool:
        """Whether the run ends with this step: the stages' last one, or the one that used up trl.max_train_s."""
        limit = self.config.trl.max_train_s
        return step == self.trainer.args.max_steps or (limit is not None and self.train_s >= limit)

    def begin_step(self, step: int) -> None:
        """Set what TRL cannot change from stage to stage."""
        self.trainer.limit_responses(self.trainer.stage_of(step).max_response_tokens)

    def end_step(self, step: int, logs: Mapping[str, float]) -> None:
        """Log the step that TRL has just done, evaluate when it is time, and start the next step's clock."""
        seconds = time.monotonic() - self.step_started
        self.train_s += seconds
        stage, trainer = self.trainer.stage_of(step), self.trainer
        parts = {name: trainer.seconds.get(name, 0.0) for name in ("rollout", "generate", "sync", "score")}
        trainer.seconds.clear()
        times = {
            "time/rollout_s": parts["rollout"] - parts["sync"],
            "time/generate_s": parts["generate"] - parts["sync"],
            "time/score_s": parts["score"],
            "time/sync_s": parts["sync"],
            "time/learn_s": seconds - parts["rollout"],
        }
        valid = [score.value for score in trainer.scores if score.value is not None]
        metrics = (
            score_metrics(trainer.scores) | {new: logs[old] for old, new in RENAMED.items() if old in logs} | times
        )
        if valid:
            metrics["reward/mean"] = sum(valid) / len(valid)
        metrics |= {"curriculum/stage": stage.index, "optim/lr": trainer.learning_rate(step)}
        metrics |= self._evaluation_due(step)
        metrics["time/step_s"] = seconds + metrics.get("time/eval_s", 0.0)
        self.log.log(step, metrics)
        invalid = next((score for score in trainer.scores if score.value is None), None)
        self.health.observe(
            metrics.get("reward/invalid_frac", 0.0),
            max_invalid_frac=self.config.reward.max_invalid_frac,
            reason="" if invalid is None else invalid.reason,
        )
        check_invalid_scores(self.health, self.config)
        self.step_started = time.monotonic()

    def _evaluation_due(self, step: int) -> dict[str, float]:
        """As `rl.run.Run`: at a stage's end every window, else every evaluation.every_steps the last stage's alone."""
        section, trainer = self.config.evaluation, self.trainer
        stage, is_last = trainer.stage_of(step), self.is_last(step)
        if is_last or (section.every_stage and trainer.stage_of(step + 1) is not stage):
            trainer.sync_engine(self.engine)
            return self.evaluate(f"stage-{stage.index + 1}", step)
        if section.every_steps and step % section.every_steps == 0:
            started = time.monotonic()
            trainer.sync_engine(self.engine)
            metrics = evaluate_last_window(self.engine, self.scorer, self.config, self.inputs)
            self._add_point(step, metrics)
            return metrics and metrics | {"time/eval_s": time.monotonic() - started}
        return {}

    def evaluate(self, name: str, step: int) -> dict[str, float]:
        """Evaluate what the engine holds, after the last step under the name `final` too; empty without data.test."""
        metrics = evaluate_windows(
            self.engine, self.scorer, self.config, self.inputs, folder=self.folder, name=name, step=step
        )
        if name == START or step:
            self._add_point(step, metrics)
        if step and self.is_last(step):
            for evaluation in read_evaluations(self.folder):
                if evaluation.checkpoint == name:
                    write_evaluation(self.folder, replace(evaluation, checkpoint="final"))
        return metrics

    def _add_point(self, step: int, metrics: Mapping[str, float]) -> None:
        accuracy = metrics.get(last_window_metric(self.inputs))
        if accuracy is not None:
            self.curve.append({"step": step, "train_s": self.train_s, "accuracy": accuracy})

    def finish(self) -> None:
        """Write the last model and summary.json."""
        self.trainer.model.save_pretrained(str(self.folder / "model"))
        self.inputs.tokenizer.save_pretrained(str(self.folder / "model"))
        path = write_summary(
            self.folder,
            wall_s=time.monotonic() - self.opened_at,
            seed=self.config.run.seed,
            commit=git_commit(PROJECT),
            versions=installed_versions(),
            num_problems=self.inputs.num_train_by_window,
            evaluations=read_evaluations(self.folder),
        )
        more = {"train_s": self.train_s, "curve": self.curve, "peak_memory_gib": self.peak_memory_gib()}
        more["trl"] = self.settings()
        write_file(path, orjson.dumps(orjson.loads(path.read_bytes()) | more, option=orjson.OPT_INDENT_2))

    def settings(self) -> dict[str, Any]:
        """What TRL ran with, as far as the configuration does not say it."""
        arguments = self.trainer.args
        return {
            "generation": "vllm" if self.trainer.use_vllm else "transformers",
            "per_device_train_batch_size": arguments.per_device_train_batch_size,
            "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
            "response_head": self.config.trl.response_head,
            "importance_sampling_correction": bool(
                self.trainer.use_vllm and arguments.vllm_importance_sampling_correction
            ),
        }

    def peak_memory_gib(self) -> float:
        """Of this process, its engine included."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Recorder(TrainerCallback):
    """TRL's callbacks, handed to the study."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._study.step_started = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._study.begin_step(state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "reward" in logs:  # TRL's line of a step; the last one is a summary
            self._study.end_step(state.global_step, logs)
            control.should_training_stop = self._study.is_last(state.global_step)
