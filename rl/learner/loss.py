"""The token loss: DAPO's clipped policy gradient with truncated importance weights, an optional k3 KL term
and an optional entropy bonus.

Left out: sequence-level ratios and every normalisation but one denominator for the whole batch.

N trained tokens of one micro-batch, padding already gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSums:
    """Sums over trained tokens (0-dim float32 tensors without gradient); they add up over micro-batches."""

    policy: torch.Tensor
    """The policy term as it enters the loss, already divided by the denominator."""
    clipped: torch.Tensor
    """Tokens whose gradient the clip removes."""
    entropy: torch.Tensor
    """Entropy of the policy at the sampling temperature (nats)."""
    sampler_k1: torch.Tensor
    """k1 estimate of KL(sampler || learner): log sampler - log learner."""
    sampler_k3: torch.Tensor
    """k3 estimate of the same: r - 1 - log r with r = learner / sampler; never negative."""
    sampler_max: torch.Tensor
    """Largest |log learner - log sampler|; adds up by maximum."""
    ref_k3: torch.Tensor
    """k3 estimate of KL(learner || reference); 0 without a reference."""

    def __add__(self, other: TokenSums) -> TokenSums:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        sums["sampler_max"] = torch.maximum(self.sampler_max, other.sampler_max)
        return TokenSums(**sums)

    @classmethod
    def zeros(cls, device: torch.device) -> Self:
        """Of no tokens."""
        return cls(**{f.name: torch.zeros((), device=device) for f in fields(cls)})

    def reduced(
        self, total: Callable[[torch.Tensor], torch.Tensor], largest: Callable[[torch.Tensor], torch.Tensor]
    ) -> TokenSums:
        """Over processes, given how they sum a tensor [N] elementwise and take its largest values."""
        names = [f.name for f in fields(self) if f.name != "sampler_max"]
        sums = total(torch.stack([getattr(self, name) for name in names]))
        return TokenSums(sampler_max=largest(self.sampler_max.clone()), **dict(zip(names, sums, strict=True)))


def policy_loss(
    logprobs: torch.Tensor,
    *,
    advantages: torch.Tensor,
    sampling_logprobs: torch.Tensor,
    entropies: torch.Tensor,
    num_loss_tokens: int,
    clip_low: float,
    clip_high: float,
    tis_max: float,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    old_logprobs: torch.Tensor | None = None,
    ref_logprobs: torch.Tensor | None = None,
) -> tuple[torch.Tensor, TokenSums]:
    """sum_t [-min(ratio_t A_t, clip(ratio_t, 1 - clip_low, 1 + clip_high) A_t) tis_t + kl_coef k3_t - entropy_coef H_t] / num_loss_tokens.

    ratio = exp(logp - old), tis = min(exp(old - sampling), tis_max) without gradient, k3 = `k3_estimate(ref - logp)`.
    Sources: DAPO (arXiv 2503.14476, eq. 8 to 12: token mean over the batch, two clips); truncated importance sampling
    (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").

    Args:
        logprobs: [N] of the policy being trained, with gradient, at the sampling temperature.
        advantages: [N] the token's response's advantage.
        sampling_logprobs: [N] what the sampler reported.
        entropies: [N] of the policy at the sampling temperature; with gradient where entropy_coef > 0.
        num_loss_tokens: trained tokens of the *whole* batch, > 0, so that the split into micro-batches has no effect.
        clip_low, clip_high, tis_max: the clip is [1 - clip_low, 1 + clip_high]; the importance weight's cap.
        kl_coef, entropy_coef: weights of the KL term and of the entropy bonus.
        old_logprobs: [N] of the policy before the step's first update; None: strictly on-policy, logp itself.
        ref_logprobs: [N] of the frozen start model; needed where kl_coef > 0.

    Returns:
        (scalar loss, sums for the metrics).

    Raises:
        ValueError: num_loss_tokens is not positive, or kl_coef > 0 without ref_logprobs.
    """
    if num_loss_tokens <= 0:
        raise ValueError(f"num_loss_tokens: {num_loss_tokens} is not positive; skip a batch without trained tokens")
    if kl_coef > 0.0 and ref_logprobs is None:
        raise ValueError(f"kl_coef={kl_coef} needs ref_logprobs; pass them or set kl_coef to 0")
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio, mismatch = torch.exp(logprobs - old), old - sampling_logprobs
    unclipped = ratio * advantages
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    tis = torch.exp(mismatch).clamp(max=tis_max)
    policy = -(torch.minimum(unclipped, clipped) * tis).sum() / num_loss_tokens
    ref_k3 = policy.new_zeros(()) if ref_logprobs is None else k3_estimate(ref_logprobs - logprobs).sum()
    loss = policy + (kl_coef * ref_k3 - entropy_coef * entropies.sum()) / num_loss_tokens
    sums = TokenSums(
        policy=policy.detach(),
        clipped=(clipped < unclipped).sum().float(),
        entropy=entropies.detach().sum(),
        sampler_k1=-mismatch.sum(),
        sampler_k3=k3_estimate(mismatch).sum(),
        sampler_max=torch.cat([mismatch.detach().abs(), mismatch.new_zeros(1)]).max(),
        ref_k3=ref_k3.detach(),
    )
    return loss, sums


def k3_estimate(log_ratio: torch.Tensor) -> torch.Tensor:
    """r - 1 - log r with r = p / q, elementwise: the k3 estimate of KL(q || p) on tokens drawn from q; never negative.

    Source: Schulman 2020, "Approximating KL divergence". log_ratio: log p - log q, nats.
    """
    return torch.expm1(log_ratio) - log_ratio
