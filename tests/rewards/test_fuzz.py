"""Nothing a model can write crashes the rules, earns a reward by accident, or takes more than linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.problem import ANSWER_TYPES
from rewards.extraction import extract_answer
from rewards.rules import judge_by_rule
from rewards.verdict import parse_verdict
from tests.rewards.cases import CITIES, ask, rule

PANEL = [
    ask("Barack Obama"),
    ask("42173591", answer_type="number"),
    ask("-86.4%", answer_type="number", question="What percentage?"),
    ask(
        "The Treaty of Tordesillas",
        answer_type="choice",
        options=("x y z", "The Treaty of Tordesillas", "q r s", "t u v"),
    ),
]
PIECES = [
    "the answer is ", "Answer: ", "\\boxed{", "}", "{", "<think>", "</think>", "\n", " ", "the", "a", "an", "()", '""', ".", ",", "-",
    "or ", "and ", "not ", "YES", "[[YES]]", "[[NO]]", "0", "1", "5", "42", "4217", "35", "%", "$", "million", "e9", "^", "/", "1e",
    "(", ")", "Barack", "Obama'", "Treaty", "\\frac{", "\u200b", "\u202e", "½", "²", "٥", "ß", "İ", "𝟓", "é", "\x00", "*", "**", "`", "#",
    "nan", "inf", "unknown", "Solution", "Thought process:", "everything", "Paris", "null", "because ", "= ", "!", "?",
]  # fmt: skip
RESPONSES = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(RESPONSES)
def test_no_text_crashes_a_rule_or_earns_a_reward_by_accident(response: str) -> None:
    parse_verdict(response)
    for question in PANEL:
        assert rule(question, response).value == 0.0, question.answers
        assert rule(question, "the answer is " + response).value == 0.0, question.answers


@settings(max_examples=300, deadline=None, derandomize=True)
@given(RESPONSES.filter(str.strip), RESPONSES, st.sampled_from(ANSWER_TYPES), st.lists(st.text(max_size=8), max_size=4))
def test_any_gold_and_any_answer_get_a_verdict(gold: str, answer: str, answer_type: str, options: list[str]) -> None:
    verdict = judge_by_rule(answer, ask(gold, answer_type=answer_type, options=tuple(options)))
    assert verdict.readable or not verdict.accepted


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.from_regex(r"[A-Z][a-z]{3,8}( [A-Z][a-z]{3,8}){0,2}", fullmatch=True))
def test_a_name_given_back_in_the_documented_format_is_accepted(name: str) -> None:
    assert rule(ask(name), f"<think>so</think>Therefore, the answer is ({name}).").value == 1.0


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(-(10**9), 10**9))
def test_a_whole_number_equals_itself_and_no_neighbour(value: int) -> None:
    gold = ask(str(value), answer_type="number")
    assert rule(gold, f"the answer is {value:,}.").value == 1.0
    assert rule(gold, f"the answer is {value + 1}").value == 0.0
    assert rule(gold, f"the answer is {-value}").value == float(value == 0)


LONG = [
    "a", " ", "\n", "1", "9,", "1,234,", "(", ")", "{", "}", "\\boxed{", "\\boxed{5}", "the answer is ", "Answer: ", "answer", "the ",
    "the final ", "[[YES]]", "<think>", "</think>", "*", "_", ". A", "A. ", "or ", "not ", "-", "$", "\\frac{1}{", "^9", "e9", ", because ",
    "½", "²", "answers to x", "B ", "#", "\u200b", "İ", "1 ", "1/", "\t#", "{,}", "\\text{", "five ", '"', "<b>", "Mr. ", "=", "~", "the\n",
]  # fmt: skip


@pytest.mark.parametrize("piece", LONG)
def test_twenty_thousand_characters_are_scored_in_fifty_milliseconds(piece: str) -> None:
    text = (piece * 20_000)[:20_000]
    questions = [ask("5", answer_type=kind, options=CITIES) for kind in ANSWER_TYPES]
    for response in (
        text,
        "the answer is " + text,
        "the answer is " + text[:1900],
        text + " the answer is 5",
        "\\boxed{" + text,
    ):
        answer = extract_answer(response).answer or ""
        for do in [
            lambda r=response: extract_answer(r),
            *(lambda q=q, a=answer: judge_by_rule(a, q) for q in questions),
        ]:
            assert best_of_three(do) < 0.05, response[:60]
    for question in questions:
        assert best_of_three(lambda q=question: judge_by_rule(text, q)) < 0.05
    assert best_of_three(lambda: parse_verdict(text)) < 0.05


def best_of_three(do) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        do()
        times.append(time.process_time() - start)
        if times[-1] < 0.02:
            break
    return min(times)
