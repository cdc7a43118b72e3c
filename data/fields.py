"""One row's values, checked: every reader turns its columns into fields with these.

An error here is always one line, `file:row: column: what was seen; the way out`, because whoever
reads it has a file of a million rows open in another window. Rows count from 1.
"""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

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


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxother = 2, 4, 4, 40, 60
_EXACT_FLOATS = 2.0**53


def shown(value: object) -> str:
    """`value` on one line and short enough for an error message, however large it is."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else f"{value[:60]!r}... ({len(value)} characters)"
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else f"{text[:60]}..."


def shown_names(names: Iterable[object]) -> str:
    """Column names on one line, the first twelve of them."""
    first = [str(name)[:40] for name in islice(names, 13)]
    plain = ", ".join(name if name.isprintable() else repr(name) for name in first[:12])
    return f"{plain}, ..." if len(first) > 12 else plain or "nothing"


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`did you mean 'x'? ` where a candidate is near, else nothing."""
    near = difflib.get_close_matches(name, list(islice(candidates, 1000)), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}? " if near else ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: a row of a file."""

    path: Path | str
    """A file, or the id of a dataset on the Hub."""
    row: int
    """From 1; for JSONL the line."""

    def error(self, column: str, seen: str, fix: str) -> DataError:
        """The error to raise for `column` of this row."""
        return DataError(f"{self.path}:{self.row}: {column}: {seen}; {fix}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source: its values, where it stands, and what each field may be called there."""

    values: Mapping[str, Any]
    place: Place
    names: Mapping[str, tuple[str, ...]]
    """A format's fields to their usual column names, the likeliest first."""
    columns: Mapping[str, str]
    """Fields to the column names that the user gave; these count alone."""

    def has(self, field: str) -> bool:
        """Whether the row holds a value for `field`.

        Raises:
            DataError: the user named a column for it that the row lacks.
        """
        column = self._column(field)
        if column is None and field in self.columns:
            raise self.missing(field)
        return column is not None and self.values[column] is not None

    def at(self, field: str) -> tuple[Any, Place, str]:
        """The value of `field`, its place and its column: what a check in this module asks for.

        Raises:
            DataError: there is no such column.
        """
        column = self._column(field)
        if column is None:
            raise self.missing(field)
        return self.values[column], self.place, column

    def missing(self, field: str) -> DataError:
        """The error to raise for a field that the row lacks."""
        name = self.columns.get(field) or self.names[field][0]
        fix = f"{did_you_mean(name, self.values)}rename it or pass --columns {field}=NAME (in Python: columns={{{field!r}: NAME}})"
        return self.place.error(name, f"missing, the row has {shown_names(self.values)}", fix)

    def _column(self, field: str) -> str | None:
        # Parquet fills what a row lacks with nulls, so a null gives way to another name that has a value.
        names = (self.columns[field],) if field in self.columns else self.names[field]
        present = [name for name in names if name in self.values]
        return next((name for name in present if self.values[name] is not None), present[0] if present else None)


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
        DataError: an empty list, a blank, missing, NaN, infinite or nested answer, or a float too large to be exact.
    """
    items = value if isinstance(value, list) else [value]
    if not items:
        raise place.error(column, "seen an empty list", "give at least one accepted answer or remove the row")
    answers = []
    for item in items:
        if isinstance(item, (int, float, Decimal)) and not isinstance(item, bool):
            if not math.isfinite(item):
                raise place.error(column, f"seen {item}", "a gold must be a finite number or a string; remove the row")
            if isinstance(item, float) and abs(item) >= _EXACT_FLOATS:
                raise place.error(column, f"seen {item}, which lost digits when read", "write it as a string")
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
    """The choices' texts, A first, from a list or from a mapping of consecutive letters; null ones do not count.

    Raises:
        DataError: neither of the two, or a choice that is blank or no string.
    """
    if isinstance(value, Mapping):
        letters = sorted(str(key) for key, text in value.items() if text is not None)
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
    """The ids of one source, so that a second use is refused with both rows named.

    Of an id it keeps a hash of 88 bits and its place, 20 bytes an id at ten million of them; that any two
    of ten million different ids are taken for one has a probability below 2e-13.
    """

    _KEY_BYTES, _FILE_BYTES, _ENTRY_BYTES = 9, 2, 16
    MAX_FILES = 1 << 16

    def __init__(self) -> None:
        self._buckets: list[bytearray | None] = [None] * (1 << 16)
        self._paths: list[Path | str] = []
        self._copies: dict[str, int] = {}

    def __contains__(self, problem_id: str) -> bool:
        return self._find(*_hash_of(problem_id)) is not None

    def add(self, problem_id: str, place: Place, column: str) -> None:
        """Remember an id.

        Raises:
            DataError: the id was used by an earlier row.
        """
        index, key = _hash_of(problem_id)
        first = self._find(index, key)
        if first is None:
            if not self._paths or self._paths[-1] != place.path:
                self._paths.append(place.path)
            entry = key + (len(self._paths) - 1).to_bytes(self._FILE_BYTES, "big") + place.row.to_bytes(5, "big")
            bucket = self._buckets[index]
            if bucket is None:
                self._buckets[index] = bytearray(entry)
            else:
                bucket += entry
        elif first != place:
            where = f"row {first.row}" if first.path == place.path else f"{first.path}:{first.row}"
            fix = "ids must be unique; rename or remove one"
            raise place.error(column, f"seen {shown(problem_id)} again, first in {where}", fix)

    def unused(self, base: str) -> str:
        """`base`, or where that is taken the first free one of `base#2`, `base#3`, ..."""
        name, copies = base, self._copies.get(base, 1)
        while name in self:
            copies += 1
            name = f"{base}#{copies}"
        if copies > 1:
            self._copies[base] = copies
        return name

    def _find(self, index: int, key: bytes) -> Place | None:
        bucket = self._buckets[index]
        at = -1 if bucket is None else bucket.find(key)
        while bucket is not None and at >= 0:
            if at % self._ENTRY_BYTES == 0:
                entry = bucket[at + self._KEY_BYTES : at + self._ENTRY_BYTES]
                path = self._paths[int.from_bytes(entry[: self._FILE_BYTES], "big")]
                return Place(path, int.from_bytes(entry[self._FILE_BYTES :], "big"))
            at = bucket.find(key, at + 1)
        return None


def given_id(row: Row, seen: SeenIds) -> str:
    """The id in a row's `problem_id`, remembered.

    Raises:
        DataError: none, no string or integer, blank, or used by an earlier row.
    """
    value, place, column = row.at("problem_id")
    problem_id = id_value(value, place, column)
    seen.add(problem_id, place, column)
    return problem_id


def row_id(row: Row, seen: SeenIds, problem_text: tuple[str, str], task: str) -> str:
    """`given_id` where the row has one, else `content_id`."""
    return given_id(row, seen) if row.has("problem_id") else content_id(problem_text, task, row.place, seen)


def content_id(problem_text: tuple[str, str], task: str, place: Place, seen: SeenIds) -> str:
    """An id for a row without one: its task and a hash of its document and question; copies get `#2`, `#3`, ..."""
    context, question = problem_text
    digest = blake2b(f"{len(context)}\0{context}{question}".encode(), digest_size=6).hexdigest()
    problem_id = seen.unused(f"{task}-{digest}")
    seen.add(problem_id, place, "problem_id")
    return problem_id


def _hash_of(problem_id: str) -> tuple[int, bytes]:
    digest = blake2b(problem_id.encode(), digest_size=11).digest()
    return int.from_bytes(digest[:2], "big"), digest[2:]


def _check_encodable(text: str, place: Place, column: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        seen = f"seen {shown(text[error.start : error.end])} at character {error.start}, which is not valid Unicode"
        raise place.error(column, seen, "re-encode the file as UTF-8") from error
