"""What each filter leaves out, what it keeps, and what the command line asks for."""

import argparse
import json

import pytest

from data.filters import (
    AnswerableFilter,
    DuplicateFilter,
    UnreadableGoldFilter,
    _Positions,
    add_filter_arguments,
    filters_from,
)
from data.problem import DataError, SourceProblem
from tests.data.test_readers_jsonl import OURS, write


def problem(problem_id, *, context="c", question="?", answers=("x",), answer_type="text"):
    return SourceProblem(
        problem_id=problem_id, task="t", context=context, question=question, answers=answers, answer_type=answer_type
    )


def result_file(path, *items, without_document=True):
    rows = [dict(zip(("problem_id", "value", "status"), item, strict=True)) for item in items]
    path.write_text(json.dumps({"config": {"without_document": without_document}, "items": rows}), encoding="utf-8")
    return path


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_filter_arguments(parser)
    return filters_from(parser.parse_args(words))


def test_of_duplicates_the_first_stays_and_is_named():
    duplicates = DuplicateFilter()
    asked = [
        problem("ä1", context="a  doc\n", question=" Which one?"),
        problem("p2", context="a doc", question="Which two?"),
        problem("p3", context="a doc", question="Which\tone?"),
        problem("p4", context="a doc", question="Which two?"),
        problem("p5", context="another doc", question="Which one?"),
        problem("p6", context="a doc Which", question="one?"),
        problem("p7", context="a doc", question="Which one?"),
    ]
    same = "same document and question as "
    assert [duplicates.reason(p) for p in asked] == [
        None, None, f"{same}'ä1'", f"{same}'p2'", None, None, f"{same}'ä1'"
    ]  # fmt: skip


def test_duplicates_are_found_across_many_thousands(monkeypatch):
    monkeypatch.setattr("data.filters._MAX_RECENT", 100)
    duplicates = DuplicateFilter()
    assert [duplicates.first_id(problem(f"p{n}", context=f"c{n}")) for n in range(3000)] == [None] * 3000
    again = [duplicates.first_id(problem("q", context=f"c{n}")) for n in range(0, 3000, 7)]
    assert again == [f"p{n}" for n in range(0, 3000, 7)]


def test_positions_of_extreme_hashes_are_kept(monkeypatch):
    monkeypatch.setattr("data.filters._MAX_RECENT", 2)
    keys = [2**63 - 1, -(2**63), 0, -1, 1]
    positions = _Positions()
    assert [positions.setdefault(key, n) for n, key in enumerate(keys)] == [0, 1, 2, 3, 4]
    assert [positions.setdefault(key, 99) for key in keys] == [0, 1, 2, 3, 4]
    assert (len(positions._hashes), len(positions._recent)) == (4, 1)  # two merges of two


def test_golds_that_no_rule_reads_are_left_out_with_the_reason():
    unreadable = UnreadableGoldFilter()
    assert unreadable.reason(problem("p", answers=("Ada",))) is None
    assert unreadable.reason(problem("p", answers=("???", "Ada"))) is None
    assert unreadable.reason(problem("p", answers=("???",))) == "'???' holds no letter and no digit"


def test_what_was_answered_without_the_document_is_left_out(tmp_path):
    answerable = AnswerableFilter(
        result_file(
            tmp_path / "r.json",
            ("both", 1.0, "ok"), ("both", 1.0, "ok"), ("one", 1.0, "ok"), ("one", 0.0, "ok"), ("none", 0.0, "ok"),
            ("unknown", None, "timeout"), ("half known", None, "infra_error"), ("half known", 1.0, "ok"),
            ("not ok", 1.0, "abstain"),
        )
    )  # fmt: skip
    names = ["both", "one", "none", "unknown", "half known", "not ok", "absent"]
    assert [n for n in names if answerable.reason(problem(n))] == ["both", "one", "half known"]
    assert answerable.reason(problem("one")) == "answered without the document, mean value 0.50"
    assert answerable.num_not_evaluated == 1


def test_answers_of_several_files_are_averaged_against_the_callers_threshold(tmp_path):
    first = result_file(tmp_path / "1.json", ("lucky", 1.0, "ok"), ("known", 1.0, "ok"))
    second = result_file(tmp_path / "2.json", ("lucky", 0.0, "ok"), ("known", 1.0, "ok"))
    strict = AnswerableFilter(first, second, above=0.75)
    assert [n for n in ("lucky", "known") if strict.reason(problem(n))] == ["known"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory"),
        ("not json", "not JSON"),
        ("[]", "holds no config and items with problem_id, value and status"),
        ('{"config": {}, "items": [{"id": "p"}]}', "holds no config and items"),
        ('{"config": {}, "items": []}', "the model was shown the document there"),
        ('{"config": {"without_document": false}, "items": []}', "the model was shown the document there"),
    ],
)
def test_a_file_that_tells_nothing_of_answers_without_the_document_is_refused(tmp_path, content, told):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        AnswerableFilter(path)
    message = str(caught.value)
    assert message.startswith(f"--drop-answerable {path}: ") and told in message and "\n" not in message
    assert message.endswith("name a file that launch.eval --without_document true --out wrote")


def test_without_options_there_are_no_filters():
    assert parsed() == []


def test_each_option_adds_its_filter_and_duplicates_come_last(tmp_path):
    evaluated = write(tmp_path / "eval.jsonl", {**OURS, "question": "Who wrote the first letter of all?"})
    answers = result_file(tmp_path / "r.json", ("a", 0.5, "ok"))
    filters = parsed(
        "--drop-duplicates", "--drop-unreadable-gold", "--drop-answerable", str(answers), "--answerable-above", "0.6",
        "--drop-contaminated", str(evaluated), "--contamination-ngram", "5", "--contamination-share", "0.9",
    )  # fmt: skip
    assert [f.name for f in filters] == ["unreadable_gold", "answerable", "contaminated", "duplicate"]
    _, answerable, contaminated, _ = filters
    assert answerable.reason(problem("a")) is None
    told = contaminated.reason(problem("t", question="Say who wrote the first letter."))
    assert (
        told == f"question shared with 'p1' of {evaluated} (share 0.50)"
    )  # wrote .. letter and who .. first, of two each
    assert contaminated.reason(problem("t", context="Another document.")) is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--drop-answerable", "absent.json"], "absent.json: cannot be read"),
        (["--drop-contaminated", "absent.jsonl"], "absent.jsonl: no such file"),
        (["--drop-contaminated", "x", "--contamination-ngram", "0"], "contamination n-gram: seen 0 words"),
    ],
)
def test_what_cannot_be_read_is_refused(words, told):
    with pytest.raises(DataError, match=told):
        parsed(*words)


@pytest.mark.parametrize("above", [0.0, 1.1])
def test_a_threshold_out_of_bounds_is_refused(tmp_path, above):
    with pytest.raises(DataError, match="--answerable-above"):
        AnswerableFilter(result_file(tmp_path / "r.json"), above=above)
