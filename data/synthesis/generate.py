"""Problems of any length: facts of one task planted at random depths in real text, seeded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from data.problem import DataError, SourceProblem
from data.synthesis.arithmetic import plant_arithmetic
from data.synthesis.chain import plant_chain
from data.synthesis.choice import plant_choice
from data.synthesis.corpus import Corpus, Haystack
from data.synthesis.lookup import plant_lookup
from data.synthesis.planting import Planting
from data.synthesis.words import Split, keys_of

CountTokens = Callable[[SourceProblem], int]
"""Tokens of a problem's whole rendered prompt."""

TASKS: Mapping[str, Callable[[random.Random, Sequence[str], int], Planting]] = {
    "lookup": plant_lookup,
    "chain": plant_chain,
    "arithmetic": plant_arithmetic,
    "choice": plant_choice,
}
_MAX_TRIES = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisExample:
    """A synthetic problem with its gold reasoning."""

    problem: SourceProblem
    chain_of_thought: str
    """What a teacher would think, without tags."""
    final_answer: str
    """The closing sentence, in the prompt's required form."""
    num_prompt_tokens: int
    """What count_tokens gave for the problem."""

    def as_row(self) -> dict[str, object]:
        """One flat JSON object: the problem's fields and the example's own."""
        row = asdict(self)
        return {**row.pop("problem"), **row}


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

    A pure function of its arguments. Keys come from the split's own set; num_facts counts the planted facts,
    distractors included; num_keys limits the keys that are used (None: all of the split's).

    Raises:
        DataError: the window is empty, the task unknown, or the facts alone do not fit the window.
    """
    if task not in TASKS:
        raise DataError(f"task: {task!r} is not one of {', '.join(TASKS)}")
    if not 0 <= min_tokens < max_tokens:
        raise DataError(f"window ({min_tokens}, {max_tokens}]: the lower bound must be at least 0 and below the upper")
    keys = keys_of(split, num_keys)
    if not 1 <= num_facts <= len(keys):
        raise DataError(f"num_facts: {num_facts} is outside 1..{len(keys)}, the keys of split {split} in use")
    rng = random.Random(f"{task} {split} {seed} {min_tokens} {max_tokens}")
    haystack = _measured(corpus, count_tokens)
    for i in range(count):
        planting = TASKS[task](rng, keys, num_facts)
        draft = SourceProblem(
            problem_id=f"{task}-{split}-{seed}-{max_tokens}-{i}",
            task=task,
            context=" ".join(planting.facts),
            question=planting.question,
            answers=planting.answers,
            answer_type=planting.answer_type,
            options=planting.options,
        )
        problem, length = _fit(draft, planting.facts, rng, (min_tokens, max_tokens), haystack, count_tokens)
        yield SynthesisExample(
            problem=problem,
            chain_of_thought=planting.chain_of_thought,
            final_answer=f"Therefore, the answer is {planting.answers[0]}",
            num_prompt_tokens=length,
        )


def _measured(corpus: Corpus, count_tokens: CountTokens) -> Haystack:
    probe = SourceProblem(
        problem_id="",
        task="",
        context="The",
        question="?",
        answers=("-",),
        answer_type="text",
    )
    empty = count_tokens(probe)
    return Haystack(corpus, lambda text: count_tokens(replace(probe, context="The" + text)) - empty)


def _fit(
    draft: SourceProblem,
    facts: Sequence[str],
    rng: random.Random,
    window: tuple[int, int],
    haystack: Haystack,
    count_tokens: CountTokens,
) -> tuple[SourceProblem, int]:
    """Fills the document up to a length drawn from the window; sentence costs are estimates, the result is counted."""
    low, high = window
    bare = count_tokens(draft)
    if bare > high:
        raise DataError(f"{draft.problem_id}: {bare} tokens without any text > window ({low}, {high}]; fewer num_facts")
    target = rng.randint(max(low + 1, bare), high)
    filler = target - bare
    for _ in range(_MAX_TRIES):
        context = _scatter(rng, facts, haystack.run_of_sentences(rng, filler))
        problem = replace(draft, context=context)
        length = count_tokens(problem)
        if low < length <= high:
            return problem, length
        filler = max(0, filler + target - length)
    raise DataError(
        f"{draft.problem_id}: no document of ({low}, {high}] tokens in {_MAX_TRIES} tries; widen the window"
    )


def _scatter(rng: random.Random, facts: Sequence[str], sentences: list[str]) -> str:
    """Facts in random order in random gaps; the text begins with its own first sentence."""
    gaps: list[list[str]] = [[] for _ in sentences] or [[]]
    for fact in rng.sample(facts, len(facts)):
        rng.choice(gaps).append(fact)
    opening = sentences or [""]
    return " ".join(part for sentence, gap in zip(opening, gaps, strict=True) for part in (sentence, *gap) if part)
