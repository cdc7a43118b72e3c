"""`python -m launch.tiny_judge --out DIR`: a judge of 0.7M parameters, for the tests and the demo.

A Qwen2 in Hugging Face form, trained with `python -m launch.sft` to decide equivalence (launch/judge_data.py). It starts
in the shape of launch/association.py, and with the two forms of a meaning lying close in its embedding, as `17` and
`seventeen` do in a model that has read text: what they mean it is given, what the question is it learns. It knows no
word beyond those cases. Each form of a meaning, each fixed part of the judge's prompt and each verdict is one token, so
that a prompt has about 80. It is trained for a server that holds replies to the verdict's schema, as launch.judge does.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

import rewards.judge_prompt
from data.synthesis.words import CITIES, keys_of
from launch.base import END
from launch.cli import load_config, main
from launch.judge_data import KINDS, draw_cases
from launch.tiny_model import RECIPE_FILE, TinyShape, is_made, new_model, recipe_of
from rewards.judge_prompt import judge_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SFT_CONFIG = Path(os.path.relpath(Path(__file__).with_name("configs") / "tiny_judge.toml"))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VERDICTS = tuple(f'{{"verdict":"{verdict}"}}' for verdict in ("YES", "NO"))
START, PAD = "<|im_start|>", "<|endoftext|>"
BPE_TOKENS = 1700
NUM_NAMES = 160
"""People of each split who become one token each."""
WORD_REPEATS = 500
COSINE = 0.9
"""Between the embeddings of two forms of one meaning, at the start."""
SHARPNESS = 2.0
"""How much larger the second layer's queries and keys start than `initialise` makes them, which counts on training."""


class TinyJudgeConfig(TinyShape):
    """The tiny judge: size and data. How it is trained stands in launch/configs/tiny_judge.toml."""

    out: str = "runs/judge"
    """Folder that the model is written to."""
    seed: int = Field(default=0, ge=0)
    """Of the weights, the cases and SFT."""
    num_cases: int = Field(default=11_000, ge=1)
    """Cases to train on, half of them YES."""
    num_held_out: int = Field(default=400, ge=0)
    """Held-out cases that the accuracy is measured on."""
    max_position: int = Field(default=32_768, ge=1024)
    """Longest sequence that may be served."""


def make_judge(config: TinyJudgeConfig) -> tuple[Path, bool]:
    """Make the judge, or find it made; returns its folder and whether it was there already.

    Raises:
        RuntimeError: the SFT command failed; it has said why.
    """
    out = Path(config.out)
    recipe = recipe_of(config, _files())
    if is_made(out, recipe):
        return out, True
    work = out.with_name(f".tmp-{out.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _write_start(config, work / "start")
        _write_rows(config, work / "rows.jsonl")
        options = {
            "model.path": work / "start",
            "model.out": work / "judge",
            "data.train": work / "rows.jsonl",
            "train.seed": config.seed,
            "train.threads": config.threads,
        }
        words = [str(SFT_CONFIG), *(word for key, value in options.items() for word in (f"--{key}", str(value)))]
        if subprocess.run([sys.executable, "-m", "launch.sft", *words], check=False).returncode:
            raise RuntimeError(f"tiny judge: python -m launch.sft {' '.join(words)} failed")
        (work / "judge" / RECIPE_FILE).write_text(recipe, encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        (work / "judge").rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out, False


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the cases' words; forms, fixed parts of the prompt and verdicts are one token each."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AddedToken, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # Letters and digits stay together, so that a mark of eight is four or five tokens.
    words = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]|\s"), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[PAD, START, END],
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(seed), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD)
    whole = [*_prompt_parts(), *VERDICTS]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in whole])
    forms = sorted({form for meanings in KINDS.values() for meaning in meanings for form in meaning})
    tokenizer.add_tokens([AddedToken(form, special=False, normalized=False, single_word=True) for form in forms])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def held_out_accuracy(folder: Path, num_cases: int, seed: int) -> dict[str, float]:
    """Share of held-out cases with the right verdict, greedily decoded, `all` of them and by kind."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    right: dict[str, list[bool]] = defaultdict(list)
    for (kind, row), prompt in _prompts(tokenizer, num_cases, seed):
        with torch.no_grad():
            token = model(torch.tensor([prompt])).logits[0, -1].argmax().item()
        right[kind].append(tokenizer.decode(token) == row["completion"])
    every = [one for kind in right.values() for one in kind]
    return {"all": sum(every) / len(every)} | {kind: sum(one) / len(one) for kind, one in sorted(right.items())}


def _prompts(
    tokenizer: PreTrainedTokenizerFast, num_cases: int, seed: int
) -> Iterator[tuple[tuple[str, dict], list[int]]]:
    rng = random.Random(seed)
    for case in draw_cases("test", num_cases, seed):
        row = case.row(mark=f"{rng.getrandbits(32):08x}")
        turns = [{"role": "user", "content": row["prompt"]}]
        yield (
            (case.kind, row),
            tokenizer(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))["input_ids"],
        )


def _write_start(config: TinyJudgeConfig, folder: Path) -> None:
    import torch

    tokenizer = train_tokenizer(config.seed)
    model = new_model(config, tokenizer, max_position=config.max_position, seed=config.seed)
    embedding, second = model.model.embed_tokens.weight, model.model.layers[1].self_attn
    with torch.no_grad():
        second.q_proj.weight *= SHARPNESS
        second.k_proj.weight *= SHARPNESS
        for meaning in (meaning for meanings in KINDS.values() for meaning in meanings):
            first, *others = (tokenizer.convert_tokens_to_ids(form) for form in meaning)
            for other in others:
                embedding[other] = COSINE * embedding[first] + math.sqrt(1 - COSINE**2) * embedding[other]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_rows(config: TinyJudgeConfig, path: Path) -> None:
    rng = random.Random(config.seed)
    with path.open("w", encoding="utf-8") as out:
        for case in draw_cases("train", config.num_cases, config.seed):
            out.write(json.dumps(case.row(mark=f"{rng.getrandbits(32):08x}")) + "\n")


def _prompt_parts() -> list[str]:
    """What stands in every judge prompt, between the marks and the data."""
    hole = "\N{SNOWMAN}"
    whole = judge_prompt(hole, [hole], hole, structured=True, mark=hole)
    return [part for part in dict.fromkeys(whole.split(hole)) if len(part) > 3]


def _texts(seed: int) -> Iterator[str]:
    for case in draw_cases("train", 3000, seed):
        yield " ".join([case.question, *case.references, case.candidate])
    for word in ("user", "assistant", *CITIES, *keys_of("train", NUM_NAMES), *keys_of("test", NUM_NAMES)):
        yield f" {word}" * WORD_REPEATS
    yield "user\nassistant\n" * WORD_REPEATS
    yield from (f"{byte:02x}\n" * WORD_REPEATS for byte in range(256))


def _files() -> list[Path]:
    """What decides what the judge becomes."""
    here = Path(__file__)
    return [
        here,
        here.with_name("judge_data.py"),
        here.with_name("association.py"),
        SFT_CONFIG,
        Path(rewards.judge_prompt.__file__),
    ]


def run(argv: Sequence[str]) -> int:
    """Make the judge, and say where it is and how good."""
    config = load_config(TinyJudgeConfig, argv, prog="python -m launch.tiny_judge").config
    started = time.monotonic()
    out, cached = make_judge(config)
    print(f"tiny judge: {out} ({'made before with this recipe' if cached else f'{time.monotonic() - started:.0f} s'})")
    if config.num_held_out and not cached:
        accuracy = held_out_accuracy(out, config.num_held_out, config.seed)
        print("held-out accuracy: " + ", ".join(f"{kind} {value:.3f}" for kind, value in accuracy.items()))
    return 0


if __name__ == "__main__":
    main(run)
