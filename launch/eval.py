"""`python -m launch.eval --model PATH --suite PREPARED_SET [--key value ...]`: accuracy by window, greedy and sampled.

One engine in this process, no Ray. Windows are counted with the suite's own tokenizer, so that every model is
asked the same problems; what a model's own tokenizer makes of them only has to fit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import Field

from data.columns import columns_of
from data.prepared import PreparedSet, load_prepared
from data.problem import DataError, Problem
from data.windows import assign_window, windows_from
from launch.cli import EXIT_DONE, EXIT_JUDGE, ConfigError, load_config, main
from rl.config import RolloutSection, Section
from rl.evaluate import Accuracy, EvaluationResult, choose_problems, evaluate

if TYPE_CHECKING:
    from rl.rollout.engine import Engine

PROG = "python -m launch.eval"


class EvalConfig(Section):
    """Answers a prepared set's problems with a model and scores the answers."""

    model: str
    """Folder or hub id of the model in Hugging Face form."""
    suite: str
    """Prepared set (python -m data.prepare) to answer."""
    out: str = ""
    """JSON file for the figures and every item; empty: the table on stdout alone."""
    windows: list[int] = Field(default_factory=list)
    """Upper bounds in prompt tokens; empty: the suite's own, and one more up to its longest prompt."""
    problems_per_window: int = Field(default=200, ge=1)
    """Problems per window (all, where there are fewer); the seed chooses them."""
    max_response_tokens: int = Field(default=1024, gt=0)
    """Output limit."""
    sampled: bool = True
    """Also draw one answer per problem, beside the greedy one."""
    temperature: float = Field(default=0.7, gt=0.0)
    """Of the sampled answer; 0.7 and top_p 0.95 are QwenLong-L1's (arXiv 2505.17667)."""
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    """Nucleus mass of the sampled answer."""
    seed: int = Field(default=0, ge=0)
    """Chooses the problems and seeds the draws."""
    without_document: bool = False
    """Ask with an empty document: `out` then names what needs none, for data.prepare --drop-answerable. A guess is right
    for half of the yes/no questions and one of the options of a choice: give several such files (--seed 0, 1, ...) and
    raise --answerable-above. problems_per_window must reach the whole set; what was not asked is kept."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """What samples; auto takes vLLM where it is installed."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Parameters' type; auto: bfloat16 on CUDA, float32 on CPU."""
    threads: int = Field(default=0, ge=0)
    """Compute threads on CPU; 0: all cores."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of the engine (vLLM)."""
    gpu_memory_frac: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of GPU memory that vLLM may take."""
    kv_cache_gib: float = Field(default=1.0, gt=0.0)
    """CPU memory for vLLM's key/value cache, in GiB (CPU build only)."""
    judge_url: str = ""
    """Base URL of an OpenAI-compatible endpoint; empty: the rule decides alone. The key comes from LONGREACH_JUDGE_KEY."""
    judge_model: str = ""
    """Model name at that endpoint."""
    max_invalid_frac: float = Field(default=0.1, ge=0.0, le=1.0)
    """A larger share of answers without a valid score ends the command with exit 4, after the figures are written."""


def run(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    config = load_config(EvalConfig, argv, prog=PROG).config
    out = _writable(config.out) if config.out else None
    suite = load_prepared(config.suite)
    chosen = {
        high: choose_problems(problems, config.problems_per_window, seed=config.seed)
        for high, problems in by_window(suite, config).items()
    }
    result = answer(config, suite, chosen)
    print(table(result))
    if out is not None:
        _write(out, report(config, suite, result))
    if complaint := unreliable(result, config):
        print(f"error: {complaint}", file=sys.stderr)
        return EXIT_JUDGE
    return EXIT_DONE


def unreliable(result: EvaluationResult, config: EvalConfig) -> str:
    """Why the figures cannot be relied on; empty where they can."""
    num_invalid = sum(item.score.value is None for item in result.items)
    if num_invalid <= config.max_invalid_frac * len(result.items):
        return ""
    return (
        f"{num_invalid} of {len(result.items)} answers have no valid score, over max_invalid_frac "
        f"{config.max_invalid_frac:g}; check the judge at {config.judge_url or '(none configured)'}"
    )


def by_window(suite: PreparedSet, config: EvalConfig) -> dict[int, tuple[Problem, ...]]:
    """Upper bound -> the suite's problems in that window as the model is asked them; empty windows of its own are left out.

    Raises:
        DataError: windows that do not rise, or a window asked for that holds no problem.
    """
    longest = int(columns_of(suite.problems).num_prompt_tokens.max())
    uppers = list(config.windows or suite.manifest.windows)
    if not config.windows and longest > uppers[-1]:
        uppers.append(longest)
    windows: dict[int, list[Problem]] = {window.high: [] for window in windows_from(uppers)}
    for problem in suite.problems:
        window = assign_window(problem.num_prompt_tokens, uppers)
        if window is not None:
            windows[window.high].append(replace(problem, context="") if config.without_document else problem)
    if config.windows and (empty := [high for high, problems in windows.items() if not problems]):
        raise DataError(
            f"windows: {config.suite} holds no problem in the windows ending at {empty}; its longest prompt has {longest} tokens"
        )
    return {high: tuple(problems) for high, problems in windows.items() if problems}


def answer(config: EvalConfig, suite: PreparedSet, chosen: Mapping[int, Sequence[Problem]]) -> EvaluationResult:
    """Start the engine, ask it, score what it says, and stop it again."""
    from data.prompts import opens_thinking, render_prompt_ids
    from rewards.service import ScorerConfig, build_scorer
    from rl.inputs import load_model_config, load_tokenizer

    tokenizer = load_tokenizer(config.model)
    prompts = {
        problem.problem_id: tuple(render_prompt_ids(tokenizer, problem, suite.template))
        for problems in chosen.values()
        for problem in problems
    }
    max_model_len = max(map(len, prompts.values())) + config.max_response_tokens
    limit: int | None = getattr(load_model_config(config.model), "max_position_embeddings", None)
    if limit is not None and max_model_len > limit:
        raise ConfigError(
            f"model {config.model}: max_position_embeddings {limit} < {max_model_len}, the longest prompt plus "
            "max_response_tokens; choose shorter windows or configure rope scaling in the model's config.json"
        )
    scorer_config = ScorerConfig(
        judge_url=config.judge_url,
        judge_model=config.judge_model,
        require_closed_think=opens_thinking(tokenizer, suite.problems[0], suite.template),
    )
    try:
        scorer = build_scorer(scorer_config)
    except ValueError as error:
        raise ConfigError(f"judge_url, judge_model: {error}") from None
    engine = start_engine(config, max_model_len)
    try:
        return evaluate(
            engine,
            chosen,
            lambda problem: prompts[problem.problem_id],
            scorer,
            problems_per_window=config.problems_per_window,
            max_response_tokens=config.max_response_tokens,
            sampled=config.sampled,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.seed,
        )
    finally:
        engine.close()
        scorer.close()


def start_engine(config: EvalConfig, max_model_len: int) -> Engine:
    """The configured engine in this process, whose environment is set for it.

    Raises:
        EngineMissing: vLLM is asked for and not installed.
    """
    import torch

    from rl.rollout.choose import build_engine, engine_name
    from rl.rollout.environment import engine_environment

    section = RolloutSection(
        engine=config.engine,
        tensor_parallel=config.tensor_parallel,
        gpu_memory_frac=config.gpu_memory_frac,
        kv_cache_gib=config.kv_cache_gib,
    )
    cuda = torch.cuda.is_available()
    threads = config.threads or os.cpu_count() or 1
    if engine_name(section, key="engine") == "vllm":
        os.environ.update(engine_environment(threads, cuda=cuda))
    dtype = config.dtype if config.dtype != "auto" else "bfloat16" if cuda else "float32"
    return build_engine(config.model, dtype, section, max_model_len, threads)


def table(result: EvaluationResult) -> str:
    """The figures as aligned text: every window, all of them, then every task where there is more than one."""
    lines = [
        f"{'decoding':9} {'window':>12} {'problems':>8} {'accuracy':>8} {'95 % interval':>15} {'invalid':>7} {'cut off':>7} {'tokens':>7}"
    ]
    tasks = sorted({item.task for item in result.items})
    for decoding in result.decodings:
        for window in result.windows:
            lines.append(_row(decoding, f"<= {window}", result.accuracy(decoding, window=window)))
        lines.append(_row(decoding, "all", result.accuracy(decoding)))
        if len(tasks) > 1:
            lines += [_row(decoding, task[:12], result.accuracy(decoding, task=task)) for task in tasks]
    return "\n".join(lines)


def _row(decoding: str, label: str, a: Accuracy) -> str:
    interval = f"{a.low:.3f} .. {a.high:.3f}"
    return (
        f"{decoding:9} {label:>12} {a.num_problems:8} {a.mean:8.3f} {interval:>15} "
        f"{a.num_invalid:7} {a.num_truncated:7} {a.mean_response_tokens:7.0f}"
    )


def report(config: EvalConfig, suite: PreparedSet, result: EvaluationResult) -> dict[str, Any]:
    """What `out` holds: how it was asked, the figures, every item."""
    return {
        "config": config.model_dump(mode="json"),
        "suite_fingerprint": suite.fingerprint,
        "metrics": result.metrics("eval"),
        "items": result.rows(),
    }


def _writable(out: str) -> Path:
    """The path, checked before an hour is spent on what will be written there."""
    path = Path(out)
    if path.is_dir():
        raise ConfigError(f"out: {out} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"out: {path.parent} is not writable; choose another place")
    return path


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    temporary.replace(path)


if __name__ == "__main__":
    main(run)
