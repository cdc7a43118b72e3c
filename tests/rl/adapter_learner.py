"""A learner with LoRA adapters, in plain transformers: for tests of adapter syncs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from rl.learner.lora import CONFIG_KEY, adapter_config, adapter_weights, add_adapters, merged_weights
from tests.rl.tiny_model import PlainLearner

RANK = 4
ALPHA = 8.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class AdapterLearner(PlainLearner):
    """Writes its adapter alone; scores with a plain model of the merged weights, which no adapter code computes."""

    def __init__(self, model_path: str, *, targets: Sequence[str] = TARGETS) -> None:
        super().__init__(model_path)
        self._model_path = model_path
        self._targets = targets
        add_adapters(self.model, rank=RANK, alpha=ALPHA, targets=targets, seed=0)

    def change(self, seed: int = 1) -> None:
        """Move every adapter, by far more than an optimizer step would."""
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))

    def write_weights(self, path: str) -> None:
        config = adapter_config(rank=RANK, alpha=ALPHA, targets=self._targets, base=self._model_path)
        save_file(adapter_weights(self.model.named_parameters()), path, metadata={"format": "pt", CONFIG_KEY: config})

    def logprobs(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[float]:
        plain = PlainLearner(self._model_path)
        plain.model = merged_model(self.model, self._model_path)
        return plain.logprobs(prompt_ids, response_ids)


def merged_model(model: Any, model_path: str) -> Any:
    """A model without adapters, loaded from the merged weights of one that has them (RANK, ALPHA)."""
    merged = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    missing, unexpected = merged.load_state_dict(
        dict(merged_weights(model.named_parameters(), scaling=ALPHA / RANK)), strict=False
    )
    tied = {"lm_head.weight"} if merged.config.tie_word_embeddings else set()
    assert set(missing) == tied and not unexpected
    return merged
