"""The model under evaluation: an engine in this process, or an endpoint; its tokenizer, and what tells it from others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.prompts import PromptTemplate, render_prompt_ids
from launch.cli import ConfigError
from launch.eval_config import EvalConfig
from launch.eval_endpoint import Endpoint
from rl.evaluate import Ask, Reply, SamplingLimits, engine_replies
from rl.inputs import load_model_config, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rl.rollout.engine import Engine


class InProcess:
    """An engine in this process."""

    def __init__(self, engine: Engine, tokenizer: PreTrainedTokenizerBase) -> None:
        self._engine, self._tokenizer = engine, tokenizer

    def replies(self, asks: Sequence[Ask], template: PromptTemplate, limits: SamplingLimits) -> list[list[Reply]]:
        """One reply a sample, in order."""
        prompt_ids = partial(render_prompt_ids, self._tokenizer, template=template)
        return engine_replies(self._engine, asks, prompt_ids, limits)

    def close(self) -> None:
        self._engine.close()


def open_model(
    config: EvalConfig, tokenizer: PreTrainedTokenizerBase | None, max_model_len: int
) -> InProcess | Endpoint:
    """The configured engine, started, or the endpoint, to which nothing is sent yet.

    Raises:
        EngineMissing: vLLM is asked for and not installed.
    """
    if tokenizer is None or config.is_endpoint:
        return Endpoint(
            url=config.model,
            model=config.model_name,
            concurrency=config.concurrency,
            timeout_s=config.request_timeout_s,
        )
    return InProcess(start_engine(config, max_model_len), tokenizer)


def tokenizer_of(config: EvalConfig) -> PreTrainedTokenizerBase:
    """The model's own tokenizer.

    Raises:
        ConfigError: an endpoint's, which nobody named.
        InputError: none there, or one that renders no chat.
    """
    if config.is_endpoint and not config.tokenizer:
        raise ConfigError(
            "tokenizer: needed to count and cut the prompts of a suite that is no prepared set; name the endpoint's model "
            "as a folder or hub id, or prepare the suite with data.prepare"
        )
    return load_tokenizer(config.tokenizer or config.model)


def model_fingerprint(config: EvalConfig, max_model_len: int) -> str:
    """What tells this model from others: sha256 over a folder's files, or a hub id with its commit.

    Raises:
        ConfigError: the model takes fewer tokens than the longest prompt and its answer.
        InputError: no model there.
    """
    settings = load_model_config(config.model)
    limit: int | None = getattr(settings, "max_position_embeddings", None)
    if limit is not None and max_model_len > limit:
        raise ConfigError(
            f"model {config.model}: max_position_embeddings {limit} < {max_model_len}, the longest prompt plus "
            "max_response_tokens; lower max_prompt_tokens or windows, or configure rope scaling in the model's config.json"
        )
    folder = Path(config.model)
    if not folder.is_dir():
        return f"{config.model}@{getattr(settings, '_commit_hash', None) or 'unknown'}"
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return f"sha256:{digest.hexdigest()}"


def dtype_of(config: EvalConfig) -> str:
    """The parameters' type that `auto` comes to here."""
    import torch

    return config.dtype if config.dtype != "auto" else "bfloat16" if torch.cuda.is_available() else "float32"


def start_engine(config: EvalConfig, max_model_len: int) -> Engine:
    """The configured engine in this process, whose environment is set for it.

    Raises:
        EngineMissing: vLLM is asked for and not installed.
    """
    import torch

    from rl.rollout.choose import build_engine, engine_name
    from rl.rollout.environment import engine_environment

    threads = config.threads or os.cpu_count() or 1
    if engine_name(config.rollout, key="engine") == "vllm":
        os.environ.update(engine_environment(threads, cuda=torch.cuda.is_available()))
    return build_engine(config.model, dtype_of(config), config.rollout, max_model_len, threads)
