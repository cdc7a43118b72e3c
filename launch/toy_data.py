"""The data of demo and study: synthetic problems planted in real text, in windows of growing length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from data.prepare import prepare
from data.prompts import PromptTemplate
from data.synthesis.cells import Cell
from data.synthesis.generate import SynthesisExample
from data.synthesis.workers import Source
from rl.run_folder import write_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBLEMS_PER_BATCH = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Portion:
    """So many problems of one cell, under a task name of their own."""

    cell: Cell
    task: str
    """The problems' `task`, in place of the cell's."""
    count: int


def make_portions(portions: Sequence[Portion], source: Source) -> list[SynthesisExample]:
    """The problems of every portion, in their order.

    Raises:
        DataError: a portion whose facts do not fit its window.
    """
    maker = source.maker()
    made: list[SynthesisExample] = []
    for portion in portions:
        for start in range(0, portion.count, _PROBLEMS_PER_BATCH):
            numbers = range(start, min(start + _PROBLEMS_PER_BATCH, portion.count))
            examples = maker.numbered(portion.cell, numbers)
            made += [replace(e, problem=replace(e.problem, task=portion.task)) for e in examples]
    return made


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
