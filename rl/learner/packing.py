"""One group's responses into micro-batches of about equal size, each laid end to end."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from rl.learner.ranks import Ranks, TokenLayout
from rl.types import MicroBatch, Rollout


class Response(NamedTuple):
    """What of a rollout trains; R >= 1 tokens."""

    token_ids: Sequence[int]
    sampling_logprobs: Sequence[float]
    advantage: float


def trained_responses(rollouts: Sequence[Rollout], advantages: Sequence[float]) -> list[Response]:
    """Those that have tokens; one without trains nothing.

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
    pairs = zip(rollouts, advantages, strict=True)
    return [Response(r.token_ids, r.sampling_logprobs, a) for r, a in pairs if r.token_ids]


def num_micro_batches(lengths: Sequence[int], max_tokens: int) -> int:
    """Fewest micro-batches, about, that hold responses of these lengths with at most max_tokens each; 0 for none."""
    longest = max(lengths, default=1)
    needed = math.ceil(sum(lengths) / max(max_tokens, longest))
    while needed < len(lengths):
        if max(sum(lengths[i] for i in part) for part in _split(lengths, needed)) <= max(max_tokens, longest):
            break
        needed += 1
    return min(needed, len(lengths))


def micro_batches(
    responses: Sequence[Response], num_batches: int, *, num_prompt_tokens: int, min_rows: int = 0
) -> list[MicroBatch]:
    """Responses dealt to num_batches micro-batches so that all are about equally long; some are empty if there are more.

    Args:
        num_prompt_tokens: P, where every response's first token stands.
        min_rows: fed rows that a micro-batch has at least, filled up with rows that belong to no response.
    """
    parts = _split([len(response.token_ids) for response in responses], num_batches)
    return [_pack([responses[i] for i in part], num_prompt_tokens, min_rows) for part in parts]


def own_sources(batch: MicroBatch, layout: TokenLayout, ranks: Ranks) -> torch.Tensor:
    """[M] for each trained token 0 or 1 + this rank's row that predicts it; -1 where another sequence-parallel rank does.

    The tokens that the prompt's last state predicts, one a response, are trained by sequence rank 0.
    """
    me = ranks.sequence_rank
    row_of = torch.full((1 + len(batch.token_ids),), -1)
    row_of[0] = 0 if me == 0 else -1
    for row, start, end in layout.ranges(me):
        row_of[1 + start : 1 + end] = torch.arange(1 + row, 1 + row + end - start)
    return row_of[batch.sources]


def own_rows(batch: MicroBatch, layout: TokenLayout, ranks: Ranks, device: torch.device) -> MicroBatch:
    """What this sequence-parallel rank feeds and trains of a micro-batch: its rows, and the tokens they predict."""
    me, sources = ranks.sequence_rank, own_sources(batch, layout, ranks)
    trained = sources >= 0
    return replace(
        batch,
        token_ids=layout.local(batch.token_ids, me).to(device),
        position_ids=layout.local(batch.position_ids, me).to(device),
        sources=sources[trained].to(device),
        targets=batch.targets[trained].to(device),
        advantages=batch.advantages[trained].to(device),
        sampling_logprobs=batch.sampling_logprobs[trained].to(device),
    )


def _split(lengths: Sequence[int], num_parts: int) -> list[list[int]]:
    """Indices dealt longest first, each to the part that is shortest so far."""
    parts: list[tuple[int, int, list[int]]] = [(0, i, []) for i in range(num_parts)]
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        total, i, members = heapq.heappop(parts)
        heapq.heappush(parts, (total + lengths[index], i, [*members, index]))
    return [members for _, _, members in sorted(parts, key=lambda part: part[1])]


def _pack(responses: Sequence[Response], num_prompt_tokens: int, min_rows: int) -> MicroBatch:
    token_ids: list[int] = []
    position_ids: list[int] = []
    documents, sources = [], []
    for response in responses:
        start, fed = len(token_ids), len(response.token_ids) - 1
        token_ids += response.token_ids[:-1]
        position_ids += range(num_prompt_tokens, num_prompt_tokens + fed)
        sources += [0, *range(start + 1, start + 1 + fed)]
        if fed:
            documents.append((start, start + fed))
    filling = max(0, min_rows - len(token_ids))
    return MicroBatch(
        token_ids=torch.tensor([*token_ids, *[0] * filling], dtype=torch.int64),
        position_ids=torch.tensor([*position_ids, *[0] * filling], dtype=torch.int64),
        documents=tuple(documents),
        sources=torch.tensor(sources, dtype=torch.int64),
        targets=torch.tensor([t for r in responses for t in r.token_ids], dtype=torch.int64),
        advantages=torch.tensor([r.advantage for r in responses for _ in r.token_ids], dtype=torch.float32),
        sampling_logprobs=torch.tensor([x for r in responses for x in r.sampling_logprobs], dtype=torch.float32),
    )
