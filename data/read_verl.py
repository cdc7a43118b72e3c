"""verl's parquet, in the form that DocQA-RL-1.6K has.

Columns `data_source, prompt, ability, reward_model{style, ground_truth}, extra_info`, the last and
`ability` optional. What becomes of them:

- `prompt`: the one user turn, `... <text> document </text> question Format your response as follows...`.
  The document ends at the *last* `</text>`, since documents may hold that tag themselves; the format
  instruction belongs to the prompt template, not to the question, and is dropped, as is a system turn.
- `reward_model.ground_truth`: a string, a number or a list of them; a leading "the answer is" goes.
- `answer_type`: `extra_info.answer_type` if there; else number for doc-math, choice for doc-mc and
  `choices` sources, yesno where every gold is yes or no, else text. A choice's gold becomes its letter.
- `problem_id`: `extra_info.id` if there (then it must be unique); else data_source and `extra_info.index`,
  or a hash of the content where the index is missing; further rows of one such name get `#2`, `#3`, ...
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.fields import (
    Place,
    SeenIds,
    answer_type_value,
    answer_values,
    did_you_mean,
    id_value,
    option_values,
    options_in,
    shown,
    text_value,
)
from data.problem import AnswerType, DataError, SourceProblem

COLUMNS = ("data_source", "prompt", "ability", "reward_model", "extra_info")
_REQUIRED = ("data_source", "prompt", "reward_model")
_ROWS_PER_BATCH = 64
_INSTRUCTION = "Format your response as follows"
_ANSWER_IS = re.compile(r"^\s*(?:therefore,?\s+)?the\s+(?:correct\s+|final\s+)?answer\s+is\s*:?\s+", re.IGNORECASE)
_CHOICE_GOLD = re.compile(r"^\s*\(?([A-Za-z])(?:\)|[.:]|\s*$)")


def read_verl(path: Path, columns: Mapping[str, str]) -> Iterator[SourceProblem]:
    """Problems of a verl-style parquet file, a batch of rows in memory at a time.

    Args:
        columns: verl's name to the file's, for files whose columns are called otherwise.

    Raises:
        DataError: not parquet, a missing column, a row that is no problem, a duplicate id, or no rows.
    """
    seen = SeenIds()
    place = None
    for place, row in _rows(path, columns):
        problem = _problem(row, place, seen)
        seen.add(problem.problem_id, place, "extra_info.id")
        yield problem
    if place is None:
        raise DataError(f"{path}: no rows; the file must hold at least one problem")


def _rows(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[Place, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = _present_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=list(names.values())):
                fields = [(field, batch.column(name)) for field, name in names.items()]
                for i in range(batch.num_rows):
                    number += 1
                    place = Place(path, number)
                    yield place, {field: _cell(column[i], place, field) for field, column in fields}
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: unreadable parquet after row {number} ({reason}); write the file again") from error


def _present_columns(path: Path, present: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    names = {}
    for field in COLUMNS:
        name = columns.get(field, field)
        if name in present:
            names[field] = name
        elif field in _REQUIRED or field in columns:
            fix = f"{did_you_mean(name, present)}rename it or pass --columns {field}=NAME"
            raise DataError(f"{path}: {name}: missing, the columns are {', '.join(present)}; {fix}")
    return names


def _cell(scalar: Any, place: Place, column: str) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        raise place.error(column, f"seen bytes that are not UTF-8 ({error.reason})", "write the file again") from error


def _problem(row: dict[str, Any], place: Place, seen: SeenIds) -> SourceProblem:
    task = text_value(row["data_source"], place, "data_source")
    extra = row.get("extra_info") or {}
    if not isinstance(extra, dict):
        raise place.error("extra_info", f"seen {type(extra).__name__} {shown(extra)}", "it must be a struct or null")
    context, question = _document_and_question(_user_turn(row["prompt"], place), place)
    golds = _golds(row["reward_model"], place)
    answer_type = _answer_type(task, row.get("ability"), golds, extra, place)
    options: tuple[str, ...] = ()
    if extra.get("options") is not None:
        options = option_values(extra["options"], place, "extra_info.options")
    elif answer_type == "choice":
        options = options_in(question)
    return SourceProblem(
        problem_id=_problem_id(task, context, question, extra, place, seen),
        task=task,
        context=context,
        question=question,
        answers=tuple(_as_letter(gold, options) for gold in golds) if answer_type == "choice" else golds,
        answer_type=answer_type,
        options=options,
    )


def _user_turn(prompt: object, place: Place) -> str:
    if not isinstance(prompt, list) or not all(isinstance(turn, dict) and "role" in turn for turn in prompt):
        seen = f"seen {type(prompt).__name__} {shown(prompt)}"
        raise place.error("prompt", seen, "it must be a list of {role, content}")
    turns = [turn for turn in prompt if turn["role"] != "system"]
    if len(turns) != 1 or turns[0]["role"] != "user":
        roles = ", ".join(str(turn["role"]) for turn in prompt) or "no turns"
        raise place.error("prompt", f"seen turns: {roles}", "it must hold one user turn, after at most a system turn")
    return text_value(turns[0].get("content"), place, "prompt.content")


def _document_and_question(content: str, place: Place) -> tuple[str, str]:
    start, end = content.find("<text>"), content.rfind("</text>")
    if start < 0 or end < start:
        fix = "write '<text> document </text> question', or use JSONL with context and question"
        raise place.error("prompt.content", f"seen no <text> ... </text> in {shown(content)}", fix)
    context = content[start + len("<text>") : end].removeprefix("\n").removesuffix("\n")
    tail = content[end + len("</text>") :]
    cut = tail.rfind(_INSTRUCTION)
    question = (tail if cut < 0 else tail[:cut]).strip()
    if not question:
        fix = "put the question after </text>"
        raise place.error("prompt.content", f"seen no question between </text> and {_INSTRUCTION!r}", fix)
    return text_value(context, place, "prompt.content (between <text> and </text>)"), question


def _golds(reward_model: object, place: Place) -> tuple[str, ...]:
    column = "reward_model.ground_truth"
    if not isinstance(reward_model, dict):
        seen = f"seen {type(reward_model).__name__} {shown(reward_model)}"
        raise place.error("reward_model", seen, "it must be a struct with ground_truth")
    if "ground_truth" not in reward_model:
        fix = f"{did_you_mean('ground_truth', reward_model)}rename it to ground_truth"
        raise place.error(column, f"missing, the struct has {', '.join(reward_model)}", fix)
    golds = answer_values(reward_model["ground_truth"], place, column)
    return answer_values([_ANSWER_IS.sub("", gold) for gold in golds], place, column)


def _answer_type(task: str, ability: object, golds: tuple[str, ...], extra: dict[str, Any], place: Place) -> AnswerType:
    if extra.get("answer_type") is not None:
        return answer_type_value(extra["answer_type"], place, "extra_info.answer_type")
    kind = f"{task} {ability or ''}".lower()
    if "docmath" in kind or "doc-math" in kind:
        return "number"
    if "choice" in kind or "doc-mc" in kind:
        return "choice"
    return "yesno" if all(gold.strip().rstrip(".").lower() in ("yes", "no") for gold in golds) else "text"


def _as_letter(gold: str, options: tuple[str, ...]) -> str:
    """`(B)`, `b.` and `B. its text` name a letter; so does an option's own text; anything else stays."""
    if gold.strip() in options:
        return chr(65 + options.index(gold.strip()))
    match = _CHOICE_GOLD.match(gold)
    return match[1].upper() if match else gold


def _problem_id(task: str, context: str, question: str, extra: dict[str, Any], place: Place, seen: SeenIds) -> str:
    if extra.get("id") is not None:
        return id_value(extra["id"], place, "extra_info.id")
    index = extra.get("index")
    if index is None:
        index = hashlib.sha256(f"{context}\0{question}".encode()).hexdigest()[:12]
    base = f"{task}-{id_value(index, place, 'extra_info.index')}"
    name, copies = base, 1
    while name in seen:
        copies += 1
        name = f"{base}#{copies}"
    return name
