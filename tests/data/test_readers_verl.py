from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.readers import read_problems


def row(document="A doc.", question="Which?", gold: object = "x", source="musique_v1", ability="doc-qa", extra=None):
    content = (
        "Please read the following text and answer the question below.\n\n"
        f"<text>\n{document}\n</text>\n\n{question}\n\n"
        'Format your response as follows: "Therefore, the answer is (insert answer here)".'
    )
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": content}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"index": 0} if extra is None else extra,
    }


def write(path: Path, *rows: dict) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def read(tmp_path: Path, *rows: dict):
    return list(read_problems(write(tmp_path / "a.parquet", *rows)))


def test_a_row_becomes_document_question_and_gold(tmp_path):
    (problem,) = read(tmp_path, row("A doc.\nMore.", "Who?\nSay.", "Ada"))
    assert (problem.context, problem.question, problem.answers) == ("A doc.\nMore.", "Who?\nSay.", ("Ada",))
    assert (problem.task, problem.problem_id, problem.answer_type) == ("musique_v1", "musique_v1-0", "text")


def test_the_document_ends_at_the_last_closing_tag(tmp_path):
    (problem,) = read(tmp_path, row("one </text>\n\nIs it? <text> two </text> three", "Which?"))
    assert problem.context == "one </text>\n\nIs it? <text> two </text> three"
    assert problem.question == "Which?"


def test_the_answer_is_goes_and_only_from_the_start_of_a_gold(tmp_path):
    golds = ["the answer is 12.5", "Therefore, the answer is: Ada", "The correct answer is x", "what the answer is"]
    problems = read(tmp_path, *(row(gold=gold, extra={"index": i}) for i, gold in enumerate(golds)))
    assert [p.answers for p in problems] == [("12.5",), ("Ada",), ("x",), ("what the answer is",)]


def test_the_answer_type_follows_source_ability_and_golds(tmp_path):
    problems = read(
        tmp_path,
        row(source="docmath_v1", ability=None, gold="5", extra={"index": 0}),
        row(source="anything", ability="doc-math", gold="5", extra={"index": 1}),
        row(source="long_toc_choices_0_20000", ability=None, gold="A", extra={"index": 2}),
        row(source="anything", ability="doc-mc", gold="A", extra={"index": 3}),
        row(source="multihoprag_v1", gold="the answer is Yes", extra={"index": 4}),
        row(source="multihoprag_v1", gold="Yes it is", extra={"index": 5}),
    )
    assert [p.answer_type for p in problems] == ["number", "number", "choice", "choice", "yesno", "text"]


def test_a_choice_gold_becomes_its_letter(tmp_path):
    question = "Which?\n(A) red\n(B) blue"
    golds = ["B", "(b)", "B. blue", "the answer is (B)", "blue", "Both"]
    problems = read(
        tmp_path, *(row(question=question, gold=g, ability="doc-mc", extra={"index": i}) for i, g in enumerate(golds))
    )
    assert [p.answers for p in problems] == [("B",)] * 5 + [("Both",)]
    assert {p.options for p in problems} == {("red", "blue")}


def test_a_missing_index_gives_an_id_that_depends_on_content_alone(tmp_path):
    one, two = row("one", extra={"index": None}), row("two", extra={"index": None})
    first, second = (p.problem_id for p in read(tmp_path, one, two))
    assert [p.problem_id for p in read(tmp_path, two, one)] == [second, first]
    without = {name: value for name, value in one.items() if name not in ("extra_info", "ability")}
    assert [p.problem_id for p in read(tmp_path, without)] == [first]


def test_a_repeated_index_is_told_apart(tmp_path):
    problems = read(tmp_path, row("one"), row("two"), row("two"))
    assert [p.problem_id for p in problems] == ["musique_v1-0", "musique_v1-0#2", "musique_v1-0#3"]


def test_a_system_turn_is_passed_over(tmp_path):
    with_system = row()
    with_system["prompt"].insert(0, {"role": "system", "content": "Be brief."})
    assert read(tmp_path, with_system) == read(tmp_path, row())


def test_a_column_map_reads_renamed_columns(tmp_path):
    renamed = {"messages" if name == "prompt" else name: value for name, value in row().items()}
    path = write(tmp_path / "a.parquet", renamed)
    (problem,) = read_problems(path, columns={"prompt": "messages", "data_source": "ability"})
    assert (problem.task, problem.question) == ("doc-qa", "Which?")
