"""The data of demo and study: synthetic problems planted in real text, in windows of growing length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from data.prepare import prepare
from data.prompts import PromptTemplate, count_prompt_tokens
from data.synthesis.corpus import builtin_corpus
from data.synthesis.generate import SynthesisExample, make_problems
from data.synthesis.words import Split
from rl.run_folder import write_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Portion:
    """So many problems of one task in one window; the fields are those of `data.synthesis.generate.make_problems`."""

    task: str
    split: Split
    seed: int
    count: int
    min_tokens: int
    max_tokens: int
    num_facts: int
    num_keys: int


def make_portions(
    portions: Sequence[Portion], tokenizer: PreTrainedTokenizerBase, template: PromptTemplate
) -> list[SynthesisExample]:
    """The problems of every portion, in their order.

    Raises:
        DataError: a portion whose facts do not fit its window, or without a problem.
    """
    corpus = builtin_corpus()
    return [
        example
        for portion in portions
        for example in make_problems(
            portion.task,
            split=portion.split,
            seed=portion.seed,
            count=portion.count,
            min_tokens=portion.min_tokens,
            max_tokens=portion.max_tokens,
            corpus=corpus,
            count_tokens=lambda problem: count_prompt_tokens(tokenizer, [problem], template)[0],
            num_facts=portion.num_facts,
            num_keys=portion.num_keys,
        )
    ]


def write_sft(path: Path, examples: Sequence[SynthesisExample]) -> None:
    """One row an example, gold reasoning included."""
    write_file(path, b"".join(orjson.dumps(example.as_row()) + b"\n" for example in examples))


def write_prepared(
    folder: Path,
    examples: Sequence[SynthesisExample],
    tokenizer: PreTrainedTokenizerBase,
    template: PromptTemplate,
    windows: Sequence[int],
) -> None:
    """The examples' problems as a prepared set."""
    problems = [example.problem for example in examples]
    prepare(problems, tokenizer, folder, template=template, windows=windows)
    print(f"data: {len(problems)} problems in {folder}", flush=True)
