"""Each rule against the published rewards' mistakes, and against right answers in fair dress."""

from __future__ import annotations

import pytest

from rewards.hybrid import RuleScorer
from rewards.rules.choice import options_of, read_choice
from rewards.rules.numeral import read_number
from rewards.rules.text import normalise
from rewards.rules.yesno import read_yesno
from rewards.service import ScorerConfig, build_scorer
from tests.rewards.cases import CITIES, ask, rule, says

OBAMA = ask("Barack Obama")


@pytest.mark.parametrize(
    "answer",
    ["the", "a", "the.", "()", '""', "!!!", "?", "-", "o", "Bar", "Obama", "unknown", "not Barack Obama",
     "Donald Trump, Joe Biden, Barack Obama, or George Bush", "Barack Obama or Joe Biden", "Barack Obama / Joe Biden",
     "Barack Obama and Joe Biden", "Barack Obama. Joe Biden", "either Barack Obama or nobody", "Barack Obama's wife"],
)  # fmt: skip
def test_containment_negation_and_lists_are_no_text_match(answer: str) -> None:
    assert says(OBAMA, answer) == 0.0


@pytest.mark.parametrize(("gold", "answer"), [("no", "unknown"), ("No", "not enough information"), ("1", "2019")])
def test_a_gold_inside_a_longer_answer_is_no_match(gold: str, answer: str) -> None:
    assert says(ask(gold), answer) == 0.0


@pytest.mark.parametrize(
    "response",
    ["The Answer Is Barack Obama", "\\boxed{Barack Obama}", "Answer: Barack Obama", "the answer is barack obama.",
     "the answer is **Barack Obama**", "the answer is 'Barack Obama'.", "The answer is Barack\u00a0Obama",
     "the answer is Ｂａｒａｃｋ Obama", "the answer is Barack Obama, because the text names him."],
)  # fmt: skip
def test_a_right_text_answer_is_accepted_in_any_usual_dress(response: str) -> None:
    assert rule(OBAMA, response).value == 1.0


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("The Border Surrender", "border surrender", True),
        ("U.S. Army", "US Army", True),
        ("20–18", "20-18", True),
        ("2018", "20-18", False),
        ("Vitamin A", "Vitamin", False),
        ("C++", "C", False),
        ("C#", "C", False),
        ("O-", "O+", False),
        ("AT&T", "AT and T", True),
        ("49%", "49 percent", True),
        ("1,758", "$1,758", True),
        ("$5", "€5", False),
        ("15 years", "15 months", False),
        ("(168)", "168", False),
        ("(168)", "(168)", True),
        ("-5", "5", False),
        ("yes", "Yes, they are both American", True),
        ("no", "no one", False),
        ("J. R. R. Tolkien", "J.R.R. Tolkien", True),
        ("Queen's Gambit", "Queen\u02bcs Gambit", True),
        ("The The", "the", False),
        ("The The", "the The", True),
        ("10\u2076 cells", "106 cells", False),
        ("1/2", "1-2", False),
        ("Paris", "Paris (see page 3)", True),
        ("Paris", "Paris according to one source, London according to another", False),
    ],
)
def test_text_keeps_what_carries_meaning(gold: str, answer: str, same: bool) -> None:
    assert says(ask(gold), answer) == float(same)


def test_what_normalises_to_nothing_matches_nothing() -> None:
    assert normalise("()") == normalise('""') == normalise("") == ""
    assert says(ask("()"), "[]x") == 0.0


def test_a_gold_of_several_sentences_can_be_given_back() -> None:
    gold = ask("He was sad about it. He then left the town for good.")
    assert says(gold, "He was sad about it. He then left the town for good.") == 1.0
    assert says(gold, "He was sad about it.") == 0.0
    assert says(ask("He was sad about it"), "He was sad about it. He then left the town for good.") == 1.0


def test_any_of_several_golds_is_enough() -> None:
    assert says(ask("NYC", "New York City"), "new york city") == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "-5"), ("-5", "5"), ("5", "500"), ("5", "50"), ("5", "5000"), ("5", "0.05"), ("5", "0.005"), ("2", "2000"),
        ("5.2", "52000"), ("3", "30"), ("120", "12"), ("0.0009", "0.0001"), ("0", "1.2.3"), ("0", "007"), ("0", "nothing"),
        ("1", "True"), ("1000", "1001"), ("2019", "2018"), ("2019", "2018.0"), ("12", "1,2"), ("1", "1e6"), ("5", "5/2"),
        ("2", "2^10"), ("5", "5 or 7"), ("5", "5, 7"), ("5", "between 5 and 7"), ("5", "less than 5"), ("5", "not 5"),
        ("5", "5% decrease"), ("5", "nan"), ("5", "inf"), ("5", "infinity"), ("5", "1e999"), ("5", "٥"), ("5", "5_0"),
        ("1990", "1990s"), ("100", "one hundred twenty"), ("$5", "€5"), ("5 km", "5 miles"), ("5", "5 thousandths"), ("$5", "5 cents"),
        ("5", "__import__('os').getpid()"), ("5", "9**9**9**9"), ("5", "(lambda: 5)()"), ("621", "$621 million"),
    ],
)  # fmt: skip
def test_a_wrong_number_is_not_accepted(gold: str, answer: str) -> None:
    assert says(ask(gold, answer_type="number"), answer) == 0.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("-5", "-$5"), ("-5", "$(5)"), ("-5", "minus five"), ("-5", "−5"), ("5", "(5)"), ("5", ": 5"), ("5", "approximately 5"),
        ("5", "$5"), ("5", "USD 5"), ("5", "\\boxed{5}"), ("5", "five"), ("5", "5."), ("5", "5.0"), ("5", "5 apples"), ("5", "x = 5"),
        ("1000000", "1e6"), ("1000000", "1,000,000"), ("1000000", "1 million"), ("1000000", "10^6"), ("1000000", "10⁶"),
        ("2.5", "5/2"), ("2.5", "2 1/2"), ("2.5", "2½"), ("2.5", "\\frac{5}{2}"), ("1024", "2^10"), ("30000", "3 x 10^4"),
        ("30000", "3 \\times 10^{4}"), ("$621 million", "621,000,000"), ("621 million", "$621m"), ("(9,982)", "-9,982"),
        ("15.57", "15.5667"), ("96.33", "96.3333"), ("15.5667", "15.57"), ("49%", "49 percent"), ("49%", "49"), ("49", "49%"),
        ("0.05", "5%"), ("12.5", "12.5, because revenue was 25"), ("1,989 mi", "1989"), ("0", "0"), ("0", "0.00"),
    ],
)  # fmt: skip
def test_a_right_number_is_accepted_in_any_usual_dress(gold: str, answer: str) -> None:
    assert says(ask(gold, answer_type="number"), answer) == 1.0


@pytest.mark.parametrize(
    ("words", "value"),
    [("zero", 0), ("seventeen", 17), ("forty-two", 42), ("one hundred", 100), ("a hundred and five", 105), ("two hundred and five", 205),
     ("nineteen hundred", 1900), ("one thousand, two hundred and thirty-four", 1234), ("three million", 3_000_000), ("a million", 1_000_000),
     ("one million two hundred thousand", 1_200_000), ("five hundred thousand", 500_000), ("two million three hundred", 2_000_300),
     ("twelve thousand and one", 12_001), ("one hundred million", 100_000_000), ("seven (7)", 7), ("7 (seven)", 7)],
)  # fmt: skip
def test_number_words_are_read(words: str, value: int) -> None:
    read = read_number(words)
    assert read is not None
    assert read.value == value


@pytest.mark.parametrize(
    "words",
    [
        "twenty twenty",
        "five six",
        "hundred",
        "a",
        "and five",
        "five and six",
        "twenty eleven",
        "seven (8)",
        "a dog",
        "one two",
    ],
)
def test_words_that_are_not_one_number_are_not_read(words: str) -> None:
    assert read_number(words) is None


@pytest.mark.parametrize(
    ("question", "gold", "answer", "value"),
    [("How long is it, in kilometres?", "5", "5 km", 1.0), ("How long is it, in kilometres?", "5", "5 miles", 0.0), ("How long is it?", "5 km", "5 kilometres", 1.0),
     ("What did it cost, in dollars?", "5", "\u20ac5", 0.0), ("What did it cost, in dollars?", "5", "$5", 1.0), ("How many years?", "15", "15 months", 0.0),
     ("How many bells?", "5", "5 bells", 1.0), ("How many bells?", "5", "5 deficit", 0.0), ("How many bells?", "5", "5 crores", 0.0),
     ("When?", "1987", "in the year 1987", 1.0), ("When?", "1987", "1987 BC", 0.0), ("How many?", "1250", "1'250", 1.0), ("What?", "(350)", "($350)", 1.0),
     ("What?", "350", "(350) loss", 0.0), ("What?", "15.5%", "(231 - 200) / 200 = 15.5%", 1.0), ("What?", "5", "7 or x = 5", 0.0), ("What?", "5", "x != 5", 0.0),
     ("What?", "5", "x <= 5", 0.0), ("What?", "-3", "|-3|", 0.0), ("What?", "5", "5+", 0.0), ("How often?", "4", "4 times", 1.0), ("What?", "4", "4 times 3", 0.0)],
)  # fmt: skip
def test_units_words_and_signs_beside_a_number_count(question: str, gold: str, answer: str, value: float) -> None:
    assert says(ask(gold, answer_type="number", question=question), answer) == value


def test_the_last_number_given_counts() -> None:
    response = "the answer is 3. Wait, recheck. Therefore, the answer is 7"
    assert rule(ask("7", answer_type="number"), response).value == 1.0
    assert rule(ask("3", answer_type="number"), response).value == 0.0


def test_the_question_settles_scale_and_percent_where_one_side_has_none() -> None:
    in_millions = ask("621", answer_type="number", question="What was revenue (in millions)?")
    assert [says(in_millions, a) for a in ("621", "$621 million", "621,000,000", "621 thousand")] == [
        1.0,
        1.0,
        1.0,
        0.0,
    ]
    as_percent = ask("0.5%", answer_type="number", question="As a percentage, how much?")
    assert [says(as_percent, a) for a in ("0.5", "0.5%", "0.005", "50%")] == [1.0, 1.0, 0.0, 0.0]
    ratio = ask("0.05", answer_type="number", question="What is the ratio?")
    assert [says(ratio, a) for a in ("0.05", "5%", "0.05%", "5")] == [1.0, 1.0, 0.0, 0.0]


def test_an_unreadable_number_is_no_number_rather_than_zero() -> None:
    for text in ("", "abc", "1.2.3", "--5", "1/0", "0^0", "9^9^9", "1e301", "5 5 5 5", "1" * 200, "five or six"):
        assert read_number(text) is None, text


def test_a_number_gold_that_is_no_number_is_compared_as_text() -> None:
    gold = ask("Transportation Workers of America", answer_type="number")
    assert says(gold, "transportation workers of America") == 1.0
    assert says(gold, "5") == 0.0


@pytest.mark.parametrize(
    "answer",
    ["(B)", "B", "b", "B.", "B)", "**B**", "(b)", "[B]", "option B", "Option (B)", "choice B", "answer B", "B) Paris",
     "B. Paris", "(B) Paris", "B: Paris", "B - Paris", "Paris", "paris.", "it is B", "B is correct", "\\boxed{B}",
     "<B>", "\uff08\uff22\uff09", "\u24b7", "B (Paris)", "Paris (B)", "Paris, option B", "definitely B", "\\text{B}", "B, because the text names Paris", "B. Because the document says so in paragraph 2"],
)  # fmt: skip
def test_a_letter_is_read_in_any_usual_dress(answer: str) -> None:
    assert says(ask("B", answer_type="choice", options=CITIES), answer) == 1.0


@pytest.mark.parametrize("answer", ["C", "(C) The author does not say", "the author does not say"])
def test_an_option_that_holds_a_negation_can_be_chosen(answer: str) -> None:
    assert says(ask("C", answer_type="choice", options=CITIES), answer) == 1.0


@pytest.mark.parametrize(
    "answer",
    ["A or B", "A and B", "A, B", "A/B", "AB", "b, a", "not B", "Definitely not B", "B is wrong", "B. London", "B or not",
     "both B and C", "all of them", "B C", "(A) (B)", "B, A", "anything but B", "The letter", "Both", "Because", "none",
     "\u2260 B", "!B", "B-52", "B: no", "B) ruled out", "B, though London fits", "B, A too", "B according to X, C according to Y",
     "A dog is B", "B, or possibly (C)", "B. And also C", "A; B", "A. B. C. D", "B\nC"],
)  # fmt: skip
def test_several_or_negated_letters_are_no_answer(answer: str) -> None:
    assert read_choice(answer, CITIES) is None
    for gold in "ABCD":
        assert says(ask(gold, answer_type="choice", options=CITIES), answer) == 0.0


@pytest.mark.parametrize(
    ("gold", "response", "value"),
    [
        ("A", "The correct answer is A... no, wait. The correct answer is B", 0.0),
        ("B", "The correct answer is A... no, wait. The correct answer is B", 1.0),
        ("D", "Definitely not A", 0.0),
        ("A", "Answer B", 0.0),
        ("C", "Definitely C", 1.0),
        ("B", "Therefore, the answer is (B)", 1.0),
        ("B", "the correct answer is (B)", 1.0),
        ("B", "The correct option is (B).", 1.0),
        ("B", "(A) is tempting but the answer is (B)", 1.0),
    ],
)
def test_the_letter_asserted_last_counts_not_the_first_one_mentioned(gold: str, response: str, value: float) -> None:
    assert rule(ask(gold, answer_type="choice"), response).value == value


def test_letters_beyond_the_options_are_no_answer() -> None:
    assert read_choice("E", CITIES) is None
    assert read_choice("E") == "E"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", True), ("yes.", True), ("**Yes**", True), ("True", True), ("Yes, both are American", True), ("No", False),
        ("no, they are not", False), ("False", False), ("No because they differ", False), ("yes and no", None),
        ("yes or no", None), ("Yes, no", None), ("No. Yes", None), ("not yes", None), ("unknown", None), ("no one", None),
        ("Yes, it depends", None), ("Yes, nope", None), ("No, yep", None), ("Yes, 50/50", None), ("No, that is incorrect", False),
        ("\uff39\uff45\uff53", True), ("Northern Ireland", None), ("yes, but only partly", None), ("Yes, they are not", None), ("maybe", None), ("", None),
    ],
)  # fmt: skip
def test_yes_and_no_are_read_only_where_said_plainly(text: str, said: bool | None) -> None:
    assert read_yesno(text) is said


def test_a_yesno_gold_that_is_neither_is_compared_word_for_word() -> None:
    gold = ask("Insufficient information", answer_type="yesno")
    assert says(gold, "insufficient information.") == 1.0
    assert says(gold, "no") == 0.0
    assert says(ask("yes", answer_type="yesno"), "true") == 1.0


@pytest.mark.parametrize(
    ("gold", "answer", "value"),
    [
        ("12381521", "12.38 million", 1.0),
        ("12381521", "12.3 million", 0.0),
        ("12381521", "12381522", 0.0),
        ("1250", "1.2 thousand", 0.0),
        ("2.5", "2\\frac{1}{2}", 1.0),
        ("10.5", "2\\frac{1}{2}", 0.0),
    ],
)
def test_a_rounded_number_is_right_within_a_thousandth_and_a_mixed_one_is_a_sum(
    gold: str, answer: str, value: float
) -> None:
    assert says(ask(gold, answer_type="number"), answer) == value


@pytest.mark.parametrize("answer", ["B. Discarded", "B, alongside the first", "B. Traven", "B, A likewise"])
def test_a_remark_after_a_letter_is_no_choice(answer: str) -> None:
    assert read_choice(answer, CITIES) is None


def test_the_words_of_an_option_may_stand_after_its_letter() -> None:
    assert read_choice("C) The author does not say", CITIES) == "C"
    assert read_choice("B) France", ("the King of Spain", "the King of France")) == "B"
    assert read_choice("B, which the second paragraph names as the place", CITIES) == "B"


def test_containment_is_an_option_and_guarded() -> None:
    gold = ask("Utrecht")
    answers = ["the city of Utrecht", "Utrecht University", "not in Utrecht", "Utrecht or Ghent", "x " * 40 + "Utrecht"]
    asked = [(gold, f"the answer is {answer}") for answer in answers]
    assert [score.value for score in RuleScorer().score(asked)] == [0.0] * 5
    assert [score.value for score in build_scorer(ScorerConfig(contain=True)).score(asked)] == [1.0, 0.0, 0.0, 0.0, 0.0]


LISTED = "Why was it rejected?\n(A) It was late\n(B) Neither the board nor the city\nagreed to both parts\n(C) It was too dear"


@pytest.mark.parametrize(
    "answer",
    [
        "(B) Neither the board nor the city agreed to both parts",
        "Neither the board nor the city agreed to both parts",
        "B",
    ],
)
def test_options_that_the_question_lists_are_known(answer: str) -> None:
    gold = ask("B", answer_type="choice", question=LISTED)
    assert options_of(gold)[1:] == ("Neither the board nor the city\nagreed to both parts", "It was too dear")
    assert says(gold, answer) == 1.0
    assert says(ask("A", answer_type="choice", question=LISTED), answer) == 0.0


@pytest.mark.parametrize("question", ["Which?", "Was it (A) alone", "(B) first\n(C) second", "Plan A. or plan B. then"])
def test_no_options_are_made_up(question: str) -> None:
    assert options_of(ask("B", answer_type="choice", question=question)) == ()


def test_where_no_option_is_known_text_behind_a_letter_is_left_to_a_judge() -> None:
    gold = ask("B", answer_type="choice")
    answers = ["(B) He did not agree with the plan", "(B) He did not agree, unlike (C)", "not B"]
    ruled = RuleScorer().verdicts([(gold, f"the answer is {answer}") for answer in answers])
    assert [(one.score.value, one.open) for one in ruled] == [(0.0, True), (0.0, False), (0.0, False)]


def test_a_number_in_parentheses_that_accounting_would_read_as_the_gold_is_left_to_a_judge() -> None:
    [parentheses, plain] = RuleScorer().verdicts(
        [(ask("-350", answer_type="number"), f"the answer is {answer}") for answer in ("(350)", "350")]
    )
    assert (parentheses.score.value, parentheses.open) == (0.0, True)
    assert (plain.score.value, plain.open) == (0.0, False)
