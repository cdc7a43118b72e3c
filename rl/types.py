"""What flows through the loop: problems become rollout groups, groups become micro-batches.

P prompt tokens, R response tokens, G answers a group.
Nothing here imports torch: a micro-batch names its tensors without needing them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from data.problem import Problem
from rewards.types import Score

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What an engine returns for one sample of one prompt, before anyone has scored it."""

    token_ids: tuple[int, ...]
    """[R] sampled tokens, the end-of-sequence token included when finish_reason is `stop`."""
    logprobs: tuple[float, ...]
    """[R] log-probability of each token under the distribution it was drawn from (nats)."""
    text: str
    """Decoded response without special tokens at its end."""
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One sampled and scored answer."""

    sample_index: int
    """0..G-1 within its group."""
    token_ids: tuple[int, ...]
    """[R] response tokens; every one of them is trained (loss_mask is True on all)."""
    sampling_logprobs: tuple[float, ...]
    """[R] the sampler's own log-probabilities at the sampling temperature."""
    text: str
    finish_reason: FinishReason
    score: Score
    """The outcome."""
    reward: float | None
    """The outcome after overlong shaping (DAPO, METHOD eq. 7); None when the score is not `ok`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutGroup:
    """The G answers to one problem."""

    problem: Problem
    prompt_token_ids: tuple[int, ...]
    """[P]"""
    rollouts: tuple[Rollout, ...]
    policy_version: int
    """Version of the weights that sampled it; the loop's step counts them."""

    @property
    def valid_rollouts(self) -> tuple[Rollout, ...]:
        """The rollouts whose score is `ok`: the only ones that vote and train."""
        return tuple(r for r in self.rollouts if r.score.status == "ok")

    @property
    def outcomes(self) -> tuple[float, ...]:
        """Unshaped values of the valid rollouts; dynamic sampling looks at these alone."""
        return tuple(r.score.value for r in self.rollouts if r.score.value is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Responses of one group that go forward and backward together, end to end, without padding.

    N tokens are fed to the model: of each response all but the last, which predicts nothing. M tokens are trained: all.
    """

    token_ids: torch.Tensor
    """[N] int64, fed; worked example with P = 3 and responses (7 8 9) and (5): N = 2, token_ids = 7 8"""
    position_ids: torch.Tensor
    """[N] int64, each response's first token stands at P: 3 4"""
    documents: tuple[tuple[int, int], ...]
    """Each response's rows [start, end) among the N, those without any left out: (0, 2)"""
    sources: torch.Tensor
    """[M] int64, whose state predicts each trained token: 0 the prompt's last one, 1 + j row j: 0 1 2 0"""
    targets: torch.Tensor
    """[M] int64, the trained tokens: 7 8 9 5"""
    advantages: torch.Tensor
    """[M] float32, each token's response's"""
    sampling_logprobs: torch.Tensor
    """[M] float32"""
