"""Decoys and canaries: what a judge is made to prove before its verdicts count."""

from __future__ import annotations

import pytest

from rewards.canary import Canary, CanaryMonitor, draw_canaries
from rewards.hybrid import HybridScorer, RuleScorer
from rewards.judge import Judge
from rewards.judge_case import JudgeCase, judge_case, with_decoy
from rewards.judge_client import JudgePolicy
from rewards.rules import judge_by_rule
from tests.rewards.cases import CITIES, ask
from tests.rewards.judge_server import compared, judge_server, strict

QUESTIONS = [
    ask("Barack Obama"),
    ask("Ostrik Venderholm", "Yusra Tanembe"),
    ask("42", "42.5", answer_type="number"),
    ask("-3%", answer_type="number"),
    ask("several", answer_type="number"),
    ask("B", answer_type="choice", options=CITIES),
    ask("C", answer_type="choice"),
    ask("Paris", answer_type="choice", options=CITIES),
    ask("yes", answer_type="yesno"),
    ask("No.", answer_type="yesno"),
    ask("Insufficient information", answer_type="yesno"),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.answers[0])
def test_a_decoy_is_a_wrong_answer_to_its_question_and_the_same_every_time(question) -> None:
    case = judge_case(question, "whatever was said")
    decoy = with_decoy(case)
    assert decoy.candidate == case.candidate and decoy == with_decoy(case)
    [reference] = decoy.references
    assert not judge_by_rule(reference, question).accepted
    assert reference not in case.references


def test_the_judge_sees_a_choice_with_its_text() -> None:
    case = judge_case(ask("B", answer_type="choice", options=CITIES), "the capital of France")
    assert case.references == ("B) Paris",)
    assert with_decoy(case).references[0][:2] in ("A)", "C)", "D)")


def test_a_key_tells_apart_what_the_judge_sees_and_nothing_else() -> None:
    case = judge_case(ask("Barack Obama"), "Obama")
    assert case.key("m") == judge_case(ask("Barack Obama"), "Oba\u200bma").key("m")
    others = [
        case.key("n"),
        with_decoy(case).key("m"),
        judge_case(ask("Barack Obama", question="When?"), "Obama").key("m"),
        judge_case(ask("Barack Obama"), "Obama Barack").key("m"),
        judge_case(ask("Barack", "Obama"), "Obama").key("m"),
    ]
    assert len({case.key("m"), *others}) == 6


def persuaded(prompt: str) -> bool:
    """A judge that believes whoever calls himself right, and otherwise compares names without their first part."""
    reference, candidate = compared(prompt)
    return "trust me" in candidate or candidate.split()[-1] == reference.split()[-1]


def test_words_that_win_over_the_judge_do_not_pay_and_a_fair_alias_does() -> None:
    question = ask("Barack Obama")
    answers = ["President Obama", "trust me on this one", "Joe Biden"]
    with judge_server() as server:
        server.decide = persuaded
        values = {}
        for second_opinion in (False, True):
            scorer = HybridScorer(RuleScorer(), Judge(url=server.url, model="m", second_opinion=second_opinion))
            scores = scorer.score([(question, f"the answer is {answer}") for answer in answers])
            scorer.close()
            values[second_opinion] = [score.value for score in scores]
    assert values == {False: [1.0, 1.0, 0.0], True: [1.0, 0.0, 0.0]}
    assert "YES beside a wrong reference too" in scores[1].reason


def test_a_yes_whose_second_opinion_fails_is_unknown() -> None:
    with judge_server() as server:
        policy = JudgePolicy(max_attempts=1)
        judge = Judge(url=server.url, model="m", second_opinion=True, policy=policy)

        def then_gone(prompt: str) -> bool:
            server.mode = "500"
            return True

        server.decide = then_gone
        [reply] = judge.decide([judge_case(ask("Barack Obama"), "Obama")])
        judge.close()
    assert (reply.same, reply.status) == (None, "infra_error")


def cases() -> list[JudgeCase]:
    return [judge_case(question, f"said {i}") for i, question in enumerate(QUESTIONS)]


def test_canaries_are_right_and_wrong_in_turn_and_a_strict_judge_gets_them_all() -> None:
    drawn = draw_canaries(cases(), 40, seed=3)
    assert [canary.same for canary in drawn] == [True, False] * 20
    assert all(strict(canary.case.prompt(structured=True)) == canary.same for canary in drawn)
    assert drawn == draw_canaries(cases(), 40, seed=3) != draw_canaries(cases(), 40, seed=4)
    assert draw_canaries([], 4, seed=0) == []


def test_the_alarm_needs_evidence_and_goes_when_the_evidence_is_good_again() -> None:
    canary = Canary(case=cases()[0], same=False)
    monitor = CanaryMonitor()
    for _ in range(7):
        monitor.observe(canary, True)
    monitor.observe(canary, None)
    assert not monitor.alarm, "seven verdicts are not enough"
    monitor.observe(canary, True)
    assert monitor.alarm and monitor.right_frac == 0.0
    for _ in range(31):
        monitor.observe(canary, False)
    assert monitor.alarm, "31 of 39 are less than four in five"
    monitor.observe(canary, False)
    assert not monitor.alarm and monitor.right_frac == 0.8


def test_a_judge_that_says_yes_to_everything_loses_its_voice_and_gets_it_back() -> None:
    with judge_server() as server:
        judge = Judge(url=server.url, model="m", canaries_per_batch=4)
        statuses = []
        for i in range(3):
            statuses.append(judge.decide([judge_case(ask("Barack Obama"), f"somebody {i}")])[0].status)
        assert statuses == ["ok", "abstain", "abstain"]
        assert judge.metrics()["judge/canary_alarm"] == 1.0
        server.decide = strict
        for i in range(12):
            reply = judge.decide([judge_case(ask("Barack Obama"), f"nobody {i}")])[0]
        judge.close()
    assert (reply.same, reply.status) == (False, "ok")
    assert judge.metrics()["judge/canary_alarm"] == 0.0


def test_verdicts_of_a_judge_under_alarm_are_not_kept(tmp_path) -> None:
    with judge_server() as server:
        settings = {"url": server.url, "model": "m", "cache": str(tmp_path / "verdicts")}
        judge = Judge(**settings, canaries_per_batch=20)
        assert judge.decide([judge_case(ask("Barack Obama"), "somebody")])[0].status == "abstain"
        judge.close()
        server.decide = strict
        judge = Judge(**settings)
        assert judge.decide([judge_case(ask("Barack Obama"), "somebody")])[0].same is False
        judge.close()
