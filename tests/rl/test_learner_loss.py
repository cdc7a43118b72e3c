"""The token loss, by hand and against TRL's own trainer."""

from __future__ import annotations

import dataclasses
import math
import random
import warnings
from pathlib import Path

import pytest
import torch

from rl.learner.loss import policy_loss
from rl.learner.step import Learner
from rl.types import RolloutGroup
from tests.rl.learner_cases import VOCABULARY, group, learner, write_tiny_model

CLIPS = {"clip_low": 0.2, "clip_high": 0.28, "tis_max": 2.0}


def loss_of(logprobs: list[float], **changes: object) -> tuple[torch.Tensor, torch.Tensor, object]:
    """(loss, gradient, sums); advantages 1, entropies 0 and one trained token unless told otherwise."""
    leaf = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    arguments: dict[str, object] = {
        "advantages": torch.ones(len(logprobs)),
        "sampling_logprobs": leaf.detach(),
        "entropies": torch.zeros(len(logprobs)),
        "num_loss_tokens": 1,
    }
    arguments |= {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in changes.items()}
    loss, sums = policy_loss(leaf, **CLIPS | arguments)
    loss.backward()
    return loss.detach(), leaf.grad, sums


def test_on_policy_loss_is_minus_mean_advantage_and_its_gradient_minus_advantage_over_n() -> None:
    # ratio 1, tis 1: loss = -(3 - 1) / 4, d/dlogp = -A / 4.
    loss, gradient, _ = loss_of([-1.0, -2.0], advantages=[3.0, -1.0], num_loss_tokens=4)
    assert loss.item() == pytest.approx(-0.5)
    assert gradient.tolist() == pytest.approx([-0.75, 0.25])


def test_clip_takes_the_pessimistic_side() -> None:
    # ratios 1.5 and 0.5 for A = 1 and A = -1, in all four pairs:
    #   1.5, +1: min(1.5, 1.28) = 1.28, clipped;  0.5, +1: min(0.5, 0.8) = 0.5;
    #   1.5, -1: min(-1.5, -1.28) = -1.5;         0.5, -1: min(-0.5, -0.8) = -0.8, clipped.
    old = [0.0, 0.0, 0.0, 0.0]
    logprobs = [math.log(r) for r in (1.5, 0.5, 1.5, 0.5)]
    loss, gradient, sums = loss_of(
        logprobs, old_logprobs=old, sampling_logprobs=old, advantages=[1.0, 1.0, -1.0, -1.0], num_loss_tokens=2
    )
    assert loss.item() == pytest.approx(-(1.28 + 0.5 - 1.5 - 0.8) / 2)
    # d ratio / d logp = ratio; a clipped token has no gradient.
    assert gradient.tolist() == pytest.approx([0.0, -0.25, 0.75, 0.0])
    assert sums.clipped.item() == 2


def test_importance_weight_is_truncated_and_carries_no_gradient() -> None:
    # old - sampling = log 3 and log 0.5: weights min(3, 2) = 2 and 0.5.
    loss, gradient, sums = loss_of([0.0, 0.0], sampling_logprobs=[-math.log(3.0), -math.log(0.5)])
    assert loss.item() == pytest.approx(-2.5)
    assert gradient.tolist() == pytest.approx([-2.0, -0.5])
    # k1 = sampling - old; k3 = r - 1 - log r at r = 3 and 0.5.
    assert sums.sampler_k1.item() == pytest.approx(-math.log(3.0) - math.log(0.5))
    assert sums.sampler_k3.item() == pytest.approx(3 - 1 - math.log(3) + 0.5 - 1 - math.log(0.5))
    assert sums.sampler_max.item() == pytest.approx(math.log(3.0))


def test_kl_term_is_k3_against_the_reference() -> None:
    # ref - logp = log 2: k3 = 2 - log 2 - 1; d k3 / d logp = 1 - exp(ref - logp) = -1.
    loss, gradient, sums = loss_of([0.0], advantages=[0.0], ref_logprobs=[math.log(2.0)], kl_coef=0.1)
    assert loss.item() == pytest.approx(0.1 * (1 - math.log(2)))
    assert gradient.tolist() == pytest.approx([-0.1])
    assert sums.ref_k3.item() == pytest.approx(1 - math.log(2))


def test_sums_add_up_and_the_largest_difference_is_a_maximum() -> None:
    _, _, first = loss_of([0.0], sampling_logprobs=[0.5])
    _, _, second = loss_of([0.0], sampling_logprobs=[0.25])
    assert (first + second).sampler_max.item() == 0.5
    assert (first + second).sampler_k1.item() == 0.75


def test_zero_denominator_is_refused() -> None:
    with pytest.raises(ValueError, match="num_loss_tokens: 0 is not positive"):
        loss_of([0.0], num_loss_tokens=0)


def test_entropy_bonus_by_hand() -> None:
    leaf = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    entropies = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    loss, _ = policy_loss(
        leaf,
        advantages=torch.zeros(2),
        sampling_logprobs=leaf.detach(),
        entropies=entropies,
        num_loss_tokens=4,
        entropy_coef=0.1,
        **CLIPS,
    )
    # -0.1 * (0.5 + 1.5) / 4
    assert loss.item() == pytest.approx(-0.05)
    assert torch.autograd.grad(loss, entropies)[0].tolist() == pytest.approx([-0.025, -0.025])


def test_kl_without_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kl_coef=0.1 needs ref_logprobs"):
        loss_of([0.0], kl_coef=0.1)


# TRL: the real GRPOTrainer on the same model and batch.

LENGTHS = [5, 9, 1, 7]
TEMPERATURE = 0.7


def noisy(of: RolloutGroup, seed: int) -> list[list[float]]:
    """Other log-probabilities of the same shape: an older policy, or a reference."""
    draw = random.Random(seed)
    return [[-4.0 + draw.gauss(0.0, 0.4) for _ in r.token_ids] for r in of.rollouts]


def padded(rows: list[list[float]] | list[tuple[int, ...]], *, left: bool = False) -> torch.Tensor:
    width = max(map(len, rows))
    fill = [[0] * (width - len(row)) for row in rows]
    return torch.tensor([[*f, *row] if left else [*row, *f] for row, f in zip(rows, fill, strict=True)])


def trl_trainer(model_path: str, folder: Path):  # type: ignore[no-untyped-def]
    """TRL's trainer with our settings; vLLM itself is not started, its importance weights are handed in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing TRL imports vLLM and others, whose deprecations are not ours
        trl = pytest.importorskip("trl")
        trainer_class = trl.GRPOTrainer
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="w0", eos_token="w1")
    config = trl.GRPOConfig(
        output_dir=str(folder),
        loss_type="dapo",
        epsilon=0.2,
        epsilon_high=0.28,
        temperature=TEMPERATURE,
        beta=0.05,
        use_bias_correction_kl=False,
        per_device_train_batch_size=8,
        num_generations=4,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        model_init_kwargs={"dtype": "float32"},
    )
    trainer = trainer_class(
        model=model_path,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "w2"}]),
        processing_class=tokenizer,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    return trainer


def test_loss_and_gradient_equal_trl_dapo_with_clip_importance_weights_and_kl(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "model")
    groups = [group(17, LENGTHS, seed=1), group(11, LENGTHS[::-1], seed=2)]
    advantages = [[1.0, -0.5, 0.25, -2.0], [0.7, -0.7, 1.1, 0.3]]
    old, reference = [noisy(g, 3) for g in groups], [noisy(g, 4) for g in groups]
    num_loss_tokens = 2 * sum(LENGTHS)

    trainer = trl_trainer(path, tmp_path / "trl")
    rollouts = [r for g in groups for r in g.rollouts]
    old_padded = padded([row for rows in old for row in rows])
    sampling = padded([r.sampling_logprobs for r in rollouts])
    prompts = [g.prompt_token_ids for g in groups for _ in g.rollouts]
    inputs = {
        "prompt_ids": padded(prompts, left=True),
        "prompt_mask": padded([(1,) * len(p) for p in prompts], left=True),
        "completion_ids": padded([r.token_ids for r in rollouts]),
        "completion_mask": padded([(1,) * len(r.token_ids) for r in rollouts]),
        "advantages": torch.tensor(advantages).flatten(),
        "num_items_in_batch": torch.tensor(num_loss_tokens),
        "old_per_token_logps": old_padded,
        "ref_per_token_logps": padded([row for rows in reference for row in rows]),
        "importance_sampling_ratio": (old_padded - sampling).exp().clamp(max=2.0),
    }
    expected = trainer.compute_loss(trainer.model, inputs)
    expected.backward()

    ours = learner(path, temperature=TEMPERATURE, kl_coef=0.05, micro_batch_tokens=16)
    turns = [
        dataclasses.replace(turn, old_logprobs=o, ref_logprobs=r)
        for turn, o, r in zip(
            ours._turns(ours._trained(groups, advantages, None)),
            packed(ours, groups, old),
            packed(ours, groups, reference),
            strict=True,
        )
    ]
    sums = [token_sums for _, token_sums in ours._accumulate(turns, num_loss_tokens)]
    total = sum(s.policy + 0.05 * s.ref_k3 / num_loss_tokens for s in sums)
    assert sum(s.clipped for s in sums) > 0
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = dict(trainer.model.named_parameters())
    for name, gradient in ours.gradients().items():
        error = (gradient - theirs[name].grad).norm() / theirs[name].grad.norm()
        assert error <= 1e-5, f"{name}: relative gradient error {error:.1e}"


def packed(ours: Learner, of: list[RolloutGroup], values: list[list[list[float]]]) -> list[tuple[torch.Tensor, ...]]:
    """Values per token of each group in the order of the micro-batches that the learner makes of them."""
    moved = [
        dataclasses.replace(
            g,
            rollouts=tuple(
                dataclasses.replace(r, sampling_logprobs=tuple(v)) for r, v in zip(g.rollouts, rows, strict=True)
            ),
        )
        for g, rows in zip(of, values, strict=True)
    ]
    turns = ours._turns(ours._trained(moved, [[0.0] * len(g.rollouts) for g in of], None))
    return [tuple(batch.sampling_logprobs for batch in turn.group.batches) for turn in turns]
