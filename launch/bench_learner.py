"""What paying for the prompt once per group saves: our schedule against G separate sequences, in one process by turns.

The other side is what one writes with plain transformers: sdpa attention, one sequence prompt + response at a time, the
head on response positions only. Both sides compute the same gradient, which is checked, and neither steps an optimizer.

G responses a group, P prompt tokens, R tokens a response.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from launch.cli import ConfigError
from rewards.types import Score
from rl.learner.attention import IMPLEMENTATION
from rl.learner.logprobs import token_logprobs
from rl.learner.packing import micro_batches
from rl.learner.policy import load_policy
from rl.learner.schedule import backward_group
from rl.types import MicroBatch, Rollout

GIB = 1024**3
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2},
    "small": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
              "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen2.5-0.5b": {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                     "num_attention_heads": 14, "num_key_value_heads": 2},
    "qwen2.5-7b": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                   "num_attention_heads": 28, "num_key_value_heads": 4},
}  # fmt: skip
"""Qwen2 architectures with random weights; speed does not depend on the weights' values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerCase:
    """One measurement."""

    model: str = "small"
    """A name of SHAPES, or a model's folder."""
    prompt_tokens: int = 2048
    response_tokens: int = 128
    group_size: int = 8
    repeats: int = 3
    """Timed turns of each side, after one that is not timed."""
    threads: int = 0
    """Compute threads on CPU; 0: all cores."""
    device: str = "cpu"
    dtype: str = "float32"


def bench_learner(case: LearnerCase) -> dict[str, Any]:
    """Time, gradient and memory of both sides; times are medians in seconds.

    Raises:
        ConfigError, ModelRefused: no such shape or folder, or a model the learner is not exact for.
    """
    torch.set_num_threads(case.threads or len(os.sched_getaffinity(0)))
    model = _load(case)
    prompt, batches = _group(case, model.config.vocab_size)
    weight = model.get_output_embeddings().weight
    num_tokens = case.group_size * case.response_tokens

    def ours() -> None:
        def loss(i: int, hidden: torch.Tensor) -> torch.Tensor:
            batch = batches[i]
            states, targets = hidden.flatten(0, 1), batch.token_ids.flatten()
            logprobs, _ = token_logprobs(states, weight, targets, temperature=1.0, chunk_tokens=1024)
            return -(logprobs.view_as(batch.token_ids) * batch.advantages[:, None]).sum() / num_tokens

        backward_group(model.base_model, prompt, batches, loss)

    def separate() -> None:
        for batch in batches:
            for tokens, advantage in zip(batch.token_ids, batch.advantages, strict=True):
                ids = torch.cat([prompt, tokens])[None]
                logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(tokens) + 1).logits[0, :-1].float()
                logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
                (-(logprobs * advantage).sum() / num_tokens).backward()

    sides = {"ours": (IMPLEMENTATION, ours), "separate": ("sdpa", separate)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    gradients: dict[str, dict[str, torch.Tensor]] = {}
    peaks: dict[str, float | None] = {}
    for turn in range(case.repeats + 1):
        for name, (implementation, side) in sides.items():
            model.set_attn_implementation(implementation)
            model.zero_grad()
            took, peak = _timed(side, case.device)
            if turn == 0:
                gradients[name] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            else:
                seconds[name].append(took)
                peaks[name] = peak
    ours_s, separate_s = statistics.median(seconds["ours"]), statistics.median(seconds["separate"])
    ideal = ideal_speedup(model.config, case.prompt_tokens, case.response_tokens, case.group_size)
    return {
        "ours_s": ours_s,
        "separate_s": separate_s,
        "ratio": separate_s / ours_s,
        "ideal": ideal,
        "fraction_of_ideal": separate_s / ours_s / ideal,
        "max_rel_grad_err": _max_relative_error(gradients["ours"], gradients["separate"]),
        "ours_peak_gib": peaks["ours"],
        "separate_peak_gib": peaks["separate"],
    }


def ideal_speedup(config: PretrainedConfig, prompt_tokens: int, response_tokens: int, group_size: int) -> float:
    """Arithmetic of G separate sequences over that of one prompt and G responses.

    Linear layers G(P+R) / (P+GR), causal attention G(P+R)^2 / (P^2 + G(R^2+2PR)), the head GR on both sides.
    """
    p, r, g = prompt_tokens, response_tokens, group_size
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    query, key = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    mixing = config.hidden_size * (2 * query + 2 * key + 3 * config.intermediate_size)
    linear = 2 * config.num_hidden_layers * mixing
    """A token's, forward."""
    attention = 2 * config.num_hidden_layers * query
    """Scores and values of a causal square of T x T positions: this times T^2."""
    head = 2 * config.hidden_size * config.vocab_size * g * r
    separate = linear * g * (p + r) + attention * g * (p + r) ** 2 + head
    ours = linear * (p + g * r) + attention * (p**2 + g * (r**2 + 2 * p * r)) + head
    return separate / ours


def _load(case: LearnerCase) -> PreTrainedModel:
    dtype, device = getattr(torch, case.dtype), torch.device(case.device)
    if case.model not in SHAPES:
        if not Path(case.model).is_dir():
            raise ConfigError(f"--model: seen {case.model!r}, allowed: {', '.join(SHAPES)}, or a model's folder")
        return load_policy(case.model, dtype=dtype, device=device).train()
    torch.manual_seed(0)
    positions = case.prompt_tokens + case.response_tokens
    config = Qwen2Config(**SHAPES[case.model], max_position_embeddings=positions, tie_word_embeddings=False)
    with tempfile.TemporaryDirectory() as folder, device:
        Qwen2ForCausalLM(config).to(dtype).save_pretrained(folder)
        return load_policy(folder, dtype=dtype, device=device).train()


def _group(case: LearnerCase, vocab_size: int) -> tuple[torch.Tensor, list[MicroBatch]]:
    """Prompt [P] and the responses, of random tokens, with advantages of both signs."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocab_size, (case.group_size, case.response_tokens), generator=draw).tolist()
    score = Score(value=1.0, status="ok", source="rule", answer=None)
    rollouts = [
        Rollout(
            sample_index=i, token_ids=tuple(row), sampling_logprobs=(0.0,) * len(row), text="",
            finish_reason="stop", score=score, reward=1.0,
        )
        for i, row in enumerate(tokens)
    ]  # fmt: skip
    advantages = [1.0 if i % 2 == 0 else -0.5 for i in range(case.group_size)]
    prompt = torch.randint(vocab_size, (case.prompt_tokens,), generator=draw).to(case.device)
    return prompt, micro_batches(rollouts, advantages, 8192, device=case.device)


def _timed(side: Callable[[], None], device: str) -> tuple[float, float | None]:
    """Seconds, and the peak of memory in GiB: what CUDA allocated, or this process's resident set; None: unknown."""
    on_cuda = device.startswith("cuda")
    if on_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        _reset_resident_peak()
    started = time.perf_counter()
    side()
    if on_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return seconds, torch.cuda.max_memory_allocated() / GIB if on_cuda else _resident_peak()


def _reset_resident_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak restarts at what is resident now
    except OSError:
        return


def _resident_peak() -> float | None:
    try:
        lines: Sequence[str] = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024**2 for line in lines if line.startswith("VmHWM:")), None)


def _max_relative_error(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Over the parameters, |got - expected| / |expected| (2-norms)."""
    return max(float((got[name] - g).norm() / g.norm()) for name, g in expected.items())
