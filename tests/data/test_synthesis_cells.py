"""Depth, hops, length up to a million tokens, and the grid whose cells a problem's id names."""

import random
import time

import pytest

from data.problem import DataError
from data.prompts import count_prompt_tokens
from data.synthesis.cells import Cell, cell_of_id, cells_between, grid_cells
from data.synthesis.corpus import Corpus, Haystack, builtin_corpus
from data.synthesis.documents import wanted_depths
from data.synthesis.generate import ProblemMaker, check_cell, count_words
from tests.data.tokenizers import word_tokenizer

CORPUS = builtin_corpus()
MAKER = ProblemMaker(CORPUS, lambda problems: [count_words(problem) for problem in problems])


def _cell(task: str = "chain", **changes: object) -> Cell:
    wanted = {"split": "test", "seed": 0, "min_tokens": 3800, "max_tokens": 4000}
    return Cell(task=task, **(wanted | changes))


@pytest.mark.parametrize("depth", [0.0, 0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_needed_facts_stand_where_they_should(depth: float, spread: float) -> None:
    for example in MAKER.numbered(_cell(num_hops=4, depth=depth, spread=spread), range(5)):
        found = sorted(example.labels.needle_depths)
        # Half a sentence and three facts beside it, of about 25,000 characters.
        assert found == pytest.approx(wanted_depths(depth, spread, 4), abs=0.01)


def test_depth_zero_opens_the_document_and_depth_one_ends_it() -> None:
    for example in MAKER.numbered(_cell("lookup", depth=0.0), range(3)):
        assert example.problem.context.startswith(f"{example.chain_of_thought.removeprefix('Since ')}.")
    for example in MAKER.numbered(_cell("lookup", depth=1.0), range(3)):
        assert example.problem.context.endswith(f"{example.chain_of_thought.removeprefix('Since ')}.")


def test_a_short_document_is_off_by_half_a_sentence_at_most() -> None:
    longest = max(map(len, CORPUS.sentences))
    cell = _cell("lookup", min_tokens=100, max_tokens=160, depth=0.5)
    for example in MAKER.numbered(cell, range(50)):
        allowed = (longest / 2 + 1) / len(example.problem.context)
        assert example.labels.needle_depths[0] == pytest.approx(0.5, abs=allowed)


def test_needed_facts_come_in_any_order() -> None:
    examples = MAKER.numbered(_cell(min_tokens=100, max_tokens=160, depth=0.5), range(40))
    rising = [e.labels.needle_depths[0] < e.labels.needle_depths[1] for e in examples]
    assert 8 < sum(rising) < 32


def test_cells_that_differ_in_depth_ask_the_same_questions() -> None:
    early, late = (MAKER.numbered(_cell(depth=depth), range(5)) for depth in (0.1, 0.9))
    assert [e.problem.question for e in early] == [e.problem.question for e in late]
    assert [e.problem.context for e in early] != [e.problem.context for e in late]


def test_a_problem_does_not_depend_on_those_made_with_it() -> None:
    cell = _cell(min_tokens=95, max_tokens=100)  # narrow: some need several tries
    together = MAKER.numbered(cell, range(30))
    assert [MAKER.numbered(cell, [i])[0] for i in reversed(range(30))] == together[::-1]


@pytest.mark.parametrize("hops", [2, 3, 8, 16])
def test_a_chain_has_the_hops_asked_for(hops: int) -> None:
    (example,) = MAKER.numbered(_cell(num_hops=hops, num_facts=2 * hops), [0])
    assert example.chain_of_thought.count(" trusts ") == hops - 1
    assert example.problem.question.count("the person") == hops - 1
    assert len(example.labels.needle_depths) == example.labels.num_hops == hops


def test_one_problem_of_a_million_words_takes_seconds() -> None:
    started = time.process_time()
    (example,) = MAKER.numbered(_cell("lookup", min_tokens=990_000, max_tokens=1_000_000, depth=0.5), [0])
    assert 990_000 < count_words(example.problem) == example.num_prompt_tokens <= 1_000_000
    assert example.labels.needle_depths == pytest.approx([0.5], abs=0.001)
    assert time.process_time() - started < 10


def test_a_problem_of_a_hundred_thousand_tokens_is_counted_exactly() -> None:
    tokenizer = word_tokenizer()
    maker = ProblemMaker(CORPUS, lambda problems: count_prompt_tokens(tokenizer, problems))
    (example,) = maker.numbered(_cell("arithmetic", min_tokens=99_000, max_tokens=100_000), [0])
    assert 99_000 < example.num_prompt_tokens <= 100_000
    assert [example.num_prompt_tokens] == count_prompt_tokens(tokenizer, [example.problem])


def test_a_run_longer_than_the_corpus_takes_every_sentence_each_time_in_another_order() -> None:
    corpus = Corpus(tuple(f"Sentence number {i} stands." for i in range(200)))
    haystack = Haystack(corpus, lambda text: len(text.split()))
    run = haystack.run_of_sentences(random.Random(0), 4 * 200 * 4)
    passes = [tuple(run[i : i + 200]) for i in range(0, 800, 200)]
    assert [sorted(one) for one in passes] == [sorted(corpus.sentences)] * 4
    rotations = {passes[0][i:] + passes[0][:i] for i in range(200)}
    assert corpus.sentences in rotations  # the first pass reads as the corpus does
    assert len({*passes}) == 4 and not rotations & {*passes[1:]}


def test_an_id_tells_its_cell() -> None:
    cell = _cell(num_hops=4, distractors="similar", depth=0.25, spread=0.5)
    assert cell.problem_id(17) == "chain-test-0-4000-hops4-similar-depth0.25-spread0.5-17"
    labels = cell_of_id(cell.problem_id(17))
    assert (labels.task, labels.length, labels.depth) == ("chain", 4000, 0.25)
    assert (labels.num_hops, labels.distractors) == (4, "similar")
    for depth in (None, 0.0, 1.0, 0.00001, 1 / 3):
        read = cell_of_id(_cell("lookup", seed=-3, depth=depth).problem_id(5))
        assert read.depth == (None if depth is None else pytest.approx(depth, rel=1e-4))
        assert (read.task, read.length, read.num_hops, read.distractors) == ("lookup", 4000, 1, "plain")


@pytest.mark.parametrize(
    "other",
    [
        "musique-17", "chain-test-0-4000", "", "lookup-valid-0-100-3", "chain-0-100-3", "lookup-test-0-400-depth..-3",
        f"lookup-test-0-{'9' * 5_000}-3",
    ],
)  # fmt: skip
def test_other_ids_name_no_cell(other: str) -> None:
    assert cell_of_id(other) is None


def test_a_grid_has_a_cell_for_every_task_length_and_depth_just_below_its_length() -> None:
    cells = grid_cells(_cell(), ["lookup", "chain"], [160, 4000], [0.0, 1.0])
    assert [(c.task, c.min_tokens, c.max_tokens, c.depth) for c in cells] == [
        (task, low, high, depth)
        for task in ("lookup", "chain")
        for low, high in ((150, 160), (3800, 4000))
        for depth in (0.0, 1.0)
    ]
    assert [c.depth for c in grid_cells(_cell(), ["chain"], [4000], [])] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_hops_are_the_chains_alone() -> None:
    lookup, chain = cells_between(_cell(num_hops=5, min_tokens=0), ["lookup", "chain"], [100], [])
    assert (lookup.problem_id(0), chain.problem_id(0)) == ("lookup-test-0-100-0", "chain-test-0-100-hops5-0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hops": 1}, r"hops: 1 is outside 2\.\.16"),
        ({"num_hops": 17}, r"hops: 17 is outside 2\.\.16"),
        ({"depth": 1.5}, r"depth: 1\.5 is outside 0\.\.1"),
        ({"depth": float("nan")}, r"depth: nan is outside 0\.\.1"),
        ({"depth": 0.5, "spread": 2.0}, r"spread: 2 is outside 0\.\.1"),
        ({"spread": 0.5}, "give a depth too"),
        ({"distractors": "nasty"}, "'nasty' is not one of plain, similar"),
        ({"task": "riddle"}, "task: 'riddle' is not one of"),
    ],
)
def test_a_cell_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_cell(_cell(**change) if "task" not in change else _cell(str(change["task"])))


def test_more_people_than_keys_are_refused() -> None:
    with pytest.raises(DataError, match=r"arithmetic needs 2 people, split test has 1 keys in use; raise num_keys"):
        MAKER.numbered(_cell("arithmetic", num_facts=1, num_keys=1), [0])
    with pytest.raises(DataError, match=r"chain needs 4 people"):
        MAKER.numbered(_cell(num_facts=1, num_keys=3, num_hops=4), [0])
