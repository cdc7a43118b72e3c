"""TRL's own side of the learner's benchmark: GRPOTrainer's compute_loss and backward, on our model object.

Nothing of TRL is re-enacted. It gets padded tensors as its own rollouts would make them (one length, so no padding), no
old log-probabilities (strictly on-policy: it takes its own, detached), loss_type dapo, beta 0, temperature 1, no vLLM
and hence no importance weights. Attention is transformers' sdpa, which TRL loads a model with by default; the mask of ones
is dropped there and the causal flash kernel runs.

The head is TRL's fused one, as it runs on the device: on CUDA with Triton on response positions only; on CPU on all of
prompt and response (TRL compacts on Triton devices alone). Gradient checkpointing, adapters, and the float32 sums in which
a bfloat16 model's gradients gather come with the model and are the same on both sides; autocast, which does nothing to a
model that is bfloat16 already, is off. Training_step's bookkeeping is left out: it would sample.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from launch.cli import EnvironmentFault
from rl.types import RolloutGroup


def require_trl() -> None:
    """Look for the packages without importing them.

    Raises:
        EnvironmentFault: one is missing.
    """
    for package in ("trl", "datasets"):
        if importlib.util.find_spec(package) is None:
            raise EnvironmentFault(
                f"--against trl: {package} is not installed; pip install trl==1.16.0, or measure --against separate"
            )


def trl_turns(
    model: PreTrainedModel,
    group: RolloutGroup,
    advantages: Sequence[float],
    *,
    micro_batches: Sequence[int],
    clips: tuple[float, float],
    folder: Path,
) -> dict[int, Callable[[], None]]:
    """One step's gradient by TRL: for each number of sequences in a micro-batch, what adds it to the model's parameters.

    Args:
        group: responses of one length.
        micro_batches: sequences that go forward and backward together.
        clips: epsilon and epsilon_high.
        folder: where the trainer may write.
    """
    trainer = _trainer(model, clips, group_size=len(group.rollouts), folder=folder)
    inputs = _inputs(group, advantages, model.device)

    def turn(size: int) -> None:
        for start in range(0, len(advantages), size):
            rows = {k: v if v.ndim == 0 else v[start : start + size] for k, v in inputs.items()}
            trainer.compute_loss(model, rows).backward()

    return {size: partial(turn, size) for size in micro_batches}


def _trainer(model: PreTrainedModel, clips: tuple[float, float], *, group_size: int, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing TRL imports vLLM and others where they are installed
        from datasets import Dataset
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast
        from trl import GRPOConfig, GRPOTrainer

        # The trainer wants a tokenizer, rewards and data; a loss on given tokens asks none of them.
        words = Tokenizer(WordLevel({"pad": 0, "end": 1}, unk_token="pad"))
        config = GRPOConfig(
            output_dir=str(folder),
            loss_type="dapo",
            beta=0.0,
            epsilon=clips[0],
            epsilon_high=clips[1],
            temperature=1.0,
            use_vllm=False,
            per_device_train_batch_size=group_size,
            num_generations=group_size,
            gradient_checkpointing=False,  # the model has its own setting, which train() alone would change
            bf16=False,
            use_cpu=model.device.type == "cpu",
            report_to="none",
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "pad"}]),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="pad", eos_token="end"),
        )
    # What train() sets before the first step. The loss divides by num_items_in_batch whatever the number of micro-batches.
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _inputs(group: RolloutGroup, advantages: Sequence[float], device: torch.device) -> dict[str, torch.Tensor]:
    """What TRL's loss reads, one row a response."""
    completions = torch.tensor([r.token_ids for r in group.rollouts], device=device)
    prompts = torch.tensor(group.prompt_token_ids, device=device).repeat(len(group.rollouts), 1)
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completions,
        "completion_mask": torch.ones_like(completions),
        "advantages": torch.tensor(advantages, device=device),
        "num_items_in_batch": torch.tensor(completions.numel(), device=device),
    }
