"""What a batch of scores says about rule, judge and policy, as one flat dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rewards.types import Score

SHORT_ANSWER_CHARS = 2
"""An answer of at most this many characters is very short: a policy that drifts there has found something."""


def score_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """Shares over all scores, and over those named in each line; a share of nothing is left out. {} for no scores."""
    if not scores:
        return {}
    valid = [score for score in scores if score.status == "ok"]
    by_rule = [score for score in valid if score.source == "rule"]
    by_judge = [score for score in valid if score.source != "rule"]
    won = [score for score in valid if score.value == 1.0]
    asked = [score for score in scores if score.source != "rule"]
    counts = {
        "reward/invalid_frac": (len(scores) - len(valid), len(scores)),
        "reward/rule_mean": (sum(score.value == 1.0 for score in by_rule), len(valid)),
        "reward/judge_mean": (sum(score.value == 1.0 for score in by_judge), len(valid)),
        "reward/judge_flip_frac": (sum(score.value == 1.0 for score in by_judge), len(by_judge)),
        "reward/judge_only_win_frac": (sum(score.source != "rule" for score in won), len(won)),
        "reward/judged_frac": (len(asked), len(scores)),
        "reward/no_answer_frac": (sum(score.answer is None for score in valid), len(valid)),
        "reward/short_answer_frac": (sum(_is_short(score) for score in valid), len(valid)),
        "judge/cache_hit_frac": (sum(score.source == "cache" for score in asked), len(asked)),
        "verifier/timeout_frac": (sum(s.source == "rule" and s.status == "timeout" for s in scores), len(scores)),
    }
    for status in ("abstain", "infra_error", "parse_error", "timeout"):
        counts[f"reward/{status}_frac"] = (sum(score.status == status for score in scores), len(scores))
    latencies = sorted(score.latency_s for score in scores if score.source == "judge")
    times = {f"judge/latency_p{p}_s": latencies[(len(latencies) - 1) * p // 100] for p in (50, 95) if latencies}
    return {name: part / whole for name, (part, whole) in counts.items() if whole} | times


def merged(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Several processes' `Scorer.metrics()` as one: counts (`num_`) add up, of everything else the worst stands.

    The worst is the largest, for a share of right verdicts the smallest.
    """
    names = dict.fromkeys(name for one in metrics for name in one)
    merged_metrics = {}
    for name in names:
        values = [one[name] for one in metrics if name in one]
        worst = min if name.endswith("right_frac") else max
        merged_metrics[name] = sum(values) if "/num_" in name else worst(values)
    return merged_metrics


def _is_short(score: Score) -> bool:
    return score.answer is not None and len(score.answer) <= SHORT_ANSWER_CHARS
