"""Everything a run needs from disk, read and checked before Ray or a model is started.

A mistake in a path, a data file or a window costs seconds here; after this file only machines can fail.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curricula.index import ProblemIndex
from curricula.stage import Stage, plan_stages
from data.columns import columns_of
from data.in_order import in_order, num_cores
from data.prepare import PreparedSet, load_prepared, tokenizer_fingerprint
from data.problem import DataError, Problem
from data.prompts import Cut, PromptTemplate, find_cut, render_prompt_ids
from data.stored_problems import CutProblems, ProblemSequence, SelectedProblems
from rewards.service import ScorerConfig, build_scorer, require_module
from rl.config import RewardSection, RunConfig
from rl.judge_process import JudgeProcess, JudgeSettings, is_cpu_build
from rl.model_source import with_local_models
from rl.rollout.choose import engine_name
from rl.run_folder import SAFE_NAME

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

MAX_VLLM_LORA_RANK = 512
"""The largest rank that vLLM has kernels for."""


class InputError(ValueError):
    """A model or a setting that cannot be used as given; the message names the key and the way out."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What was read from disk; nothing here is a guess."""

    tokenizer: PreTrainedTokenizerBase
    model_config: PretrainedConfig
    template: PromptTemplate
    stages: tuple[Stage, ...]
    train: Sequence[Problem]
    """Problems no longer than the longest stage's window; lazy, each text is read when it is asked for."""
    train_fingerprint: str
    """Of the prepared set, so that a resumed run notices other data."""
    test: dict[int, Sequence[Problem]]
    """Held-out problems by the window's upper bound, in tokens."""
    num_dropped: int
    """Training problems longer than every window, left out."""
    num_cut: int
    """Training problems whose document was cut in the middle."""

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus response that any stage or evaluation window can ask for, in tokens."""
        output = max(stage.max_response_tokens for stage in self.stages)
        return max([self.max_prompt_tokens, *self.test]) + output

    @property
    def max_prompt_tokens(self) -> int:
        """Longest training prompt that any stage can ask for, in tokens; a later stage's window may be the shorter one."""
        return max(stage.high for stage in self.stages)

    @property
    def num_train_by_window(self) -> dict[str, int]:
        """Training problems in each stage's window, by its upper bound; no text is read."""
        lengths = columns_of(self.train).num_prompt_tokens
        return {str(s.high): int(((lengths > s.low) & (lengths <= s.high)).sum()) for s in self.stages}

    def prompt_ids(self, problem: Problem) -> list[int]:
        """[P] token ids of the problem's prompt."""
        return render_prompt_ids(self.tokenizer, problem, self.template)


def load_inputs(config: RunConfig) -> Inputs:
    """Read tokenizer, model configuration and data; check that they belong together.

    Raises:
        DataError, InputError, ModelRefused: one line that names the file or key, what was seen and the way out.
        ModelScopeMissing: as `local_model`.
        EngineMissing: rollout.engine asks for vLLM, which is not installed.
    """
    from rl.learner.policy import refuse_inexact

    config = with_local_models(config)
    _check_adapter(config)
    _check_scorer(config.reward)
    _check_run_dir(config.run.dir)
    tokenizer, model_config = load_tokenizer(config.model.path), load_model_config(config.model.path)
    refuse_inexact(model_config)
    for name, path in config.evaluation.checkpoints.items():
        _check_checkpoint(name, path)
    stages = stages_of(config)
    train_set = _load_set(config.data.train, tokenizer, key="data.train")
    train, num_dropped, num_cut = _fit(train_set, tokenizer, max(stage.high for stage in stages), config)
    _check_stages(train, stages, config.data.train)
    test: dict[int, Sequence[Problem]] = {}
    if config.data.test:
        windows = sorted(set(config.evaluation.windows or [stage.high for stage in stages]))
        test = _by_window(_load_set(config.data.test, tokenizer, key="data.test"), windows, config.data.test)
    inputs = Inputs(
        tokenizer=tokenizer, model_config=model_config, template=train_set.template, stages=stages, train=train,
        train_fingerprint=train_set.fingerprint, test=test, num_dropped=num_dropped, num_cut=num_cut,
    )  # fmt: skip
    _check_positions(inputs, config)
    return inputs


def stages_of(config: RunConfig) -> tuple[Stage, ...]:
    """The configured stages with their windows and learning rates filled in."""
    return tuple(
        Stage(
            index=i,
            low=config.window(i)[0],
            high=config.window(i)[1],
            steps=stage.steps,
            max_response_tokens=stage.max_response_tokens,
            replay_frac=config.curriculum.replay_frac if stage.replay_frac is None else stage.replay_frac,
            short_frac=stage.short_frac,
            lr=stage.lr if stage.lr is not None else config.learner.lr,
        )
        for i, stage in enumerate(config.stages)
    )


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer at a folder or hub id, refused when it cannot render a chat or end a response."""
    from transformers import AutoTokenizer

    if path.startswith(("/", ".", "~")) and not Path(path).is_dir():
        raise InputError(f"model.path: no folder at {path!r}; name a model folder or hub id")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.path: no tokenizer at {path!r} ({_first_line(error)}); name a model folder or hub id"
        ) from None
    if tokenizer.chat_template is None:
        raise InputError(
            f"model.path: the tokenizer at {path!r} has no chat template; add chat_template.jinja to the folder"
        )
    if tokenizer.eos_token_id is None:
        raise InputError(f"model.path: the tokenizer at {path!r} has no eos_token; a response could never end")
    return tokenizer


def load_model_config(path: str) -> PretrainedConfig:
    """The model's configuration, without its weights."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.path: no model at {path!r} ({_first_line(error)}); name a model folder or hub id"
        ) from None
    if Path(path).is_dir():
        _require_safetensors(path, key="model.path")
    return config


def _require_safetensors(path: str, *, key: str) -> None:
    if not any(Path(path).glob("*.safetensors")):
        raise InputError(
            f"{key}: {path!r} holds no *.safetensors file, and no other weights are read; "
            "save the model with save_pretrained, or name another folder"
        )


def _check_checkpoint(name: str, path: str) -> None:
    key = f"evaluation.checkpoints.{name}"
    if not SAFE_NAME.fullmatch(name) or name in ("sft", "final") or name.startswith("stage-"):
        raise InputError(
            f"{key}: the name must be of letters, digits, '.', '_' and '-', and not one the run gives itself (sft, stage-N, final); rename it"
        )
    if not Path(path).is_dir():
        raise InputError(f"{key}: no folder at {path!r}; name a model folder, or take the key out")
    _require_safetensors(path, key=key)


def _check_adapter(config: RunConfig) -> None:
    """Refuse adapters that vLLM would refuse when it starts."""
    rank = config.learner.lora_rank
    if engine_name(config.rollout) != "vllm" or not rank:
        return
    if rank > MAX_VLLM_LORA_RANK:
        raise InputError(
            f"learner.lora_rank: {rank} > {MAX_VLLM_LORA_RANK}, the largest rank that vLLM samples with; lower it, or set "
            "rollout.engine to 'transformers'"
        )
    if config.model.dtype == "float32" and not is_cpu_build():
        raise InputError(
            "model.dtype: vLLM's LoRA kernels on CUDA do not take 'float32'; set 'bfloat16', learner.lora_rank=0, or "
            "rollout.engine to 'transformers'"
        )


def _check_scorer(section: RewardSection) -> None:
    if section.judge_path:
        JudgeProcess(JudgeSettings(model=section.judge_path, log=os.devnull))
    if section.scorer:
        try:
            require_module(section.scorer)
        except ValueError as error:
            raise InputError(f"reward.scorer: {error}") from None
        return
    try:
        scorer = build_scorer(ScorerConfig(judge_url=section.judge_url, judge_model=section.judge_model))
    except ValueError as error:
        raise InputError(f"reward.judge_url, reward.judge_model: {error}") from None
    scorer.close()


def _check_run_dir(path: str) -> None:
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not Path(path).is_absolute():
        raise InputError(
            f"run.dir: {path!r} is relative, and a Ray job's current folder goes with the job; name a folder on a volume that "
            "outlives it, or submit with python -m launch.job"
        )
    folder = Path(path).absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        raise InputError(f"run.dir: {path!r} cannot be a folder, because {existing} is a file; name another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"run.dir: {existing} is not writable; name another folder")


def _check_stages(train: Sequence[Problem], stages: Sequence[Stage], path: str) -> None:
    try:
        plan_stages(ProblemIndex(train), stages)
    except DataError as error:
        raise DataError(f"data.train {path}: {error}") from None


def _load_set(path: str, tokenizer: PreTrainedTokenizerBase, *, key: str) -> PreparedSet:
    if not Path(path).is_dir():
        raise DataError(
            f"{key}: no prepared set at {path!r}; make one with: python -m data.prepare SOURCE --out {path}"
        )
    prepared = load_prepared(Path(path))
    if prepared.tokenizer_fingerprint != tokenizer_fingerprint(tokenizer):
        raise DataError(
            f"{key}: {path} was measured with another tokenizer or chat template than model.path has; "
            "run python -m data.prepare again with this model's tokenizer"
        )
    return prepared


def _fit(
    prepared: PreparedSet, tokenizer: PreTrainedTokenizerBase, limit: int, config: RunConfig
) -> tuple[ProblemSequence, int, int]:
    problems, template = prepared.problems, prepared.template
    columns = problems.columns
    too_long = columns.num_prompt_tokens > limit
    num_long = int(too_long.sum())
    if num_long == 0:
        return problems, 0, 0
    if config.data.overlong == "drop":
        return SelectedProblems(problems, np.flatnonzero(~too_long)), num_long, 0
    positions = np.flatnonzero(too_long).tolist()
    if config.data.overlong == "error":
        first = positions[0]
        raise DataError(
            f"data.train {config.data.train}: problem {columns.problem_ids[first]!r}: "
            f"{columns.num_prompt_tokens[first]} prompt tokens > {limit}, the longest stage's max_prompt_tokens; raise it, "
            "filter the data or set data.overlong = 'drop'"
        )

    def cut(position: int) -> Cut:
        return find_cut(tokenizer, problems[position], template, limit)

    cuts = dict(zip(positions, in_order(cut, positions, workers=num_cores()), strict=True))
    return CutProblems(problems, cuts), 0, num_long


def _by_window(prepared: PreparedSet, windows: Sequence[int], path: str) -> dict[int, Sequence[Problem]]:
    lengths = prepared.problems.columns.num_prompt_tokens
    lows = [0, *windows[:-1]]
    test: dict[int, Sequence[Problem]] = {
        high: SelectedProblems(prepared.problems, np.flatnonzero((lengths > low) & (lengths <= high)))
        for low, high in zip(lows, windows, strict=True)
    }
    empty = [high for high, problems in test.items() if not problems]
    if empty:
        raise DataError(
            f"evaluation.windows: data.test {path} holds no problem in the windows ending at {empty}; drop them or add data"
        )
    return test


def _check_positions(inputs: Inputs, config: RunConfig) -> None:
    limit: Any = getattr(inputs.model_config, "max_position_embeddings", None)
    if limit is not None and inputs.max_model_len > limit:
        raise InputError(
            f"model.path {config.model.path}: max_position_embeddings {limit} < {inputs.max_model_len}, the longest prompt plus "
            "response of stages and evaluation.windows; shorten the windows or configure rope scaling in the model's config.json"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:160]
