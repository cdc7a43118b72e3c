"""`python -m launch.eval --model PATH|URL --suite NAME|PATH,... [--key value ...]`: how often a model answers right.

Suites are prepared sets, named ones (`launch/suites/`) and files that `data.readers` knows. The model is loaded in this
process, without Ray, or asked at an endpoint. With `--out` every answer goes to disk as it comes, and the same command
again goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from data.prompts import opens_thinking
from launch.cli import ENVIRONMENT_ERRNOS, EXIT_DONE, EXIT_JUDGE, ConfigError, load_config, main
from launch.eval_answers import AnswerFile
from launch.eval_config import EvalConfig
from launch.eval_figures import SuiteItem, all_figures, averages, grid_table, grids, table
from launch.eval_model import InProcess, dtype_of, model_fingerprint, open_model, tokenizer_of
from launch.eval_run import Answers, Model, Part, answer_missing, problems_of
from launch.eval_suites import Suite, fitted, load_suites
from rewards.service import ScorerConfig, build_scorer
from rewards.types import Scorer
from rl.evaluate import SamplingLimits
from rl.model_source import local_model
from rl.rollout.choose import engine_name
from rl.run_folder import git_commit, installed_versions, write_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROG = "python -m launch.eval"
PROJECT = Path(__file__).parents[1]
DECIDING_CODE = ("data/**/*.py", "rewards/**/*.py", "rl/rollout/**/*.py", "rl/evaluate.py", "launch/eval*.py")
"""What renders prompts, draws answers and scores them."""


def run(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    config = load_config(EvalConfig, argv, prog=PROG).config
    config = config.model_copy(update={"model": local_model(config.model)})
    result_path = _result_path(config.out)

    tokenizer = cache(lambda: tokenizer_of(config))
    suites = load_suites(
        config.suite,
        suite_dir=config.suite_dir,
        windows=config.windows,
        tokenizer=tokenizer,
        max_prompt_tokens=config.max_prompt_tokens,
    )
    known = tokenizer() if not config.is_endpoint or config.tokenizer else None
    parts = [_part(config, suite, known) for suite in suites]
    max_model_len = max(
        p.num_prompt_tokens + part.limits.max_response_tokens for part in parts for p in problems_of(part)
    )
    settings = pinned(config, parts, max_model_len)
    items = _answered(config, parts, settings, result_path, known, max_model_len)
    figures, cells = all_figures(items), grids(items)
    print(table(figures))
    if cells:
        print(grid_table(cells))
    if result_path is not None:
        result = {
            "config": config.model_dump(mode="json"),
            "pinned": settings,
            "commit": git_commit(PROJECT),
            "figures": [one.plain() for one in figures],
            "averages": averages(figures),
            "grid": [asdict(cell) for cell in cells],
            "items": [item.row() for item in items],
        }
        write_file(result_path, orjson.dumps(result, option=orjson.OPT_INDENT_2))
    if complaint := unreliable(items, config):
        print(f"error: {complaint}", file=sys.stderr)
        return EXIT_JUDGE
    return EXIT_DONE


def unreliable(items: Sequence[SuiteItem], config: EvalConfig) -> str:
    """Why the figures cannot be relied on; empty where they can."""
    num_failed = sum(item.item.finish_reason is None for item in items)
    num_invalid = sum(item.item.score.value is None for item in items)
    if num_invalid <= config.max_invalid_frac * len(items):
        return ""
    at_fault = (
        f"the model at {config.model}" if num_failed else f"the judge at {config.judge_url or '(none configured)'}"
    )
    again = "the same command asks them again" if config.out else "with --out, the same command would ask them again"
    return (
        f"{num_invalid} of {len(items)} answers have no valid score, over max_invalid_frac "
        f"{config.max_invalid_frac:g}; check {at_fault}; {again}"
    )


def pinned(config: EvalConfig, parts: Sequence[Part], max_model_len: int) -> dict[str, Any]:
    """All that decides the answers, as plain values; what a rerun may not change."""
    model: dict[str, Any] = {"url": config.model, "name": config.model_name, "tokenizer": config.tokenizer}
    if not config.is_endpoint:
        model = {
            "fingerprint": model_fingerprint(config, max_model_len),
            "engine": engine_name(config.rollout, key="engine"),
            "dtype": dtype_of(config),
        }
    return {
        "model": model,
        "decoding": {
            "greedy": config.greedy,
            "num_samples": config.num_samples if config.sampled else 0,
            "seed": config.seed,
        },
        "suites": [
            {
                "name": part.suite.name,
                "source": part.suite.source,
                "fingerprint": part.suite.fingerprint,
                "template": part.suite.template.text,
                "num_problems": {str(window): len(fits) for window, fits in part.problems.items()},
                "max_prompt_tokens": _max_prompt_tokens(config, part.suite),
                **asdict(part.limits),
            }
            for part in parts
        ],
        "without_document": config.without_document,
        "judge": {"url": config.judge_url, "model": config.judge_model} if config.judge_url else None,
        "versions": installed_versions(),
        "code": code_fingerprint(PROJECT),
    }


def code_fingerprint(project: Path) -> str:
    """sha256 over the source files that ask, answer and score, so that changed code is told without git as well."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in DECIDING_CODE for path in project.glob(pattern)}):
        name = path.relative_to(project).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return f"sha256:{digest.hexdigest()}"


def _part(config: EvalConfig, suite: Suite, tokenizer: PreTrainedTokenizerBase | None) -> Part:
    limit, defaults = _max_prompt_tokens(config, suite), suite.defaults
    if limit is not None and tokenizer is None:
        raise ConfigError("tokenizer: max_prompt_tokens needs one to count and cut prompts; name the endpoint's model")
    chosen = suite.chosen(config.problems_per_window, seed=config.seed)
    return Part(
        suite=suite,
        problems={
            high: fitted(suite, problems, tokenizer, max_prompt_tokens=limit, without_document=config.without_document)
            for high, problems in chosen.items()
        },
        limits=SamplingLimits(
            max_response_tokens=config.max_response_tokens or defaults.max_response_tokens,
            temperature=config.temperature or defaults.temperature,
            top_p=config.top_p or defaults.top_p,
        ),
        greedy=config.greedy,
        num_samples=config.num_samples if config.sampled else 0,
        seed=config.seed,
    )


def _max_prompt_tokens(config: EvalConfig, suite: Suite) -> int | None:
    return config.max_prompt_tokens or (None if suite.is_prepared else suite.defaults.max_prompt_tokens)


def _answered(
    config: EvalConfig,
    parts: Sequence[Part],
    settings: dict[str, Any],
    result_path: Path | None,
    tokenizer: PreTrainedTokenizerBase | None,
    max_model_len: int,
) -> tuple[SuiteItem, ...]:
    with ExitStack() as stack:
        scorer = stack.enter_context(closing(_scorer(config, parts[0], tokenizer)))
        file = None
        if result_path is not None:
            file = stack.enter_context(closing(AnswerFile(answers_path(result_path), settings)))
        answers = Answers(file)

        @cache
        def model() -> Model:
            opened = open_model(config, tokenizer, max_model_len)
            if isinstance(opened, InProcess):
                stack.enter_context(closing(opened))
            return opened

        answer_missing(parts, answers, model, scorer, batch=config.batch)
        return answers.in_order(parts)


def _scorer(config: EvalConfig, part: Part, tokenizer: PreTrainedTokenizerBase | None) -> Scorer:
    first = problems_of(part)[0]
    opens = tokenizer is not None and opens_thinking(tokenizer, first, part.suite.template)
    try:
        return build_scorer(
            ScorerConfig(judge_url=config.judge_url, judge_model=config.judge_model, require_closed_think=opens)
        )
    except ValueError as error:
        raise ConfigError(f"judge_url, judge_model: {error}") from None


def _result_path(out: str) -> Path | None:
    """The file for the result, checked before an hour is spent on what will be written there."""
    if not out:
        return None
    path = Path(out)
    if path.is_dir() or out.endswith("/") or path.suffix != ".json":  # a dot alone makes no file: qwen2.5-7b
        path = path / "result.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in ENVIRONMENT_ERRNOS:
            raise
        raise ConfigError(
            f"out: the folder {path.parent} cannot be made ({error.strerror}); name a folder, or a file that ends in .json"
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"out: {path.parent} is not writable; choose another place")
    return path


def answers_path(result_path: Path) -> Path:
    """Where the answers of a result go as they come."""
    if result_path.name == "result.json":
        return result_path.with_name("answers.jsonl")
    return result_path.with_name(f"{result_path.stem}.answers.jsonl")


if __name__ == "__main__":
    main(run)
