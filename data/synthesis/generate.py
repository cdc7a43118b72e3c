"""Problems of any length: facts of one task planted in real text, seeded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from data.problem import DataError, SourceProblem
from data.synthesis.arithmetic import plant_arithmetic
from data.synthesis.cells import Cell, Distractors
from data.synthesis.chain import plant_chain
from data.synthesis.choice import plant_choice
from data.synthesis.corpus import Corpus, Haystack
from data.synthesis.documents import measured_depths, plant_at, scatter
from data.synthesis.lookup import plant_lookup
from data.synthesis.names import Names
from data.synthesis.planting import Planting
from data.synthesis.words import Split

CountTokens = Callable[[SourceProblem], int]
"""Tokens of a problem's whole rendered prompt."""
CountMany = Callable[[Sequence[SourceProblem]], Sequence[int]]
"""The same of many problems, in order."""

TASKS: Mapping[str, Callable[[random.Random, Names, Cell], Planting]] = {
    "lookup": plant_lookup,
    "chain": plant_chain,
    "arithmetic": plant_arithmetic,
    "choice": plant_choice,
}
_MAX_TRIES = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """What a row says beside its problem, for grids and pictures; readers of problems ignore it."""

    length: int
    """Of the cell: the upper bound of its prompts' tokens."""
    depth: float | None
    """Of the cell: where the needed facts should stand; None: anywhere."""
    needle_depths: tuple[float, ...]
    """Where each needed fact does stand, in the order in which the answer needs them; 0 begins the document, 1 ends it."""
    num_hops: int
    """Facts that are read one through the other."""
    distractors: Distractors


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisExample:
    """A synthetic problem with its gold reasoning."""

    problem: SourceProblem
    chain_of_thought: str
    """What a teacher would think, without tags."""
    final_answer: str
    """The closing sentence, in the prompt's required form."""
    num_prompt_tokens: int
    """What the counter gave for the problem."""
    labels: Labels

    def as_row(self) -> dict[str, object]:
        """One flat JSON object: the problem's fields and the example's own, but for the labels."""
        return {
            **asdict(self.problem),
            "chain_of_thought": self.chain_of_thought,
            "final_answer": self.final_answer,
            "num_prompt_tokens": self.num_prompt_tokens,
        }

    def as_labelled_row(self) -> dict[str, object]:
        """`as_row` and the labels."""
        return {**self.as_row(), **asdict(self.labels)}


def count_words(problem: SourceProblem) -> int:
    """Words of context and question: the length when no tokenizer is given."""
    return len(problem.context.split()) + len(problem.question.split())


def make_problems(
    task: str,
    *,
    split: Split,
    seed: int,
    count: int,
    min_tokens: int,
    max_tokens: int,
    corpus: Corpus,
    count_tokens: CountTokens = count_words,
    num_facts: int = 8,
    num_keys: int | None = None,
) -> Iterator[SynthesisExample]:
    """Yields `count` problems whose prompts are min_tokens < length <= max_tokens, lengths uniform in the window.

    A pure function of its arguments, drawn one after the other from one random stream: problem i needs those before it.
    `ProblemMaker.numbered` has a stream per problem. Keys come from the split's own set; num_facts counts the planted
    facts, distractors included; num_keys limits the keys that are used (None: all of the split's).

    Raises:
        DataError: the window is empty, the task unknown, or the facts alone do not fit the window.
    """
    cell = Cell(
        task=task,
        split=split,
        seed=seed,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        num_facts=num_facts,
        num_keys=num_keys,
    )
    check_cell(cell)
    rng = random.Random(f"{task} {split} {seed} {min_tokens} {max_tokens}")
    maker = ProblemMaker(corpus, lambda problems: [count_tokens(problem) for problem in problems])
    for i in range(count):
        yield from maker.make(cell, {i: rng})


def check_cell(cell: Cell) -> None:
    """Raises:
    DataError: no such task, or a value of the cell outside its range.
    """
    if cell.task not in TASKS:
        raise DataError(f"task: {cell.task!r} is not one of {', '.join(TASKS)}")
    cell.check()


@dataclass(kw_only=True, slots=True)
class _Draft:
    """A problem on its way to a document of the wanted length."""

    number: int
    rng: random.Random
    planting: Planting
    problem: SourceProblem
    """Its context is the facts alone, until a document fits."""
    target: int = 0
    """Tokens wanted,"""
    filler: int = 0
    """and those of them for text; sentence costs are estimates, so the filler is corrected until the length fits."""
    length: int | None = None
    """Tokens counted, once they fit the window."""


class ProblemMaker:
    """Makes problems from one corpus with one way to count; keeps what a sentence costs."""

    def __init__(self, corpus: Corpus, count_many: CountMany) -> None:
        self._count_many = count_many
        probe = SourceProblem(problem_id="", task="", context="The", question="?", answers=("-",), answer_type="text")
        (empty,) = count_many([probe])
        self._haystack = Haystack(corpus, lambda text: count_many([replace(probe, context=f"The{text}")])[0] - empty)

    def numbered(self, cell: Cell, numbers: Sequence[int]) -> list[SynthesisExample]:
        """Problems of a cell by their numbers: each a pure function of cell and number, whichever are made with it.

        Cells that differ in depth alone ask the same questions.

        Raises:
            DataError: as `make_problems`.
        """
        seed = f"{cell.task} {cell.split} {cell.seed} {cell.min_tokens} {cell.max_tokens}"
        return self.make(cell, {number: random.Random(f"{seed} {number}") for number in numbers})

    def make(self, cell: Cell, streams: Mapping[int, random.Random]) -> list[SynthesisExample]:
        """Problems by number, each drawn from its own stream; their prompts are counted as one batch a round."""
        names, window = Names(cell), (cell.min_tokens, cell.max_tokens)
        drafts = [_draft(cell, names, number, rng) for number, rng in streams.items()]
        for draft, bare in zip(drafts, self._count_many([draft.problem for draft in drafts]), strict=True):
            _aim(draft, bare, window)
        pending = drafts
        for _ in range(_MAX_TRIES):
            proposals = [replace(d.problem, context=self._document(cell, d)) for d in pending]
            for draft, proposal, length in zip(pending, proposals, self._count_many(proposals), strict=True):
                if window[0] < length <= window[1]:
                    draft.problem, draft.length = proposal, length
                draft.filler = max(0, draft.filler + draft.target - length)
            pending = [draft for draft in pending if draft.length is None]
            if not pending:
                return [_example(cell, draft) for draft in drafts]
        raise DataError(
            f"{pending[0].problem.problem_id}: no document of ({window[0]}, {window[1]}] tokens in {_MAX_TRIES} tries; "
            "widen the window"
        )

    def _document(self, cell: Cell, draft: _Draft) -> str:
        sentences = self._haystack.run_of_sentences(draft.rng, draft.filler)
        if cell.depth is None:
            return " ".join(scatter(draft.rng, draft.planting.facts, sentences))
        return " ".join(plant_at(draft.rng, draft.planting, sentences, cell.depth, cell.spread))


def _draft(cell: Cell, names: Names, number: int, rng: random.Random) -> _Draft:
    planting = TASKS[cell.task](rng, names, cell)
    problem = SourceProblem(
        problem_id=cell.problem_id(number),
        task=cell.task,
        context=" ".join(planting.facts),
        question=planting.question,
        answers=planting.answers,
        answer_type=planting.answer_type,
        options=planting.options,
    )
    return _Draft(number=number, rng=rng, planting=planting, problem=problem)


def _aim(draft: _Draft, bare: int, window: tuple[int, int]) -> None:
    """Draws the length wanted, of which `bare` tokens are there already."""
    low, high = window
    if bare > high:
        raise DataError(
            f"{draft.problem.problem_id}: {bare} tokens without any text > window ({low}, {high}]; fewer num_facts"
        )
    draft.target = draft.rng.randint(max(low + 1, bare), high)
    draft.filler = draft.target - bare


def _example(cell: Cell, draft: _Draft) -> SynthesisExample:
    planting, problem = draft.planting, draft.problem
    assert draft.length is not None
    return SynthesisExample(
        problem=problem,
        chain_of_thought=planting.chain_of_thought,
        final_answer=f"Therefore, the answer is {planting.answers[0]}",
        num_prompt_tokens=draft.length,
        labels=Labels(
            length=cell.max_tokens,
            depth=cell.depth,
            needle_depths=measured_depths(problem.context, planting.facts[: planting.num_needed]),
            num_hops=planting.num_hops,
            distractors=cell.distractors,
        ),
    )
