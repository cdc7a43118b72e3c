"""What every metric means, in which unit, and what others call it; docs/metrics.md shows it.

`python -m rl.glossary` prints that page's tables.
"""

from __future__ import annotations

NONFINITE = "health/num_nonfinite"

GLOSSARY = {
    "reward/mean": "mean outcome of the rollouts with a valid score, before overlong shaping",
    "reward/<task>/mean": "the same of one task",
    "reward/invalid_frac": "share of rollouts without a valid score; they are excluded, never zeros",
    "reward/abstain_frac": "of all rollouts: not asked, because the breaker is open or the judge failed its canaries",
    "reward/infra_error_frac": "of all rollouts: the judge or the scoring worker could not be reached or refused",
    "reward/parse_error_frac": "of all rollouts: the judge answered without a verdict",
    "reward/timeout_frac": "of all rollouts: no verdict in time, from the judge or the symbolic verifier",
    "reward/rule_mean": "share of the valid rollouts that the rule accepted",
    "reward/judge_mean": "share of the valid rollouts that only the judge accepted",
    "reward/judge_flip_frac": "of the answers that the judge decided, all rejected by the rule: share it accepted",
    "reward/judge_only_win_frac": "of all wins, those by the judge alone: when it rises, the policy has learned to talk to it",
    "reward/judged_frac": "share of all rollouts for which a judge's verdict was wanted",
    "reward/no_answer_frac": "share of the valid rollouts in which there was no answer to read",
    "reward/short_answer_frac": "share of the valid rollouts whose answer has at most two characters",
    "judge/cache_hit_frac": "of the verdicts wanted: share that the cache knew",
    "judge/latency_p50_s": "median seconds to a verdict, retries and second opinion included",
    "judge/latency_p95_s": "the same, 95th percentile",
    "judge/num_calls": "requests to the judge since the scoring workers started, canaries and retries included",
    "judge/num_breaker_opened": "times since then that the circuit breaker opened",
    "judge/breaker_open": "1 while the breaker keeps calls from a judge that fails, else 0",
    "judge/canary_right_frac": "share of the last known cases that the judge got right",
    "judge/canary_alarm": "1 while it gets so many wrong that its other verdicts do not count, else 0",
    "judge/num_cache_errors": "batches for which the cache could not be read or written",
    "verifier/timeout_frac": "of all rollouts: the symbolic verifier had no processor time for the answer",
    "rollout/response_tokens_mean": "mean response length in tokens",
    "rollout/prompt_tokens_mean": "mean prompt length in tokens",
    "rollout/truncated_frac": "share of responses that reached the output limit",
    "rollout/num_groups": "groups learned from",
    "rollout/num_sampled_groups": "groups sampled in this step",
    "rollout/num_dead_groups": "sampled groups whose outcomes were all equal",
    "rollout/num_invalid_groups": "sampled groups with fewer than two valid scores",
    "rollout/num_invalid_rollouts": "rollouts without a valid score",
    "rollout/num_refill_rounds": "draws after the first one that it took to fill the step",
    "rollout/num_carried_groups": "groups learned from that an earlier step had left over",
    "rollout/num_surplus_groups": "groups left over for the steps to come",
    "policy/entropy": "mean entropy of the policy over response tokens, in nats",
    "policy/sampled_entropy": "the same measured by -log p of the answers, a mean of means; only with learner.aepo_entropy_high",
    "policy/kl_ref": "k3 estimate of KL(policy || start model) per token, in nats; only with learner.kl_coef > 0",
    "policy/kl_sampler": "k3 estimate of KL(sampler || learner) per token, in nats: how far the two engines disagree",
    "policy/kl_stale": "the same over surplus groups, which older weights sampled: how far the policy has moved since",
    "policy/kl_sampler_max": "largest difference of one token's log-probability between sampler and learner, in nats",
    "policy/kl_sampler_k1": "mean log(sampler / learner) per token, in nats: the signed side of policy/kl_sampler",
    "policy/sync_probe_max_diff": "largest difference of one token's log-probability after the weight sync, in nats",
    "loss/policy": "the policy loss",
    "loss/clip_frac": "share of response tokens whose probability ratio was clipped",
    "loss/num_masked_negatives": "answers whose negative advantage was left out (AEPO); only with learner.aepo_entropy_high",
    "loss/num_tokens": "response tokens trained on: the loss's denominator",
    "optim/grad_norm": "global gradient norm before clipping",
    "optim/lr": "learning rate",
    "curriculum/stage": "index of the stage, from 0",
    "curriculum/replay_frac": "share of the step's problems drawn from earlier stages",
    "curriculum/pool_size": "problems in the replay pool",
    "curriculum/parked": "problems set aside for a while because nobody solves them",
    "curriculum/difficulty_mean": "mean difficulty of the problems observed, 1 / (smoothed mean reward + floor)",
    "curriculum/max_prompt_tokens": "longest prompt drawn, in tokens",
    "curriculum/prompt_tokens/<window>": "prompt tokens of the problems drawn, by the stages' windows (upper bounds)",
    "curriculum/short_frac": "share of the step's problems drawn from the earlier stages' windows, hard or not",
    "curriculum/stage_step": "number of the step in its stage, from 1",
    "curriculum/plateau_steps": "steps since the window's smoothed reward last improved; only with advance_on_plateau",
    "curriculum/num_visited": "problems that were observed at least once",
    "curriculum/num_left": "observed problems of earlier stages that are too easy for the replay pool",
    "curriculum/visited_by_reward/<bin>": "observed problems by smoothed mean reward: 0, above it to 0.25, ..., 1",
    "curriculum/replay_reward_mean": "mean outcome of the step's groups drawn from the replay pool",
    "curriculum/replay_gain": "mean over those groups of their mean outcome minus the smoothed mean before",
    "curriculum/dead_group_frac": "share of sampled groups whose outcomes were all equal: no gradient",
    "time/rollout_s": "seconds for sampling and scoring",
    "time/generate_s": "seconds for sampling",
    "time/score_s": "seconds for scoring",
    "time/learn_s": "seconds for forward, backward and the optimizer",
    "time/sync_s": "seconds for handing new weights to the sampler",
    "time/eval_s": "seconds for evaluation",
    "time/step_s": "seconds of the whole step, evaluation included, the checkpoint after it not",
    "perf/tokens_per_s": "prompt and response tokens learned from, per second of the whole step",
    "perf/learn_tokens": "token positions through the learner's forward pass: a prompt once per group, padding included",
    "eval/<decoding>/<window>/accuracy": "share of held-out problems answered right; window: its upper bound, or all",
    "eval/<decoding>/<window>/invalid_frac": "share of held-out answers without a valid score; they count as wrong",
    "eval/<decoding>/<window>/truncated_frac": "share of held-out answers that reached the output limit",
    "eval/<decoding>/<window>/mean_response_tokens": "mean length of held-out answers in tokens",
    "health/skipped_updates": "optimizer updates of this step left out because the gradient was not finite",
    "health/alarm/<name>": "1 while this alarm is raised, else 0; the alarms are listed below",
    NONFINITE: "metrics of this step that were NaN or infinite and stand as null",
}
"""Every metric that a step may log, and its meaning; `<...>` stands for any one word."""

UNITS = {
    "perf/tokens_per_s": "tokens/s",
    "optim/lr": "1",
    "optim/grad_norm": "1",
    "loss/policy": "1",
    "policy/entropy": "nats/token",
    "policy/sampled_entropy": "nats/token",
    "policy/kl_ref": "nats/token",
    "policy/kl_sampler": "nats/token",
    "policy/kl_sampler_k1": "nats/token",
    "policy/kl_stale": "nats/token",
    "policy/kl_sampler_max": "nats",
    "policy/sync_probe_max_diff": "nats",
    "curriculum/stage": "index",
    "curriculum/stage_step": "index",
    "curriculum/prompt_tokens/<window>": "tokens",
    "curriculum/difficulty_mean": "1",
    "curriculum/replay_reward_mean": "reward",
    "curriculum/replay_gain": "reward",
    "reward/mean": "reward",
    "reward/<task>/mean": "reward",
    "judge/breaker_open": "0 or 1",
    "judge/canary_alarm": "0 or 1",
    "health/alarm/<name>": "0 or 1",
    "eval/<decoding>/<window>/accuracy": "share",
    "reward/rule_mean": "share",
    "reward/judge_mean": "share",
}
"""Of the metrics whose name does not say it."""

ALIASES = {
    "reward/mean": ("critic/score/mean", "reward"),
    "reward/<task>/mean": ("", "rewards/<function>/mean"),
    "policy/entropy": ("actor/entropy", "entropy"),
    "policy/kl_ref": ("actor/kl_loss", "kl"),
    "policy/kl_sampler": ("rollout_corr/k3_kl", ""),
    "policy/kl_sampler_k1": ("rollout_corr/kl", ""),
    "policy/kl_sampler_max": ("", "sampling/sampling_logp_difference/max"),
    "loss/policy": ("actor/pg_loss", "loss"),
    "loss/clip_frac": ("actor/pg_clipfrac", "clip_ratio/region_mean"),
    "optim/grad_norm": ("actor/grad_norm", "grad_norm"),
    "optim/lr": ("actor/lr", "learning_rate"),
    "rollout/response_tokens_mean": ("response_length/mean", "completions/mean_length"),
    "rollout/truncated_frac": ("response_length/clip_ratio", "completions/clipped_ratio"),
    "rollout/prompt_tokens_mean": ("prompt_length/mean", ""),
    "curriculum/dead_group_frac": ("", "frac_reward_zero_std"),
    "time/step_s": ("timing_s/step", "step_time"),
    "time/rollout_s": ("timing_s/gen", ""),
    "time/learn_s": ("timing_s/update_actor", ""),
    "perf/tokens_per_s": ("perf/throughput", ""),
}
"""Metric -> the nearest one of verl and of TRL; "" where there is none."""


def unit(name: str) -> str:
    """Of a metric of the glossary; most names say it themselves.

    Raises:
        KeyError: neither the name nor UNITS says it.
    """
    if name in UNITS:
        return UNITS[name]
    last = name.rpartition("/")[2]
    if last.endswith("_frac"):
        return "share"
    if last.endswith("_s"):
        return "seconds"
    if "tokens" in last:
        return "tokens"
    if last.startswith("num_") or name.startswith("curriculum/") or last == "skipped_updates":
        return "count"
    raise KeyError(name)


def tables() -> str:
    """The page's tables: every metric by area, then what verl and TRL call it."""
    lines = []
    for area in dict.fromkeys(name.partition("/")[0] for name in GLOSSARY):
        lines += ["", f"### {area}", "", "| metric | unit | meaning |", "|---|---|---|"]
        lines += [
            f"| `{name}` | {unit(name)} | {meaning.replace('|', chr(92) + '|')} |"
            for name, meaning in GLOSSARY.items()
            if name.startswith(f"{area}/")
        ]
    lines += ["", "### The same elsewhere", "", "| here | verl | TRL |", "|---|---|---|"]
    lines += [
        f"| `{name}` | " + " | ".join(f"`{alias}`" if alias else "" for alias in aliases) + " |"
        for name, aliases in ALIASES.items()
    ]
    return "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    print(tables(), end="")
