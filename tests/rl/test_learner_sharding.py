"""One, two and four processes: the same gradient, the same step, the same files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from rl.learner.ranks import TokenLayout
from rl.learner.sharding import rounds
from tests.rl.gloo_ranks import run_ranks
from tests.rl.learner_cases import group, learner, write_tiny_model

GROUPS = [
    group(17, [5, 9, 1, 7], seed=1),
    group(3, [2, 6], seed=2),
    group(30, [4, 4, 11], seed=3),
    group(1, [1], seed=4),
    group(40, [3, 12, 2, 2], seed=5),
]
ADVANTAGES = [[1.0, -0.5, 0.25, -2.0], [0.7, -0.7], [1.5, 0.1, -1.1], [0.4], [0.3, -0.2, 1.0, -1.0]]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"family": "qwen2"},
    "small micro-batches, recomputed": {"family": "llama", "micro_batch_tokens": 5, "gradient_checkpointing": True},
    "kl and entropy": {"family": "qwen3", "kl_coef": 0.2, "entropy_coef": 0.1},
    "adapters": {"family": "mistral", "lora_rank": 3, "kl_coef": 0.2},
    "reduced in every backward": {"family": "llama-yarn", "grad_accumulation": "sharded", "micro_batch_tokens": 9},
}
PARALLEL = {2: [1, 2], 4: [1, 2, 4]}
"""Processes, and the sequence-parallel sizes tried with them: FSDP alone, both together, sequence parallelism alone."""


def gradients(folder: str, num_sequence: int = 1) -> None:
    """Write each case's gradient, metrics and probe to folder/CASE-PROCESSES-SEQUENCE.safetensors."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    for name, case in CASES.items():
        settings = {**case, "sequence_parallel": num_sequence, "processes": world}
        subject = learner(f"{folder}/{settings.pop('family')}", temperature=0.7, **settings)
        metrics = subject.gather_gradient(GROUPS, ADVANTAGES)
        found = subject.gradients()
        found["metrics"] = torch.tensor(list(metrics.values()))
        found["probe"] = torch.tensor(subject.logprobs(range(7), range(5)))
        if not dist.is_initialized() or dist.get_rank() == 0:
            save_file(found, f"{folder}/{name}-{world}-{num_sequence}.safetensors")


def gradients_of_every_size(folder: str) -> None:
    for num_sequence in PARALLEL[dist.get_world_size()]:
        gradients(folder, num_sequence)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("ranks")
    for case in CASES.values():
        write_tiny_model(made / case["family"], case["family"])
    gradients(str(made))
    return str(made)


@pytest.fixture(scope="module")
def two_ranks(folder: str) -> str:
    run_ranks(gradients_of_every_size, 2, folder)
    return folder


@pytest.fixture(scope="module")
def four_ranks(folder: str) -> str:
    run_ranks(gradients_of_every_size, 4, folder)
    return folder


@pytest.mark.parametrize("num_sequence", PARALLEL[2])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_the_gradient_of_one(two_ranks: str, case: str, num_sequence: int) -> None:
    assert_gradient_of_one(two_ranks, case, 2, num_sequence)


@pytest.mark.parametrize("num_sequence", PARALLEL[4])
@pytest.mark.parametrize("case", CASES)
def test_four_processes_compute_the_gradient_of_one(four_ranks: str, case: str, num_sequence: int) -> None:
    assert_gradient_of_one(four_ranks, case, 4, num_sequence)


def assert_gradient_of_one(folder: str, case: str, num_ranks: int, num_sequence: int) -> None:
    one = load_file(f"{folder}/{case}-1-1.safetensors")
    several = load_file(f"{folder}/{case}-{num_ranks}-{num_sequence}.safetensors")
    assert one.keys() == several.keys()
    difference, size = (
        torch.cat([x.flatten() for name, x in found.items() if name not in ("metrics", "probe")]).norm()
        for found in ({name: several[name] - gradient for name, gradient in one.items()}, one)
    )
    assert difference <= 1e-6 * size
    for name, value in one.items():
        # Looser where a gradient is a sum that nearly cancels, a key's bias: rounding is large beside its own norm.
        error = float((several[name] - value).norm() / value.norm().clamp(min=1e-30))
        assert error <= 3e-6, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("num_tokens", [1, 2, 7, 8, 9, 40])
@pytest.mark.parametrize("kind", ["contiguous", "zigzag"])
def test_a_layout_deals_every_token_once_and_equally(kind: str, num_tokens: int, num_ranks: int) -> None:
    layout: TokenLayout = getattr(TokenLayout, kind)(num_tokens, num_ranks)
    tokens = torch.arange(1, num_tokens + 1)
    local = [layout.local(tokens, rank) for rank in range(num_ranks)]
    assert {len(rows) for rows in local} == {layout.num_local}
    assert sorted(t for rows in local for t in rows.tolist() if t) == tokens.tolist()
    for token in range(num_tokens):
        rank, row = layout.find(token)
        assert local[rank][row] == token + 1


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_spans_are_causal_attention_within_each_document(num_ranks: int) -> None:
    documents = [(0, 5), (5, 6), (6, 17)]
    for layout in (TokenLayout.contiguous(17, num_ranks), TokenLayout.zigzag(17, num_ranks)):
        seen = torch.zeros(17, 17, dtype=torch.int64)
        for rank in range(num_ranks):
            token_of = {row + i: start + i for row, start, end in layout.ranges(rank) for i in range(end - start)}
            full, causal = layout.attention_spans(rank, documents)
            for spans, is_causal in ((full, False), (causal, True)):
                for a, b, c, d in spans:
                    for q in range(a, b):
                        last = c + q - a + 1 if is_causal else d
                        seen[token_of[q], c:last] += 1
        expected = torch.zeros_like(seen)
        for start, end in documents:
            expected[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.int64).tril()
        assert torch.equal(seen, expected)


def test_zigzag_gives_every_rank_the_same_work() -> None:
    layout = TokenLayout.zigzag(64, 4)
    work = [
        sum(end * (end + 1) // 2 - start * (start + 1) // 2 for _, start, end in layout.ranges(rank))
        for rank in range(4)
    ]
    assert max(work) == min(work)


def test_rounds_put_groups_of_like_cost_together() -> None:
    assert rounds([3.0, 9.0, 1.0, 8.0, 2.0], 2) == [[1, 3], [0, 4], [2, None]]
    assert rounds([], 4) == []


def steps_and_saves(path: str, folder: str) -> None:
    subject = learner(path, updates_per_step=2, processes=2)
    subject.step(GROUPS, ADVANTAGES, lr=1e-3)
    subject.write_weights(f"{folder}/two.safetensors")
    subject.save_model(f"{folder}/two-model")
    subject.save(f"{folder}/two-state")


def loads_and_steps(path: str, folder: str) -> None:
    subject = learner(path, updates_per_step=2, processes=2)
    subject.load(f"{folder}/one-state")
    subject.step(GROUPS, ADVANTAGES, lr=1e-3)
    subject.write_weights(f"{folder}/two-after.safetensors")


def test_steps_and_files_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "model")
    subject = learner(path, updates_per_step=2)
    metrics = subject.step(GROUPS, ADVANTAGES, lr=1e-3)
    assert math.isfinite(metrics["optim/grad_norm"])
    subject.write_weights(str(tmp_path / "one.safetensors"))
    subject.save(str(tmp_path / "one-state"))
    run_ranks(steps_and_saves, 2, path, str(tmp_path))
    one, two, model = (
        load_file(tmp_path / name) for name in ("one.safetensors", "two.safetensors", "two-model/model.safetensors")
    )
    assert one.keys() == two.keys() == model.keys()
    for name, weight in one.items():
        assert torch.equal(two[name], model[name])
        # AdamW's first steps are lr * sign(gradient) where a gradient is nearly 0: that much may differ.
        assert (two[name] - weight).abs().mean() <= 1e-6, name
    resumed = learner(path, updates_per_step=2)
    resumed.load(str(tmp_path / "two-state"))
    assert resumed.num_updates == 2
    resumed.write_weights(str(tmp_path / "resumed.safetensors"))
    assert all(torch.equal(two[name], tensor) for name, tensor in load_file(tmp_path / "resumed.safetensors").items())
    run_ranks(loads_and_steps, 2, path, str(tmp_path))
    subject.step(GROUPS, ADVANTAGES, lr=1e-3)
    subject.write_weights(str(tmp_path / "one-after.safetensors"))
    after, theirs = (load_file(tmp_path / f"{n}-after.safetensors") for n in ("one", "two"))
    assert all((theirs[name] - tensor).abs().mean() <= 1e-6 for name, tensor in after.items())
