"""From rollout groups to the turns of this rank: what it runs, one group after another, in step with the other ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rl.learner.packing import Response, micro_batches, num_micro_batches, trained_responses
from rl.learner.ranks import Ranks
from rl.learner.schedule import ReadyGroup, ready_group
from rl.learner.sharding import rounds
from rl.types import RolloutGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedGroup:
    """What of a rollout group trains."""

    prompt_token_ids: tuple[int, ...]
    responses: tuple[Response, ...]
    is_stale: bool
    """Sampled by older weights than those being trained: a surplus group of an earlier step."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each response."""
        return [len(response.token_ids) for response in self.responses]

    @property
    def num_loss_tokens(self) -> int:
        """Trained tokens."""
        return sum(self.lengths)

    @property
    def num_forward_tokens(self) -> int:
        """Token positions that go through the model: the prompt once, and of each response all but the last."""
        return len(self.prompt_token_ids) + self.num_loss_tokens - len(self.responses)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One group of this rank's (or an empty one, while other ranks have theirs) with what was measured before the update."""

    group: ReadyGroup
    is_stale: bool
    old_logprobs: tuple[torch.Tensor, ...] | None = None
    """Per micro-batch [M]; None when strictly on-policy."""
    ref_logprobs: tuple[torch.Tensor, ...] | None = None
    """Per micro-batch [M]; None without a reference model."""


def trained_group(
    group: RolloutGroup, advantages: Sequence[float], *, policy_version: int | None, max_tokens: int | None
) -> TrainedGroup:
    """A rollout group's valid rollouts with their advantages.

    Args:
        policy_version: of the weights being trained; None: no group is stale.
        max_tokens: see `max_shared_tokens`.

    Raises:
        ValueError: advantages do not match, or prompt and response are longer than max_tokens; names the problem.
    """
    name = f"problem {group.problem.problem_id!r}"
    try:
        responses = trained_responses(group.valid_rollouts, advantages)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    longest = len(group.prompt_token_ids) + max((len(r.token_ids) for r in responses), default=0)
    if max_tokens is not None and longest > max_tokens:
        raise ValueError(
            f"{name}: prompt and response of {longest} tokens > {max_tokens}, beyond which this model's rotary frequencies "
            "depend on the whole length; shorten the stages, or take rope_type yarn or linear in the model's config.json"
        )
    return TrainedGroup(
        prompt_token_ids=group.prompt_token_ids,
        responses=tuple(responses),
        is_stale=policy_version is not None and group.policy_version < policy_version,
    )


def own_turns(
    groups: Sequence[TrainedGroup],
    ranks: Ranks,
    device: torch.device,
    *,
    cost: Callable[[TrainedGroup], float],
    max_tokens: Callable[[int], int],
) -> list[Turn]:
    """This rank's share of the groups; every rank gets as many turns, each with as many micro-batches as its neighbours'.

    Args:
        cost: what ranks are balanced by.
        max_tokens: from a prompt's length, response tokens that a rank takes in one micro-batch.
    """
    turns = []
    for row in rounds([cost(group) for group in groups], ranks.num_data):
        num_batches = max(
            num_micro_batches(groups[i].lengths, ranks.num_sequence * max_tokens(len(groups[i].prompt_token_ids)))
            for i in row
            if i is not None
        )
        mine = row[ranks.data_rank]
        group = groups[mine] if mine is not None else _NOTHING
        batches = micro_batches(
            group.responses, num_batches, num_prompt_tokens=len(group.prompt_token_ids), min_rows=ranks.min_rows
        )
        turns.append(Turn(group=ready_group(group.prompt_token_ids, batches, ranks, device), is_stale=group.is_stale))
    return turns


_NOTHING = TrainedGroup(prompt_token_ids=(0,), responses=(), is_stale=False)
