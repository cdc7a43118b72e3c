"""One row's values, checked: every reader turns its columns into fields with these.

An error here is always one line, `file:row: column: what was seen; the way out`, because whoever
reads it has a file of a million rows open in another window. Rows count from 1.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.problem import AnswerType, DataError

TYPE_NAMES: dict[str, AnswerType] = {
    "text": "text",
    "extractive": "text",
    "free": "text",
    "number": "number",
    "numeric": "number",
    "choice": "choice",
    "multiple_choice": "choice",
    "yesno": "yesno",
    "boolean": "yesno",
}
"""Names of answer types in the wild, and ours. `extractive` and `free` differ in how annotators
worked, not in how an answer is judged."""


def shown(value: object) -> str:
    """`value` on one line and short enough for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`did you mean 'x'? ` where a candidate is near, else nothing."""
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}? " if near else ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: a row of a file."""

    path: Path
    row: int
    """From 1; for JSONL the line."""

    def error(self, column: str, seen: str, fix: str) -> DataError:
        """The error to raise for `column` of this row."""
        return DataError(f"{self.path}:{self.row}: {column}: {seen}; {fix}")


def text_value(value: object, place: Place, column: str) -> str:
    """A non-blank string that can be written as UTF-8, unchanged.

    Raises:
        DataError: another type, blank, or holding a lone surrogate.
    """
    if not isinstance(value, str):
        raise place.error(column, f"seen {type(value).__name__} {shown(value)}", "it must be a string")
    if not value.strip():
        raise place.error(column, f"seen {shown(value)}, which is blank", "fill it or remove the row")
    _check_encodable(value, place, column)
    return value


def id_value(value: object, place: Place, column: str) -> str:
    """A problem's id: a string, or an integer written as one.

    Raises:
        DataError: another type, or blank.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_value(value, place, column)


def answer_values(value: object, place: Place, column: str) -> tuple[str, ...]:
    """Accepted answers from one value or a list of them; numbers are written out.

    Raises:
        DataError: an empty list, a blank, missing, NaN, infinite or nested answer.
    """
    items = value if isinstance(value, list) else [value]
    if not items:
        raise place.error(column, "seen an empty list", "give at least one accepted answer or remove the row")
    answers = []
    for item in items:
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            if not math.isfinite(item):
                raise place.error(column, f"seen {item}", "a gold must be a finite number or a string; remove the row")
            answers.append(str(item))
        elif isinstance(item, str) and item.strip():
            _check_encodable(item, place, column)
            answers.append(item)
        else:
            fix = "an answer must be a non-blank string or a number"
            raise place.error(column, f"seen {type(item).__name__} {shown(item)}", fix)
    return tuple(answers)


def answer_type_value(value: object, place: Place, column: str) -> AnswerType:
    """Our name for an answer type (`TYPE_NAMES`, case-insensitive).

    Raises:
        DataError: an unknown name.
    """
    name = text_value(value, place, column).strip().lower()
    if name not in TYPE_NAMES:
        fix = f"{did_you_mean(name, TYPE_NAMES)}allowed: text, number, choice, yesno"
        raise place.error(column, f"seen {shown(value)}", fix)
    return TYPE_NAMES[name]


def option_values(value: object, place: Place, column: str) -> tuple[str, ...]:
    """The choices' texts, A first, from a list or from a mapping of consecutive letters.

    Raises:
        DataError: neither of the two, or a choice that is blank or no string.
    """
    if isinstance(value, Mapping):
        letters = sorted(str(key) for key in value)
        if letters != [chr(65 + i) for i in range(len(letters))]:
            raise place.error(column, f"seen keys {shown(letters)}", "letters must run from A without a gap")
        value = [value[letter] for letter in letters]
    if not isinstance(value, list):
        fix = "give a list of strings, A first, or null"
        raise place.error(column, f"seen {type(value).__name__} {shown(value)}", fix)
    return tuple(text_value(item, place, f"{column}[{i}]") for i, item in enumerate(value))


_OPTION = re.compile(r"^[ \t]*(?:\(([A-Z])\)|([A-Z])[.):])[ \t]*", re.MULTILINE)


def options_in(question: str) -> tuple[str, ...]:
    """The choices listed at the end of a question, one a line as `(A) text` or `A. text`.

    The last run of letters from A without a gap counts; fewer than two, or a blank one, give ().
    """
    marks = list(_OPTION.finditer(question))
    letters = [mark[1] or mark[2] for mark in marks]
    if "A" not in letters:
        return ()
    first = len(letters) - 1 - letters[::-1].index("A")
    run = marks[first:]
    if len(run) < 2 or letters[first:] != [chr(65 + i) for i in range(len(run))]:
        return ()
    ends = [mark.start() for mark in run[1:]] + [len(question)]
    options = tuple(question[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True))
    return options if all(options) else ()


class SeenIds:
    """The ids of one file, so that a second use is refused with both rows named."""

    def __init__(self) -> None:
        self._row_of: dict[str, int] = {}

    def __contains__(self, problem_id: str) -> bool:
        return problem_id in self._row_of

    def add(self, problem_id: str, place: Place, column: str) -> None:
        """Remember an id.

        Raises:
            DataError: the id was used by an earlier row.
        """
        first = self._row_of.setdefault(problem_id, place.row)
        if first != place.row:
            fix = "ids must be unique; rename or remove one"
            raise place.error(column, f"seen {shown(problem_id)} again, first in row {first}", fix)


def _check_encodable(text: str, place: Place, column: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        seen = f"seen {shown(text[error.start : error.end])} at character {error.start}, which is not valid Unicode"
        raise place.error(column, seen, "re-encode the file as UTF-8") from error
