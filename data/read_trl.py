"""TRL's prompt-only rows: `prompt`, a string or a list of {role, content}, beside a gold.

`NAMES` lists the columns. Document and question come from columns `context` and `question` where a row
has both, else out of the prompt's `<text> document </text> question` (`data.read_prompt`). The golds stay
as they are, but a choice's becomes its letter. Where nobody wrote the answer type down,
`data.read_prompt.implied_type` decides; a row without a task has the task `trl`, one without an id gets
one made of its task and a hash of its content.
"""

from __future__ import annotations

from data.fields import (
    Row,
    SeenIds,
    answer_type_value,
    answer_values,
    option_values,
    options_in,
    row_id,
    shown,
    text_value,
)
from data.problem import SourceProblem
from data.read_prompt import as_letter, document_and_question, implied_type, user_turn

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "answers": ("answers", "answer", "solution", "ground_truth", "reference"),
    "context": ("context", "document"),
    "question": ("question", "query"),
    "answer_type": ("answer_type", "type"),
    "options": ("options", "choices"),
    "task": ("task", "source", "data_source", "dataset"),
    "problem_id": ("problem_id", "id", "_id"),
}
_TASK = "trl"


def trl_problem(row: Row, seen: SeenIds) -> SourceProblem:
    """The problem of a TRL row.

    Raises:
        DataError: no gold, no document or question, a column that holds what it may not, or an id used before.
    """
    context, question = _document_and_question(row)
    gold, place, column = row.at("answers")
    golds = answer_values(gold, place, column)
    options = option_values(*row.at("options")) if row.has("options") else ()
    if row.has("answer_type"):
        answer_type = answer_type_value(*row.at("answer_type"))
    else:
        answer_type = implied_type(gold, golds, options)
    if answer_type == "choice":
        options = options or options_in(question)
        golds = tuple(as_letter(gold, options) for gold in golds)
    task = text_value(*row.at("task")) if row.has("task") else _TASK
    return SourceProblem(
        task=task,
        context=context,
        question=question,
        answers=golds,
        answer_type=answer_type,
        options=options,
        problem_id=row_id(row, seen, (context, question), task),
    )


def _document_and_question(row: Row) -> tuple[str, str]:
    if row.has("context") and row.has("question"):
        return text_value(*row.at("context")), text_value(*row.at("question"))
    prompt, place, column = row.at("prompt")
    if isinstance(prompt, str):
        return document_and_question(text_value(prompt, place, column), place, column)
    if not isinstance(prompt, list):
        seen = f"seen {type(prompt).__name__} {shown(prompt)}"
        raise place.error(column, seen, "it must be a string or a list of {role, content}")
    return document_and_question(user_turn(prompt, place, column), place, f"{column}.content")
