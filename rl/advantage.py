"""From rewards to advantages, in plain floats.

Every mean and every standard deviation is over valid rollouts only (score status `ok`): a rollout
that nobody could score changes nothing for the others. Every standard deviation is the sample one
(n - 1, as `torch.std` has it and TRL uses it): at G = 8 the population form would be 7 % smaller and
its advantages that much larger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import fsum, sqrt
from typing import Literal

from rl.types import RolloutGroup

AdvantageStd = Literal["none", "group", "task", "batch"]


def group_advantages(
    groups: Sequence[RolloutGroup], *, std: AdvantageStd, eps: float = 1e-4
) -> list[tuple[float, ...]]:
    """Advantages A_i = (r_i - mean) / scale of each group's valid rollouts, in their order.

    r_i is the shaped reward, mean that of the valid rollouts of i's own group, and scale, for `std`:

    - `none`: 1 (Dr. GRPO, arXiv 2503.20783: dividing by the group's std favours too easy and too hard problems).
    - `group`: s(own group) + eps (GRPO, arXiv 2402.03300; QwenLong-L1, arXiv 2505.17667).
    - `task`: s(all rewards of the task in these groups) + eps (QwenLong-L1.5, arXiv 2512.12967, eq. 7).
    - `batch`: s(all rewards in these groups) + eps (arXiv 2508.08221).

    s is the sample standard deviation, n - 1; 0 where it has fewer than two rewards. A group whose rewards are
    all equal has advantages of exactly 0. eps: TRL's 1e-4 unless given, in units of reward.

    groups: the whole batch of one step; `task` and `batch` depend on which groups are in it.
    Returns one tuple per group, its length the number of valid rollouts (0 where there is none).

    Raises: ValueError, when a valid rollout has no reward.
    """
    rewards = [_valid_rewards(group) for group in groups]
    match std:
        case "none":
            scales = [1.0] * len(groups)
        case "group":
            scales = [_sample_std(own) + eps for own in rewards]
        case "task":
            by_task: defaultdict[str, list[float]] = defaultdict(list)
            for group, own in zip(groups, rewards, strict=True):
                by_task[group.problem.task].extend(own)
            task_std = {task: _sample_std(all_rewards) for task, all_rewards in by_task.items()}
            scales = [task_std[group.problem.task] + eps for group in groups]
        case "batch":
            scales = [_sample_std([r for own in rewards for r in own]) + eps] * len(groups)
    return [tuple(c / scale for c in _centred(own)) for own, scale in zip(rewards, scales, strict=True)]


def overlong_reward(outcome: float, num_tokens: int, max_response_tokens: int, buffer_tokens: int) -> float:
    """The outcome less a penalty for length (DAPO, arXiv 2503.14476, eq. 13; QwenLong-L1 eq. 7).

    With L = max_response_tokens, C = buffer_tokens and y = num_tokens:
    r if y <= L - C;  r + ((L - C) - y) / C if L - C < y <= L;  r - 1 if y > L.

    buffer_tokens in [0, L); 0 turns the penalty off, the outcome is returned whatever the length.

    Raises: ValueError, when buffer_tokens is outside its range.
    """
    if not 0 <= buffer_tokens < max_response_tokens:
        raise ValueError(
            f"overlong_buffer_tokens={buffer_tokens} must be at least 0 and below max_response_tokens={max_response_tokens}"
        )
    free_tokens = max_response_tokens - buffer_tokens
    if buffer_tokens == 0 or num_tokens <= free_tokens:
        return outcome
    if num_tokens <= max_response_tokens:
        return outcome + (free_tokens - num_tokens) / buffer_tokens
    return outcome - 1.0


def _valid_rewards(group: RolloutGroup) -> list[float]:
    rewards = []
    for rollout in group.valid_rollouts:
        if rollout.reward is None:
            raise ValueError(
                f"problem {group.problem.problem_id!r}, sample {rollout.sample_index}: the score is ok but reward is None; "
                "shape every valid outcome before taking advantages"
            )
        rewards.append(float(rollout.reward))
    return rewards


def _is_constant(rewards: Sequence[float]) -> bool:
    return not rewards or min(rewards) == max(rewards)


def _mean(values: Iterable[float], n: int) -> float:
    return fsum(values) / n


def _centred(rewards: Sequence[float]) -> list[float]:
    # Three times 0.1 has a mean that is not 0.1 in floats: equal rewards are centred without computing it.
    if _is_constant(rewards):
        return [0.0] * len(rewards)
    mean = _mean(rewards, len(rewards))
    return [r - mean for r in rewards]


def _sample_std(rewards: Sequence[float]) -> float:
    if _is_constant(rewards):
        return 0.0
    return sqrt(_mean((c * c for c in _centred(rewards)), len(rewards) - 1))
