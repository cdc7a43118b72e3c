"""Golds are called unreadable only where the rules refuse them, held against the rules themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.golds import mistyped_gold, unreadable_gold
from data.problem import ANSWER_TYPES, Question
from data.readers import read_problems
from rewards.hybrid import RuleScorer
from rewards.rules.choice import read_choice
from rewards.rules.numeral import gold_number
from rewards.rules.yesno import read_yesno
from tests.data.docqa import docqa

OPTIONS = ("the text", "another", "no one")
NUMBERS = """5|-8.99%|$2,163|8.50¢|1e6|5/2|(5)|-$5|.5|USD 5|3.2 million|+4|1,084,498|five|twenty-one|five hundred|1 1/2|½|10%
ten percent|33.3 per cent|50 cents|3.5 x 10^5|2.4e-3|5 km|5 apples|5 million dollars|€5|£5m|5k|−5|~5|5 or 6|2019-2020|nan
5 (five)|10 to 20|<5|5+|5±1|1.234,56|1 234|0x10|π|No. 5|$5 and $6|5.|1,2,3|minus 4|a dozen|one third|5 metric tons a year"""
DATES = "12 March 2019|March 12, 2019|2019-03-12|16:30|4:30 PM|the 1990s"
TEXTS = """Mr. Smith|U.S.|Apple Inc. The company|C++|A-|"quoted"|'single'|**bold**|`x`|$x^2$|\\frac{1}{2}|x = 5|n/a|None
Trinidad and Tobago|24/7|red, green and blue|either red or blue|He did not know. He left.|not applicable|Correct|the
the correct answer|step 1|solution|so|Insufficient information|日本|はい|who?|not true|(see page 3)|A An|unknown"""
LETTERS = "A|B.|(B)|[A]|A:|b)|C|D|Z|(B) the text|A. the text|option B|choice C|Option (A)|the text|B and C|a"
YES_NO = "Yes|no|NO.|True|Yes.|yes!|false|Yes, because he left|No; he did not|yes and no|maybe|T|y|Yes (see page 3)"
READABLE = [
    gold for listed in (NUMBERS, DATES, TEXTS, LETTERS, YES_NO) for line in listed.splitlines() for gold in line.split("|")
]  # fmt: skip
UNREADABLE = [
    "-", "$", "...", "?", "***", "''", "()", "—", "∞", "\u200b", "x" * 2001, "(" + "word " * 500 + ")", "\u202e5", "B\u202d",
    "<think>5", "</think> <think> yes", "\\boxed{5}", "\\boxed{B}", "so \\boxed{yes}", "\\fbox{5} km",
]  # fmt: skip
UNREADABLE_BUT_AS_CHOICE = [
    "The answer is 5",
    "Answer: 5",
    "the answer is",
    "It was. The answer is five.",
    "the answer is B",
    "final answer: x",
]
UNWRAPPED = ["$x^2$", "\\text{Yes}", "<b>5</b>", "He left the town. His brother stayed there for two years."]
"""Refused outside text and not called so: extraction takes something away, and the rest is not the gold."""


@pytest.fixture(scope="module")
def scorer():
    return RuleScorer()


def question(gold, answer_type):
    options = OPTIONS if answer_type == "choice" else ()
    return Question(question="What is it?", answers=(gold,), answer_type=answer_type, options=options)


def accepted(scorer, asked):
    responses = [(asked, f"Therefore, the answer is {gold}") for gold in asked.answers]
    return any(score.value == 1.0 for score in scorer.score(responses))


@pytest.mark.parametrize("answer_type", ANSWER_TYPES)
def test_a_gold_is_readable_exactly_where_the_rules_accept_it(answer_type, scorer):
    golds = [*READABLE, *UNREADABLE, *(UNREADABLE_BUT_AS_CHOICE if answer_type != "choice" else [])]
    disagreed = []
    for gold in golds:
        asked = question(gold, answer_type)
        if (unreadable_gold(asked) is None) != accepted(scorer, asked) and (
            answer_type == "text" or gold not in UNWRAPPED
        ):
            disagreed.append(gold)
    assert disagreed == []
    assert [gold for gold in READABLE if unreadable_gold(question(gold, answer_type))] == []
    assert [gold for gold in UNREADABLE if not unreadable_gold(question(gold, answer_type))] == []


@pytest.mark.parametrize("answer_type", ["number", "choice", "yesno"])
def test_golds_that_extraction_unwraps_are_the_known_difference(answer_type, scorer):
    for gold in UNWRAPPED[1:]:
        asked = question(gold, answer_type)
        assert unreadable_gold(asked) is None
        assert answer_type == "yesno" or not accepted(scorer, asked)


@pytest.mark.parametrize(
    ("answer_type", "gold"),
    [
        ("choice", "the answer is B"),
        ("yesno", "Yes, the answer is yes"),
        ("text", "<think></think>Ada"),
        ("text", "x" * 2000 + ".."),
        ("text", "\u33c2"),  # one sign that reads a.m.
    ],
)
def test_golds_near_the_unreadable_are_readable_where_the_rules_accept_them(answer_type, gold, scorer):
    asked = question(gold, answer_type)
    assert unreadable_gold(asked) is None and accepted(scorer, asked)


_PIECES = st.sampled_from(
    ["yes", "no", "B", "(C)", "5", "12.5%", "five", "million", "the answer is", "Answer:", "\\boxed{", "}", "<think>",
     "</think>", "<answer>", "</b>", "*", "$", "\n", ". ", ", ", " or ", "\u202e", "\u200b", "?", "x" * 1990, "Ada", "not", "-"]
)  # fmt: skip


@given(st.lists(_PIECES, min_size=1, max_size=5), st.sampled_from(ANSWER_TYPES), st.sampled_from(["", " "]))
def test_no_gold_that_the_rules_accept_is_called_unreadable(pieces, answer_type, space):
    gold = space.join(pieces)
    if gold.strip():
        asked = question(gold, answer_type)
        assert unreadable_gold(asked) is None or not accepted(RuleScorer(), asked)


@pytest.mark.parametrize("answer_type", ["number", "choice", "yesno"])
def test_no_gold_that_the_rules_read_as_its_type_is_called_mistyped(answer_type):
    reads = {"number": gold_number, "choice": lambda gold: read_choice(gold, OPTIONS), "yesno": read_yesno}[answer_type]
    read = [gold for gold in [*READABLE, *UNREADABLE, *UNREADABLE_BUT_AS_CHOICE] if reads(gold) is not None]
    assert len(read) > 10
    assert [gold for gold in read if mistyped_gold(question(gold, answer_type))] == []


@pytest.mark.parametrize(
    ("answer_type", "gold", "told"),
    [
        ("number", "Transportation Workers of America, Local 550", "is not a number"),
        ("number", "Ada", "is not a number"),
        ("choice", "D", "is not a letter A-C"),
        ("choice", "something else", "is not a letter A-C"),
        ("yesno", "Insufficient information", "is not yes or no"),
    ],
)
def test_golds_of_another_type_are_told_and_readable(answer_type, gold, told, scorer):
    asked = question(gold, answer_type)
    assert mistyped_gold(asked) == f"{gold!r} {told}"
    assert unreadable_gold(asked) is None
    assert accepted(scorer, asked)


def test_one_good_answer_of_several_is_enough():
    several = Question(question="?", answers=("???", "none of it", "5"), answer_type="number")
    assert (unreadable_gold(several), mistyped_gold(several)) == (None, None)


def test_every_gold_of_docqa_is_readable_and_accepted(scorer):
    num_golds = 0
    for problem in read_problems(docqa("docqa_train")):
        assert unreadable_gold(problem) is None
        scores = scorer.score([(problem, f"Therefore, the answer is {gold}") for gold in problem.answers])
        assert [score.value for score in scores] == [1.0] * len(problem.answers), problem.problem_id
        num_golds += len(scores)
    assert num_golds > 703
