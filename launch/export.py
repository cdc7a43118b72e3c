"""`python -m launch.export RUN_OR_CHECKPOINT [--out DIR] [--key value ...]`: a checkpoint as a model folder that others load.

Weights (adapters merged), tokenizer with chat template, the run's sampling settings, the rope it was trained with and a
model card; checked against the checkpoint before it appears, whole or not at all. Then how to serve and ask it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import Field

from data.prepared import PROBLEMS_FILE
from launch.cli import ConfigError, load_config, main
from launch.export_card import model_card
from launch.export_check import CheckResult, check_prompts, check_tokenizer, compared, prompt_logits
from launch.export_push import push, require_login
from launch.export_source import ExportSource, find_source
from launch.serve_command import ask_program, rope_overrides, serve_command
from rl.config import RunConfig, Section
from rl.judge_process import is_cpu_build
from rl.run_folder import sync_path

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from data.prepared import PreparedSet

PROG = "python -m launch.export"
SUMMARY = "export.json"
"""Written beside the model; only a folder that holds one is ever replaced."""


class ExportConfig(Section):
    """Writes a run's checkpoint as a model folder in Hugging Face form. The first word is the run or the checkpoint."""

    source: str = ""
    """A run's folder (its newest whole checkpoint is taken) or a checkpoint's; the first word of the command."""
    out: str = ""
    """Folder to write; empty: export/ in the run's folder. An earlier export there is replaced, anything else refused."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; auto: the checkpoint's own."""
    name: str = ""
    """What the server and the card call the model; empty: the run's name."""
    license: str = ""
    """The weights' licence as the Hub names licences, apache-2.0 say; empty: unknown."""
    push: str = ""
    """Hub id, owner/name, that the folder is uploaded to; the login is `hf auth login`'s. Empty: nothing is uploaded."""
    public: bool = False
    """Whether a repository that push makes is public; one that exists stays as it is."""
    num_prompts: int = Field(default=4, ge=1)
    """Prompts of the run that export and checkpoint are compared on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where they are compared; auto takes CUDA when there is one."""
    rope_factor: float | None = Field(default=None, gt=1.0)
    """Serve this many times the original context, by YaRN in the printed line; the folder keeps the rope it was trained with."""
    max_model_len: int = Field(default=0, ge=0)
    """Longest prompt plus response that is served, in tokens; 0: the run's longest, or what rope_factor makes of it."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port in the printed lines, on 127.0.0.1."""


def run(argv: Sequence[str]) -> int:
    """Export, check, print how to serve and ask, upload where that is wanted."""
    named = [f"--source={argv[0]}", *argv[1:]] if argv and not argv[0].startswith("-") else list(argv)
    config = load_config(ExportConfig, named, prog=PROG).config
    if not config.source:
        raise ConfigError(f"source: empty; name a run's folder or a checkpoint's: {PROG} runs/demo")
    if config.push:
        require_login(config.push)
    source = find_source(config.source)
    out = _checked_out(config, source)
    print(f"checkpoint: {source.checkpoint}, step {source.manifest.step}, {len(source.manifest.files)} files verified")
    _write(config, source, out)
    if config.push:
        print(f"pushed: {push(out, config.push, public=config.public)}")
    return 0


def _checked_out(config: ExportConfig, source: ExportSource) -> Path:
    if not config.out and source.run_dir is None:
        raise ConfigError("out: empty, and the checkpoint lies outside of a run's folder; name a folder with --out")
    out = Path(config.out) if config.out or source.run_dir is None else source.run_dir / "export"
    if out.exists() and not (out / SUMMARY).is_file():
        raise ConfigError(f"out: {out} exists and is no earlier export (no {SUMMARY} in it); name another folder")
    return out


def _write(config: ExportConfig, source: ExportSource, out: Path) -> None:
    """The folder, whole or not at all: a temporary sibling, checked, synced, then renamed."""
    temporary = out.with_name(f".tmp-{out.name}.{os.getpid()}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        told = _filled(config, source, temporary, out)
        for path in (*temporary.rglob("*"), temporary):
            sync_path(path)
        _move_into_place(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(told)


def _filled(config: ExportConfig, source: ExportSource, folder: Path, out: Path) -> str:
    """Fills `folder`, compares it with the checkpoint; returns what is printed once it stands at `out`."""
    from transformers import AutoConfig, AutoTokenizer

    from rl.rollout.engine import stop_token_ids

    model_config = AutoConfig.from_pretrained(source.model, trust_remote_code=False)
    overrides = rope_overrides(model_config, config.rope_factor) if config.rope_factor else {}
    max_model_len = _max_model_len(config, source, model_config, overrides)
    tokenizer = AutoTokenizer.from_pretrained(source.model, trust_remote_code=False)
    prepared, place = source.prepared_set()
    if prepared is None:
        print(f"no prepared set of the run is here ({place}): compared on built-in text, and no prompt can be shown")
    stops = sorted(stop_token_ids(str(source.model), tokenizer))
    generation = generation_config(source.config, tokenizer, stops)
    check, dtype = _save_and_compare(config, source, folder, tokenizer, generation, prepared)
    name = config.name or (source.config.run.name if source.config else source.checkpoint.name)
    where: dict[str, Any] = {
        "name": name, "dtype": dtype, "max_model_len": max_model_len, "overrides": overrides, "port": config.port,
    }  # fmt: skip
    max_tokens = generation.max_new_tokens or max_model_len // 2
    ask = None
    if prepared is not None:
        ask = partial(ask_program, prepared.template, name=name, max_tokens=max_tokens, port=config.port)
    summary = {
        "checkpoint": source.checkpoint.name,
        "step": source.manifest.step,
        "dataset_fingerprint": source.manifest.dataset_fingerprint,
        "dtype": dtype,
        "max_model_len": max_model_len,
        "hf_overrides": overrides,
        "prompt_template": prepared.template.text if prepared else None,
        "check": asdict(check),
    }
    (folder / SUMMARY).write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    shown = serve_command(config.push or "PATH_OF_THIS_FOLDER", cpu=False, **where)
    card = model_card(
        source, check, name=name, license_id=config.license, dtype=dtype, serve=shown, ask=ask() if ask else ""
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    told = f"export: {out} ({dtype})\n\nserve it:\n{serve_command(out.absolute(), cpu=False, **where)}\n"
    if is_cpu_build():
        told += (
            f"\nserve it with the CPU build, as installed here:\n{serve_command(out.absolute(), cpu=True, **where)}\n"
        )
    return told + (f"\nask it:\n{ask(problems=Path(place).absolute() / PROBLEMS_FILE)}" if ask else "")


def _max_model_len(
    config: ExportConfig, source: ExportSource, model: PretrainedConfig, overrides: dict[str, Any]
) -> int:
    limit = overrides.get("max_position_embeddings") or getattr(model, "max_position_embeddings", None)
    trained = _longest_of(source.config) if source.config else None
    wanted = config.max_model_len or (limit if overrides else trained or limit)
    if wanted is None:
        raise ConfigError("max_model_len: neither the run nor the model's config.json says how long; name it")
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"max_model_len: {wanted} tokens, the model reads at most {limit}; lower it, or extend the context with --rope_factor"
        )
    return int(wanted)


def _longest_of(config: RunConfig) -> int:
    """Longest prompt plus response that a stage or an evaluated window of the run asks for, in tokens."""
    prompts = [stage.max_prompt_tokens for stage in config.stages] + list(config.evaluation.windows)
    return max(prompts) + max(stage.max_response_tokens for stage in config.stages)


def generation_config(
    config: RunConfig | None, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]
) -> GenerationConfig:
    """What the run sampled with, and every token that ends an answer; a top_k of 0 is Hugging Face's word for all.

    The start model's own defaults are left out: the run's engine did not use them (a repetition penalty, say).
    """
    from transformers import GenerationConfig

    ids = {"eos_token_id": list(stops), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    if config is None:
        return GenerationConfig(**ids)
    rollout = config.rollout
    return GenerationConfig(
        **ids,
        do_sample=True,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=max(0, rollout.top_k),
        max_new_tokens=max(stage.max_response_tokens for stage in config.stages),
    )


def _save_and_compare(
    config: ExportConfig,
    source: ExportSource,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig,
    prepared: PreparedSet | None,
) -> tuple[CheckResult, str]:
    """Writes weights and tokenizer; one model at a time is in memory. Returns the comparison and the type written."""
    import torch

    prompts = check_prompts(tokenizer, prepared, config.num_prompts)
    device = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device.replace("auto", "cpu")
    model = _loaded(source.model, device)
    own = model.dtype
    dtype = own if config.dtype == "auto" else getattr(torch, config.dtype)
    expected = prompt_logits(model, prompts)
    # Training turns it off, and then every token that `generate` adds would read the whole prompt again.
    model.config.use_cache = True
    model.generation_config = generation
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # Weights are written readable by their owner alone, and a server may be another user.
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)
    del model
    check = compared(expected, prompt_logits(_loaded(folder, device), prompts), (own, dtype))
    check_tokenizer(tokenizer, folder, prompts)
    print(
        f"check: {check.num_prompts} prompts, {check.num_positions} positions: largest difference of logits "
        f"{check.max_logit_diff:.3g}, allowed {check.bound:.3g}; the same token likeliest at {check.num_same_argmax}; "
        "the same token ids",
        flush=True,
    )
    return check, str(dtype).removeprefix("torch.")


def _loaded(path: Path, device: str) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", trust_remote_code=False)
    return model.to(device).eval()


def _move_into_place(temporary: Path, out: Path) -> None:
    aside = out.with_name(f".old-{out.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        out.rename(aside)
    temporary.rename(out)
    sync_path(out.parent)
    shutil.rmtree(aside, ignore_errors=True)


if __name__ == "__main__":
    main(run)
