"""Rows with a column per field: our own form, and files near enough to it.

A row is `{problem_id, task, context, question, answers, answer_type, options?}`. `NAMES` lists what
else each field may be called; where a row has values under several of the names the first one counts.
Columns that are no field are ignored. `answers` may be one string or number instead of a list;
`answer_type` takes the names in `data.fields.TYPE_NAMES`. A choice without `options` takes them from its
question, if the question lists them; where `meta.option_text` names the right choice's text and the list
disagrees, the list is not trusted and the options stay empty. No gold is altered and no text is stripped.
"""

from __future__ import annotations

from data.fields import Row, SeenIds, answer_type_value, answer_values, given_id, option_values, options_in, text_value
from data.problem import SourceProblem

NAMES: dict[str, tuple[str, ...]] = {
    "problem_id": ("problem_id", "id", "_id"),
    "task": ("task", "source", "data_source"),
    "context": ("context", "document"),
    "question": ("question", "query"),
    "answers": ("answers", "answer", "gold"),
    "answer_type": ("answer_type", "type"),
    "options": ("options", "choices"),
    "meta": ("meta",),
}


def plain_problem(row: Row, seen: SeenIds) -> SourceProblem:
    """The problem of a row that has a column per field.

    Raises:
        DataError: a column is missing or holds what it may not, or the id was used before.
    """
    answer_type = answer_type_value(*row.at("answer_type"))
    question = text_value(*row.at("question"))
    answers = answer_values(*row.at("answers"))
    options: tuple[str, ...] = ()
    if row.has("options"):
        options = option_values(*row.at("options"))
    elif answer_type == "choice":
        options = _listed_options(question, answers, row)
    return SourceProblem(
        task=text_value(*row.at("task")),
        context=text_value(*row.at("context")),
        question=question,
        answers=answers,
        answer_type=answer_type,
        options=options,
        problem_id=given_id(row, seen),
    )


def _listed_options(question: str, answers: tuple[str, ...], row: Row) -> tuple[str, ...]:
    options = options_in(question)
    meta = row.at("meta")[0] if row.has("meta") else None
    right = meta.get("option_text") if isinstance(meta, dict) else None
    if options and isinstance(right, str):
        index = ord(answers[0][0]) - 65
        if len(answers[0]) != 1 or not 0 <= index < len(options) or options[index] != right.strip():
            return ()
    return options
