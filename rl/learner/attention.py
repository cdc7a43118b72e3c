"""Attention of many responses to one prompt, registered with transformers as `shared_prefix`.

The prompt goes through the model alone and publishes each layer's keys and values; responses read
them in place, never repeated per response, and their gradients gather on the published tensors
until the prompt's own backward pass takes them (arXiv 2606.01143, 2506.05433).

Left out: CUDA kernels are not chosen yet. There the masked reference path runs, which is exact but
repeats the prompt's K/V per response; the flash path is CPU only.

B responses a micro-batch, R tokens of the longest, P prompt tokens, Hq/Hkv query and key heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

IMPLEMENTATION = "shared_prefix"
"""Name under which transformers knows this attention; the fastest path the device has."""
REFERENCE_IMPLEMENTATION = "shared_prefix_reference"
"""The same with the masked reference path on every device."""

Phase = Literal["prompt", "response"]

_flash_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


@dataclass(frozen=True, slots=True)
class PromptCache:
    """Keys and values of one prompt, per layer; lives from its forward pass to the end of its backward pass.

    With gradients enabled the tensors are leaves: autograd sums into `.grad` what every response
    micro-batch contributes, in the tensors' own dtype.
    """

    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """Layer index to (keys, values), each [1, Hkv, P, D]."""

    def publish(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep a layer's K/V. The recomputation under gradient checkpointing comes here again and changes nothing."""
        if layer not in self.layers:
            needs_grad = torch.is_grad_enabled() and key.requires_grad
            self.layers[layer] = (
                key.detach().requires_grad_(needs_grad),
                value.detach().requires_grad_(needs_grad),
            )


class _AddResponseGradients(torch.autograd.Function):
    """Identity on the prompt's K/V; on the way back adds what the responses left on the published tensors."""

    @staticmethod
    def forward(
        ctx: Any, key: torch.Tensor, value: torch.Tensor, cache: PromptCache, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.cache, ctx.layer = cache, layer
        return key.view_as(key), value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        published = ctx.cache.layers[ctx.layer]
        summed = (g if p.grad is None else g + p.grad for g, p in zip(grads, published, strict=True))
        return (*summed, None, None)


class _MergedFlash(torch.autograd.Function):
    """Two flash passes, over the prompt and over the response itself, merged by log-sum-exp.

    With l1, l2 the passes' log-sum-exp and l = logaddexp(l1, l2): o = o1 exp(l1 - l) + o2 exp(l2 - l).
    A flash backward that is given the merged o and l, not its own, returns exactly its part of the
    merged gradient, because softmax probabilities are exp(score - l) and the row term is sum(do * o).
    The prompt pass lays the B responses' queries end to end: one sequence of B * R queries, one copy of K/V.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        prompt_key: torch.Tensor,
        prompt_value: torch.Tensor,
        scale: float | None,
    ) -> torch.Tensor:
        b, h, r, d = query.shape
        prompt_out, prompt_lse = _flash_forward(_end_to_end(query), prompt_key, prompt_value, 0.0, False, scale=scale)
        own_out, own_lse = _flash_forward(query, key, value, 0.0, True, scale=scale)
        prompt_out = prompt_out.view(h, b, r, d).transpose(0, 1)
        prompt_lse = prompt_lse.reshape(h, b, r).transpose(0, 1)
        lse = torch.logaddexp(prompt_lse, own_lse)
        out = prompt_out * (prompt_lse - lse).exp()[..., None] + own_out * (own_lse - lse).exp()[..., None]
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        query, key, value, prompt_key, prompt_value, out, lse = ctx.saved_tensors
        b, h, r, d = query.shape
        prompt_dq, prompt_dk, prompt_dv = _flash_backward(
            _end_to_end(grad),
            _end_to_end(query),
            prompt_key,
            prompt_value,
            _end_to_end(out),
            lse.transpose(0, 1).reshape(1, h, b * r),
            0.0,
            False,
            scale=ctx.scale,
        )
        own_dq, own_dk, own_dv = _flash_backward(
            grad, query, key, value, out, lse.contiguous(), 0.0, True, scale=ctx.scale
        )
        dq = own_dq + prompt_dq.view(h, b, r, d).transpose(0, 1)
        return dq, own_dk, own_dv, prompt_dk, prompt_dv, None


def _end_to_end(x: torch.Tensor) -> torch.Tensor:
    """[B, H, R, D] to [1, H, B * R, D]."""
    b, h, r, d = x.shape
    return x.transpose(0, 1).reshape(1, h, b * r, d)


def flash_response_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prompt_key: torch.Tensor,
    prompt_value: torch.Tensor,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(scale q [K_prompt, K_own]^T) [V_prompt, V_own], causal over the response's own part; CPU only.

    Args:
        query: [B, Hq, R, D].
        key, value: [B, Hkv, R, D], Hq a multiple of Hkv.
        prompt_key, prompt_value: [1, Hkv, P, D], seen by every query.
        scale: factor on the scores; None is D ** -0.5.

    Returns:
        [B, Hq, R, D], differentiable in all five tensors.
    """
    return _MergedFlash.apply(query, key, value, prompt_key, prompt_value, scale)  # type: ignore[no-any-return]


def reference_response_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prompt_key: torch.Tensor,
    prompt_value: torch.Tensor,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """The same as `flash_response_attention` on any device, by one mask over repeated K/V."""
    b, r, p = query.shape[0], query.shape[2], prompt_key.shape[2]
    keys = torch.cat([prompt_key.expand(b, -1, -1, -1), key], dim=2)
    values = torch.cat([prompt_value.expand(b, -1, -1, -1), value], dim=2)
    visible = torch.ones(r, p + r, dtype=torch.bool, device=query.device).tril(p)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=visible, scale=scale, enable_gqa=True)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    prompt_cache: PromptCache,
    phase: Phase,
    reference: bool = False,
    **variants: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer; `prompt_cache` and `phase` come through the model's forward arguments."""
    _refuse_variants(module, dropout, variants)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if phase == "prompt":
        prompt_cache.publish(layer, key, value)
        if torch.is_grad_enabled():
            key, value = _AddResponseGradients.apply(key, value, prompt_cache, layer)
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    else:
        response_attention = (
            reference_response_attention if reference or query.device.type != "cpu" else flash_response_attention
        )
        out = response_attention(query, key, value, *prompt_cache.layers[layer], scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _reference_attention(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    return _attention(*args, reference=True, **kwargs)


def _refuse_variants(module: torch.nn.Module, dropout: float, variants: dict[str, Any]) -> None:
    name = type(module).__name__
    if dropout > 0.0:
        raise ValueError(f"{name}: attention dropout {dropout} makes the prompt's recomputation inexact; set it to 0")
    for variant in ("sliding_window", "softcap", "s_aux"):
        if variants.get(variant) is not None:
            raise ValueError(
                f"{name}: attention with {variant} is not plain softmax attention; choose a model without it"
            )


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Neither phase needs a mask tensor: right padding lies after every token that counts."""


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionInterface.register(REFERENCE_IMPLEMENTATION, _reference_attention)
AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
AttentionMaskInterface.register(REFERENCE_IMPLEMENTATION, _no_mask)
