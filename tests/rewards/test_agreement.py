"""Agreement with the official metrics on real predictions; the bounds are what was measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rewards.cases import ask, rule, says

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "predictions"


def rows(name: str) -> Iterator[dict]:
    path = FOLDER / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"real predictions are not here: no {name}.jsonl in the shared data folder")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield {**row, "answers": [answer for answer in row["answers"] if answer.strip()]}


def share(agreed: list[bool]) -> float:
    return sum(agreed) / len(agreed)


def test_every_human_chain_of_thought_is_read_and_accepted() -> None:
    assert share([rule(ask(*row["answers"]), row["prediction"]).value == 1.0 for row in rows("human_cot")]) == 1.0


def test_text_agrees_with_squad_exact_match() -> None:
    agreed = [says(ask(*row["answers"]), row["prediction"]) == row["exact"] for row in rows("squad_models")]
    assert share(agreed) >= 0.999  # 2,102 of 2,104; the two others say "about 63%" for 63%


def test_text_agrees_with_the_exact_match_of_a_medical_reader() -> None:
    agreed = [says(ask(*row["answers"]), row["prediction"]) == row["exact"] for row in rows("covidqa_reader")]
    assert share(agreed) >= 0.99  # 165 of 166; the other equals a listed answer


def test_numbers_agree_with_tatqa_exact_match_once_the_scale_is_written_out() -> None:
    agreed = []
    for row in rows("tatqa_sample"):
        if row["gold_type"] not in ("arithmetic", "count"):
            continue
        golds = [f"{gold} {written_out(row['gold_scale'])}" for gold in row["answers"]]
        said = says(
            ask(*golds, answer_type="number", question=row["question"]),
            f"{row['prediction']} {written_out(row['pred_scale'])}",
        )
        agreed.append(said == row["reference_score"])
    assert share(agreed) >= 0.998  # 749 of 750; one gold lacks the percent sign that the answer has


def test_text_agrees_with_tatqa_exact_match_where_the_scales_agree() -> None:
    agreed = []
    for row in rows("tatqa_sample"):
        if row["gold_type"] == "span" and row["gold_scale"] == row["pred_scale"]:
            agreed.append(
                says(ask(*row["answers"], question=row["question"]), row["prediction"]) == row["reference_score"]
            )
    assert (
        share(agreed) >= 0.993
    )  # 651 of 655; the four others say "in 2018" or "approximately $64,000" for the same number


def test_text_agrees_with_tatqa_exact_match_where_the_scales_differ_and_are_written_out() -> None:
    agreed = []
    for row in rows("tatqa_sample"):
        if row["gold_type"] == "span" and row["gold_scale"] != row["pred_scale"]:
            golds = [f"{gold} {written_out(row['gold_scale'])}" for gold in row["answers"]]
            said = says(ask(*golds, question=row["question"]), f"{row['prediction']} {written_out(row['pred_scale'])}")
            agreed.append(said == row["reference_score"])
    assert share(agreed) == 1.0  # 46 of 46


def test_what_the_official_scores_accept_the_rule_accepts() -> None:
    refused = [
        row["id"]
        for name in ("squad_models", "covidqa_reader")
        for row in rows(name)
        if row["exact"] == 1.0 and says(ask(*row["answers"]), row["prediction"]) != 1.0
    ]
    assert refused == []


DRESSES = (
    "Therefore, the answer is {}.",
    "Therefore, the answer is ({}).",
    "Answer: **{}**",
    "\\boxed{{{}}}",
    "So the final answer is: {}\n\nThis is stated in the third paragraph of the text.",
)


def test_every_gold_of_real_documents_is_accepted_in_every_dress() -> None:
    types = {"extractive": "text", "free": "text"}
    refused, num_asked = [], 0
    for name in ("docqa_train", "docqa_dev"):
        path = FOLDER.parent / f"{name}.jsonl"
        if not path.exists():
            pytest.skip(f"real problems are not here: no {name}.jsonl in the shared data folder")
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            golds = [gold for gold in row["answer"] if gold.strip()]
            answer_type = types.get(row["answer_type"], row["answer_type"])
            question = ask(*golds, answer_type=answer_type, question=row["question"])
            option = row["meta"].get("option_text")
            dressed = [f"({golds[0]}) {option}", f"{golds[0]}. {option}", option] if option else []
            for gold, dress in itertools.product([*golds, *dressed], DRESSES):
                num_asked += 1
                if rule(question, "<think>x</think>" + dress.format(gold)).value != 1.0:
                    refused.append((row["id"], dress.format(gold)))
    assert num_asked > 5_000 and refused == []


def written_out(scale: str) -> str:
    return "%" if scale == "percent" else scale
