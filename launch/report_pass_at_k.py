"""How often at least one of k answers is right, and the reward, by prompt length over the training steps.

Where pass@1 rises and pass@k does not, training makes likelier what the model could do before; where both rise, it
learns to do more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from launch.charts import Band, Chart, Series, Value, line_chart
from launch.report_rollouts import GroupCount
from rl.evaluate import pass_at_k

Counts = tuple[int, int]
"""(valid answers, right ones) of one problem."""


def mean_pass_at_k(counts: Sequence[Counts], k: int) -> float | None:
    """Mean over the problems with at least k valid answers; None where there are none."""
    known = [pass_at_k(num, num_right, k) for num, num_right in counts if num >= k]
    return sum(known) / len(known) if known else None


def ks_up_to(num: int) -> tuple[int, ...]:
    """1, 2, 4, ... below `num`, and `num` itself."""
    return (*(2**e for e in range(num.bit_length()) if 2**e < num), num)


def length_charts(groups: Sequence[GroupCount], bounds: Sequence[int], bands: Sequence[Band]) -> list[Chart]:
    """Reward by window, then pass@k of each window, over steps; `bounds` rise and are the windows' upper ones."""
    if not groups:
        return []
    steps = sorted({group.step for group in groups})
    place = {step: i for i, step in enumerate(steps)}
    by_window: dict[str, list[list[GroupCount]]] = defaultdict(lambda: [[] for _ in steps])
    for group in sorted(groups, key=lambda group: group.num_prompt_tokens):
        by_window[_window(group.num_prompt_tokens, bounds)][place[group.step]].append(group)
    rewards = [
        Series(label=window, values=tuple(_mean_reward(step) for step in by_step))
        for window, by_step in by_window.items()
    ]
    charts = [
        line_chart(
            "Reward by prompt length", "mean score of valid answers, by window in tokens", steps, rewards, bands,
            text=_share, floor=0.0, ceiling=1.0,
        )
    ]  # fmt: skip
    for window, by_step in by_window.items():
        most = max(group.num_valid for step in by_step for group in step)
        if most < 2:
            continue
        series = [Series(label=f"pass@{k}", values=tuple(_pass(step, k) for step in by_step)) for k in ks_up_to(most)]
        charts.append(
            line_chart(
                f"pass@k, {window} tokens", "one of k answers is right", steps, series, bands,
                text=_share, floor=0.0, ceiling=1.0,
            )
        )  # fmt: skip
    return charts


def _window(num_tokens: int, bounds: Sequence[int]) -> str:
    high = next((bound for bound in bounds if num_tokens <= bound), None)
    return f"≤{high:,}" if high else f">{bounds[-1]:,}" if bounds else "all"


def _mean_reward(groups: Sequence[GroupCount]) -> Value:
    num = sum(group.num_valid for group in groups)
    return sum((group.mean or 0.0) * group.num_valid for group in groups) / num if num else None


def _pass(groups: Sequence[GroupCount], k: int) -> Value:
    return mean_pass_at_k([(group.num_valid, group.num_right) for group in groups], k)


def _share(value: float) -> str:
    return f"{100 * value:.3g}%"
