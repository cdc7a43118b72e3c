"""Log-probabilities and entropies of given tokens, without the [N, V] logits ever existing whole.

N tokens, H hidden size, V vocabulary, C positions a chunk.
"""

from __future__ import annotations

from typing import Any

import torch


class _ChunkedHead(torch.autograd.Function):
    """The head in chunks of C positions; the backward pass recomputes each chunk's logits from the saved log-sum-exp."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        chunk_tokens: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropies, lses = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for start in range(0, len(hidden), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = (hidden[part] @ weight.T).float().div_(temperature)
            lse = logits.logsumexp(-1)
            lses[part] = lse
            logprobs[part] = logits.gather(-1, targets[part, None])[:, 0] - lse
            probs = (logits - lse[:, None]).exp_()
            entropies[part] = lse - torch.linalg.vecdot(probs, logits)
        ctx.save_for_backward(hidden, weight, targets, lses)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, lses = ctx.saved_tensors
        grad = grads[0] / ctx.temperature
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(hidden), ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            logits = (hidden[part] @ weight.T).float().div_(ctx.temperature)
            # d logp / d logits = onehot - softmax, each row times its incoming gradient.
            probs = logits.sub_(lses[part, None]).exp_()
            grad_logits = probs.mul_(-grad[part, None])
            grad_logits.scatter_add_(-1, targets[part, None], grad[part, None])
            grad_logits = grad_logits.to(weight.dtype)
            grad_hidden[part] = grad_logits @ weight
            grad_weight.addmm_(grad_logits.T, hidden[part])
        return grad_hidden, grad_weight, None, None, None


def token_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, temperature: float, chunk_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(hidden weight^T / temperature) at the targets, and that distribution's entropy.

    Args:
        hidden: [N, H], the states that predict the targets.
        weight: [V, H], the head; a head with a bias is not supported.
        targets: [N] int64 in [0, V).
        temperature: the sampling temperature, > 0.
        chunk_tokens: C, >= 1; memory is C * V float32, the result does not depend on it beyond rounding.

    Returns:
        (log-probabilities [N] float32 in nats, entropies [N] float32 in nats without gradient);
        all reductions over V are in float32.
    """
    return _ChunkedHead.apply(hidden, weight, targets, temperature, chunk_tokens)  # type: ignore[no-any-return]
