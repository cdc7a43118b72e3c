"""The learner as the loop sees it: steps, weights out, state saved and restored."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rl.config import LearnerSection
from rl.learner.offload import activation_offload
from rl.learner.optimizer import OtherModel
from rl.learner.step import Learner
from rl.types import RolloutGroup
from tests.rl.learner_cases import group, learner, parameters, write_tiny_model

GROUPS = [group(17, [5, 9, 1, 7], seed=1), group(3, [2, 6], seed=2), group(30, [4, 4, 11], seed=3)]
ADVANTAGES = [[1.0, -0.5, 0.25, -2.0], [0.7, -0.7], [1.5, 0.1, -1.1]]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("qwen2"))


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def on_policy(subject: Learner, of: RolloutGroup) -> RolloutGroup:
    """The group as if the learner itself had sampled it, at temperature 1."""
    rollouts = tuple(
        replace(r, sampling_logprobs=tuple(subject.logprobs(of.prompt_token_ids, r.token_ids))) for r in of.rollouts
    )
    return replace(of, rollouts=rollouts)


def test_same_inputs_give_the_same_bits(model_path: str) -> None:
    runs = [learner(model_path), learner(model_path)]
    metrics = [[subject.step(GROUPS, ADVANTAGES, lr=1e-3) for _ in range(2)] for subject in runs]
    assert metrics[0] == metrics[1]
    assert same_bits(parameters(runs[0]), parameters(runs[1]))


def test_a_step_raises_the_probability_of_good_answers_and_lowers_that_of_bad_ones(model_path: str) -> None:
    subject = learner(model_path)
    made = GROUPS[0]
    before = [sum(subject.logprobs(made.prompt_token_ids, r.token_ids)) for r in made.rollouts[:2]]
    subject.step([made], [[1.0, -1.0, 0.0, 0.0]], lr=1e-3)
    after = [sum(subject.logprobs(made.prompt_token_ids, r.token_ids)) for r in made.rollouts[:2]]
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_metrics_are_those_of_the_whole_step(model_path: str) -> None:
    subject = learner(model_path, micro_batch_tokens=12)
    metrics = subject.step([on_policy(subject, g) for g in GROUPS], ADVANTAGES, lr=1e-3)
    lengths = [len(r.token_ids) for g in GROUPS for r in g.rollouts]
    flat = [a for row in ADVANTAGES for a in row]
    assert metrics["loss/num_tokens"] == sum(lengths)
    assert metrics["loss/policy"] == pytest.approx(
        -sum(a * n for a, n in zip(flat, lengths, strict=True)) / sum(lengths), abs=1e-5
    )
    assert metrics["loss/clip_frac"] == 0.0
    assert metrics["policy/kl_sampler_max"] == pytest.approx(0.0, abs=1e-4)
    assert metrics["policy/kl_sampler"] == pytest.approx(0.0, abs=1e-6)
    assert 0.0 < metrics["policy/entropy"] < math.log(97)
    assert metrics["optim/lr"] == 1e-3
    # Prompts once: 17 + 3 + 30; of each response all but its last token, without padding.
    assert metrics["perf/learn_tokens"] == 50 + sum(n - 1 for n in lengths)


def test_groups_of_older_weights_do_not_count_as_mismatch_of_the_two_engines(model_path: str) -> None:
    fresh = dataclasses.replace(group(10, [4, 4], seed=1), policy_version=3)
    stale = dataclasses.replace(group(10, [4, 4], seed=2, sampling_logprob=-9.0), policy_version=2)
    advantages = [[1.0, -1.0], [1.0, -1.0]]
    alone = learner(model_path).step([fresh], advantages[:1], lr=0.0, policy_version=3)
    both = learner(model_path).step([fresh, stale], advantages, lr=0.0, policy_version=3)
    for name in ("policy/kl_sampler", "policy/kl_sampler_k1", "policy/kl_sampler_max"):
        assert both[name] == pytest.approx(alone[name], rel=1e-5)
    assert "policy/kl_stale" not in alone
    assert both["policy/kl_stale"] > both["policy/kl_sampler"]
    only_stale = learner(model_path).step([stale], advantages[:1], lr=0.0, policy_version=3)
    assert "policy/kl_sampler" not in only_stale


@pytest.mark.parametrize(
    "settings", [{"micro_batch_tokens": 9}, {"head_chunk_tokens": 3}, {"gradient_checkpointing": True}]
)
def test_the_split_into_micro_batches_changes_nothing_but_rounding(model_path: str, settings: dict[str, Any]) -> None:
    whole, split = learner(model_path), learner(model_path, **settings)
    expected, got = (s.step(GROUPS, ADVANTAGES, lr=1e-3) for s in (whole, split))
    for name in expected:
        assert got[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name


def test_rollouts_without_a_valid_score_change_nothing(model_path: str) -> None:
    mixed = group(12, [5, 3, 7, 4], seed=5, statuses=["ok", "timeout", "ok", "infra_error"])
    valid_only = replace(mixed, rollouts=mixed.valid_rollouts)
    runs = [learner(model_path), learner(model_path)]
    metrics = [s.step([g], [[1.0, -1.0]], lr=1e-3) for s, g in zip(runs, (mixed, valid_only), strict=True)]
    assert metrics[0] == metrics[1]
    assert metrics[0]["loss/num_tokens"] == 12
    assert same_bits(parameters(runs[0]), parameters(runs[1]))


@pytest.mark.parametrize("groups", [[], [group(5, [3, 3], statuses=["timeout", "timeout"])]])
def test_a_step_without_trained_tokens_updates_nothing(model_path: str, groups: Sequence[RolloutGroup]) -> None:
    subject = learner(model_path)
    before = parameters(subject)
    assert subject.step(groups, [[] for _ in groups], lr=1.0) == {"loss/num_tokens": 0.0, "health/skipped_updates": 0.0}
    assert same_bits(before, parameters(subject))
    assert subject.num_updates == 0


def test_advantages_that_do_not_match_name_the_problem(model_path: str) -> None:
    subject = learner(model_path)
    with pytest.raises(ValueError, match="'problem-1': 1 advantages for 4 rollouts"):
        subject.step(GROUPS[:1], [[1.0]], lr=1e-3)
    with pytest.raises(ValueError, match="0 lists of advantages for 1 groups"):
        subject.step(GROUPS[:1], [], lr=1e-3)


def test_a_gradient_that_is_not_finite_skips_the_update_and_leaves_no_trace(model_path: str) -> None:
    disturbed, calm = learner(model_path), learner(model_path)
    for subject in (disturbed, calm):
        subject.step(GROUPS, ADVANTAGES, lr=1e-3)
    before = parameters(disturbed)
    metrics = disturbed.step(GROUPS[:1], [[math.inf, 0.0, 0.0, 0.0]], lr=1e-3)
    assert metrics["health/skipped_updates"] == 1.0
    assert not math.isfinite(metrics["optim/grad_norm"])
    assert (disturbed.num_updates, disturbed.num_skipped_updates) == (1, 1)
    assert same_bits(before, parameters(disturbed))
    for subject in (disturbed, calm):
        subject.step(GROUPS, ADVANTAGES, lr=1e-3)
    assert same_bits(parameters(disturbed), parameters(calm))


def test_a_resumed_learner_is_bitwise_the_one_that_went_on(model_path: str, tmp_path: Path) -> None:
    settings = {"kl_coef": 0.1, "updates_per_step": 2}
    went_on, resumed = learner(model_path, **settings), learner(model_path, **settings)
    went_on.step(GROUPS, ADVANTAGES, lr=1e-3)
    went_on.save(str(tmp_path))
    resumed.load(str(tmp_path))
    assert resumed.num_updates == 2
    assert same_bits(parameters(went_on), parameters(resumed))
    metrics = [subject.step(GROUPS, ADVANTAGES, lr=1e-3) for subject in (went_on, resumed)]
    assert metrics[0] == metrics[1]
    assert same_bits(parameters(went_on), parameters(resumed))


def test_state_of_another_model_is_refused(model_path: str, tmp_path: Path) -> None:
    learner(model_path).save(str(tmp_path / "state"))
    other = learner(write_tiny_model(tmp_path / "llama", "llama"))
    with pytest.raises(OtherModel, match=r"parameter 'lm_head.weight' has shape None"):
        other.load(str(tmp_path / "state"))


def test_several_updates_measure_the_ratio_from_before_the_first(model_path: str) -> None:
    subject = learner(model_path, updates_per_step=3, gradient_checkpointing=True)
    sampled = [on_policy(subject, g) for g in GROUPS]
    metrics = subject.step(sampled, ADVANTAGES, lr=1e-2)
    assert subject.num_updates == 3
    # Large updates move later ratios out of the clip range, while the sampler still agrees with the old policy.
    assert metrics["loss/clip_frac"] > 0.0
    assert metrics["policy/kl_sampler_max"] < 1e-4


def test_the_reference_is_loaded_only_for_the_kl_term_and_stays_at_the_start(model_path: str) -> None:
    assert learner(model_path)._reference is None
    assert "policy/kl_ref" not in learner(model_path).step(GROUPS, ADVANTAGES, lr=1e-2)
    subject = learner(model_path, kl_coef=0.1)
    first, second = (subject.step(GROUPS, ADVANTAGES, lr=1e-2) for _ in range(2))
    assert first["policy/kl_ref"] == 0.0
    assert second["policy/kl_ref"] > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_are_the_stock_models_at_temperature_1(model_path: str, temperature: float) -> None:
    subject = learner(model_path, temperature=temperature)
    prompt, response = GROUPS[0].prompt_token_ids, GROUPS[0].rollouts[1].token_ids
    stock = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    with torch.no_grad():
        logits = stock(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]
    assert subject.logprobs(prompt, response) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_written_weights_are_what_save_pretrained_writes(family: str, tmp_path: Path) -> None:
    subject = learner(write_tiny_model(tmp_path / "start", family))
    subject.step(GROUPS, ADVANTAGES, lr=1e-3)
    subject.write_weights(str(tmp_path / "weights.safetensors"))
    subject.save_model(str(tmp_path / "model"))
    assert same_bits(load_file(tmp_path / "weights.safetensors"), load_file(tmp_path / "model" / "model.safetensors"))
    assert not list(tmp_path.glob("*.partial"))
    assert "shared_prefix" not in json.dumps(json.loads((tmp_path / "model" / "config.json").read_text()))


def test_a_bfloat16_policy_gathers_updates_below_its_own_spacing(model_path: str, tmp_path: Path) -> None:
    section = LearnerSection(threads=1, gradient_checkpointing=False)
    subject = Learner(model_path, section=section, dtype="bfloat16", device="cpu", temperature=1.0)
    assert subject.model.dtype == torch.bfloat16
    subject.save(str(tmp_path / "before"))
    published = parameters(subject)
    subject.step(GROUPS, ADVANTAGES, lr=1e-7)
    subject.save(str(tmp_path / "after"))
    before, after = (load_file(tmp_path / x / "parameters-00001.safetensors") for x in ("before", "after"))
    moved = sum((before[name] != after[name]).sum().item() for name in before)
    visible = sum((published[name] != p).sum().item() for name, p in parameters(subject).items())
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert visible < 0.1 * moved


def test_memory_does_not_grow_with_the_number_of_responses(model_path: str) -> None:
    class Held:
        """A tensor kept for the backward pass; knows how many bytes are kept at once."""

        now = peak = 0

        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor
            Held.now += tensor.nbytes
            Held.peak = max(Held.peak, Held.now)

        def __del__(self) -> None:
            Held.now -= self.tensor.nbytes

    subject = learner(model_path, micro_batch_tokens=6)
    peaks = []
    for group_size in (2, 16):
        Held.now = Held.peak = 0
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            subject.gather_gradient([group(40, [6] * group_size)], [[1.0] * group_size])
        peaks.append(Held.peak)
    assert peaks[0] == peaks[1] > 0


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_offload_changes_where_things_are_and_not_what_they_are(
    model_path: str, gradient_checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.learner.step.activation_offload", partial(activation_offload, min_bytes=1))
    settings: dict[str, Any] = {"gradient_checkpointing": gradient_checkpointing}
    usual = learner(model_path, **settings)
    offloaded = learner(model_path, offload_activations=True, offload_optimizer=True, **settings)
    for _ in range(2):
        expected, got = (subject.step(GROUPS, ADVANTAGES, lr=1e-3) for subject in (usual, offloaded))
        assert got == expected
    assert same_bits(parameters(usual), parameters(offloaded))
