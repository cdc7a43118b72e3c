"""Responses into micro-batches: sorted by length, so that little of a rectangle is padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rl.types import MicroBatch, Rollout


def micro_batches(
    rollouts: Sequence[Rollout], advantages: Sequence[float], max_tokens: int, *, device: str | torch.device = "cpu"
) -> list[MicroBatch]:
    """One group's responses as right-padded micro-batches, longest first.

    Args:
        rollouts: responses of one group; one without tokens trains nothing and is left out.
        advantages: one per rollout.
        max_tokens: upper bound of B * R, padding included; a single longer response goes alone.
        device: where the tensors lie.

    Raises:
        ValueError: advantages and rollouts differ in number, or a rollout's tokens and log-probabilities do.
    """
    if len(advantages) != len(rollouts):
        raise ValueError(
            f"{len(advantages)} advantages for {len(rollouts)} rollouts; give one per valid rollout, in order"
        )
    for rollout in rollouts:
        if len(rollout.sampling_logprobs) != len(rollout.token_ids):
            raise ValueError(
                f"rollout {rollout.sample_index}: {len(rollout.sampling_logprobs)} sampling_logprobs for "
                f"{len(rollout.token_ids)} token_ids; the engine must return one per token"
            )
    pairs = [(r, a) for r, a in zip(rollouts, advantages, strict=True) if r.token_ids]
    pairs.sort(key=lambda pair: -len(pair[0].token_ids))
    batches = []
    while pairs:
        fitting = max(1, max_tokens // len(pairs[0][0].token_ids))
        batches.append(_micro_batch(pairs[:fitting], device))
        pairs = pairs[fitting:]
    return batches


def _micro_batch(pairs: Sequence[tuple[Rollout, float]], device: str | torch.device) -> MicroBatch:
    longest = max(len(rollout.token_ids) for rollout, _ in pairs)
    padding = [longest - len(rollout.token_ids) for rollout, _ in pairs]
    lengths = torch.tensor([len(rollout.token_ids) for rollout, _ in pairs])
    return MicroBatch(
        token_ids=torch.tensor([[*r.token_ids, *[0] * n] for (r, _), n in zip(pairs, padding, strict=True)]).to(device),
        loss_mask=(torch.arange(longest) < lengths[:, None]).to(device),
        advantages=torch.tensor([a for _, a in pairs], dtype=torch.float32).to(device),
        sampling_logprobs=torch.tensor(
            [[*r.sampling_logprobs, *[0.0] * n] for (r, _), n in zip(pairs, padding, strict=True)], dtype=torch.float32
        ).to(device),
    )
