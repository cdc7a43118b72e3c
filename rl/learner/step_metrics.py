"""What a step says about its loss: sums of all ranks' micro-batches, as means over the trained tokens."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch

from rl.learner.loss import TokenSums
from rl.learner.ranks import Ranks
from rl.learner.turns import TrainedGroup


def loss_metrics(
    groups: Sequence[TrainedGroup],
    sums: Sequence[tuple[bool, TokenSums]],
    ranks: Ranks,
    device: torch.device,
    *,
    num_updates: int,
    has_reference: bool,
) -> dict[str, float]:
    """Collective.

    Args:
        groups: of the step, on all ranks alike.
        sums: this rank's, each with whether its group is stale.
        num_updates: each had a denominator of its own.
        has_reference: whether a KL term was measured.

    Returns:
        Means over the step's trained tokens; loss/num_tokens alone where there are none.
    """
    num_tokens = sum(group.num_loss_tokens for group in groups)
    metrics = {"loss/num_tokens": float(num_tokens)}
    if not num_tokens:
        return metrics
    fresh, stale = (
        _over_ranks([s for is_stale, s in sums if is_stale is kind], ranks, device) for kind in (False, True)
    )
    total = fresh + stale
    metrics |= {
        "loss/policy": total.policy.item() / num_updates,
        "loss/clip_frac": total.clipped.item() / num_tokens,
        "policy/entropy": total.entropy.item() / num_tokens,
        "perf/learn_tokens": float(sum(group.num_forward_tokens for group in groups)),
    }
    if has_reference:
        metrics["policy/kl_ref"] = total.ref_k3.item() / num_tokens
    num_stale = sum(group.num_loss_tokens for group in groups if group.is_stale)
    if num_stale:
        metrics["policy/kl_stale"] = stale.sampler_k3.item() / num_stale
    if num_tokens > num_stale:
        metrics |= {
            "policy/kl_sampler": fresh.sampler_k3.item() / (num_tokens - num_stale),
            "policy/kl_sampler_k1": fresh.sampler_k1.item() / (num_tokens - num_stale),
            "policy/kl_sampler_max": fresh.sampler_max.item(),
        }
    return metrics


def _over_ranks(sums: Sequence[TokenSums], ranks: Ranks, device: torch.device) -> TokenSums:
    """Of all ranks together; zeros where none has any."""
    total = functools.reduce(operator.add, sums, TokenSums.zeros(device))
    if ranks.world_size == 1:
        return total
    return total.reduced(ranks.sum_all, ranks.max_all)
