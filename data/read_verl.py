"""verl's rows, in the form that DocQA-RL-1.6K has.

Columns `data_source, prompt, ability, reward_model{style, ground_truth}, extra_info`, the last and
`ability` optional. What becomes of them:

- `prompt`: the one user turn, taken apart by `data.read_prompt`.
- `reward_model.ground_truth`: a string, a number or a list of them; a leading "the answer is" goes.
- `answer_type`: `extra_info.answer_type` if there; else number for doc-math, choice for doc-mc and
  `choices` sources, else what `data.read_prompt.implied_type` says. A choice's gold becomes its letter.
- `problem_id`: `extra_info.id` if there (then it must be unique); else data_source and `extra_info.index`,
  or a hash of the content where the index is missing; further rows of one such name get `#2`, `#3`, ...
"""

from __future__ import annotations

import re
from typing import Any

from data.fields import (
    Place,
    Row,
    SeenIds,
    answer_type_value,
    answer_values,
    content_id,
    did_you_mean,
    id_value,
    option_values,
    options_in,
    shown,
    shown_names,
    text_value,
)
from data.problem import AnswerType, SourceProblem
from data.read_prompt import as_letter, document_and_question, implied_type, user_turn

NAMES: dict[str, tuple[str, ...]] = {
    name: (name,) for name in ("data_source", "prompt", "ability", "reward_model", "extra_info")
}
_ANSWER_IS = re.compile(r"^\s*(?:therefore,?\s+)?the\s+(?:correct\s+|final\s+)?answer\s+is\s*:?\s+", re.IGNORECASE)


def verl_problem(row: Row, seen: SeenIds) -> SourceProblem:
    """The problem of a verl row.

    Raises:
        DataError: a column is missing or holds what it may not, or the id was used before.
    """
    place = row.place
    task = text_value(*row.at("data_source"))
    extra = row.at("extra_info")[0] if row.has("extra_info") else {}
    if not isinstance(extra, dict):
        raise place.error("extra_info", f"seen {type(extra).__name__} {shown(extra)}", "it must be a struct or null")
    prompt, _, column = row.at("prompt")
    context, question = document_and_question(user_turn(prompt, place, column), place, f"{column}.content")
    gold, golds = _golds(row)
    answer_type = _answer_type(row, task, gold, golds, extra)
    options: tuple[str, ...] = ()
    if extra.get("options") is not None:
        options = option_values(extra["options"], place, "extra_info.options")
    elif answer_type == "choice":
        options = options_in(question)
    return SourceProblem(
        task=task,
        context=context,
        question=question,
        answers=tuple(as_letter(gold, options) for gold in golds) if answer_type == "choice" else golds,
        answer_type=answer_type,
        options=options,
        problem_id=_problem_id(task, (context, question), extra, place, seen),
    )


def _golds(row: Row) -> tuple[object, tuple[str, ...]]:
    reward_model, place, name = row.at("reward_model")
    column = f"{name}.ground_truth"
    if not isinstance(reward_model, dict):
        seen = f"seen {type(reward_model).__name__} {shown(reward_model)}"
        raise place.error(name, seen, "it must be a struct with ground_truth")
    if "ground_truth" not in reward_model:
        fix = f"{did_you_mean('ground_truth', reward_model)}rename it to ground_truth"
        raise place.error(column, f"missing, the struct has {shown_names(reward_model)}", fix)
    golds = answer_values(reward_model["ground_truth"], place, column)
    stripped = answer_values([_ANSWER_IS.sub("", gold) for gold in golds], place, column)
    return reward_model["ground_truth"], stripped


def _answer_type(row: Row, task: str, gold: object, golds: tuple[str, ...], extra: dict[str, Any]) -> AnswerType:
    if extra.get("answer_type") is not None:
        return answer_type_value(extra["answer_type"], row.place, "extra_info.answer_type")
    kind = f"{task} {row.at('ability')[0] if row.has('ability') else ''}".lower()
    if "docmath" in kind or "doc-math" in kind:
        return "number"
    if "choice" in kind or "doc-mc" in kind:
        return "choice"
    return implied_type(gold, golds, ())


def _problem_id(task: str, problem_text: tuple[str, str], extra: dict[str, Any], place: Place, seen: SeenIds) -> str:
    if extra.get("id") is not None:
        problem_id = id_value(extra["id"], place, "extra_info.id")
    elif extra.get("index") is None:
        return content_id(problem_text, task, place, seen)
    else:
        problem_id = seen.unused(f"{task}-{id_value(extra['index'], place, 'extra_info.index')}")
    seen.add(problem_id, place, "extra_info.id")
    return problem_id
