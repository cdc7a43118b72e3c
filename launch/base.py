"""`python -m launch.base --out DIR`: a tiny base model, made on the spot for the demo and the tests.

Qwen2 architecture in Hugging Face form, its own byte-level BPE tokenizer trained on the built-in corpus, a chat template
whose generation prompt opens `<think>`, and one ability: association by content (launch/association.py). It knows
nothing of the tasks. Deterministic in its recipe and the number of threads; a second call with the same recipe returns
at once.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from data.synthesis.corpus import builtin_corpus
from data.synthesis.words import CITIES, SPLITS, keys_of
from launch.cli import load_config, main
from launch.tiny_model import RECIPE_FILE, TinyShape, is_made, new_model, recipe_of

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)
END = "<|im_end|>"
MAX_POSITION = 4096
"""Longest sequence that may be served."""
PHRASES = (
    "Since visited trusts and Therefore, the answer is Which city did the person that visit? trusted by "
    "Please read the following text and answer the question below. Format your response as follows:"
)
FIRST_WORDS = ("Since", "Therefore", "user", "assistant", "Which", "Please", "text")
WORD_REPEATS = 2000
"""How often the tokenizer's training text holds each key, so that a key becomes one token."""


class BaseConfig(TinyShape):
    """A tiny base model: architecture, tokenizer, association training."""

    out: str = "runs/base"
    """Folder that the model is written to."""
    seed: int = Field(default=0, ge=0)
    """Of the weights and of the training data."""
    vocab_size: int = Field(default=2816, ge=600)
    """Tokens, markers included."""
    train_keys: int = Field(default=480, ge=1)
    """Keys of the train split that become one token each."""
    held_out_keys: int = Field(default=160, ge=1)
    """The same for the dev split and for the test split."""
    steps: int = Field(default=500, ge=1)
    """Most association steps; training ends earlier when it is good enough."""
    max_position: int = Field(default=400, ge=100)
    """Range of positions that association is trained over; how far the model generalises in length depends on it."""


def make_base(config: BaseConfig) -> tuple[Path, bool]:
    """Make the model, or find it made; returns its folder and whether it was there already."""
    out = Path(config.out)
    recipe = recipe_of(
        config, [Path(__file__), Path(__file__).with_name("association.py"), Path(keys_of.__code__.co_filename)]
    )
    if is_made(out, recipe):
        return out, True
    import torch

    from launch.association import AssociationRecipe, train_association

    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    tokenizer = train_tokenizer(config)
    model = new_model(config, tokenizer, max_position=MAX_POSITION, seed=config.seed)
    accuracy = train_association(
        model, AssociationRecipe(steps=config.steps, max_position=config.max_position), config.seed
    )
    print(f"association: {accuracy:.2f} of the facts found again", flush=True)
    temporary = out.with_name(f".tmp-{out.name}.{os.getpid()}")
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / RECIPE_FILE).write_text(recipe, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
    return out, False


def train_tokenizer(config: BaseConfig) -> Qwen2Tokenizer:
    """Byte-level BPE over the corpus, the tasks' words and the keys of every split; Qwen2's way of splitting text."""
    from transformers import AddedToken, Qwen2Tokenizer

    start = Qwen2Tokenizer(eos_token=END, pad_token="<|endoftext|>")
    tokenizer = start.train_new_from_iterator(_texts(config), config.vocab_size - 5, show_progress=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in ("<think>", "</think>")])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _texts(config: BaseConfig) -> Iterator[str]:
    yield from builtin_corpus().sentences
    keys = [
        key
        for split in SPLITS
        for key in keys_of(split, config.train_keys if split == "train" else config.held_out_keys)
    ]
    for word in [*keys, *CITIES, *PHRASES.split()]:
        yield f" {word}" * WORD_REPEATS
    yield "\n".join(FIRST_WORDS * WORD_REPEATS)


def run(argv: Sequence[str]) -> int:
    """Make the model and say where it is."""
    config = load_config(BaseConfig, argv, prog="python -m launch.base").config
    started = time.monotonic()
    out, cached = make_base(config)
    print(f"base model: {out} ({'made before with this recipe' if cached else f'{time.monotonic() - started:.0f} s'})")
    return 0


if __name__ == "__main__":
    main(run)
