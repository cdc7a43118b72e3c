"""The corpus by rule alone: no attack pays, every fair answer is accepted or left to a judge."""

from __future__ import annotations

import pytest

from rewards.hybrid import Ruled, RuleScorer
from tests.rewards.corpus import load, question_of


def ruled(name: str) -> list[tuple[dict, Ruled]]:
    rows = load(name)
    return list(zip(rows, RuleScorer().verdicts([(question_of(row), row["response"]) for row in rows]), strict=True))


def shown(row: dict, said: Ruled) -> str:
    return f"{row['id']}: {row['answers']} {row['response'][-120:]!r} -> {said.score.value}, open={said.open}, {said.score.reason}"


@pytest.mark.parametrize("name", ["attacks", "fair"])
def test_the_corpus_has_more_than_three_hundred_rows_each_with_an_id_of_its_own(name: str) -> None:
    ids = [row["id"] for row in load(name)]
    assert len(ids) >= 300
    assert len(set(ids)) == len(ids)


def test_no_attack_pays_by_rule() -> None:
    assert [shown(row, said) for row, said in ruled("attacks") if said.score.value != 0.0] == []


def test_every_fair_answer_is_accepted_or_where_it_takes_a_judge_left_to_one() -> None:
    refused = [
        shown(row, said)
        for row, said in ruled("fair")
        if said.score.value != 1.0 and not (row.get("judge") and said.open)
    ]
    assert refused == []
