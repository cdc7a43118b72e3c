"""A run's folder with one whole checkpoint, made without training by RL: a tiny model sure of its answers, its data and figures."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.models.llama import LlamaForCausalLM

from data.prepare import prepare
from data.problem import SourceProblem
from rl.checkpoint import save_checkpoint
from rl.config import RunConfig
from rl.run_folder import Evaluation, WindowAccuracy, write_config, write_evaluation
from tests.rl.tiny_run import CHAT_TEMPLATE, RESPONSE, TEMPLATE, WORDS

ANSWERS = {"door": "oak", "window": "ash"}
"""The question decides the answer, so that no two tokens are nearly alike in probability."""
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128, "rope_theta": 10000.0}
STEP = 3


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, with the space before it, so that a text is what its tokens are joined to, as in byte-level ones."""
    words = ["<|user|>", "<|assistant|>", *WORDS]
    vocabulary = ["<unk>", "<|end|>", *words, *(f" {word}" for word in words)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    backend.decoder = decoders.Fuse()
    end = AddedToken("<|end|>", special=True, lstrip=True)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token=end, pad_token=end)
    made.chat_template = CHAT_TEMPLATE
    return made


def problems(count: int, num_words: int, seed: int) -> list[SourceProblem]:
    """Colours, then `door ?` or `window ?`."""
    rng = random.Random(f"{seed} {num_words}")
    made = []
    for i in range(count):
        asked = rng.choice(list(ANSWERS))
        made.append(
            SourceProblem(
                problem_id=f"p{seed}-{num_words}-{i}",
                task="colours",
                context=" ".join(rng.choice(["red", "blue", "green", "."]) for _ in range(num_words)),
                question=f"{asked} ?",
                answers=(ANSWERS[asked],),
                answer_type="text",
            )
        )
    return made


def sure_model() -> LlamaForCausalLM:
    """A tiny Llama with YaRN that has learned the form of a response and both answers."""
    torch.manual_seed(0)
    words = tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=256, rope_parameters=YARN, tie_word_embeddings=True,
            eos_token_id=words.eos_token_id, bos_token_id=None,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(200):
        asked = problems(16, (10, 30)[step % 2], step)
        rows = [
            f"<|user|> {p.context} {p.question} <|assistant|> <think> {RESPONSE.format(answer=p.answers[0])}"
            for p in asked
        ]
        ids = words(rows, return_tensors="pt").input_ids
        assert int((ids == words.unk_token_id).sum()) == 0
        labels = ids.clone()
        labels[:, : -len(RESPONSE.split())] = -100
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.01
    model.config.use_cache = False  # as SFT with gradient checkpointing leaves it
    # What an instruction model's makers may have set, and a run's engine never used.
    model.generation_config.repetition_penalty = 1.5
    return model


def write_run(folder: Path) -> Path:
    """The run's folder: config.toml, metrics.jsonl, evaluations/, checkpoints/step-000003; data beside it."""
    words, run = tokenizer(), folder / "run"
    for name, seed in (("train", 1), ("test", 2)):
        made = [p for num_words in (10, 30) for p in problems(12, num_words, seed)]
        prepare(made, words, folder / name, template=TEMPLATE, windows=[24, 48])
    config = RunConfig.model_validate(
        {
            "run": {"dir": str(run), "name": "tiny | run", "seed": 7},
            "model": {"path": str(folder / "start"), "dtype": "float32"},
            "data": {"train": str(folder / "train"), "test": str(folder / "test")},
            "stages": [
                {"max_prompt_tokens": 24, "steps": STEP, "max_response_tokens": 10},
                {"max_prompt_tokens": 48, "steps": 4, "max_response_tokens": 12, "replay_frac": 0.25},
            ],
            "rollout": {"temperature": 0.7, "top_p": 0.95},
        }
    )
    write_config(run, config.model_dump(), {"commit": "0" * 40})
    rows: list[dict[str, Any]] = [
        {"step": step, "reward/mean": step / 10, "curriculum/stage": step // 4} for step in range(1, 5)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, step, greedy in (("base", 0, 0.0), ("sft", 0, 0.25), ("stage-1", STEP, 0.5), ("stage-2", 7, 0.75)):
        windows = {bound: WindowAccuracy(num=100, greedy=greedy, sampled=greedy / 2) for bound in ("24", "48")}
        write_evaluation(run, Evaluation(checkpoint=name, step=step, windows=windows))
    model = sure_model()

    def write(place: Path) -> None:
        model.save_pretrained(place / "model")
        words.save_pretrained(place / "model")
        (place / "model" / "adapter").mkdir()
        (place / "model" / "adapter" / "adapter_model.safetensors").write_bytes(b"not part of a merged model")

    save_checkpoint(run, STEP, write, {"step": STEP}, keep=1, dataset_fingerprint="f" * 64, versions={"torch": "2"})
    return run
