"""JSON Lines: our own form, and files near enough to it.

A row is `{problem_id, task, context, question, answers, answer_type, options?}`. `ALIASES` lists what
else each field may be called; where a row has several of the names the first one counts. Keys that are
no field are ignored. `answers` may be one string or number instead of a list; `answer_type` takes the
names in `data.fields.TYPE_NAMES`. A choice without `options` takes them from its question, if the
question lists them; where `meta.option_text` names the right choice's text and the list disagrees,
the list is not trusted and the options stay empty. No gold is altered and no text is stripped.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

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
from data.problem import DataError, SourceProblem

ALIASES: dict[str, tuple[str, ...]] = {
    "problem_id": ("problem_id", "id", "_id"),
    "task": ("task", "source", "data_source"),
    "context": ("context", "document"),
    "question": ("question", "query"),
    "answers": ("answers", "answer", "gold"),
    "answer_type": ("answer_type", "type"),
    "options": ("options", "choices"),
}
_OPTIONAL = frozenset({"options"})


def read_jsonl(path: Path, columns: Mapping[str, str]) -> Iterator[SourceProblem]:
    """Problems of a JSONL file, plain or gzipped (told by content), one line in memory at a time.

    Args:
        columns: field to key, for files that use other names than `ALIASES`.

    Raises:
        DataError: a row that is no problem, a duplicate id, broken gzip, or no rows.
    """
    seen = SeenIds()
    place = None
    for number, line in _lines(path):
        if not line.strip():
            continue
        place = Place(path, number)
        problem = _problem(_object(line, place), place, columns)
        seen.add(problem.problem_id, place, "problem_id")
        yield problem
    if place is None:
        raise DataError(f"{path}: no rows; the file must hold one JSON object a line")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        number = 0
        try:
            with gzip.open(raw) if zipped else raw as stream:
                for number, line in enumerate(stream, start=1):
                    yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}:{number + 1}: broken gzip ({error}); fetch or write the file again") from error


def _object(line: bytes, place: Place) -> dict[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        seen = f"seen byte 0x{line[error.start]:02x} at byte {error.start}, which is not UTF-8"
        raise place.error("line", seen, "re-encode the file as UTF-8") from error
    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        row = _with_nan(text)
        if row is None:
            raise place.error("line", f"invalid JSON ({error})", "each line must be one whole JSON object") from error
    if not isinstance(row, dict):
        fix = "each line must be one JSON object, not an array or a bare value"
        raise place.error("line", f"seen {type(row).__name__} {shown(row)}", fix)
    return row


def _with_nan(text: str) -> object:
    """What Python's writer makes of missing floats is no JSON; reading it lets the error name the column."""
    if "NaN" not in text and "Infinity" not in text:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _problem(row: dict[str, Any], place: Place, columns: Mapping[str, str]) -> SourceProblem:
    key = {field: _key(field, row, place, columns) for field in ALIASES}

    def at(field: str) -> tuple[Any, Place, str]:
        return row[key[field]], place, key[field]

    answer_type = answer_type_value(*at("answer_type"))
    question = text_value(*at("question"))
    answers = answer_values(*at("answers"))
    options: tuple[str, ...] = ()
    if key["options"]:
        options = option_values(*at("options"))
    elif answer_type == "choice":
        options = _listed_options(question, answers, row)
    return SourceProblem(
        problem_id=id_value(*at("problem_id")),
        task=text_value(*at("task")),
        context=text_value(*at("context")),
        question=question,
        answers=answers,
        answer_type=answer_type,
        options=options,
    )


def _key(field: str, row: dict[str, Any], place: Place, columns: Mapping[str, str]) -> str:
    names = (columns[field],) if field in columns else ALIASES[field]
    for name in names:
        if name in row and (row[name] is not None or field not in _OPTIONAL):
            return name
    if field in _OPTIONAL and field not in columns:
        return ""
    has = ", ".join(map(str, row)) or "nothing"
    hint = did_you_mean(names[0], row)
    fix = f"{hint}rename it or pass --columns {field}=NAME (in Python: columns={{{field!r}: NAME}})"
    raise place.error(names[0], f"missing, the row has {has[:200]}", fix)


def _listed_options(question: str, answers: tuple[str, ...], row: dict[str, Any]) -> tuple[str, ...]:
    options = options_in(question)
    meta = row.get("meta")
    right = meta.get("option_text") if isinstance(meta, dict) else None
    if options and isinstance(right, str):
        index = ord(answers[0][0]) - 65
        if len(answers[0]) != 1 or not 0 <= index < len(options) or options[index] != right.strip():
            return ()
    return options
