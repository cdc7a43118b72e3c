"""One case of the learner's benchmark: the model, the learner that trains it, and the group it learns from.

G responses a group, P prompt tokens, R tokens a response.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from data.problem import Problem
from launch.bench_memory import release_memory
from launch.cli import ConfigError
from rewards.types import Score
from rl.config import LearnerSection
from rl.learner.policy import max_shared_tokens
from rl.learner.step import Learner
from rl.types import Rollout, RolloutGroup

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "small": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
              "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen2.5-0.5b": {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                     "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2.5-1.5b": {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                     "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2.5-7b": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                   "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False},
}  # fmt: skip
"""Qwen2 architectures with random weights; speed does not depend on the weights' values."""
_UNSEEN = -80.0
"""Sampling log-probability below any the model gives: the importance weight is then its cap, which is 1 here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerCase:
    """One measurement."""

    model: str = "small"
    """A name of SHAPES, or a model's folder."""
    vocab_size: int | None = None
    """In place of the shape's own."""
    prompt_tokens: int = 2048
    response_tokens: int = 128
    group_size: int = 8
    against: Literal["separate", "trl"] = "separate"
    sides: Literal["both", "ours"] = "both"
    """ours: the other side is not run, where it would not fit."""
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    """On both sides."""
    lora_rank: int = 0
    """Adapters of this rank are trained in place of the model, on both sides; 0: the model."""
    micro_batch_tokens: int | None = None
    """Ours; None: the learner's own choice."""
    trl_micro_batch: int | None = None
    """Sequences that TRL takes at a time; None: all or one, whichever is faster here."""
    repeats: int = 3
    """Timed turns of each side."""
    profile: bool = False
    """One more turn of ours, whose time is told by kind of operation."""
    threads: int = 0
    """Compute threads on CPU; 0: all cores."""


def build_learner(case: LearnerCase, folder: Path) -> Learner:
    """The case's learner; the weights of a shape are drawn, and written into the folder first.

    Raises:
        ConfigError, ModelRefused: no such shape or folder, or a model the learner is not exact for.
    """
    path = case.model
    if case.model in SHAPES:
        path = str(folder / "model")
        _write_random_model(case, path)
    elif not Path(case.model).is_dir():
        raise ConfigError(f"--model: seen {case.model!r}, allowed: {', '.join(SHAPES)}, or a model's folder")
    elif case.vocab_size is not None:
        raise ConfigError(f"--vocab-size: {case.model!r} has its own; give it with a shape ({', '.join(SHAPES)})")
    section = LearnerSection(
        tis_max=1.0,
        gradient_checkpointing=case.gradient_checkpointing,
        micro_batch_tokens=case.micro_batch_tokens,
        lora_rank=case.lora_rank,
        threads=case.threads,
    )
    learner = Learner(path, section=section, dtype=case.dtype, device=case.device, temperature=1.0)
    longest, length = max_shared_tokens(learner.model.config), case.prompt_tokens + case.response_tokens
    if longest is not None and length > longest:
        raise ConfigError(f"--prompt-tokens: {length} tokens with the response, {case.model!r} allows {longest}")
    with torch.no_grad():
        for name, parameter in learner.model.named_parameters():
            if "lora_B" in name:  # zero at the start, which would make every gradient of A zero too
                parameter.normal_(std=0.02)
    return learner


def _write_random_model(case: LearnerCase, path: str) -> None:
    torch.manual_seed(0)
    sizes = SHAPES[case.model] | ({"vocab_size": case.vocab_size} if case.vocab_size else {})
    config = Qwen2Config(**sizes, max_position_embeddings=case.prompt_tokens + case.response_tokens)
    with torch.device(case.device):
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, case.dtype)).save_pretrained(path)
    release_memory()


def random_group(case: LearnerCase, vocab_size: int) -> RolloutGroup:
    """G responses of R random tokens to a prompt of P."""
    draw = torch.Generator().manual_seed(1)
    score = Score(value=1.0, status="ok", source="rule", answer=None)
    rollouts = tuple(
        Rollout(
            sample_index=i, token_ids=tuple(row), sampling_logprobs=(_UNSEEN,) * len(row), text="",
            finish_reason="stop", score=score, reward=1.0,
        )
        for i, row in enumerate(
            torch.randint(vocab_size, (case.group_size, case.response_tokens), generator=draw).tolist()
        )
    )  # fmt: skip
    problem = Problem(
        question="?", answers=("a",), answer_type="text", problem_id="bench", task="bench", context="",
        num_prompt_tokens=case.prompt_tokens,
    )  # fmt: skip
    prompt = torch.randint(vocab_size, (case.prompt_tokens,), generator=draw).tolist()
    return RolloutGroup(problem=problem, prompt_token_ids=tuple(prompt), rollouts=rollouts, policy_version=0)


def device_name(device: str) -> str:
    """The GPU's name, or the processor's as Linux has it."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
