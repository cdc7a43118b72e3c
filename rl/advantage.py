"""From rewards to advantages, in plain floats: a baseline is taken off, the rest is divided by a scale.

Every mean and every standard deviation is over valid rollouts only (score status `ok`): a rollout
that nobody could score changes nothing for the others. n is the number of rewards that a statistic is over.
The peers differ silently in the standard deviation: TRL's is the sample one (n - 1, as `torch.std` has it), others take
the population's (n), which at G = 8 is 7 % smaller and its advantages that much larger. Here it is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import fsum, sqrt
from typing import Literal

from rl.types import RolloutGroup

AdvantageStd = Literal["none", "group", "task", "batch"]
StdForm = Literal["sample", "population"]
Baseline = Literal["mean", "leave_one_out"]


def group_advantages(
    groups: Sequence[RolloutGroup],
    *,
    std: AdvantageStd,
    std_form: StdForm = "sample",
    baseline: Baseline = "mean",
    eps: float = 1e-4,
) -> list[tuple[float, ...]]:
    """Advantages A_i = (r_i - b_i) / scale of each group's valid rollouts, in their order.

    r_i is the shaped reward, b_i the `baseline` (`mean_centred`, `leave_one_out`), and scale, for `std`:

    - `none`: 1 (Dr. GRPO, arXiv 2503.20783: dividing by the group's std favours too easy and too hard problems).
    - `group`: s(own group) + eps (GRPO, arXiv 2402.03300; QwenLong-L1, arXiv 2505.17667).
    - `task`: s(all rewards of the task in these groups) + eps (QwenLong-L1.5, arXiv 2512.12967, eq. 7).
    - `batch`: s(all rewards in these groups) + eps (arXiv 2508.08221).

    s is the standard deviation of `std_form` (`sample_std`, `population_std`). A group whose rewards are all equal has
    advantages of exactly 0. eps: TRL's 1e-4 unless given, in units of reward.

    groups: the whole batch of one step; `task` and `batch` depend on which groups are in it.
    Returns one tuple per group, its length the number of valid rollouts (0 where there is none).

    Raises: ValueError, when a valid rollout has no reward.
    """
    rewards = [_valid_rewards(group) for group in groups]
    tasks = [group.problem.task for group in groups]
    scales = [scale + eps if std != "none" else 1.0 for scale in SCALES[std](rewards, tasks, STDS[std_form])]
    centred = BASELINES[baseline]
    return [tuple(c / scale for c in centred(own)) for own, scale in zip(rewards, scales, strict=True)]


def mean_centred(rewards: Sequence[float]) -> list[float]:
    """r_i - mean(r_1..r_n): GRPO's (arXiv 2402.03300). Exactly 0 where all rewards are equal."""
    # Three times 0.1 has a mean that is not 0.1 in floats: equal rewards are centred without computing it.
    if _is_constant(rewards):
        return [0.0] * len(rewards)
    mean = _mean(rewards, len(rewards))
    return [r - mean for r in rewards]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """r_i - mean of the other n - 1 rewards = n / (n - 1) (r_i - mean): RLOO (arXiv 2402.14740, eq. 8), unbiased.

    0 for a reward that is alone.
    """
    n = len(rewards)
    return [c * n / (n - 1) for c in mean_centred(rewards)] if n > 1 else [0.0] * n


def sample_std(rewards: Sequence[float]) -> float:
    """sqrt(sum (r_i - mean)^2 / (n - 1)); 0 where n < 2."""
    return 0.0 if _is_constant(rewards) else sqrt(_mean(_squares(rewards), len(rewards) - 1))


def population_std(rewards: Sequence[float]) -> float:
    """sqrt(sum (r_i - mean)^2 / n); 0 where n < 2."""
    return 0.0 if _is_constant(rewards) else sqrt(_mean(_squares(rewards), len(rewards)))


Std = Callable[[Sequence[float]], float]
Rewards = Sequence[Sequence[float]]
"""Of each group."""


def _own_std(rewards: Rewards, tasks: Sequence[str], std: Std) -> list[float]:
    return [std(own) for own in rewards]


def _task_std(rewards: Rewards, tasks: Sequence[str], std: Std) -> list[float]:
    of_task: defaultdict[str, list[float]] = defaultdict(list)
    for task, own in zip(tasks, rewards, strict=True):
        of_task[task].extend(own)
    stds = {task: std(every) for task, every in of_task.items()}
    return [stds[task] for task in tasks]


def _batch_std(rewards: Rewards, tasks: Sequence[str], std: Std) -> list[float]:
    return [std([r for own in rewards for r in own])] * len(rewards)


SCALES: Mapping[AdvantageStd, Callable[[Rewards, Sequence[str], Std], list[float]]] = {
    "none": lambda rewards, tasks, std: [1.0] * len(rewards),
    "group": _own_std,
    "task": _task_std,
    "batch": _batch_std,
}
"""One standard deviation per group."""
STDS: Mapping[StdForm, Std] = {"sample": sample_std, "population": population_std}
BASELINES: Mapping[Baseline, Callable[[Sequence[float]], list[float]]] = {
    "mean": mean_centred,
    "leave_one_out": leave_one_out,
}


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


def _squares(rewards: Sequence[float]) -> Iterable[float]:
    return (c * c for c in mean_centred(rewards))
