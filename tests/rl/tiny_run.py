"""A run small enough for a test: a model that already answers oak or ash at random, and questions whose answer is one of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.models.llama import LlamaForCausalLM

from data.prepare import prepare
from data.problem import SourceProblem
from data.prompts import PromptTemplate

WORDS = "the answer is oak ash </think> <think> red blue green door window says ? . Therefore ,".split()
TEMPLATE = PromptTemplate("{context} {question}")
CHAT_TEMPLATE = "{% for m in messages %}<|user|> {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<|assistant|> <think>{% endif %}"
RESPONSE = "red </think> the answer is {answer} <|end|>"


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    vocabulary = ["<unk>", "<|end|>", "<|user|>", "<|assistant|>", *WORDS]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<|end|>", pad_token="<|end|>"
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def problems(count: int, num_words: int, seed: int) -> list[SourceProblem]:
    """The document says `door says oak` or `door says ash` somewhere among colours."""
    rng = random.Random(f"{seed} {num_words}")
    made = []
    for i in range(count):
        words = [rng.choice(["red", "blue", "green", "."]) for _ in range(num_words)]
        answer = rng.choice(["oak", "ash"])
        words[rng.randrange(num_words)] = f"door says {answer}"
        made.append(
            SourceProblem(
                problem_id=f"p{seed}-{num_words}-{i}",
                task="door",
                context=" ".join(words),
                question="door ?",
                answers=(answer,),
                answer_type="text",
            )
        )
    return made


def write_model(folder: Path) -> str:
    """A tiny Llama that has learned the form of a response and answers at random."""
    torch.manual_seed(0)
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=64,  # the sync probe speaks of 64 tokens
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rng = random.Random(0)
    for _ in range(80):
        prompts = [
            f"<|user|> {p.context} {p.question} <|assistant|> <think>" for p in problems(16, 12, rng.randrange(10**6))
        ]
        rows = [f"{p} {RESPONSE.format(answer=rng.choice(['oak', 'ash']))}" for p in prompts]
        ids = words(rows, return_tensors="pt").input_ids
        labels = ids.clone()
        labels[:, : -len(RESPONSE.split())] = -100
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def write_inputs(folder: Path) -> dict[str, Any]:
    """Model and prepared sets under `folder`, and the configuration of a two-stage run over them."""
    words = tokenizer()
    train = [p for num_words in (10, 30) for p in problems(60, num_words, 1)]
    test = [p for num_words in (10, 30) for p in problems(20, num_words, 2)]
    prepare(train, words, folder / "train", template=TEMPLATE, windows=[24, 48])
    prepare(test, words, folder / "test", template=TEMPLATE, windows=[24, 48])
    return {
        "run": {"dir": str(folder / "run"), "checkpoint_every": 2},
        "model": {"path": write_model(folder / "model"), "dtype": "float32", "device": "cpu"},
        "data": {"train": str(folder / "train"), "test": str(folder / "test")},
        "stages": [
            {"max_prompt_tokens": 24, "steps": 4, "max_response_tokens": 10},
            {"max_prompt_tokens": 48, "steps": 4, "max_response_tokens": 10, "replay_frac": 0.25},
        ],
        "curriculum": {"problems_per_step": 4, "group_size": 4},
        "rollout": {"engine": "transformers", "threads": 1},
        "learner": {"lr": 3e-3, "threads": 1, "gradient_checkpointing": False},
        "evaluation": {"problems_per_window": 10},
    }
