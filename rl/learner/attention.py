"""Attention of many responses to one prompt, registered with transformers as `shared_prefix`.

The prompt goes through the model alone and publishes each layer's keys and values; responses read them in place, never
repeated per response, and their gradients gather in float32 until the prompt's own backward pass takes them
(arXiv 2606.01143, 2506.05433). Responses lie end to end without padding. Under sequence parallelism a rank's queries
stay where they are, and K/V, which grouped-query attention keeps small, are gathered a layer at a time.

T token rows of this rank, P prompt tokens, Hq/Hkv query and key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from rl.learner.kernels import Kernel, Saved, Span
from rl.learner.ranks import Ranks, TokenLayout

IMPLEMENTATION = "shared_prefix"
"""Name under which transformers knows this attention."""

Part = tuple[Sequence[Span], bool, torch.Tensor, torch.Tensor]
"""Spans, whether they are causal, keys and values [1, Hkv, S, D]."""


@dataclass(frozen=True, slots=True)
class PromptCache:
    """This rank's keys and values of one prompt, per layer; from the prompt's forward to the end of its backward pass."""

    layout: TokenLayout
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """Layer index to (keys, values), each [1, Hkv, T, D]."""
    grads: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """What the responses contribute to their gradients, float32 (or the model's type, if wider)."""

    def publish(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep a layer's K/V. The recomputation under gradient checkpointing comes here again and changes nothing."""
        if layer not in self.layers:
            self.layers[layer] = (key.detach(), value.detach())

    def add_gradients(self, layer: int, grads: Sequence[torch.Tensor]) -> None:
        """Add one micro-batch's contribution."""
        if layer in self.grads:
            for total, grad in zip(self.grads[layer], grads, strict=True):
                total.add_(grad)
        else:
            wide = torch.promote_types(grads[0].dtype, torch.float32)
            self.grads[layer] = (grads[0].to(wide), grads[1].to(wide))


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPass:
    """One forward pass: the prompt's, or a micro-batch's. Reaches the attention through the model's forward arguments."""

    kernel: Kernel
    ranks: Ranks
    cache: PromptCache
    is_prompt: bool
    layout: TokenLayout
    """Of the tokens that are passed."""
    full: Sequence[Span]
    """Rows of this rank over earlier rows of their own response (or of the prompt) on other ranks."""
    causal: Sequence[Span]


class _AddResponseGradients(torch.autograd.Function):
    """Identity on the prompt's K/V; on the way back adds what the responses contributed."""

    @staticmethod
    def forward(
        ctx: Any, key: torch.Tensor, value: torch.Tensor, cache: PromptCache, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.cache, ctx.layer = cache, layer
        return key.view_as(key), value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Taken out, not read: a layer's sums are not needed again, and the prompt's backward pass gets their memory.
        contributed = ctx.cache.grads.pop(ctx.layer, None)
        if contributed is not None:
            grads = tuple((c.add_(g)).to(g.dtype) for c, g in zip(contributed, grads, strict=True))
        return (*grads, None, None)


class _ReadPrompt(torch.autograd.Function):
    """The prompt's whole K/V out of the cache; gradients go back into it, not to autograd."""

    @staticmethod
    def forward(
        ctx: Any, anchor: torch.Tensor, cache: PromptCache, layer: int, ranks: Ranks
    ) -> tuple[torch.Tensor, ...]:
        """anchor: any tensor with a gradient, so that autograd calls `backward`; it gets none from here."""
        ctx.cache, ctx.layer, ctx.ranks = cache, layer, ranks
        key, value = cache.layers[layer]
        if ranks.num_sequence > 1:
            return ranks.gather(torch.cat([key, value], dim=1), cache.layout).chunk(2, dim=1)
        return key.view_as(key), value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, ...]:
        if ctx.ranks.num_sequence > 1:
            grads = ctx.ranks.scatter_sum(torch.cat(grads, dim=1), ctx.cache.layout).chunk(2, dim=1)
        ctx.cache.add_gradients(ctx.layer, grads)
        return None, None, None, None


class _Gather(torch.autograd.Function):
    """Every rank's rows of K and V as one sequence, in one collective; the gradients' sum goes back to their owner."""

    @staticmethod
    def forward(
        ctx: Any, key: torch.Tensor, value: torch.Tensor, layout: TokenLayout, ranks: Ranks
    ) -> tuple[torch.Tensor, ...]:
        ctx.layout, ctx.ranks = layout, ranks
        return ranks.gather(torch.cat([key, value], dim=1), layout).chunk(2, dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *ctx.ranks.scatter_sum(torch.cat(grads, dim=1), ctx.layout).chunk(2, dim=1), None, None


class _Merged(torch.autograd.Function):
    """Attention over several parts, merged by log-sum-exp.

    With (o_i, l_i) a part's output and log-sum-exp and l = log sum exp(l_i): o = sum o_i exp(l_i - l). Each part's
    backward pass is given o and l.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Kernel,
        scale: float,
        parts: Sequence[tuple[Sequence[Span], bool]],
        query: torch.Tensor,
        *keys_values: torch.Tensor,
    ) -> torch.Tensor:
        out = lse = None
        for i, (spans, causal) in enumerate(parts):
            key, value = keys_values[2 * i : 2 * i + 2]
            o, l = kernel.forward(query, key, value, spans, causal=causal, scale=scale)  # noqa: E741
            if out is None or lse is None:
                out, lse = o, l
                continue
            merged = torch.logaddexp(lse, l)
            first, second = ((x - merged).exp_()[..., None].to(o.dtype) for x in (lse, l))
            out, lse = out.mul_(first).addcmul_(o, second), merged
        ctx.save_for_backward(query, out, lse, *keys_values)
        ctx.kernel, ctx.scale, ctx.parts = kernel, scale, parts
        return out  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        query, out, lse, *keys_values = ctx.saved_tensors
        saved = Saved(grads[0], query, out, lse)
        dq, gradients = None, []
        for i, (spans, causal) in enumerate(ctx.parts):
            key, value = keys_values[2 * i : 2 * i + 2]
            part, dk, dv = ctx.kernel.backward(saved, key, value, spans, causal=causal, scale=ctx.scale)
            dq = part if dq is None else dq.add_(part)
            gradients += [dk, dv]
        return None, None, None, dq, *gradients


def merged_attention(kernel: Kernel, query: torch.Tensor, parts: Sequence[Part], *, scale: float) -> torch.Tensor:
    """softmax(scale q K^T) V over the keys of all parts together, differentiable in the queries and every part's K/V.

    Args:
        query: [1, Hq, T, D].
        parts: at least one.

    Returns:
        [1, Hq, T, D].
    """
    keys_values = [x for _, _, key, value in parts for x in (key, value)]
    return _Merged.apply(kernel, scale, [part[:2] for part in parts], query, *keys_values)  # type: ignore[no-any-return]


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    token_pass: TokenPass,
    **variants: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer."""
    _refuse_variants(module, dropout, variants)
    layer, ranks, cache = int(module.layer_idx), token_pass.ranks, token_pass.cache  # type: ignore[arg-type]
    parts: list[Part] = []
    if token_pass.is_prompt:
        cache.publish(layer, key, value)
        if torch.is_grad_enabled():
            key, value = _AddResponseGradients.apply(key, value, cache, layer)
    else:
        prompt = _ReadPrompt.apply(query, cache, layer, ranks)
        parts.append(([Span(0, query.shape[2], 0, cache.layout.num_tokens)], False, *prompt))
    if ranks.num_sequence > 1:
        key, value = _Gather.apply(key, value, token_pass.layout, ranks)
    if token_pass.full:
        parts.append((token_pass.full, False, key, value))
    # Also where this rank has no rows of its own: the other ranks wait for its part in the gradients' sum.
    parts.append((token_pass.causal, True, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = merged_attention(token_pass.kernel, query, parts, scale=scale)
    return out.transpose(1, 2).contiguous(), None


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
    """No mask tensor is ever built: what a row sees is in the spans."""


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
