import hashlib
import json
import random
import re
from itertools import combinations

import pytest

from data.problem import DataError, SourceProblem
from data.prompts import count_prompt_tokens
from data.synthesis.corpus import (
    Corpus,
    Haystack,
    builtin_corpus,
    prose_sentences,
    read_corpus,
)
from data.synthesis.generate import TASKS, SynthesisExample, count_words, make_problems
from data.synthesis.words import CITIES, SPLITS, keys_of
from tests.data.tokenizers import word_tokenizer

CORPUS = builtin_corpus()


def _examples(task: str, *, seed: int = 0, count: int = 50, low: int = 100, high: int = 160) -> list[SynthesisExample]:
    made = make_problems(
        task,
        split="train",
        seed=seed,
        count=count,
        min_tokens=low,
        max_tokens=high,
        corpus=CORPUS,
        num_facts=6,
    )
    return list(made)


def test_splits_share_no_keys() -> None:
    for a, b in combinations(SPLITS, 2):
        assert not set(keys_of(a)) & set(keys_of(b))


def test_problems_of_different_splits_share_no_name() -> None:
    def names(split: str) -> set[str]:
        made = make_problems(
            "chain",
            split=split,
            seed=0,
            count=200,
            min_tokens=0,
            max_tokens=80,
            corpus=CORPUS,
            num_keys=100,
        )
        return {name for e in made for name in re.findall(r"(\w+) (?:trusts|visited)", e.problem.context)}

    train, test = names("train"), names("test")
    assert len(train) == len(test) == 100
    assert not train & test


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_length_lies_in_the_window(task: str) -> None:
    for e in _examples(task):
        assert 100 < count_words(e.problem) == e.num_prompt_tokens <= 160


@pytest.mark.parametrize("task", sorted(TASKS))
def test_same_seed_same_problems_other_seed_other_problems(task: str) -> None:
    assert _examples(task) == _examples(task)
    assert _examples(task)[0].problem.context != _examples(task, seed=1)[0].problem.context


def test_make_problems_gives_the_bytes_that_published_figures_rest_on() -> None:
    halls = (
        f"The clerk of hall {i} kept {i * 7 % 13} more ledgers than the rules of {i % 5} towns allowed."
        for i in range(90)
    )
    corpus, digest = Corpus(tuple(halls)), hashlib.sha256()
    for task in TASKS:
        for low, high, num_keys in ((0, 160, 480), (480, 640, 160), (900, 1000, None)):
            made = make_problems(
                task,
                split="train",
                seed=0,
                count=20,
                min_tokens=low,
                max_tokens=high,
                corpus=corpus,
                count_tokens=lambda problem: count_prompt_tokens(word_tokenizer(), [problem])[0],
                num_facts=6,
                num_keys=num_keys,
            )
            for example in made:
                digest.update(json.dumps(example.as_row()).encode())
    # Of the first version; a change here changes the demo's data, and what the README says of it must be measured anew.
    assert digest.hexdigest() == "dd229f303cbb8b749d2b7e33cea6c81c60eed3f3b34816c17a51b4f5522292e2"


def test_the_length_is_that_of_the_callers_count() -> None:
    def count_letters(problem: SourceProblem) -> int:
        return len(problem.context) + len(problem.question) + 1000

    made = make_problems(
        "lookup",
        split="dev",
        seed=3,
        count=20,
        min_tokens=2000,
        max_tokens=2100,
        corpus=CORPUS,
        count_tokens=count_letters,
    )
    assert all(2000 < count_letters(e.problem) <= 2100 for e in made)


def test_lookup_answer_is_the_city_of_the_asked_person() -> None:
    for e in _examples("lookup"):
        asked = e.problem.question.removeprefix("Which city did ").removesuffix(" visit?")
        assert re.findall(rf"{asked} visited (\w+)\.", e.problem.context) == list(e.problem.answers)
        assert e.chain_of_thought == f"Since {asked} visited {e.problem.answers[0]}"


def test_chain_answer_is_reached_through_the_trusted_person() -> None:
    for e in _examples("chain"):
        asked = e.problem.question.removeprefix("Which city did the person that ").removesuffix(" trusts visit?")
        (trusted,) = re.findall(rf"{asked} trusts (\w+)\.", e.problem.context)
        assert re.findall(rf"{trusted} visited (\w+)\.", e.problem.context) == list(e.problem.answers)
        assert e.chain_of_thought == f"Since {asked} trusts {trusted} and {trusted} visited {e.problem.answers[0]}"


def test_arithmetic_answer_is_the_sum_of_the_two_found_numbers() -> None:
    for e in _examples("arithmetic"):
        first, second = re.fullmatch(r"How many boats do (\w+) and (\w+) own together\?", e.problem.question).groups()
        numbers = dict(re.findall(r"(\w+) owns (\d+) boats\.", e.problem.context))
        assert e.problem.answers == (str(int(numbers[first]) + int(numbers[second])),)


def test_choice_answer_is_the_letter_of_the_visited_city() -> None:
    letters = [e.problem.answers[0] for e in _examples("choice", count=200)]
    assert set(letters) == set("ABCD")
    for e in _examples("choice"):
        (asked,) = re.findall(r"Which city did (\w+) visit\?", e.problem.question)
        (city,) = re.findall(rf"{asked} visited (\w+)\.", e.problem.context)
        assert e.problem.options["ABCD".index(e.problem.answers[0])] == city


def test_facts_lie_at_every_depth() -> None:
    depths = []
    for e in _examples("lookup", count=300, low=400, high=500):
        asked = e.problem.question.split()[3]
        depths.append(e.problem.context.index(f"{asked} visited") / len(e.problem.context))
    tenths = [sum(int(d * 5) == i for d in depths) for i in range(5)]
    assert min(tenths) > 300 / 5 / 2


def test_a_window_too_small_for_the_facts_is_refused() -> None:
    with pytest.raises(DataError, match="fewer num_facts"):
        list(
            make_problems(
                "lookup",
                split="train",
                seed=0,
                count=1,
                min_tokens=0,
                max_tokens=10,
                corpus=CORPUS,
            )
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"task": "riddle"},
            "task: 'riddle' is not one of lookup, chain, arithmetic, choice",
        ),
        ({"min_tokens": 80}, r"window \(80, 80\]"),
        ({"num_facts": 9, "num_keys": 8}, r"num_facts: 9 is outside 1\.\.8"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], message: str) -> None:
    settings = {
        "task": "lookup",
        "split": "train",
        "seed": 0,
        "count": 1,
        "min_tokens": 0,
        "max_tokens": 80,
    }
    settings |= {"corpus": CORPUS} | change
    with pytest.raises(DataError, match=message):
        list(make_problems(settings.pop("task"), **settings))


def test_num_keys_outside_the_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"num_keys: 501 is outside 1\.\.500"):
        keys_of("test", 501)


def test_no_key_is_a_city_and_none_is_part_of_another() -> None:
    keys = [k for split in SPLITS for k in keys_of(split)]
    assert len(set(keys)) == 3000
    assert {len(k) for k in keys} == {6}
    assert not set(keys) & set(CITIES)


def test_prose_leaves_headings_and_tables_out() -> None:
    text = "Operators\n*********\n\nThe value is always\nan integer. Short one.\n\n| a | b |\n\nNo full stop here"
    assert prose_sentences(text) == ["The value is always an integer."]


def test_a_haystack_run_stays_within_its_tokens_and_measures_a_sentence_once() -> None:
    measured = []

    def count(text: str) -> int:
        measured.append(text)
        return len(text.split())

    haystack = Haystack(Corpus(("One two three four.", "Five six seven eight nine.")), count)
    rng = random.Random(0)
    for _ in range(10):
        assert sum(len(s.split()) for s in haystack.run_of_sentences(rng, 7)) == 7
    assert len(measured) == 2


def test_any_folder_of_text_is_a_corpus(tmp_path) -> None:
    (tmp_path / "b.md").write_text("The second file has words.", encoding="utf-8")
    (tmp_path / "a.txt").write_text("The first file has words.", encoding="utf-8")
    (tmp_path / "c.csv").write_text("The third is no prose.", encoding="utf-8")
    assert read_corpus(tmp_path).sentences == (
        "The first file has words.",
        "The second file has words.",
    )


def test_a_folder_without_prose_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="no prose sentence in 0"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        read_corpus(tmp_path / "absent")
