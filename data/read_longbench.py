"""LongBench's rows, both versions.

Version 1 (arXiv 2308.14508): `{input, context, answers, length, dataset, language, all_classes, _id}`. The
task is the dataset, the question is `input`, but for three datasets whose `input` is no question: there it
is set in the words of `_QUESTIONS`. A dataset that asks nothing (summaries, code) is refused row by row for
its blank `input`. The answer type is number for passage_count, yesno where every gold is yes or no, else text.

Version 2 (arXiv 2412.15204): `{_id, domain, question, choice_A, ..., choice_D, answer, context, ...}`. The
task is the domain, the type choice, and the choices are written under the question, where the model sees them.
"""

from __future__ import annotations

from data.fields import Row, SeenIds, answer_type_value, answer_values, row_id, shown, text_value
from data.problem import AnswerType, SourceProblem
from data.read_prompt import implied_type

NAMES: dict[str, tuple[str, ...]] = {
    "problem_id": ("_id", "id"),
    "task": ("dataset", "domain"),
    "context": ("context",),
    "question": ("input", "question"),
    "answers": ("answers", "answer"),
    "answer_type": ("answer_type",),
    **{f"choice_{letter}": (f"choice_{letter}",) for letter in "ABCD"},
}
_QUESTIONS = {
    "passage_count": "How many different paragraphs does the text hold, each counted once however often it is repeated? "
    "Answer with the number.",
    "passage_retrieval_en": "Which paragraph does this abstract summarise? Answer as in 'Paragraph 1'.\n\n{input}",
    "passage_retrieval_zh": "以下摘要出自哪个段落？请按“段落1”的格式回答。\n\n{input}",
}


def longbench_problem(row: Row, seen: SeenIds) -> SourceProblem:
    """The problem of a LongBench row.

    Raises:
        DataError: a column is missing or holds what it may not, a version 2 answer that is none of its
            choices' letters, or an id used before.
    """
    task = text_value(*row.at("task"))
    context = text_value(*row.at("context"))
    gold, place, column = row.at("answers")
    golds = answer_values(gold, place, column)
    options: tuple[str, ...] = ()
    answer_type: AnswerType = "choice"
    if any(row.has(f"choice_{letter}") for letter in "ABCD"):
        options = tuple(text_value(*row.at(f"choice_{letter}")) for letter in "ABCD")
        listed = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCD", options, strict=True))
        question = f"{text_value(*row.at('question'))}\n{listed}"
        if not all(answer in "ABCD" and len(answer) == 1 for answer in golds):
            raise place.error(column, f"seen {shown(gold)}", "it must be one of the letters A, B, C and D")
    else:
        question = _question(row, task)
        answer_type = "number" if _dataset(task) == "passage_count" else implied_type(gold, golds, ())
    if row.has("answer_type"):
        answer_type = answer_type_value(*row.at("answer_type"))
    return SourceProblem(
        task=task,
        context=context,
        question=question,
        answers=golds,
        answer_type=answer_type,
        options=options,
        problem_id=row_id(row, seen, (context, question), task),
    )


def _question(row: Row, task: str) -> str:
    asked = _QUESTIONS.get(_dataset(task))
    if asked is None or "{input}" in asked:
        given = text_value(*row.at("question"))
        return given if asked is None else asked.replace("{input}", given)
    return asked


def _dataset(task: str) -> str:
    # LongBench-E calls its length-balanced halves by the same names with _e.
    return task.removesuffix("_e")
