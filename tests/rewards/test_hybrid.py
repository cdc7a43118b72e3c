"""r = max(rule, judge), and what stays unknown."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

import rewards.hybrid
from rewards.hybrid import HybridScorer, RuleScorer
from rewards.judge import Judge
from rewards.judge_client import JudgePolicy
from rewards.pool import SymbolicPool, SymbolicReply, SymbolicStatus
from rewards.service import ScorerConfig, build_scorer
from tests.rewards.cases import ask
from tests.rewards.judge_server import JudgeServer, judge_server

OBAMA = ask("Barack Obama")
RIGHT = "the answer is Barack Obama"
OTHER = "the answer is the 44th president"
NONE = "<think>still thinking"
FAST = JudgePolicy(connect_s=0.5, read_s=0.5, total_s=2.0, max_attempts=1)


def score_all(server: JudgeServer, responses: list[str]) -> list[tuple[float | None, str, str]]:
    scorer = HybridScorer(RuleScorer(), Judge(url=server.url, model="judge", policy=FAST))
    try:
        return [(s.value, s.status, s.source) for s in scorer.score([(OBAMA, text) for text in responses])]
    finally:
        scorer.close()


def test_without_a_judge_the_rule_decides_alone() -> None:
    scores = RuleScorer().score([(OBAMA, RIGHT), (OBAMA, OTHER), (OBAMA, NONE)])
    assert [(s.value, s.status, s.source) for s in scores] == [
        (1.0, "ok", "rule"),
        (0.0, "ok", "rule"),
        (0.0, "ok", "rule"),
    ]
    assert [s.answer for s in scores] == ["Barack Obama", "the 44th president", None]


@pytest.mark.parametrize(("content", "value"), [('{"verdict": "YES"}', 1.0), ('{"verdict": "NO"}', 0.0)])
def test_the_judge_is_asked_only_where_the_rule_did_not_accept_an_answer(content: str, value: float) -> None:
    with judge_server(content=content) as server:
        scores = score_all(server, [RIGHT, OTHER, NONE])
    assert scores == [(1.0, "ok", "rule"), (value, "ok", "judge"), (0.0, "ok", "rule")]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("mode", "status"), [("500", "infra_error"), ("429", "infra_error"), ("html", "parse_error"), ("hang", "timeout")]
)
def test_when_the_judge_fails_a_rule_one_stands_and_a_rule_zero_is_unknown(mode: str, status: str) -> None:
    with judge_server(mode) as server:
        scores = score_all(server, [RIGHT, OTHER, NONE])
    assert scores == [(1.0, "ok", "rule"), (None, status, "judge"), (0.0, "ok", "rule")]


def test_one_answer_given_many_times_is_judged_once() -> None:
    with judge_server() as server:
        scores = score_all(server, [OTHER] * 8)
    assert scores == [(1.0, "ok", "judge")] * 8
    assert len(server.requests) == 1


def test_a_thought_left_open_has_no_answer_where_the_prompt_opened_it() -> None:
    config = ScorerConfig(require_closed_think=True)
    scores = build_scorer(config).score([(OBAMA, RIGHT), (OBAMA, "hm</think>" + RIGHT)])
    assert [(s.value, s.answer) for s in scores] == [(0.0, None), (1.0, "Barack Obama")]


@pytest.mark.parametrize(
    "config",
    [
        ScorerConfig(judge_model="m"),
        ScorerConfig(judge_url="http://h/v1"),
        ScorerConfig(judge_url="h", judge_model="m"),
    ],
)
def test_half_a_judge_is_refused(config: ScorerConfig) -> None:
    with pytest.raises(ValueError, match="judge"):
        build_scorer(config)


HALF = ask("\\frac{\\sqrt{2}}{2}", answer_type="number")


def test_an_equal_formula_is_accepted_and_a_different_one_is_not() -> None:
    scorer = build_scorer(ScorerConfig())
    responses = ["\\boxed{\\frac{1}{\\sqrt{2}}}", "\\boxed{\\frac{\\sqrt{2}}{3}}", "the answer is 1/sqrt(2)"]
    scores = scorer.score([(HALF, response) for response in responses])
    scorer.close()
    assert [score.value for score in scores] == [1.0, 0.0, 1.0]
    assert "symbolic: the same formula" in scores[0].reason


class Answering(SymbolicPool):
    """A pool that gives one status to everything."""

    def __init__(self, status: SymbolicStatus) -> None:
        super().__init__()
        self.status = status

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[SymbolicReply]:
        return [SymbolicReply(status=self.status, detail="as asked") for _ in pairs]


@pytest.mark.parametrize(
    ("reply", "value", "status"),
    [
        ("equal", 1.0, "ok"),
        ("different", 0.0, "ok"),
        ("unreadable", 0.0, "ok"),
        ("too_heavy", 0.0, "ok"),
        ("timeout", None, "timeout"),
        ("failed", None, "infra_error"),
    ],
)
def test_a_verifier_without_a_verdict_leaves_the_score_unknown_and_a_heavy_answer_is_wrong(
    reply: SymbolicStatus, value: float | None, status: str
) -> None:
    scorer = RuleScorer(symbolic=Answering(reply))
    [score, plain] = scorer.score([(HALF, "\\boxed{\\frac{1}{\\sqrt{2}}}"), (OBAMA, OTHER)])
    assert (score.value, score.status) == (value, status)
    assert (plain.value, plain.status) == (0.0, "ok")


def test_formulas_that_take_too_long_together_stall_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Answering):
        num_asked = 0

        def compare(self, pairs: Sequence[tuple[str, str]]) -> list[SymbolicReply]:
            self.num_asked += len(pairs)
            time.sleep(0.06)
            return super().compare(pairs)

    monkeypatch.setattr(rewards.hybrid, "FORMULAS_S", 0.1)
    pool = Slow("different")
    responses = [f"\\boxed{{\\frac{{{i}}}{{\\sqrt{{2}}}}}}" for i in range(3, 99)]
    scores = RuleScorer(symbolic=pool).score([(HALF, response) for response in responses + responses])
    assert pool.num_asked == 32, "two calls of sixteen, and nothing twice"
    assert [score.status for score in scores] == (["ok"] * 32 + ["timeout"] * 64) * 2


def test_where_the_verifier_had_no_time_the_judge_decides() -> None:
    with judge_server() as server:
        scorer = HybridScorer(RuleScorer(symbolic=Answering("timeout")), Judge(url=server.url, model="judge"))
        [score] = scorer.score([(HALF, "\\boxed{\\frac{1}{\\sqrt{2}}}")])
        scorer.close()
    assert (score.value, score.status, score.source) == (1.0, "ok", "judge")
