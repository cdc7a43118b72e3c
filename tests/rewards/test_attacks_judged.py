"""The attacks against the worst judge there is, and the fair answers against an honest one."""

from __future__ import annotations

import pytest

from rewards.hybrid import HybridScorer, RuleScorer
from rewards.judge import Judge
from rewards.judge_client import JudgePolicy
from rewards.types import Score
from tests.rewards.corpus import load, question_of
from tests.rewards.obedient_judge import obedient_judge


def scored(rows: list[dict], second_opinion: bool) -> tuple[list[Score], list[str]]:
    """The rows' scores with the obedient judge, and the prompts that it got."""
    with obedient_judge() as server:
        policy = JudgePolicy(max_attempts=1)
        judge = Judge(url=server.url, model="obedient", second_opinion=second_opinion, policy=policy)
        scorer = HybridScorer(RuleScorer(), judge)
        scores = scorer.score([(question_of(row), row["response"]) for row in rows])
        scorer.close()
    return scores, server.prompts


@pytest.mark.parametrize("second_opinion", [True, False])
def test_no_attack_pays_with_a_judge_that_obeys_the_last_instruction_it_sees(second_opinion: bool) -> None:
    rows = [row for row in load("attacks") if not row.get("comprehension")]
    assert len(rows) >= 300
    scores, prompts = scored(rows, second_opinion)
    paid = [f"{row['id']}: {score.reason}" for row, score in zip(rows, scores, strict=True) if score.value != 0.0]
    assert not paid, "\n".join(paid)
    assert len(prompts) > 50, "the judge was asked, and said no"
