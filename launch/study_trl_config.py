"""A run's configuration as TRL's GRPOTrainer can follow it: a few settings more, and what is refused or goes without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from launch.cli import ConfigError
from rl.config import RunConfig, Section

NEEDED: Mapping[str, tuple[Any, ...]] = {
    "model.device": ("cpu", "auto"),
    "learner.updates_per_step": (1,),
    "learner.kl_coef": (0.0,),
    "learner.entropy_coef": (0.0,),
    "learner.advantage_std": ("none", "group", "batch"),
    "learner.advantage_std_form": ("sample",),
    "learner.advantage_baseline": ("mean",),
    "learner.aepo_entropy_high": (None,),
    "learner.processes": (1,),
    "learner.lora_rank": (0,),
    "reward.judge_path": ("",),
}
"""Keys that would make another objective or need another machine, with the values that this command follows."""
WITHOUT_EFFECT = (
    "replay_frac (TRL has no replay), curriculum.dynamic_sampling and max_refill_rounds (TRL learns from every group, dead ones "
    "too), the curriculum's other settings, rollout.workers, learner.micro_batch_tokens, head_chunk_tokens, attention and "
    "offloading, run.checkpoint_every"
)


class TrlSection(Section):
    generation: Literal["auto", "vllm", "transformers"] = "auto"
    """What TRL samples with: vLLM in its process, or transformers' generate; auto follows rollout.engine."""
    micro_batch_sequences: int = Field(default=4, ge=1)
    """Sequences in one forward and backward; lowered to the next divisor of the step's rollouts."""
    max_train_s: float | None = Field(default=None, gt=0.0)
    """Seconds of training after which the step in progress is the last one; None: every step of every stage."""
    response_head: bool = False
    """Score response positions alone, as TRL does on Triton devices; its CPU code scores the prompt's too, for half of a step."""


class StudyTrlConfig(RunConfig):
    """Everything `python -m launch.study_trl` needs: what `python -m launch.rl` takes, and [trl]."""

    trl: TrlSection = TrlSection()


def refuse_what_trl_cannot(config: StudyTrlConfig) -> None:
    """Raises:
    ConfigError: a key of NEEDED has another value, or the two settings of what samples contradict each other.
    """
    for key, allowed in NEEDED.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if value not in allowed:
            shown = " | ".join(map(repr, allowed))
            raise ConfigError(
                f"{key}: seen {value!r}, allowed beside TRL's GRPOTrainer: {shown}; override it as --{key}, or take launch.rl"
            )
    if config.trl.generation == "vllm" and config.rollout.engine == "transformers":
        raise ConfigError(
            "trl.generation: seen 'vllm' beside rollout.engine='transformers', and the two share one engine; say 'auto' or change one"
        )
