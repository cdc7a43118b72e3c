"""Alarms about a run's health: a pure state machine over the steps' metrics.

An alarm is raised once, after `health.patience` steps in a row past its bound, and cleared after as many well inside it;
what lies between changes nothing. A step that lacks an alarm's figure changes nothing either. Bounds: `[health]` of
rl/config.py; what each alarm means and what to do about it: docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from rl.config import AlarmName, HealthSection

NAMES: tuple[AlarmName, ...] = get_args(AlarmName)
PREFIX = "health/alarm/"
"""Before an alarm's name: its metric, 1 while it is raised, else 0."""
REWARD = "reward/mean"

ADVICE: dict[AlarmName, str] = {
    "entropy_collapse": "answers are becoming all alike: read some; raise learner.clip_high, lower learner.lr, or set a "
    "small learner.entropy_coef",
    "entropy_explosion": "answers are turning to noise: read some; lower learner.lr, or set learner.aepo_entropy_high",
    "sampler_mismatch": "sampler and learner disagree about the same weights: compare their dtype, rope and temperature, and "
    "look at policy/sync_probe_max_diff",
    "reward_without_accuracy": "the policy may have learned to please the scorer: read answers with a high score, and look "
    "at reward/judge_only_win_frac and reward/short_answer_frac",
    "dead_groups": "hardly any group teaches: at reward/mean near 0 read some answers, the policy may be broken or the "
    "problems too hard; near 1 they are too easy; change learner.lr, the stage's window or curriculum.order",
    "invalid_scores": "scores are missing: look at reward/timeout_frac, reward/infra_error_frac and judge/breaker_open",
    "truncated_answers": "answers hit the output limit: read how they end; raise max_response_tokens or set "
    "learner.overlong_buffer_tokens",
    "skipped_updates": "gradients are not finite and those updates were left out: lower learner.lr, or check the model's dtype",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AlarmEvent:
    """An alarm was raised or cleared."""

    step: int
    name: AlarmName
    message: str
    """One line: the figure, its bound, and for a raised alarm what to look at."""
    raised: bool
    """False: cleared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """One alarm's figure in one step."""

    is_past: bool
    """Past the bound."""
    is_inside: bool
    """Inside it by the margin; neither: in between."""
    told: str
    """Figure and bound, for people."""


@dataclass(kw_only=True)
class _State:
    is_raised: bool = False
    num_past: int = 0
    """Steps in a row past the bound."""
    num_inside: int = 0
    """Steps in a row well inside it."""


@dataclass(kw_only=True)
class _Mean:
    """Of the values counted in."""

    total: float = 0.0
    num: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.num += 1

    @property
    def value(self) -> float:
        return self.total / self.num


@dataclass(kw_only=True)
class _Memory:
    """What the readings of later steps need of earlier ones."""

    entropy: _Mean = field(default_factory=_Mean)
    """Of the run's first steps."""
    truncated: _Mean = field(default_factory=_Mean)
    """Of the stage's first steps."""
    stage: int = -1
    """That stage."""
    rewards: _Mean = field(default_factory=_Mean)
    """Of the steps since the last evaluation."""
    points: list[tuple[float, float]] = field(default_factory=list)
    """(mean reward since the evaluation before, accuracy) of the last stage's last evaluations."""


class Alarms:
    """Every alarm of a run."""

    def __init__(self, health: HealthSection, *, last_stage: int, accuracy_metric: str) -> None:
        """`accuracy_metric`: the greedy accuracy in the window of `last_stage`, the index of the last stage."""
        self._health = health
        self._last_stage = last_stage
        self._accuracy_metric = accuracy_metric
        self._states = {name: _State() for name in NAMES}
        self._memory = _Memory()

    @property
    def raised(self) -> tuple[AlarmName, ...]:
        """The alarms that are raised now."""
        return tuple(name for name, state in self._states.items() if state.is_raised)

    def observe(self, step: int, metrics: Mapping[str, Any]) -> list[AlarmEvent]:
        """Look at one step's metrics; what was raised or cleared by it. A value that is not a finite number is absent."""
        known = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        return list(self._events(step, known))

    def metrics(self) -> dict[str, float]:
        """`health/alarm/<name>` of every alarm."""
        return {f"{PREFIX}{name}": float(state.is_raised) for name, state in self._states.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, as plain values."""
        return {"states": {name: asdict(state) for name, state in self._states.items()}, "memory": asdict(self._memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; an alarm that is younger than the state has seen nothing yet."""
        memory = state["memory"]
        means = {name: _Mean(**memory[name]) for name in ("entropy", "truncated", "rewards")}
        points = [(reward, accuracy) for reward, accuracy in memory["points"]]
        self._memory = _Memory(**means, points=points, stage=memory["stage"])
        self._states = {name: _State(**state["states"].get(name, {})) for name in NAMES}

    def _readings(self, metrics: Mapping[str, float]) -> dict[AlarmName, _Reading | None]:
        health = self._health
        collapse, explosion = self._entropy(metrics)
        return {
            "entropy_collapse": collapse,
            "entropy_explosion": explosion,
            "sampler_mismatch": self._above(metrics, "policy/kl_sampler", health.max_kl_sampler),
            "reward_without_accuracy": self._reward_and_accuracy(metrics),
            "dead_groups": self._above(metrics, "curriculum/dead_group_frac", health.max_dead_frac),
            "invalid_scores": self._above(metrics, "reward/invalid_frac", health.max_invalid_frac),
            "truncated_answers": self._truncated(metrics),
            "skipped_updates": self._above(metrics, "health/skipped_updates", 0.0),
        }

    def _events(self, step: int, metrics: Mapping[str, float]) -> Iterator[AlarmEvent]:
        for name, reading in self._readings(metrics).items():
            if reading is None:
                continue
            state = self._states[name]
            state.num_past = state.num_past + 1 if reading.is_past else 0
            state.num_inside = state.num_inside + 1 if reading.is_inside else 0
            # An evaluation looks back over several already, and an update that was left out is never chance.
            patience = 1 if name in ("reward_without_accuracy", "skipped_updates") else self._health.patience
            to_clear = 1 if name == "reward_without_accuracy" else self._health.patience
            if not state.is_raised and state.num_past >= patience:
                state.is_raised = True
                times = f" for {patience} steps" if patience > 1 else ""
                message = f"{name}: {reading.told}{times}; {ADVICE[name]}"
                yield AlarmEvent(step=step, name=name, message=message, raised=True)
            elif state.is_raised and state.num_inside >= to_clear:
                state.is_raised = False
                yield AlarmEvent(step=step, name=name, message=f"{name} cleared: {reading.told}", raised=False)

    def _above(self, metrics: Mapping[str, float], metric: str, bound: float, why: str = "") -> _Reading | None:
        """Too high is bad."""
        value = metrics.get(metric)
        if value is None:
            return None
        return _Reading(
            is_past=value > bound,
            is_inside=value <= bound * (1 - self._health.clear_margin),
            told=f"{metric} {value:.4g}, bound {bound:.4g}{why}",
        )

    def _start(self, metrics: Mapping[str, float], metric: str, mean: _Mean) -> float | None:
        """The mean of a figure's first values, `health.patience` of them; None before, while this one is counted in."""
        if mean.num >= self._health.patience:
            return mean.value
        if (value := metrics.get(metric)) is not None:
            mean.add(value)
        return None

    def _entropy(self, metrics: Mapping[str, float]) -> tuple[_Reading | None, _Reading | None]:
        """Of collapse and of explosion."""
        health, entropy = self._health, metrics.get("policy/entropy")
        start = self._start(metrics, "policy/entropy", self._memory.entropy)
        if entropy is None:
            return None, None
        why = "" if start is None else f", start {start:.4g}"
        bound = max(health.entropy_min, health.entropy_min_frac * (start or 0.0))
        collapse = _Reading(
            is_past=entropy < bound,
            is_inside=entropy >= bound * (1 + health.clear_margin),
            told=f"policy/entropy {entropy:.4g}, bound {bound:.4g}{why}",
        )
        if start is None:
            return collapse, None
        return collapse, self._above(metrics, "policy/entropy", health.entropy_max_frac * start, why)

    def _truncated(self, metrics: Mapping[str, float]) -> _Reading | None:
        memory, health, stage = self._memory, self._health, int(metrics.get("curriculum/stage", 0))
        if stage != memory.stage:
            memory.truncated, memory.stage = _Mean(), stage
        start = self._start(metrics, "rollout/truncated_frac", memory.truncated)
        if start is None or start + health.truncated_rise > health.max_truncated_frac:
            return self._above(metrics, "rollout/truncated_frac", health.max_truncated_frac)
        why = f", the stage's start {start:.4g}"
        return self._above(metrics, "rollout/truncated_frac", start + health.truncated_rise, why)

    def _reward_and_accuracy(self, metrics: Mapping[str, float]) -> _Reading | None:
        """Only in the last stage, where rewards and accuracy are of one window."""
        memory, health = self._memory, self._health
        if int(metrics.get("curriculum/stage", self._last_stage)) != self._last_stage:
            return None
        if (reward := metrics.get(REWARD)) is not None:
            memory.rewards.add(reward)
        accuracy = metrics.get(self._accuracy_metric)
        if accuracy is None or not memory.rewards.num:
            return None
        memory.points = [*memory.points, (memory.rewards.value, accuracy)][-health.accuracy_evaluations :]
        memory.rewards = _Mean()
        if len(memory.points) < health.accuracy_evaluations:
            return None
        (reward_before, accuracy_before), (reward_now, accuracy_now) = memory.points[0], memory.points[-1]
        rose, better = reward_now - reward_before, accuracy_now - accuracy_before
        return _Reading(
            is_past=rose >= health.reward_rise and better <= health.accuracy_rise,
            is_inside=better > health.accuracy_rise,
            told=f"over {health.accuracy_evaluations} evaluations {REWARD} changed by {rose:+.3f} (bound "
            f"{health.reward_rise:+.3g}) and {self._accuracy_metric} by {better:+.3f} (bound {health.accuracy_rise:+.3g})",
        )
