"""The loop: draw problems, collect groups, learn, sync weights, log, checkpoint. Nothing else lives here.

What each line does is in the file it is imported from; what it works on is in rl/types.py.
Left out on purpose: critics, multi-turn environments, and overlap of sampling with learning.
"""

from __future__ import annotations

import time

from rl.health import check_invalid_scores
from rl.rollout.collect import collect_groups
from rl.run import Run


def train(run: Run, *, num_stages: int) -> None:
    """Run every remaining step of the first num_stages stages.

    Raises:
        ScoringUnavailable: too many rollouts stayed without a valid score for too many steps.
        Preempted: a SIGTERM came; the state was checkpointed first.
        RuntimeError: the two sides of a weight sync disagree.
    """
    run.evaluate_start_models()
    while (stage := run.curriculum.stage) is not None and stage.index < num_stages:
        step, started = run.step + 1, time.monotonic()

        batch = collect_groups(run.sampling(step, stage), run.curriculum, run.surplus)
        sampled = time.monotonic()

        advantages = run.advantages(batch.groups)
        learned = run.learner.step(batch.groups, advantages, lr=run.learning_rate(step, stage), policy_version=run.step)
        learned_at = time.monotonic()

        synced = run.sync(version=step)
        run.curriculum.end_step()

        times = {"time/rollout_s": sampled - started, "time/learn_s": learned_at - sampled}
        metrics = batch.metrics | learned | synced | run.curriculum.metrics() | run.gate.metrics() | times
        run.finish_step(stage, batch, advantages, metrics, started)
        check_invalid_scores(run.health, run.config)
