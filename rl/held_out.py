"""A run's held-out problems, answered by what the engine holds: every window, or the last stage's alone.

The figures go into the step's metrics and, for every window, into the run's folder. Nothing here imports torch, vllm or ray.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from data.problem import Problem
from rewards.types import Scorer
from rl.config import RunConfig
from rl.evaluate import EvaluationResult, Generator, evaluate
from rl.inputs import Inputs
from rl.run_folder import Evaluation, WindowAccuracy, installed_versions, write_evaluation


def evaluate_windows(
    engine: Generator,
    scorer: Scorer,
    config: RunConfig,
    inputs: Inputs,
    *,
    folder: Path,
    name: str,
    step: int,
    inputs_hash: str = "",
) -> dict[str, float]:
    """Evaluate, write evaluations/NAME.json and return the metrics; empty without data.test."""
    if not inputs.test:
        return {}
    started, sampled = time.monotonic(), config.evaluation.sampled
    result = _result(engine, scorer, config, inputs, inputs.test, sampled=sampled)
    windows = {
        str(window): WindowAccuracy(
            num=result.accuracy("greedy", window=window).num_problems,
            greedy=result.accuracy("greedy", window=window).mean,
            sampled=result.accuracy("sampled", window=window).mean if sampled else None,
        )
        for window in result.windows
    }
    write_evaluation(folder, Evaluation(checkpoint=name, step=step, windows=windows, inputs_hash=inputs_hash))
    shown = ", ".join(f"<= {window}: {accuracy.greedy:.2f}" for window, accuracy in windows.items())
    print(f"evaluation of {name} (greedy accuracy by prompt tokens): {shown}", flush=True)
    return result.metrics("eval") | {"time/eval_s": time.monotonic() - started}


def evaluate_last_window(engine: Generator, scorer: Scorer, config: RunConfig, inputs: Inputs) -> dict[str, float]:
    """Greedy accuracy in the last stage's window alone, as metrics; empty where it is not evaluated."""
    started, key = time.monotonic(), last_window_metric(inputs)
    test = {window: problems for window, problems in inputs.test.items() if window == inputs.stages[-1].high}
    if not test:
        return {}
    accuracy = _result(engine, scorer, config, inputs, test, sampled=False).accuracy("greedy").mean
    return {key: accuracy, "time/eval_s": time.monotonic() - started}


def last_window_metric(inputs: Inputs) -> str:
    """The metric in which both say the greedy accuracy in the last stage's window."""
    return f"eval/greedy/{inputs.stages[-1].high}/accuracy"


def start_hash(config: RunConfig, inputs: Inputs) -> str:
    """Of all that the evaluations before the first step come from: settings, versions, data and models.

    Models and held-out problems count by their files' names, sizes and times, a model on the hub by its commit.
    """
    paths = [config.model.path, *config.evaluation.checkpoints.values(), config.data.test]
    behind = {
        "config": config.model_dump(),
        "versions": installed_versions(),
        "train": inputs.train_fingerprint,
        "model": getattr(inputs.model_config, "_commit_hash", None),
        "files": {path: _files(Path(path)) for path in paths if path},
    }
    return hashlib.sha256(orjson.dumps(behind, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _files(folder: Path) -> list[tuple[str, int, int]]:
    stats = [(str(path.relative_to(folder)), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _result(
    engine: Generator,
    scorer: Scorer,
    config: RunConfig,
    inputs: Inputs,
    test: Mapping[int, Sequence[Problem]],
    *,
    sampled: bool,
) -> EvaluationResult:
    return evaluate(
        engine,
        test,
        inputs.prompt_ids,
        scorer,
        problems_per_window=config.evaluation.problems_per_window,
        max_response_tokens=max(stage.max_response_tokens for stage in inputs.stages),
        sampled=sampled,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        top_k=config.rollout.top_k,
        seed=config.run.seed,
    )
