"""The learner's new weights reach every engine, and one known sequence proves that they arrived."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from rl.rollout.engine import Workers
from rl.rollout.weight_files import travelling_file

# 32 ids that every vocabulary has; each score depends on every row of the output head through the normaliser.
PROBE_PROMPT = [(5 * i + 3) % 64 for i in range(16)]
PROBE_RESPONSE = [(11 * i + 7) % 64 for i in range(16)]


class WeightSource(Protocol):
    """What a weight sync needs of the learner."""

    def write_weights(self, path: str) -> None:
        """Write one safetensors file: the whole model under its Hugging Face names, or its LoRA adapter alone, with
        the adapter's configuration in the file's metadata (see `rl.learner.lora.CONFIG_KEY`)."""
        ...

    def logprobs(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[float]:
        """Log-probability (temperature 1) of each response token."""
        ...


def sync_weights(learner: WeightSource, workers: Workers, *, version: int, max_diff: float) -> dict[str, float]:
    """Push the learner's weights to every engine as `version`, then score one sequence on both sides.

    max_diff: largest |difference| of a token's log-probability (nats) that passes.
    Returns `policy/sync_probe_max_diff` (nats, over tokens and workers) and `time/sync_s`.

    Raises:
        RuntimeError: a worker's scores differ by more than max_diff; it holds other weights than the learner, or
            computes with them differently.
    """
    started = time.monotonic()
    with travelling_file() as path:
        learner.write_weights(path)
        workers.update_weights(path, version, rewrite=learner.write_weights)
    largest = _probe(learner, workers, version, max_diff)
    return {"policy/sync_probe_max_diff": largest, "time/sync_s": time.monotonic() - started}


def _probe(learner: WeightSource, workers: Workers, version: int, max_diff: float) -> float:
    ours = learner.logprobs(PROBE_PROMPT, PROBE_RESPONSE)
    largest = 0.0
    for worker, theirs in workers.score(PROBE_PROMPT + PROBE_RESPONSE, len(PROBE_PROMPT)).items():
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            difference = abs(a - b)
            if not difference <= max_diff:  # also when it is NaN
                raise RuntimeError(
                    f"weight sync of version {version}: {worker} scores token {i} of the probe {b:.6f}, the learner "
                    f"{a:.6f} nats; difference {difference:.2g} > rollout.max_probe_diff={max_diff:g}. The engine's weights "
                    "are not the learner's; raise the bound only for a lower precision (bfloat16 needs about 0.2)"
                )
            largest = max(largest, difference)
    return largest
