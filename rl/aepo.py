"""Adaptive entropy-controlled policy optimisation (AEPO, QwenLong-L1.5, arXiv 2512.12967, section 4.4, eq. 11).

Wrong answers push probability away from what was said, to anywhere: their gradient is what makes entropy run off. While
the batch's entropy is too high, only right answers are learned from; once it has fallen far enough, wrong ones count
again. The paper publishes no thresholds. Its released snippet masks between the two bounds; here the bounds are the
hysteresis band that its text describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from rl.types import RolloutGroup


def batch_entropy(groups: Sequence[RolloutGroup]) -> float | None:
    """H = mean over responses of the mean over their tokens of -log p(token), in nats per token; None without a response.

    The expectation of -log p under the sampler is the entropy of what it sampled from, so this batch's own answers
    measure it before anything is learned from them. With top-p or top-k it is the entropy of the cut distribution.
    """
    means = [
        -fsum(rollout.sampling_logprobs) / len(rollout.sampling_logprobs)
        for group in groups
        for rollout in group.rollouts
        if rollout.sampling_logprobs
    ]
    return fsum(means) / len(means) if means else None


@dataclass(kw_only=True)
class EntropyGate:
    """Leaves negative advantages out while the policy's entropy is too high.

    Closes where H > high, opens where H < low, and stays as it is between them.
    """

    low: float
    """Nats a token, at most `high`."""
    high: float | None
    """Nats a token; None: the gate is out of use and never closes."""
    is_closed: bool = False
    """Whether negative advantages are left out: all the state there is."""
    _entropy: float | None = None
    _num_masked: int = 0

    @classmethod
    def between(cls, low: float | None, high: float | None) -> EntropyGate:
        """The gate of the two settings; without `low` there is no band."""
        return cls(low=low if low is not None else high or 0.0, high=high)

    def apply(self, groups: Sequence[RolloutGroup], advantages: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
        """The advantages, those below 0 as 0 while the gate is closed; looks at the batch's entropy first.

        A masked answer's tokens still count in the loss's denominator: the positive ones keep their weight.
        """
        self._num_masked = 0
        if self.high is None:
            return list(advantages)
        self._entropy = batch_entropy(groups)
        if self._entropy is not None:
            self.is_closed = self._entropy > self.high or (self.is_closed and self._entropy >= self.low)
        if not self.is_closed:
            return list(advantages)
        self._num_masked = sum(a < 0.0 for own in advantages for a in own)
        return [tuple(max(a, 0.0) for a in own) for own in advantages]

    def metrics(self) -> dict[str, float]:
        """Of the last batch; empty while the gate is not in use."""
        if self.high is None or self._entropy is None:
            return {}
        return {"policy/sampled_entropy": self._entropy, "loss/num_masked_negatives": float(self._num_masked)}
