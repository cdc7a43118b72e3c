"""The prompt-once schedule against G separate plain sequences through the stock model, full logits and all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rl.learner import lora
from rl.learner.step import Learner
from rl.types import RolloutGroup
from tests.rl.learner_cases import FAMILIES, ROPE, group, learner, write_tiny_model

GROUPS = [
    group(17, [5, 9, 1, 7], seed=1),
    group(3, [2, 6], seed=2),
    group(30, [4, 4, 11], seed=3),
    group(1, [1], seed=4),
]
ADVANTAGES = [[1.0, -0.5, 0.25, -2.0], [0.7, -0.7], [1.5, 0.1, -1.1], [0.4]]
TEMPERATURE = 0.7
LORA: dict[str, Any] = {"lora_rank": 3, "lora_alpha": 6.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {f: write_tiny_model(tmp_path_factory.mktemp(f), f) for f in (*FAMILIES, *ROPE)}


def separate_gradient(
    model: PreTrainedModel,
    groups: Sequence[RolloutGroup] = GROUPS,
    *,
    tis_max: float = 2.0,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    reference: PreTrainedModel | None = None,
) -> dict[str, torch.Tensor]:
    """One sequence prompt + response at a time; on-policy, so the ratio is 1 and only its gradient counts."""
    num_loss_tokens = sum(len(r.token_ids) for g in groups for r in g.rollouts)

    def token_distributions(of: PreTrainedModel, tokens: torch.Tensor, p: int) -> torch.Tensor:
        logits = of(input_ids=tokens, use_cache=False).logits[0, p - 1 : -1]
        return (logits.float() / TEMPERATURE).log_softmax(-1)

    for g, advantages in zip(groups, ADVANTAGES, strict=False):
        for rollout, advantage in zip(g.rollouts, advantages, strict=True):
            p, tokens = len(g.prompt_token_ids), torch.tensor([[*g.prompt_token_ids, *rollout.token_ids]])
            logp = token_distributions(model, tokens, p)
            chosen = logp.gather(-1, tokens[0, p:, None])[:, 0]
            tis = (chosen.detach() - torch.tensor(rollout.sampling_logprobs)).exp().clamp(max=tis_max)
            loss = -(advantage * tis * chosen).sum() + entropy_coef * (logp.exp() * logp).sum()
            if reference is not None:
                with torch.no_grad(), lora.adapters_off(model) if reference is model else nullcontext():
                    ref = token_distributions(reference, tokens, p).gather(-1, tokens[0, p:, None])[:, 0]
                loss = loss + kl_coef * ((ref - chosen).exp() - 1 - (ref - chosen)).sum()
            (loss / num_loss_tokens).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def stock(path: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")


def learner_gradient(subject: Learner, groups: Sequence[RolloutGroup] = GROUPS) -> dict[str, torch.Tensor]:
    subject.gather_gradient(groups, ADVANTAGES[: len(groups)])
    return subject.gradients()


def assert_same_gradient(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], bound: float = 1e-5) -> None:
    assert got.keys() == expected.keys()
    assert any(gradient.norm() > 0 for gradient in expected.values())
    for name, gradient in expected.items():
        error = float((got[name] - gradient).norm() / gradient.norm().clamp(min=1e-30))
        assert error <= bound, f"{name}: relative gradient error {error:.1e}"


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("family", [*FAMILIES, *ROPE])
def test_gradient_is_that_of_separate_sequences(
    models: dict[str, str], family: str, gradient_checkpointing: bool
) -> None:
    subject = learner(models[family], temperature=TEMPERATURE, gradient_checkpointing=gradient_checkpointing)
    assert_same_gradient(learner_gradient(subject), separate_gradient(stock(models[family])))


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4])
def test_gradient_is_exact_for_every_number_of_groups(models: dict[str, str], num_groups: int) -> None:
    groups = GROUPS[:num_groups]
    subject = learner(models["qwen3"], temperature=TEMPERATURE, head_chunk_tokens=4)
    assert_same_gradient(learner_gradient(subject, groups), separate_gradient(stock(models["qwen3"]), groups))


@pytest.mark.parametrize("micro_batch_tokens", [*range(1, 24), 10_000])
def test_gradient_is_exact_for_every_micro_batch_size(models: dict[str, str], micro_batch_tokens: int) -> None:
    # 22 response tokens is the largest group: sizes from one token to all of them, and beyond.
    subject = learner(
        models["llama"], temperature=TEMPERATURE, micro_batch_tokens=micro_batch_tokens, gradient_checkpointing=True
    )
    assert_same_gradient(learner_gradient(subject), separate_gradient(stock(models["llama"])))


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("micro_batch_tokens", [8, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_with_kl_and_entropy_terms(
    models: dict[str, str], family: str, micro_batch_tokens: int | None, gradient_checkpointing: bool
) -> None:
    subject = learner(
        models[family],
        temperature=TEMPERATURE,
        kl_coef=0.3,
        entropy_coef=0.2,
        micro_batch_tokens=micro_batch_tokens,
        gradient_checkpointing=gradient_checkpointing,
    )
    moved = stock(models[family])
    with torch.no_grad():
        # The policy has moved away from its reference, which stays at the start.
        for ours, theirs in zip(subject.model.parameters(), moved.parameters(), strict=True):
            ours.mul_(1.05)
            theirs.mul_(1.05)
    expected = separate_gradient(moved, kl_coef=0.3, entropy_coef=0.2, reference=stock(models[family]))
    assert_same_gradient(learner_gradient(subject), expected)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_of_adapters_with_kl_against_the_frozen_base(
    models: dict[str, str], family: str, gradient_checkpointing: bool
) -> None:
    subject = learner(
        models[family], temperature=TEMPERATURE, kl_coef=0.3, gradient_checkpointing=gradient_checkpointing, **LORA
    )
    separate = stock(models[family])
    lora.add_adapters(separate, rank=3, alpha=6.0, targets=subject._section.lora_targets, seed=0)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for ours, theirs in zip(subject.model.parameters(), separate.parameters(), strict=True):
            if ours.requires_grad:
                ours.add_(0.3 * torch.randn(ours.shape, generator=draw))
                theirs.copy_(ours)
    expected = separate_gradient(separate, kl_coef=0.3, reference=separate)
    got = learner_gradient(subject)
    assert got and all("lora_" in name for name in got)
    assert_same_gradient(got, expected)


def test_masked_reference_gives_the_same_gradient(models: dict[str, str]) -> None:
    subject = learner(models["qwen2"], temperature=TEMPERATURE, attention="reference")
    assert_same_gradient(learner_gradient(subject), separate_gradient(stock(models["qwen2"])))


def test_lengths_drawn_at_random(models: dict[str, str]) -> None:
    draw = random.Random(0)
    for seed in range(10):
        made = group(draw.randint(1, 60), [draw.randint(1, 20) for _ in range(4)], seed=seed)
        subject = learner(models["mistral"], temperature=TEMPERATURE, micro_batch_tokens=draw.randint(1, 40))
        assert_same_gradient(learner_gradient(subject, [made]), separate_gradient(stock(models["mistral"]), [made]))


def test_a_sequence_beyond_what_dynamic_rope_shares_is_refused_by_name(models: dict[str, str]) -> None:
    subject = learner(models["llama-dynamic"])
    at_the_limit, beyond = group(250, [6], seed=8), group(250, [7], seed=9)
    subject.gather_gradient([at_the_limit], [[1.0]])
    with pytest.raises(ValueError, match="'problem-9': prompt and response of 257 tokens > 256"):
        subject.gather_gradient([beyond], [[1.0]])


def test_yarn_of_the_tiny_model_is_not_the_plain_rope(models: dict[str, str], tmp_path: Path) -> None:
    # Otherwise the case above would show nothing.
    plain = learner_gradient(learner(models["llama"], temperature=TEMPERATURE))
    for rope in ("llama-yarn", "llama-linear"):
        other = learner_gradient(learner(models[rope], temperature=TEMPERATURE))
        assert any((other[n] - g).norm() > 1e-3 * g.norm() for n, g in plain.items())
