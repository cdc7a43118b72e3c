"""What `python -m launch.sft` can be told; a field's meaning stands once, in its docstring."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from data.prompts import L1_TEMPLATE
from rl.config import Section


class SftModelSection(Section):
    path: str = ""
    """Folder or hub id of the model that is trained."""
    out: str = ""
    """Folder that the trained model is written to, in Hugging Face form, when training ends."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the computation; parameters and AdamW's moments are float32, and so is the saved model."""
    device: Literal["auto", "cpu"] = "auto"
    """auto takes CUDA when there is one."""


class SftDataSection(Section):
    train: str = ""
    """JSON Lines: rows of `messages`, of `prompt` and `completion`, or as python -m data.synthesis writes them."""
    max_prompt_tokens: int = Field(default=20_000, gt=0)
    """The first window: rows whose prompt is longer are dropped and counted."""
    max_response_tokens: int = Field(default=10_000, gt=0)
    """Rows whose response is longer are dropped and counted; none is cut."""
    template: str = L1_TEMPLATE
    """User turn of a synthetic row, with {context} and {question}; the prepared sets of the run must use the same."""
    response: str = "<think>\n{chain_of_thought}\n</think>\n\n{final_answer}"
    """Response of a synthetic row. A `<think>` that the chat template's generation prompt opens is not written twice."""


class SftTrainSection(Section):
    seed: int = Field(default=0, ge=0)
    """Order of the rows, dropout, LoRA's start."""
    epochs: float = Field(default=3.0, gt=0.0)
    """Passes over the rows; max_steps ends earlier."""
    max_steps: int | None = Field(default=None, gt=0)
    """Optimizer steps; None: as many as the epochs hold."""
    batch_size: int = Field(default=128, ge=1)
    """Rows that one optimizer step learns from, on all processes together."""
    micro_batch_size: int = Field(default=1, ge=1)
    """Rows in one forward and backward on one process; divides batch_size."""
    lr: float = Field(default=5e-6, gt=0.0)
    """Learning rate after warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the learning rate does after warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """AdamW's decoupled decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's moment decay rates."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are clipped to this global norm."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass."""
    log_every: int = Field(default=10, ge=1)
    """Steps between printed lines."""
    threads: int = Field(default=0, ge=0)
    """Compute threads on CPU; 0: all cores. The result is the same bit for bit only with the same number."""


class LoraSection(Section):
    rank: int = Field(default=0, ge=0)
    """Rank of the adapters on every linear layer but the head; 0 trains all parameters. Merged on save."""
    alpha: int = Field(default=32, ge=1)
    """Adapters' scale is alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout before the adapters."""


class SftConfig(Section):
    """Warm-up SFT on reasoning traces of the first window (QwenLong-L1, arXiv 2505.17667, section 3.1)."""

    model: SftModelSection = SftModelSection()
    data: SftDataSection = SftDataSection()
    train: SftTrainSection = SftTrainSection()
    lora: LoraSection = LoraSection()

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        needed = {"model.path": self.model.path, "model.out": self.model.out, "data.train": self.data.train}
        for key, value in needed.items():
            if not value:
                raise ValueError(f"{key}: empty; it is needed")
        if self.train.batch_size % self.train.micro_batch_size:
            raise ValueError(
                f"train.micro_batch_size: {self.train.micro_batch_size} does not divide "
                f"train.batch_size {self.train.batch_size}"
            )
        if {"{chain_of_thought}", "{final_answer}"} - {p for p in _RESPONSE_PLACES if p in self.data.response}:
            raise ValueError(f"data.response: {self.data.response!r} needs {{chain_of_thought}} and {{final_answer}}")
        return self


_RESPONSE_PLACES = ("{chain_of_thought}", "{final_answer}")
