"""Where the answer is found, and where there is none."""

from __future__ import annotations

import pytest

from rewards.extraction import MAX_ANSWER_CHARS, extract_answer


@pytest.mark.parametrize(
    "response",
    [
        "Therefore, the answer is Paris.",
        "The Answer Is Paris",
        "so the answer is: Paris",
        "The correct answer is **Paris**.",
        "the final answer is `Paris`",
        "My answer is “Paris”.",
        "The answer to the question is Paris",
        "Answer: Paris",
        "**Answer:** Paris",
        "Final answer: 'Paris'",
        "### Final Answer\n\nParis",
        "ANSWER = Paris",
        "\\boxed{Paris}",
        "The answer is $\\boxed{\\text{Paris}}$.",
        "The answer is:\n\n**Paris**\n",
        "<answer>Paris</answer>",
        "<answer>\nParis\n</answer>",
        "Final Answer - Paris",
        "Final Answer:\n\n> Paris",
        "The answer is thus Paris.",
        '{"answer": "Paris"}',
        "Paris is the correct answer.",
        "~~London~~ Paris",
        "The answer is <del>London</del> Paris",
        "It is not London, so the answer is Paris",
        "There is no doubt that the answer is Paris",
        "Since he did not say where the answer is Paris",
        "In conclusion\n\nParis",
        "The answer is Paris. No other city is named in the document.",
        "The answer is Paris. If you look at the second page, it says so.",
        "The answer is Paris. Though it names Lyon too, the treaty was signed there.",
        "The answer is Paris. He had to wait for the train that the king was sorry to miss.",
        "The answer is Paris. Lyon is incorrect because the talks had ended by then.",
        "Long thoughts about Lyon.\nParis",
        "<think>the answer is Lyon</think>The answer is Paris",
        "the answer is Lyon. Wait, that is wrong. Therefore, the answer is Paris",
        "Therefore, the answer is Paris. The document says so in its second paragraph.",
        "The answer is Paris.\n\nExplanation: see above",
        "The answer is Paris.\n\nI hope this answer is helpful.",
    ],
)
def test_the_answer_is_read_in_fair_dress(response: str) -> None:
    assert extract_answer(response).answer == "Paris"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("the answer is J. K. Rowling.", "J. K. Rowling"),
        ("So the answer is: The Operation M.D..", "The Operation M.D"),
        ("So the answer is: Hurricane No. 1.", "Hurricane No. 1"),
        ("the answer is St. Louis. The text names the city twice.", "St. Louis"),
        ("the answer is U.S. Steel Corp. The company was founded in 1901.", "U.S. Steel Corp"),
        ("the answer is Vitamin C. The text says so in paragraph two.", "Vitamin C"),
        ("the answer is Dec. 10, 1817. The text gives the day.", "Dec. 10, 1817"),
        ("the answer is -$5.", "-$5"),
        ("the answer is (5)", "(5)"),
        ("the answer is 12.5 million. Revenue rose by 3% in 2019.", "12.5 million"),
        ("\\boxed{\\frac{5}{2}}", "\\frac{5}{2}"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{Answer: 5}", "5"),
        ("\\boxed{3} no, \\boxed{7}", "7"),
        ("\\boxed{3}. Checking again, the answer is 7", "7"),
        ("The answer is \\(\\frac{1}{2}\\).", "\\frac{1}{2}"),
    ],
)
def test_abbreviations_signs_and_braces_survive(response: str, answer: str) -> None:
    assert extract_answer(response).answer == answer


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n ",
        "the answer is",
        "Answer: ...",
        "\\boxed{}",
        "\\boxed{5",
        "<think>the answer is 5",
        "<think>a</think>then again <think>the answer is 5",
        "the answer is 5</think>",
        "<think>x</think>  ",
        ":",
        "!!!",
        "The answer is " + "x" * (MAX_ANSWER_CHARS + 1),
        "x" * 5000,
    ],
)
def test_no_answer_is_made_up(response: str) -> None:
    assert extract_answer(response).answer is None


def test_a_thought_that_the_prompt_opened_must_be_closed() -> None:
    truncated = "First I look at the table. So the answer is 5"
    assert extract_answer(truncated, thinking=True).answer is None
    assert extract_answer(truncated).answer == "5"
    assert extract_answer(truncated + "</think>the answer is 6", thinking=True).answer == "6"


@pytest.mark.parametrize(
    "response",
    [
        "the answer is Paris. London. Rome.",
        "the answer is Paris\nLondon\nRome",
        "the answer is Paris. Or maybe London, who can say this for sure.",
        "the answer is Paris. It could also be London, as the text says.",
        "the answer is Paris. Wait, I have to look at this again.",
        "the answer is Paris or the answer is London",
        "\\boxed{Paris} or \\boxed{London}",
        "\\boxed{London}, \\boxed{Paris}",
        "\\boxed{Paris} or London",
    ],
)
def test_a_second_candidate_stays_in_the_answer(response: str) -> None:
    answer = extract_answer(response).answer
    assert answer is not None
    assert answer not in ("Paris", "London", "Rome")


@pytest.mark.parametrize(
    "response",
    [
        "It is not true that the answer is Paris",
        "I refuse to say that the answer is Paris",
        "It is false that\nthe answer is Paris",
        "Wrong answer: Paris",
        "The opposite of the answer is Paris",
        "Another possible answer: Paris",
        "It was none of these:\nParis",
        "Definitely not \\boxed{Paris}",
        "$x \\neq \\boxed{Paris}$",
        "\\boxed{Paris} is wrong.",
        "\\boxed{Paris}, sorry, I meant London.",
        "\\boxed{Paris} (or London)",
        "\\boxed{London} as well as \\boxed{Paris}",
        "The answer is Paris. Failing that, London would do.",
        "The answer is Paris. I made that up, please ignore it.",
        "the answer is :\n- Paris\n- London",
        "The answer is Paris\n2. London\n3. Rome",
        "London\nRome\nParis",
        "If one trusts A the answer is London, and if one trusts B the answer is Paris",
    ],
)
def test_a_denial_before_or_a_retraction_after_stays_in_the_answer(response: str) -> None:
    assert extract_answer(response).answer != "Paris"


@pytest.mark.parametrize(
    "response", ["the answer is ~~Paris~~", "the answer is <!-- Paris -->", "the answer is \u202esiraP\u202c"]
)
def test_what_is_struck_out_hidden_or_shown_backwards_is_no_answer(response: str) -> None:
    assert extract_answer(response).answer is None
