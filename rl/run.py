"""A run between its steps: what it is made of, how it is put on disk, and how it comes back.

`open_run` builds every part, restores the newest valid checkpoint where there is one, and shuts everything down.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from curricula.sampler import StagedCurriculum
from curricula.settings import CurriculumSettings
from curricula.stage import Stage
from curricula.surplus import SurplusBuffer
from data.prompts import opens_thinking
from rl.advantage import group_advantages
from rl.aepo import EntropyGate
from rl.alarms import ADVICE, Alarms
from rl.changed_settings import tell_changed_settings
from rl.checkpoint import STATE, Found, find_latest, load_state, remove_leftovers, save_checkpoint
from rl.cluster import Cluster
from rl.config import RunConfig
from rl.group_state import group_from_dict, group_to_dict
from rl.health import Health, Preempted, StoppedByAlarm
from rl.held_out import evaluate_last_window, evaluate_windows, last_window_metric, start_hash
from rl.inputs import InputError, Inputs
from rl.learner.step import Learner
from rl.learner_group import LearnerGroup
from rl.metrics import ALARMS_FILE, MetricsLog, read_alarms
from rl.model_source import with_local_models
from rl.rollout.collect import Collected, Sampling
from rl.rollout.weights import sync_weights
from rl.rollout_log import drop_rollouts_after, write_rollouts
from rl.run_folder import (
    Evaluation,
    git_commit,
    installed_versions,
    keep_evaluations,
    lock_run,
    read_evaluations,
    write_config,
    write_evaluation,
    write_summary,
)
from rl.types import RolloutGroup

PROJECT = Path(__file__).resolve().parent
START = "sft"
"""The start model's name among the evaluated checkpoints."""
NEEDED = ("step", "curriculum", "surplus", "negatives_masked", "failed_rounds", "wall_s", "tracker_run_id")
"""What a saved state must have for a run to go on; alarms and evaluation_due are younger than the state's format and may lack."""


@dataclass(kw_only=True)
class Run:
    """Everything the loop touches. Built and closed by `open_run`."""

    config: RunConfig
    inputs: Inputs
    folder: Path
    learner: Learner | LearnerGroup
    cluster: Cluster
    curriculum: StagedCurriculum
    surplus: SurplusBuffer[RolloutGroup]
    gate: EntropyGate
    alarms: Alarms
    log: MetricsLog
    health: Health = field(default_factory=Health)
    step: int = 0
    """Steps done; also the version of the weights."""
    wall_s: float = 0.0
    """Seconds that the run took up to the last restart."""
    start_hash: str = ""
    """See `rl.held_out.start_hash`; empty in a run that was resumed."""
    evaluation_due: str = ""
    """Name of a stage's evaluation that a SIGTERM kept from its end; a resumed run makes it first."""
    opened_at: float = field(default_factory=time.monotonic)

    def sampling(self, step: int, stage: Stage) -> Sampling:
        """What `collect_groups` needs to know about this step; the run's own judge is up when it returns."""
        self.cluster.ensure_judge()
        rollout, curriculum = self.config.rollout, self.config.curriculum
        return Sampling(
            workers=self.cluster.workers,
            scorer=self.cluster.scorer,
            prompt_ids=self.inputs.prompt_ids,
            run_seed=self.config.run.seed,
            step=step,
            num_groups=curriculum.problems_per_step,
            group_size=curriculum.group_size,
            max_response_tokens=stage.max_response_tokens,
            overlong_buffer_tokens=self.config.learner.overlong_buffer_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            dynamic_sampling=curriculum.dynamic_sampling,
            max_refill_rounds=curriculum.max_refill_rounds,
        )

    def learning_rate(self, step: int, stage: Stage) -> float:
        """The stage's rate, risen linearly over the first learner.warmup_steps steps of the run."""
        warmup = self.config.learner.warmup_steps
        return stage.lr * min(1.0, step / warmup) if warmup else stage.lr

    def advantages(self, groups: Sequence[RolloutGroup]) -> list[tuple[float, ...]]:
        """Of every group's valid rollouts, in their order, as the learner section has it."""
        section = self.config.learner
        advantages = group_advantages(
            groups,
            std=section.advantage_std,
            std_form=section.advantage_std_form,
            baseline=section.advantage_baseline,
        )
        return self.gate.apply(groups, advantages)

    def sync(self, version: int) -> dict[str, float]:
        """Hand the learner's weights to every worker and compare both sides."""
        workers, bound = self.cluster.workers, self.config.rollout.max_probe_diff
        return sync_weights(self.learner, workers, version=version, max_diff=bound)

    def evaluate_start_models(self) -> None:
        """Before the first step: evaluate evaluation.checkpoints, then the start model, which the workers keep.

        What an earlier start of this run evaluated stays.

        Raises:
            Preempted: a SIGTERM came; what was evaluated by then is on disk.
        """
        if self.step > 0:
            return
        done = [evaluation.checkpoint for evaluation in read_evaluations(self.folder)]
        with self.health.interruptible("before the first step"):
            for name, path in self.config.evaluation.checkpoints.items():
                if name not in done:
                    self.cluster.workers.update_weights(path, version=0)
                    self.evaluate(name)
            self.sync(version=0)
            if START not in done:
                self.evaluate(START)

    def evaluate(self, name: str) -> dict[str, float]:
        """Evaluate what the workers hold; see `rl.held_out.evaluate_windows`."""
        workers, scorer = self.cluster.workers, self.cluster.scorer
        return evaluate_windows(
            workers,
            scorer,
            self.config,
            self.inputs,
            folder=self.folder,
            name=name,
            step=self.step,
            inputs_hash="" if self.step else self.start_hash,
        )

    def _evaluation_due(self, stage: Stage) -> dict[str, float]:
        """After a step: every window at the stage's end, else every evaluation.every_steps the last stage's alone.

        Raises:
            Preempted: a SIGTERM came, which a stage's evaluation waits for in evaluation_due.
        """
        section, following = self.config.evaluation, self.curriculum.stage
        if following is not stage and (section.every_stage or following is None):
            self.evaluation_due = f"stage-{stage.index + 1}"
            with self.health.interruptible("in an evaluation"):
                metrics = self.evaluate(self.evaluation_due)
            self.evaluation_due = ""
            return metrics
        if section.every_steps and self.step % section.every_steps == 0:
            with self.health.interruptible("in an evaluation"):
                return evaluate_last_window(self.cluster.workers, self.cluster.scorer, self.config, self.inputs)
        return {}

    def finish_step(
        self,
        stage: Stage,
        batch: Collected,
        advantages: Sequence[Sequence[float]],
        metrics: dict[str, float],
        started: float,
    ) -> None:
        """Put the step on disk: rollouts, the evaluation at a stage's end, metrics, a checkpoint when one is due.

        Raises:
            Preempted: a SIGTERM came during the step; the checkpoint is written.
            StoppedByAlarm: an alarm of health.stop_on is raised; the checkpoint is written.
        """
        self.step += 1
        trained = [(group, _per_rollout(group, a)) for group, a in zip(batch.groups, advantages, strict=True)]
        rollouts = write_rollouts(self.folder, self.step, trained, batch.untrained)
        stage_ended = self.curriculum.stage is not stage
        with suppress(Preempted):  # raised again below, once the step is on disk
            metrics |= self._evaluation_due(stage)
        seconds = time.monotonic() - started
        num_tokens = sum(len(g.prompt_token_ids) + sum(len(r.token_ids) for r in g.rollouts) for g in batch.groups)
        alarms = self.alarms.observe(self.step, metrics)
        metrics |= {"time/step_s": seconds, "perf/tokens_per_s": num_tokens / seconds}
        self.log.log(self.step, metrics | self.alarms.metrics(), alarms=alarms, rollouts=rollouts)
        max_invalid = self.config.reward.max_invalid_frac
        self.health.observe(batch.invalid_frac, max_invalid_frac=max_invalid, reason=batch.invalid_reason)
        stopping = self.health.stop_requested.is_set()
        fatal = [name for name in self.alarms.raised if name in self.config.health.stop_on]
        ends = stopping or fatal or self.health.failed_rounds >= self.config.run.max_failed_rounds
        if stage_ended or ends or self.step % self.config.run.checkpoint_every == 0:
            self.checkpoint(protect=stage_ended)
        if stopping:
            raise Preempted(f"stopped by SIGTERM after step {self.step}; the same command with --resume auto goes on")
        if fatal:
            raise StoppedByAlarm(
                f"health.stop_on: {fatal[0]} is raised after step {self.step} ({ADVICE[fatal[0]]}); change the settings, or take "
                "it out of health.stop_on, and go on with --resume auto"
            )

    def checkpoint(self, *, protect: bool) -> Path:
        """Write checkpoints/step-<step>."""

        def write(folder: Path) -> None:
            self.learner.save_model(str(folder / "model"))
            self.inputs.tokenizer.save_pretrained(str(folder / "model"))
            self.learner.save(str(folder / "trainer"))

        return save_checkpoint(
            self.folder,
            self.step,
            write,
            self._state(),
            keep=self.config.run.keep_checkpoints,
            protect=protect,
            config_hash=_hash(self.config),
            dataset_fingerprint=self.inputs.train_fingerprint,
            versions=installed_versions(),
        )

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "policy_version": self.step,
            "curriculum": self.curriculum.state_dict(),
            "surplus": [[group_to_dict(group), born] for group, born in self.surplus],
            "negatives_masked": self.gate.is_closed,
            "failed_rounds": self.health.failed_rounds,
            "alarms": self.alarms.state_dict(),
            "evaluation_due": self.evaluation_due,
            "wall_s": self.wall_s + time.monotonic() - self.opened_at,
            "tracker_run_id": self.log.run_id,
        }

    def restore(self, found: Found) -> None:
        """Take up the state of a checkpoint; the workers get its weights, and evaluate them where that is still due."""
        assert found.path is not None
        state = resumable_state(found.path)
        self.learner.load(str(found.path / "trainer"))
        self.curriculum.load_state_dict(state["curriculum"])
        for group, born in state["surplus"]:
            self.surplus.put(group_from_dict(group), born)
        self.step, self.wall_s = state["step"], state["wall_s"]
        self.gate.is_closed = state["negatives_masked"]
        self.health.resume(state["failed_rounds"], max_failed_rounds=self.config.run.max_failed_rounds)
        if "alarms" in state:
            self.alarms.load_state_dict(state["alarms"])
        else:
            print(f"{found.path.name} knows of no alarms: none are raised", flush=True)
        self.sync(version=self.step)
        if due := state.get("evaluation_due"):
            self.evaluate(due)

    def finish(self) -> None:
        """Name the last evaluation `final` as well and write summary.json."""
        evaluations = read_evaluations(self.folder)
        last = f"stage-{len(self.inputs.stages)}"
        final = [
            Evaluation(checkpoint="final", step=e.step, windows=e.windows) for e in evaluations if e.checkpoint == last
        ]
        for evaluation in final:
            write_evaluation(self.folder, evaluation)
        write_summary(
            self.folder,
            wall_s=self.wall_s + time.monotonic() - self.opened_at,
            seed=self.config.run.seed,
            commit=git_commit(PROJECT),
            versions=installed_versions(),
            num_problems=self.inputs.num_train_by_window,
            evaluations=read_evaluations(self.folder),
            alarms=read_alarms(self.folder / ALARMS_FILE),
        )


@contextmanager
def open_run(config: RunConfig, inputs: Inputs, *, resume: bool, health: Health | None = None) -> Iterator[Run]:
    """Start every part of a run, restored where `resume` finds a checkpoint; everything is shut down afterwards.

    health: one that listens already; None: a new one.

    Raises:
        RunFolderInUse: another process trains in run.dir.
        InputError: run.dir holds a run already and `resume` is False, or its checkpoint's state is not a run's.
        ValueError: the checkpoint does not belong to this configuration or data.
        Preempted: a SIGTERM came before the run was ready.
    """
    health = health or Health()
    health.listen()
    with lock_run(Path(config.run.dir)), ExitStack() as parts:
        with health.interruptible("while it started"):
            run = _start(config, inputs, health, parts, resume=resume)
        yield run


def _start(config: RunConfig, inputs: Inputs, health: Health, parts: ExitStack, *, resume: bool) -> Run:
    """The run's parts, ready for the next step; `parts` is given what has to be shut down."""
    folder = Path(config.run.dir)
    found = _prepare_folder(folder, config, resume=resume)
    step = found.manifest.step if found.manifest else 0
    run_id = resumable_state(found.path)["tracker_run_id"] if found.path else None
    drop_rollouts_after(folder, step)
    curriculum = build_curriculum(config, inputs)
    asked, config = config, with_local_models(config)
    behind_start = "" if found.path else start_hash(config, inputs)
    if behind_start and (kept := keep_evaluations(folder, behind_start)):
        print(f"evaluated by an earlier start and kept: {', '.join(kept)}", flush=True)
    thinks = opens_thinking(inputs.tokenizer, inputs.train[0], inputs.template)
    cluster = parts.enter_context(
        Cluster(config, model_path=config.model.path, max_model_len=inputs.max_model_len, require_closed_think=thinks)
    )
    health.listen()
    learner = cluster.open_learner()
    print(f"learner: {learner.description}", flush=True)
    log = MetricsLog(folder, config.tracking, asked.model_dump(), run_id, last_step=step)
    parts.callback(log.close)
    run = Run(
        config=config,
        inputs=inputs,
        folder=folder,
        learner=learner,
        cluster=cluster,
        curriculum=curriculum,
        surplus=SurplusBuffer(max_age=config.curriculum.max_surplus_age),
        gate=EntropyGate.between(config.learner.aepo_entropy_low, config.learner.aepo_entropy_high),
        alarms=Alarms(config.health, last_stage=len(inputs.stages) - 1, accuracy_metric=last_window_metric(inputs)),
        log=log,
        health=health,
        start_hash=behind_start,
    )
    if found.path:
        run.restore(found)
        print(f"resumed {folder} after step {run.step}", flush=True)
    return run


def resumable_state(checkpoint: Path) -> dict[str, Any]:
    """The state that a checkpoint's run goes on from.

    Raises:
        InputError: something in it is missing.
    """
    state = load_state(checkpoint)
    if missing := [name for name in NEEDED if name not in state]:
        raise InputError(
            f"{checkpoint / STATE}: no {', '.join(missing)} in it, so the run cannot go on from here; go on with the version "
            "that wrote it, or start a new run in another run.dir"
        )
    return state


def build_curriculum(config: RunConfig, inputs: Inputs) -> StagedCurriculum:
    """The curriculum over the run's training problems."""
    named = {setting.name: getattr(config.curriculum, setting.name) for setting in fields(CurriculumSettings)}
    settings = CurriculumSettings(**named)
    return StagedCurriculum(inputs.train, inputs.stages, settings=settings, seed=config.run.seed)


def _prepare_folder(folder: Path, config: RunConfig, *, resume: bool) -> Found:
    """Create the run's folder, or find where it stopped; refuses to write over a run when not resuming."""
    if not resume and (folder / "metrics.jsonl").exists():
        raise InputError(f"run.dir: {folder} holds a run already; name another folder or resume it with --resume auto")
    remove_leftovers(folder)
    found = find_latest(folder)
    if found.message:
        print(found.message, flush=True)
    if found.path and found.manifest:
        resumable_state(found.path)  # refused before anything is told or written
        tell_changed_settings(folder, config.model_dump(), found.manifest.step)
    meta = {"versions": installed_versions(), "commit": git_commit(PROJECT), "pid": os.getpid()}
    write_config(folder, config.model_dump(), meta)
    return found


def _per_rollout(group: RolloutGroup, advantages: Sequence[float]) -> list[float | None]:
    """One entry per rollout: the advantage where it has a valid score, else None."""
    rest = iter(advantages)
    return [next(rest) if rollout.score.status == "ok" else None for rollout in group.rollouts]


def _hash(config: RunConfig) -> str:
    return hashlib.sha256(json.dumps(config.model_dump(), sort_keys=True).encode()).hexdigest()
