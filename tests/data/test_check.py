import weakref

import data.check
from data.check import check_problems
from data.prepare import prepare
from data.problem import SourceProblem
from data.prompts import measured
from tests.data.docqa import docqa
from tests.data.test_readers_jsonl import OURS, write
from tests.data.tokenizers import byte_tokenizer, word_tokenizer


class Tracked(SourceProblem):
    """A problem whose lifetime can be watched."""

    __slots__ = ("__weakref__",)


def problem(problem_id, *, task="t", answer_type="text", answers=("x",), context="c", question="?", options=()):
    return SourceProblem(
        problem_id=problem_id, task=task, context=context, question=question, answers=answers, answer_type=answer_type,
        options=options,
    )  # fmt: skip


def test_problems_are_counted_by_task_and_type():
    report = check_problems(
        [problem("1"), problem("2", task="u"), problem("3", task="u", answer_type="number", answers=("1",))], [10]
    )
    assert report.num_problems == 3
    assert {task: dict(kinds) for task, kinds in report.counts.items()} == {
        "t": {"text": 1},
        "u": {"text": 1, "number": 1},
    }


def test_problems_with_the_same_document_and_question_are_duplicates_spacing_aside():
    asked = [problem("1", context="a c"), problem("2"), problem("3", context=" a\tc\n"), problem("4"), problem("5")]
    duplicates = check_problems(asked, [10]).findings["duplicates"]
    told = "same document and question as"
    assert duplicates.examples == [f"3: {told} '1'", f"4: {told} '2'", f"5: {told} '2'"]


def test_findings_are_counted_beyond_their_examples():
    duplicates = check_problems([problem(str(n)) for n in range(5)], [10], max_examples=2).findings["duplicates"]
    assert (duplicates.num, len(duplicates.examples)) == (4, 2)


def test_choices_without_options_are_found_unless_the_question_lists_them():
    listed = "Which?\n(A) red\n(B) blue"
    choices = [
        problem("none", answer_type="choice", answers=("A",)),
        problem("listed", answer_type="choice", answers=("A",), question=listed),
        problem("given", answer_type="choice", answers=("A",), options=("red", "blue")),
        problem("text"),
    ]
    assert check_problems(choices, [10]).findings["options"].examples == ["none"]


def test_text_answers_absent_from_the_document_are_told_case_and_punctuation_aside():
    document = "The “Old  House”, built in 1900."
    asked = [
        problem("there", context=document, answers=("elsewhere", "the old house")),
        problem("part of a word", context=document, answers=("the old ho",)),
        problem("absent", context=document, answers=("new house", "1901")),
        problem("no text", context=document, answers=("7",), answer_type="number"),
    ]
    assert check_problems(asked, [10]).findings["answers"].examples == [
        "part of a word: 'the old ho'",
        "absent: 'new house'",
    ]


def test_golds_are_told_apart_unreadable_or_of_another_type():
    asked = [
        problem("fine", answers=("12 %",), answer_type="number"),
        problem("words", answers=("the blue house",), answer_type="number"),
        problem("nothing", answers=("--",), answer_type="number"),
    ]
    findings = check_problems(asked, [10]).findings
    assert findings["unreadable"].examples == ["nothing: '--' holds no letter and no digit"]
    assert findings["mistyped"].examples == ["words: 'the blue house' is not a number"]


def test_measured_problems_fill_a_histogram_and_unmeasured_ones_none():
    assert check_problems([problem("1")], [10]).histogram is None
    report = check_problems([measured(problem(str(n)), n) for n in (1, 10, 11, 31)], [10, 30])
    assert report.histogram is not None
    assert (report.histogram.counts, report.histogram.num_beyond) == ((2, 1), 1)


def test_problems_are_read_once_and_not_kept():
    alive = []

    def read():
        for n in range(50):
            one = Tracked(
                problem_id=str(n), task="t", context=f"c{n}", question="?", answers=("x",), answer_type="text"
            )
            alive.append(weakref.ref(one))
            yield one
            assert sum(ref() is not None for ref in alive) <= 3

    assert check_problems(read(), [10]).num_problems == 50


def test_the_report_on_docqa_tells_what_is_there(capsys):
    train, dev = docqa("docqa_train"), docqa("docqa_dev")
    assert data.check.main([str(train), "--against", str(dev), "--examples", "1"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["task", "text", "number", "choice", "yesno", "all"]
    assert "total" in out and " 703" in out
    assert "prompt tokens: not measured; give --tokenizer PATH" in out
    assert "duplicates (same document and question as before, spacing aside): 0" in out
    assert "golds that no rule can read: 0" in out
    assert "golds that do not look like their type (accepted word for word only): 1" in out
    assert "aitqa-q-490: 'Transportation Workers" in out and "is not a number" in out
    assert "options are not known (only the letter is read): 0" in out
    assert "text answers that stand nowhere in their document (for your information): 85\n" in out
    assert "... and 84 more (--examples N shows N)" in out
    assert "questions shared with the evaluation sets: 5\n" in out
    assert "documents shared with the evaluation sets: 7\n  aitqa-q-55: document shared with 'aitqa-q-366' of " in out


def test_a_source_is_measured_with_a_tokenizer_and_a_prepared_set_without(tmp_path, capsys):
    word_tokenizer().save_pretrained(tmp_path / "tokenizer")
    source = write(tmp_path / "a.jsonl", OURS, {**OURS, "problem_id": "p2"})
    assert data.check.main([str(source), "--tokenizer", str(tmp_path / "tokenizer"), "--windows", "10,100"]) == 0
    measured_out = capsys.readouterr().out
    prepare([problem("1"), problem("2")], byte_tokenizer(), tmp_path / "set")
    assert data.check.main([str(tmp_path / "set"), "--windows", "10,1000"]) == 0
    prepared_out = capsys.readouterr().out
    for out, name in ((measured_out, "11..100"), (prepared_out, "11..1000")):
        (line,) = [line for line in out.splitlines() if name in line]
        assert line.split()[:2] == [name, "2"]
    assert "p2: same document and question as 'p1'" in measured_out
    assert "shared with the evaluation sets" not in measured_out


def test_data_that_cannot_be_used_exits_with_2_and_one_line(tmp_path, capsys):
    source = str(write(tmp_path / "a.jsonl", OURS))
    absent = str(tmp_path / "nothing.jsonl")
    for arguments in ([absent], [source, "--against", absent], [source, "--examples", "-1"]):
        assert data.check.main(arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
