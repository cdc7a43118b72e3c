"""Activations in host memory: which tensors go there, and that nothing else changes."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rl.learner.offload import MIN_BYTES, _HostCopy, activation_offload
from tests.rl.learner_cases import tiny_config

CPU = torch.device("cpu")
TOKENS = torch.arange(40)[None] % 97


def model(*, checkpointing: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(tiny_config("qwen2")).train()
    if checkpointing:
        made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return made


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every tensor that goes to host memory."""
    tensors: list[torch.Tensor] = []

    def kept(tensor: torch.Tensor, *rest: object) -> _HostCopy:
        tensors.append(tensor)
        return _HostCopy(tensor, *rest)  # type: ignore[arg-type]

    # What `_HostCopy` is called for is what moves; isinstance needs the class itself.
    class Recorded(_HostCopy):
        def __new__(cls, tensor: torch.Tensor, *rest: object) -> _HostCopy:  # type: ignore[misc]
            return kept(tensor, *rest)

    return tensors
