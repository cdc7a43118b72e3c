"""One dict and one log call a step: metrics.jsonl always, Weights & Biases and the console beside it.

metrics.jsonl holds one object a step, each on disk before the next step begins. A number that is not finite is
written as null, never as 0, and counted. A resumed run takes the file up where its checkpoint was, so that no step
stands in it twice. The trackers are mirrors: whatever happens to them, training goes on.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import orjson

from rl.config import TrackingSection
from rl.console import open_console
from rl.run_folder import write_file
from rl.tracker import open_tracker

FILE = "metrics.jsonl"
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
    NONFINITE: "metrics of this step that were NaN or infinite and stand as null",
}
"""Every metric that a step may log, and its meaning; `<...>` stands for any one word."""

Value = SupportsFloat | str | None


class MetricsLog:
    """The one place a step's numbers go."""

    def __init__(
        self,
        run_dir: Path,
        tracking: TrackingSection,
        config: Mapping[str, Any],
        run_id: str | None,
        *,
        last_step: int = 0,
    ) -> None:
        """Open the log; `config` is the run's `model_dump()`, its stages give the console its totals.

        `run_id` is the tracker's id from the checkpoint, None at a first start (the id then comes from the run's
        folder, or is new). `last_step` is the step resumed from: later rows belong to work that is done again and go.
        """
        self.path = run_dir / FILE
        self.last_step = last_step
        rewind_metrics(self.path, last_step)
        self._file = self.path.open("ab")
        self._tracker = open_tracker(run_dir, tracking, config, run_id)
        self._console = open_console(config, last_step)

    @property
    def run_id(self) -> str | None:
        """The tracker's run id, for the checkpoint; None when nothing tracks."""
        return self._tracker.run_id if self._tracker else None

    def log(self, step: int, metrics: Mapping[str, Value]) -> None:
        """Write one step's row, durably, then mirror it.

        Values are numbers (Python's, NumPy's, 0-d tensors), text or None.

        Raises:
            ValueError: the step is not after the last one.
            OSError: metrics.jsonl cannot be written.
        """
        if step <= self.last_step:
            raise ValueError(f"metrics: step {step} after step {self.last_step}; every step is logged once, in order")
        row = _plain_row(step, metrics)
        self._file.write(orjson.dumps(row) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.last_step = step
        if self._tracker:
            self._tracker.log(row)
        self._console.show(row)

    def close(self) -> None:
        """End the mirrors and close the file."""
        self._console.close()
        if self._tracker:
            self._tracker.close()
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl by step; lines that are not whole rows (a write that was cut) are left out.

    Of several rows of one step the last counts. A missing file has no rows.
    """
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def rewind_metrics(path: Path, last_step: int) -> None:
    """Leave in the file whole rows up to `last_step` and nothing else; the file exists afterwards."""
    rows = [row for row in read_metrics(path) if row["step"] <= last_step]
    content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    if not path.exists() or path.read_bytes() != content:
        write_file(path, content)


def _plain_row(step: int, metrics: Mapping[str, Value]) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step}
    num_nonfinite = 0
    for name, value in metrics.items():
        if value is None or isinstance(value, (str, int)):
            row[name] = value
            continue
        number = float(value)
        row[name] = number if math.isfinite(number) else None
        num_nonfinite += not math.isfinite(number)
    row[NONFINITE] = num_nonfinite
    return row
