"""Activations in host memory: which tensors go there, and that nothing else changes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import rl.learner.offload
from rl.learner.offload import MIN_BYTES, Copies, Kept, activation_offload
from tests.rl.learner_cases import tiny_config

CPU = torch.device("cpu")
TOKENS = torch.arange(40)[None] % 97
Moved = list[tuple[torch.Tensor, Kept]]


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Moved:
    """Every tensor that goes to host memory, and what it has become."""
    pairs: Moved = []
    original = rl.learner.offload._plain_copies

    def recording(device: torch.device) -> Copies:
        pack, unpack = original(device)

        def record(tensor: torch.Tensor) -> Kept:
            pairs.append((tensor.detach(), pack(tensor)))
            return pairs[-1][1]

        return record, unpack

    monkeypatch.setattr(rl.learner.offload, "_plain_copies", recording)
    return pairs


def model(*, checkpointing: bool, frozen: bool = False, num_layers: int = 2) -> PreTrainedModel:
    """Frozen: all but the embedding and the last norm, so that gradients pass through weights that have none."""
    torch.manual_seed(0)
    config = tiny_config("qwen2")
    config.num_hidden_layers, config.layer_types = num_layers, ["full_attention"] * num_layers
    made = AutoModelForCausalLM.from_config(config).train()
    made.model.layers.requires_grad_(not frozen)
    if checkpointing:
        made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return made


def gradients(subject: PreTrainedModel, under: AbstractContextManager[None]) -> dict[str, torch.Tensor]:
    with under:
        loss = subject(TOKENS, labels=TOKENS, use_cache=False).loss
    loss.backward()
    return {name: p.grad for name, p in subject.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_bits_and_parameters_stay(checkpointing: bool, frozen: bool, moved: Moved) -> None:
    expected = gradients(model(checkpointing=checkpointing, frozen=frozen), nullcontext())
    subject = model(checkpointing=checkpointing, frozen=frozen)
    got = gradients(subject, activation_offload(CPU, min_bytes=0))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    owned = {p.untyped_storage().data_ptr() for p in subject.parameters()}
    assert moved
    assert not [tensor.shape for tensor, _ in moved if tensor.untyped_storage().data_ptr() in owned]


def test_under_checkpointing_every_layers_input_moves_and_nothing_else_of_the_layers(moved: Moved) -> None:
    counts = []
    for num_layers in (2, 5):
        moved.clear()
        subject = model(checkpointing=True, num_layers=num_layers)
        inputs: list[torch.Tensor] = []
        for layer in subject.model.layers:
            layer.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0].detach()))
        with activation_offload(CPU, min_bytes=0):
            subject.model(TOKENS, use_cache=False)
        assert len(inputs) == num_layers
        pointers = [tensor.data_ptr() for tensor, _ in moved]
        assert all(pointers.count(tensor.data_ptr()) == 1 for tensor in inputs)
        counts.append(len(moved))
    # What is not a layer's belongs to the embedding and the last norm, which are the same in both.
    assert counts[1] - counts[0] == 5 - 2


def test_what_is_kept_is_a_copy_of_its_own_with_the_same_strides(moved: Moved) -> None:
    x = (torch.randn(8, 6, requires_grad=True) * 1.0).t()
    with activation_offload(CPU, min_bytes=0):
        y = x * x
    ((tensor, kept), _) = moved
    assert isinstance(kept, rl.learner.offload._HostCopy)
    assert kept.tensor.data_ptr() != tensor.data_ptr()
    assert (kept.tensor.shape, kept.tensor.stride()) == (x.shape, x.stride())
    assert torch.equal(kept.tensor, x)
    y.sum().backward()


def test_small_tensors_and_leaves_stay(moved: Moved) -> None:
    side = int((MIN_BYTES // 4) ** 0.5)
    leaf = torch.randn(side, side, requires_grad=True)
    with activation_offload(CPU):
        large = leaf.view(side, side).sin()
        assert moved == []
        small = large[: side - 1].contiguous().exp()
        assert moved == []
        large.exp().sum().backward(retain_graph=True)
        assert [tensor.nbytes for tensor, _ in moved] == [MIN_BYTES]
    small.sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_gradients_are_the_same_bits_and_memory_is_less() -> None:
    """Layers' inputs of 2 MiB each, 40 of them: without offload all lie on the device when the forward pass ends."""
    weights = [torch.randn(512, 512, device="cuda", requires_grad=True) for _ in range(40)]
    x = torch.randn(1024, 512, device="cuda")
    held, found = [], []
    for under in (nullcontext(), activation_offload(torch.device("cuda"))):
        before = torch.cuda.memory_allocated()
        with under:
            hidden = x
            for weight in weights:
                hidden = torch.utils.checkpoint.checkpoint(
                    lambda h, w=weight: torch.tanh(h @ w / 22.0), hidden, use_reentrant=False
                )
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated() - before)
        found.append(torch.autograd.grad(hidden.sum(), weights))
        del hidden
    assert held[1] < held[0] / 4
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
