"""LoRA (arXiv 2106.09685): W + scaling * B A in place of W, with W frozen; scaling = alpha / rank.

The model stays of its own class and changes in place: peft puts its layers in, this file says how they start and
compute. peft is imported only where adapters are made, so the learner runs without it.
Left out: dropout and adapters on embeddings or on the head, whose weight the learner reads by itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_KEY = "adapter_config"
"""Metadata key of a safetensors file that holds an adapter and nothing else; its value is `adapter_config`'s text."""
_ADAPTER = "default"
_FILE_PREFIX = "base_model.model."
_PART = re.compile(
    rf"(?P<module>.+)\.(?P<part>base_layer|lora_A\.{_ADAPTER}|lora_B\.{_ADAPTER})\.(?P<kind>weight|bias)"
)


class _InBaseType:
    """What peft calls for its layers' forward: adapters kept in float32 multiply in the type of the layer's input.

    peft by itself would cast the input up instead: in a bfloat16 model a float32 copy of every layer's input, kept for
    the backward pass, and float32 products.
    """

    @staticmethod
    def forward(
        layer: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: torch.Tensor
    ) -> torch.Tensor:
        down, up = (part[active_adapter].weight.to(x.dtype).t() for part in (layer.lora_A, layer.lora_B))
        low = (x.flatten(0, -2) @ down) * layer.scaling[active_adapter]
        return torch.addmm(result.flatten(0, -2), low, up).view_as(result)


def add_adapters(model: PreTrainedModel, *, rank: int, alpha: float, targets: Sequence[str], seed: int) -> None:
    """Freeze the model and give every decoder layer's linear layers of these names an adapter, trainable, in float32.

    A [rank, in] starts uniform in +-1/sqrt(in) (peft's and the paper's code's start), B [out, rank] at zero, so that the
    model computes what it did. A is a function of seed and targets alone: torch's own random state is neither read nor
    changed, and every process and device gets the same.

    Args:
        alpha: an adapter's output is scaled by alpha / rank.
        targets: the last part(s) of the layers' names, "q_proj" say.

    Raises:
        ValueError: a target is no linear layer's name in any decoder layer.
        ModuleNotFoundError: peft is not installed.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and re.search(r"\.\d+\.", n)]
    for target in targets:
        if not any(name.endswith(f".{target}") for name in names):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise ValueError(
                f"learner.lora_targets: {target!r} is no linear layer in a decoder layer of model type "
                f"{model.config.model_type!r}; there are {there or 'none'}"
            )
    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias="none")
    # On the meta device: what peft would draw is replaced here, and it would draw from torch's own random state.
    inject_adapter_in_model(config, model, _ADAPTER, low_cpu_mem_usage=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    for layer in _adapter_layers(model):
        layer.lora_variant[_ADAPTER] = _InBaseType()
        layer.cast_input_dtype_enabled = False
        device, bound = layer.get_base_layer().weight.device, 1 / math.sqrt(layer.in_features)
        start = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        layer.lora_A[_ADAPTER].weight = torch.nn.Parameter(start.to(device))
        layer.lora_B[_ADAPTER].weight = torch.nn.Parameter(torch.zeros(layer.out_features, rank, device=device))


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the forward is the frozen base's: the reference of a KL term, without a second model.

    For forwards without gradient only: a checkpointed layer recomputed after the block would have its adapters back.

    Raises:
        ValueError: the model has no adapters, so it is no frozen base.
    """
    layers = _adapter_layers(model)
    if not layers:
        raise ValueError(f"adapters_off: {type(model).__name__} has no adapters; call add_adapters first")
    # Not peft's enable_adapters: it turns requires_grad off and on again, which FSDP2 looks at only once.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def adapter_config(*, rank: int, alpha: float, targets: Sequence[str], base: str) -> str:
    """The text of peft's adapter_config.json, which peft and vLLM read; base: the start model's folder or hub id."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    return json.dumps(config, indent=2)


def adapter_weights(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of the model's named full tensors the adapters', under their names in peft's adapter_model.safetensors.

    tensors: named as in model.named_parameters(); those of the base are passed over.
    """
    named = ((_file_name(name), tensor) for name, tensor in tensors)
    return {name: tensor.detach().contiguous() for name, tensor in named if name}


def adapter_names(base_names: Iterable[str], targets: Sequence[str]) -> frozenset[str]:
    """Every name that an adapter's file must have, given the base model's parameter names and the adapter's targets."""
    suffixes = tuple(f".{target}.weight" for target in targets)
    modules = (name.removesuffix(".weight") for name in base_names if name.endswith(suffixes))
    return frozenset(f"{_FILE_PREFIX}{module}.lora_{part}.weight" for module in modules for part in "AB")


def load_adapter(model: PreTrainedModel, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Copy tensors named as by `adapter_weights` into a model that has such adapters."""
    own = {_file_name(name): parameter for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for name, tensor in tensors:
            own[name].copy_(tensor)


def base_name(name: str) -> str | None:
    """The Hugging Face name of a parameter of a model with adapters; None for an adapter's own."""
    found = _PART.fullmatch(name)
    if found is None:
        return name
    return f"{found['module']}.{found['kind']}" if found["part"] == "base_layer" else None


def merged_weights(
    tensors: Iterable[tuple[str, torch.Tensor]], *, scaling: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain model's tensors under their Hugging Face names: W + scaling * B A, in float32, then in W's type.

    Holds a layer's W, A and B until all three have come: one layer's at a time in the order of named_parameters().
    A bfloat16 W rounds away what B A has below W's own precision, which the model with adapters did not.

    Args:
        tensors: named full tensors of the model with adapters, named as in model.named_parameters().
        scaling: alpha / rank.

    Raises:
        ValueError: at the end, a layer's W, A or B never came.
    """
    waiting: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors:
        found = _PART.fullmatch(name)
        if found is None or found["kind"] == "bias":
            yield base_name(name) or name, tensor.detach()
            continue
        parts = waiting.setdefault(found["module"], {})
        parts[found["part"]] = tensor.detach()
        if len(parts) == 3:
            weight, down, up = (parts[part] for part in ("base_layer", f"lora_A.{_ADAPTER}", f"lora_B.{_ADAPTER}"))
            del waiting[found["module"]]
            yield f"{found['module']}.weight", (weight.float() + scaling * (up.float() @ down.float())).to(weight.dtype)
    if waiting:
        module, parts = next(iter(waiting.items()))
        raise ValueError(
            f"merged_weights: of {len(waiting)} layers not all of W, A and B came, first {module!r}: only "
            f"{', '.join(parts)}; give every named parameter of the model"
        )


def _adapter_layers(model: PreTrainedModel) -> list[Any]:
    from peft.tuners.lora.layer import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _file_name(name: str) -> str:
    """An adapter parameter's name in peft's file; "" for a parameter of the base."""
    found = _PART.fullmatch(name)
    if found is None or found["part"] == "base_layer":
        return ""
    return f"{_FILE_PREFIX}{found['module']}.{found['part'].removesuffix(f'.{_ADAPTER}')}.{found['kind']}"
