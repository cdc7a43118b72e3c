"""A solver that knows the sentence forms and nothing else: what it derives from a document is the gold, and only that."""

import re
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.synthesis.cells import DISTRACTORS, Cell
from data.synthesis.corpus import builtin_corpus
from data.synthesis.generate import TASKS, ProblemMaker, SynthesisExample, count_words
from data.synthesis.names import lookalikes
from data.synthesis.words import CITIES, SPLITS, keys_of

MAKER = ProblemMaker(builtin_corpus(), lambda problems: [count_words(problem) for problem in problems])
_FACT = re.compile(r"\b([A-Z][a-z]{5}) (trusts|visited|owns) (\w+)(?: boats)?\.")
Facts = dict[tuple[str, str], set[str]]


def read_facts(context: str) -> Facts:
    facts = defaultdict(set)
    for person, relation, what in _FACT.findall(context):
        facts[person, relation].add(what)
    return facts


def solve(question: str, context: str) -> set[str]:
    """Every answer that the document gives."""
    facts = read_facts(context)
    if match := re.fullmatch(r"How many boats do (\w+) and (\w+) own together\?", question):
        first, second = (facts[person, "owns"] for person in match.groups())
        return {str(int(a) + int(b)) for a in first for b in second}
    if match := re.fullmatch(r"Which city did (the person.*) that (\w+) trusts visit\?", question):
        people = {match[2]}
        for _ in range(match[1].count("the person")):
            people = {trusted for person in people for trusted in facts[person, "trusts"]}
        return {city for person in people for city in facts[person, "visited"]}
    match = re.fullmatch(r"Which city did (\w+) visit\?( .*)?", question)
    assert match, question
    cities = facts[match[1], "visited"]
    if match[2] is None:
        return set(cities)
    return {letter for letter, city in re.findall(r"\(([A-D])\) (\w+)", match[2]) if city in cities}


def check_reasoning(example: SynthesisExample) -> None:
    """Every step stands in the document, and the last step gives the gold answer."""
    thought, (answer,) = example.chain_of_thought, example.problem.answers
    steps = re.findall(r"(\w+) (trusts|visited|owns) (\w+)", thought)
    facts = read_facts(example.problem.context)
    assert steps
    assert all(what in facts[person, relation] for person, relation, what in steps)
    assert len(steps) == len(example.labels.needle_depths)
    assert example.final_answer == f"Therefore, the answer is {answer}"
    if example.problem.task == "chain":
        assert steps[0][0] in example.problem.question
        assert [a[2] for a in steps[:-1]] == [b[0] for b in steps[1:]]
        assert steps[-1][2] == answer
    elif example.problem.task == "arithmetic":
        (sum_,) = re.findall(r"(\d+) \+ (\d+) = (\d+)", thought)
        assert [step[2] for step in steps] == list(sum_[:2])
        assert int(sum_[0]) + int(sum_[1]) == int(sum_[2]) == int(answer)
    elif example.problem.task == "choice":
        assert thought.endswith(f"({answer})")
        assert example.problem.options["ABCD".index(answer)] == steps[0][2]
    else:
        assert steps[0][2] == answer


CELLS = st.builds(
    Cell,
    task=st.sampled_from(sorted(TASKS)),
    split=st.sampled_from(SPLITS),
    seed=st.integers(0, 10**6),
    min_tokens=st.just(400),
    max_tokens=st.just(900),
    num_facts=st.integers(1, 60),
    num_hops=st.integers(2, 8),
    distractors=st.sampled_from(DISTRACTORS),
    depth=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    spread=st.sampled_from([0.0, 0.5, 1.0]),
)


@settings(max_examples=150, deadline=None)
@given(CELLS, st.integers(0, 10**6))
def test_the_gold_is_the_only_answer_the_document_gives_and_its_reasoning_holds(cell: Cell, number: int) -> None:
    (example,) = MAKER.numbered(cell, [number])
    assert solve(example.problem.question, example.problem.context) == set(example.problem.answers)
    check_reasoning(example)
    assert example.labels.num_hops == (cell.num_hops if cell.task == "chain" else 1)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_facts_that_stand_anywhere_have_one_answer_too(task: str) -> None:
    cell = Cell(
        task=task, split="test", seed=3, min_tokens=150, max_tokens=300, num_facts=12, num_hops=4, distractors="similar"
    )
    for example in MAKER.numbered(cell, range(100)):
        assert solve(example.problem.question, example.problem.context) == set(example.problem.answers)
        check_reasoning(example)


def test_the_solver_tells_a_second_answer_when_there_is_one() -> None:
    context = "Kelora visited Oslo. Some text. Kelora visited Bern. Kelori visited Rome."
    assert solve("Which city did Kelora visit?", context) == {"Oslo", "Bern"}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_similar_distractors_bear_names_like_those_of_the_needed_facts(task: str) -> None:
    cell = Cell(task=task, split="train", seed=0, min_tokens=100, max_tokens=300, num_hops=3, distractors="similar")
    for example in MAKER.numbered(cell, range(50)):
        needed = {name for name, *_ in re.findall(r"(\w{6}) (trusts|visited|owns)", example.chain_of_thought)}
        others = {person for person, _ in read_facts(example.problem.context)} - needed
        assert others
        for other in others:
            assert any(_alike(other, name) for name in needed), (other, needed)


def _alike(a: str, b: str) -> bool:
    return sum(x != y for x, y in zip(a, b, strict=True)) == 1 or a[:4] == b[:4]


def test_a_similar_distractor_tells_another_city_often_enough_to_matter() -> None:
    cell = Cell(task="lookup", split="train", seed=0, min_tokens=100, max_tokens=300, distractors="similar")
    for example in MAKER.numbered(cell, range(30)):
        cities = {c for (_, what), cs in read_facts(example.problem.context).items() if what == "visited" for c in cs}
        assert len(cities) > 2


def test_every_key_has_lookalikes_and_no_split_shares_one() -> None:
    by_split = {split: {key: lookalikes(key, split) for key in keys_of(split)} for split in SPLITS}
    for split, alike in by_split.items():
        assert min(map(len, alike.values())) >= 15
        assert all(_alike(key, name) for key, names in alike.items() for name in names)
        used = {name for names in alike.values() for name in names} | set(alike)
        assert not used & set(CITIES)
        assert not any(used & set(keys_of(other)) for other in SPLITS if other != split)
    names = [{name for names in alike.values() for name in names} for alike in by_split.values()]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
