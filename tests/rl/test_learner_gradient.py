"""The prompt-once schedule against G separate plain sequences through the stock model, full logits and all."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl.learner.attention import REFERENCE_IMPLEMENTATION
from rl.learner.step import Learner
from rl.types import RolloutGroup
from tests.rl.learner_cases import group, learner, write_tiny_model

GROUPS = [group(17, [5, 9, 1, 7], seed=1), group(3, [2, 6], seed=2), group(30, [4, 4, 11], seed=3)]
ADVANTAGES = [[1.0, -0.5, 0.25, -2.0], [0.7, -0.7], [1.5, 0.1, -1.1]]
TEMPERATURE = 0.7


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def model_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp(request.param), request.param)


def separate_sequences_gradient(path: str, tis_max: float = 2.0) -> dict[str, torch.Tensor]:
    """Stock sdpa, one sequence prompt + response at a time; on-policy, so the ratio is 1 and only its gradient counts."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    num_loss_tokens = sum(len(r.token_ids) for g in GROUPS for r in g.rollouts)
    for g, advantages in zip(GROUPS, ADVANTAGES, strict=True):
        for rollout, advantage in zip(g.rollouts, advantages, strict=True):
            tokens = torch.tensor([[*g.prompt_token_ids, *rollout.token_ids]])
            p = len(g.prompt_token_ids)
            logits = model(input_ids=tokens, use_cache=False).logits[0, p - 1 : -1].float() / TEMPERATURE
            logprobs = logits.log_softmax(-1).gather(-1, tokens[0, p:, None])[:, 0]
            tis = (logprobs.detach() - torch.tensor(rollout.sampling_logprobs)).exp().clamp(max=tis_max)
            (-(advantage * tis * logprobs).sum() / num_loss_tokens).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def learner_gradient(subject: Learner, groups: list[RolloutGroup] = GROUPS) -> dict[str, torch.Tensor]:
    ready = [subject._learn_group(g, a) for g, a in zip(groups, ADVANTAGES, strict=True)]
    subject._accumulate(ready)
    return {name: p.grad for name, p in subject.model.named_parameters() if p.grad is not None}


def assert_same_gradient(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (got[name] - gradient).norm() / gradient.norm()
        assert error <= 1e-5, f"{name}: relative gradient error {error:.1e}"


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("micro_batch_tokens", [1, 12, 10_000])
def test_gradient_is_that_of_separate_sequences(
    model_path: str, micro_batch_tokens: int, gradient_checkpointing: bool
) -> None:
    subject = learner(
        model_path,
        temperature=TEMPERATURE,
        micro_batch_tokens=micro_batch_tokens,
        head_chunk_tokens=4,
        gradient_checkpointing=gradient_checkpointing,
    )
    assert_same_gradient(learner_gradient(subject), separate_sequences_gradient(model_path))


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_masked_reference_path_gives_the_same_gradient(model_path: str, gradient_checkpointing: bool) -> None:
    subject = learner(model_path, temperature=TEMPERATURE, gradient_checkpointing=gradient_checkpointing)
    subject.model.set_attn_implementation(REFERENCE_IMPLEMENTATION)
    assert_same_gradient(learner_gradient(subject), separate_sequences_gradient(model_path))
