"""TRL's SFTTrainer with a head that is cheap on CPU, and one line of text per logged step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import TrainerCallback
from trl import SFTTrainer


class ResponseHeadTrainer(SFTTrainer):
    """On CPU the head runs only where some row of the batch has a response; elsewhere TRL's fused head does the same.

    TRL 1.16 compacts the scored positions on Triton devices alone; on CPU it scores every prompt token too, which is
    half of a step's time for a model whose vocabulary is larger than its width.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the response tokens' negative log-likelihoods over num_items_in_batch (of the whole optimizer step)."""
        if inputs["input_ids"].device.type != "cpu" or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs["labels"][:, 1:]
        columns = (targets != -100).any(0).nonzero()[:, 0]
        rest = {key: value for key, value in inputs.items() if key != "labels"}
        logits = model(**rest, use_cache=False, logits_to_keep=columns).logits.float()
        wanted = targets[:, columns]
        total = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum")
        with torch.no_grad():
            scored = wanted != -100
            hits = (logits.argmax(-1) == wanted)[scored].float().mean().item()
        self._metrics["train" if model.training else "eval"]["mean_token_accuracy"].append(hits)
        return total / (scored.sum() if num_items_in_batch is None else num_items_in_batch)


class PrintLoss(TrainerCallback):
    """One line per logged step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            print(
                f"sft step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  "
                f"token accuracy {logs['mean_token_accuracy']:.3f}  lr {logs['learning_rate']:.1e}",
                flush=True,
            )
