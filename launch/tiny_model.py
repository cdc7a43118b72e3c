"""What the tiny models share: their shape, how they begin, and a folder that is made again only when its recipe changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from rl.config import Section
from rl.run_folder import installed_versions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

RECIPE_FILE = "recipe.json"
"""Beside the model: all that decides what it became."""


class TinyShape(Section):
    """A Qwen2's size."""

    hidden_size: int = Field(default=128, ge=32)
    """Width."""
    layers: int = Field(default=3, ge=2)
    """Decoder layers."""
    heads: int = Field(default=4, ge=2)
    """Attention heads, each with its own keys and values."""
    threads: int = Field(default=0, ge=0)
    """Compute threads; 0: all cores."""


def new_model(
    shape: TinyShape, tokenizer: PreTrainedTokenizerBase, *, max_position: int, seed: int
) -> Qwen2ForCausalLM:
    """A Qwen2 with a tied head in the shape of an association circuit (launch/association.py); the rest is random."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    from launch.association import initialise

    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden_size,
            intermediate_size=2 * shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=max_position,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    initialise(model, torch.Generator().manual_seed(seed))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def recipe_of(config: BaseModel, files: Sequence[Path]) -> str:
    """The configuration (but for its `out`), the versions installed, and a hash of the files that decide the rest."""
    code = hashlib.sha256(b"".join(file.read_bytes() for file in (*files, Path(__file__)))).hexdigest()[:16]
    made_from = {"code": code, "config": config.model_dump(exclude={"out"}), "versions": installed_versions()}
    return json.dumps(made_from, indent=2, sort_keys=True)


def is_made(folder: Path, recipe: str) -> bool:
    """Whether the folder holds what this recipe makes."""
    path = folder / RECIPE_FILE
    return path.exists() and path.read_text(encoding="utf-8") == recipe
