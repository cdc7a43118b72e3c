"""The policy's weights on their way out: to the rollout workers, and to disk in Hugging Face form.

On several ranks every call is made by all of them: a tensor is gathered by all, and kept and written by rank 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rl.learner import lora


def full_weights(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole tensor), a tied one once, one at a time; the model's own in the type it computes in, adapters in float32."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        whole = tensor.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        is_own = lora.base_name(name) is not None and whole.is_floating_point()
        yield name, whole.to(dtype) if is_own else whole


def write_weights(
    model: PreTrainedModel, path: str, *, dtype: torch.dtype, adapter_config: str | None, writes: bool
) -> None:
    """One safetensors file of the whole model, or of its adapters alone where it has some; whole or not at all.

    Args:
        adapter_config: of the adapters, kept in the file's metadata under `lora.CONFIG_KEY`; None: there are none.
        writes: whether this rank is the one that writes.
    """
    metadata = {"format": "pt"}
    if adapter_config is None:
        weights = _in_host_memory(full_weights(model, dtype), writes)
    else:
        metadata[lora.CONFIG_KEY] = adapter_config
        adapters = (pair for pair in full_weights(model, dtype) if lora.base_name(pair[0]) is None)
        weights = lora.adapter_weights(_in_host_memory(adapters, writes).items())
    if writes:
        partial = f"{path}.partial"
        save_file(weights, partial, metadata=metadata)
        os.replace(partial, path)


def save_model(
    model: PreTrainedModel,
    folder: str,
    *,
    dtype: torch.dtype,
    scaling: float | None,
    adapter_config: str | None,
    writes: bool,
) -> None:
    """The policy in Hugging Face form, adapters merged; beside a merged model its adapters in peft's form, in `adapter`.

    scaling: of the adapters; None: there are none.
    """
    weights: Iterator[tuple[str, torch.Tensor]] = full_weights(model, dtype)
    adapters: dict[str, torch.Tensor] = {}
    if scaling is not None:
        held = _in_host_memory(weights, writes)
        if not writes:
            return
        adapters = lora.adapter_weights(held.items())
        weights = lora.merged_weights(held.items(), scaling=scaling)
    state = _in_host_memory(weights, writes)
    if not writes:
        return
    _save_plain(model, folder, state)
    if adapter_config is not None:
        place = Path(folder, "adapter")
        place.mkdir(exist_ok=True)
        save_file(adapters, place / "adapter_model.safetensors", metadata={"format": "pt"})
        (place / "adapter_config.json").write_text(adapter_config, encoding="utf-8")


def _in_host_memory(weights: Iterator[tuple[str, torch.Tensor]], keep: bool) -> dict[str, torch.Tensor]:
    """Runs through all; keeps them contiguous in host memory, or nothing."""
    held = {}
    for name, tensor in weights:
        if keep:
            held[name] = tensor.cpu().contiguous()
    return held


def _save_plain(model: PreTrainedModel, folder: str, state: dict[str, torch.Tensor]) -> None:
    """`save_pretrained` of these weights by a model of the same class without adapters, whose own are never filled."""
    with torch.device("meta"):
        plain = type(model)(model.config)
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder, state_dict=state)
