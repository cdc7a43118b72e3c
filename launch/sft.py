"""`python -m launch.sft CONFIG.toml [--section.key value ...]`: warm-up SFT with TRL.

Loss on the response alone, rows of the first window alone: QwenLong-L1 found that RL after long-context SFT gains
little. Writes the model, its tokenizer and `sft.json` (configuration, rows kept and dropped, loss by step). Several
GPUs: start it with `accelerate launch -m launch.sft`. Left out on purpose: packing and resuming.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cli import ConfigError, load_config, main
from launch.sft_config import SftConfig
from rl.model_source import local_model

SUMMARY = "sft.json"
"""Written beside the model; only a folder that holds one is ever replaced."""

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig, SFTTrainer

    from launch.sft_rows import SftRows


def train_sft(config: SftConfig) -> dict[str, Any]:
    """Trains and saves; returns what sft.json holds.

    Raises:
        DataError: unusable rows, or a ModelScope id that cannot be downloaded.
        ConfigError: no model at model.path, or it does not fit its tokenizer.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import torch
    from transformers import set_seed

    from launch.sft_rows import read_sft_rows

    started = time.monotonic()
    torch.set_num_threads(config.train.threads or len(os.sched_getaffinity(0)))
    set_seed(config.train.seed)
    path = local_model(config.model.path)
    tokenizer = _load_tokenizer(path)
    rows = read_sft_rows(tokenizer, config.data)
    print(
        f"sft: {len(rows.prompts)} rows; dropped {rows.num_long_prompts} with prompts above "
        f"{config.data.max_prompt_tokens} tokens and {rows.num_long_responses} with responses above "
        f"{config.data.max_response_tokens}",
        flush=True,
    )
    trainer = _trainer(config, _load_model(path, tokenizer), tokenizer, rows)
    trainer.train()
    summary = {
        "config": config.model_dump(mode="json"),
        "num_rows": len(rows.prompts),
        "num_long_prompts": rows.num_long_prompts,
        "num_long_responses": rows.num_long_responses,
        "loss": {str(entry["step"]): entry["loss"] for entry in trainer.state.log_history if "loss" in entry},
        "seconds": round(time.monotonic() - started, 1),
    }
    if trainer.accelerator.is_main_process:
        _save(trainer, tokenizer, Path(config.model.out), summary)
    trainer.accelerator.wait_for_everyone()
    return summary


def _load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(path, error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_model(path: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        # float32 whatever it computes in: at a rate of 5e-6 an update is far below bfloat16's spacing and would vanish.
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(path, error) from error
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise ConfigError(
            f"model.path: {path!r}: its tokenizer has {len(tokenizer)} tokens, its embedding {num_embeddings}; "
            "name a model with its own tokenizer"
        )
    return model


def _unloadable(path: str, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0]
    return ConfigError(f"model.path: {path!r} cannot be loaded ({reason}); name a folder or hub id")


def _trainer(
    config: SftConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: SftRows
) -> SFTTrainer:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback

    from launch.sft_trainer import PrintLoss, ResponseHeadTrainer

    dataset = Dataset.from_dict(
        {
            "input_ids": [[*p, *r] for p, r in zip(rows.prompts, rows.responses, strict=True)],
            "labels": [[-100] * len(p) + list(r) for p, r in zip(rows.prompts, rows.responses, strict=True)],
        }
    )
    lora = None
    if config.lora.rank:
        lora = LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    trainer = ResponseHeadTrainer(
        model=model, args=_arguments(config), train_dataset=dataset, processing_class=tokenizer, peft_config=lora
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(PrintLoss())
    return trainer


def _arguments(config: SftConfig) -> SFTConfig:
    from trl import SFTConfig

    train = config.train
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if train.batch_size % (train.micro_batch_size * processes):
        raise ConfigError(
            f"train.batch_size: {train.batch_size} is no multiple of micro_batch_size {train.micro_batch_size} "
            f"times {processes} processes"
        )
    return SFTConfig(
        output_dir=str(Path(config.model.out).with_name(f".tmp-{Path(config.model.out).name}-trainer")),
        use_cpu=config.model.device == "cpu",
        seed=train.seed,
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        per_device_train_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=train.batch_size // (train.micro_batch_size * processes),
        learning_rate=train.lr,
        lr_scheduler_type=train.schedule if train.schedule != "constant" else "constant_with_warmup",
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        adam_beta1=train.betas[0],
        adam_beta2=train.betas[1],
        max_grad_norm=train.max_grad_norm,
        gradient_checkpointing=train.gradient_checkpointing,
        bf16=config.model.dtype == "bfloat16",  # autocast; parameters and moments stay float32
        max_length=None,
        packing=False,
        train_sampling_strategy="group_by_length",
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=False,
        logging_steps=train.log_every,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _save(trainer: SFTTrainer, tokenizer: PreTrainedTokenizerBase, out: Path, summary: dict[str, Any]) -> None:
    """Writes the model whole or not at all: a temporary sibling, then one rename."""
    from peft import PeftModel

    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    temporary = out.with_name(f".tmp-{out.name}.{os.getpid()}")
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / SUMMARY).write_text(json.dumps(summary, indent=2), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)


def run(argv: Sequence[str]) -> int:
    """Train, and say where the model is."""
    config = load_config(SftConfig, argv, prog="python -m launch.sft").config
    out = Path(config.model.out)
    if out.exists() and not (out / SUMMARY).exists():
        raise ConfigError(f"model.out: {out} exists and is no model that launch.sft wrote; name another folder")
    summary = train_sft(config)
    print(f"sft model: {config.model.out} ({summary['seconds']:.0f} s)")
    return 0


if __name__ == "__main__":
    main(run)
