"""Log-probabilities and entropies of given tokens, without the [N, V] logits ever existing whole.

N tokens, H hidden size, V vocabulary, C positions a chunk.
"""

from __future__ import annotations

from typing import Any

import torch


class _ChunkedHead(torch.autograd.Function):
    """The head in chunks of C positions; the backward pass recomputes each chunk's logits from the saved log-sum-exp.

    With z the logits over the temperature, p = softmax(z) and E the entropy: d logp_t / dz = onehot(t) - p and
    d E / dz = -p (log p + E).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        chunk_tokens: int,
        entropy_has_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropies, lses = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for start in range(0, len(hidden), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = (hidden[part] @ weight.T).float().div_(temperature)
            lse = logits.logsumexp(-1)
            lses[part] = lse
            logprobs[part] = logits.gather(-1, targets[part, None])[:, 0] - lse
            logits.sub_(lse[:, None])
            entropies[part] = logits.exp().mul_(logits).sum(-1).neg_()
        ctx.save_for_backward(hidden, weight, targets, lses, entropies)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        if not entropy_has_gradient:
            ctx.mark_non_differentiable(entropies)
        ctx.entropy_has_gradient = entropy_has_gradient
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, lses, entropies = ctx.saved_tensors
        grad, grad_entropy = (g / ctx.temperature for g in grads)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight, returned = _weight_gradient(weight) if ctx.needs_input_grad[1] else (None, None)
        for start in range(0, len(hidden), ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            logp = (hidden[part] @ weight.T).float().div_(ctx.temperature).sub_(lses[part, None])
            if ctx.entropy_has_gradient:
                factor = (logp + entropies[part, None]).mul_(grad_entropy[part, None]).add_(grad[part, None])
                grad_logits = logp.exp_().mul_(factor.neg_())
                del factor
            else:
                grad_logits = logp.exp_().mul_(-grad[part, None])
            grad_logits.scatter_add_(-1, targets[part, None], grad[part, None])
            grad_logits = grad_logits.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, hidden[part])
        return grad_hidden, returned, None, None, None, None


def _weight_gradient(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(where the gradient is added, what autograd is given): the weight's own sum, where it has one, saves [V, H] a call."""
    if weight.is_leaf and weight.grad is not None and weight.grad.dtype == weight.dtype:
        return weight.grad, None
    fresh = torch.zeros_like(weight)
    return fresh, fresh


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float,
    chunk_tokens: int,
    entropy_has_gradient: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(hidden weight^T / temperature) at the targets, and that distribution's entropy.

    A weight that holds a gradient already gets its share added in `backward`, outside autograd: `torch.autograd.grad`
    would not return it.

    Args:
        hidden: [N, H], the states that predict the targets.
        weight: [V, H], the head; a head with a bias is not supported.
        targets: [N] int64 in [0, V).
        temperature: the sampling temperature, > 0.
        chunk_tokens: C, >= 1; memory is C * V float32, the result does not depend on it beyond rounding.
        entropy_has_gradient: whether the entropies can be differentiated; otherwise they are a metric.

    Returns:
        (log-probabilities [N] float32 in nats, entropies [N] float32 in nats); all reductions over V are in float32.
    """
    return _ChunkedHead.apply(  # type: ignore[no-any-return]
        hidden, weight, targets, temperature, chunk_tokens, entropy_has_gradient
    )
