"""Tiny models and hand-made groups that the learner's tests share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from data.problem import Problem
from rewards.types import Score, ScoreStatus
from rl.config import LearnerSection
from rl.learner.step import Learner
from rl.types import Rollout, RolloutGroup

VOCABULARY = 97


ROPE = {
    "llama-yarn": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16, "rope_theta": 1e4},
    "llama-linear": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    "llama-dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
}
"""Rotary embeddings that change with the length of the model's context."""
FAMILIES = ("qwen2", "qwen3", "llama", "mistral")


def tiny_config(family: str) -> PretrainedConfig:
    """qwen2: biases and a tied head; qwen3: normalised queries and keys, a head size of its own; llama and mistral: neither.

    All with two query heads per key head.
    """
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    if family in ROPE:
        return LlamaConfig(**sizes, tie_word_embeddings=False, rope_parameters=dict(ROPE[family]))
    if family == "qwen2":
        return Qwen2Config(**sizes, tie_word_embeddings=True)
    if family == "qwen3":
        return Qwen3Config(**sizes, head_dim=16, tie_word_embeddings=False)
    if family == "mistral":
        return MistralConfig(**sizes, head_dim=8, sliding_window=None, tie_word_embeddings=False)
    assert family == "llama"
    return LlamaConfig(**sizes, tie_word_embeddings=False)


def write_tiny_model(folder: Path, family: str = "qwen2") -> str:
    """Random weights, large enough that log-probabilities differ between tokens."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(tiny_config(family))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return str(folder)


def group(
    prompt_length: int,
    lengths: Sequence[int],
    *,
    seed: int = 0,
    statuses: Sequence[ScoreStatus] | None = None,
    sampling_logprob: float = -4.0,
) -> RolloutGroup:
    """Random tokens; every sampling log-probability is `sampling_logprob` plus a little noise."""
    draw = random.Random(seed)
    statuses = statuses or ["ok"] * len(lengths)
    rollouts = tuple(
        Rollout(
            sample_index=i,
            token_ids=tuple(draw.randrange(VOCABULARY) for _ in range(length)),
            sampling_logprobs=tuple(sampling_logprob + draw.gauss(0.0, 0.3) for _ in range(length)),
            text="",
            finish_reason="stop",
            score=Score(value=1.0 if status == "ok" else None, status=status, source="rule", answer=None),
            reward=1.0 if status == "ok" else None,
        )
        for i, (length, status) in enumerate(zip(lengths, statuses, strict=True))
    )
    problem = Problem(
        question="?",
        answers=("a",),
        answer_type="text",
        problem_id=f"problem-{seed}",
        task="t",
        context="",
        num_prompt_tokens=prompt_length,
    )
    prompt = tuple(draw.randrange(VOCABULARY) for _ in range(prompt_length))
    return RolloutGroup(problem=problem, prompt_token_ids=prompt, rollouts=rollouts, policy_version=0)


def learner(path: str, *, temperature: float = 1.0, **settings: object) -> Learner:
    """A float32 CPU learner on one thread."""
    section = LearnerSection.model_validate({"threads": 1, "gradient_checkpointing": False, **settings})
    return Learner(path, section=section, dtype="float32", device="cpu", temperature=temperature)


def parameters(of: Learner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in of.model.named_parameters()}
