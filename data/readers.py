"""Every data source that can be read, behind one function.

Where rows come from (`data.read_source`) and what their columns mean (a format, in a module of its own and a
line in `_FORMATS`) are two questions, so each format is read from each kind of file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from data import read_longbench, read_plain, read_trl, read_verl
from data.fields import Row, SeenIds, did_you_mean, shown_names
from data.problem import DataError, SourceProblem
from data.read_source import Rows, opened

SourceFormat = Literal["auto", "plain", "verl", "trl", "longbench"]
SOURCE_FORMATS: tuple[SourceFormat, ...] = get_args(SourceFormat)


@dataclass(frozen=True, slots=True)
class _Format:
    names: Mapping[str, tuple[str, ...]]
    """Its fields to what their columns may be called."""
    problem: Callable[[Row, SeenIds], SourceProblem]
    """What a row means; takes the ids of the rows before it."""
    marks: str
    """The columns it is told by, for an error message."""


_FORMATS: dict[str, _Format] = {
    "plain": _Format(read_plain.NAMES, read_plain.plain_problem, "context, question, answers, answer_type"),
    "verl": _Format(read_verl.NAMES, read_verl.verl_problem, "prompt, reward_model"),
    "trl": _Format(read_trl.NAMES, read_trl.trl_problem, "prompt, answer"),
    "longbench": _Format(read_longbench.NAMES, read_longbench.longbench_problem, "input, context, answers, dataset"),
}


class SourceReader(Iterator[SourceProblem]):
    """The problems of one source in its order, each read when it is asked for, and how far along that is."""

    def __init__(self, rows: Rows, source_format: str, columns: Mapping[str, str]) -> None:
        """Use `read_problems`, which opens the source and tells the format."""
        self.source_format = source_format
        """The format read: one of `SOURCE_FORMATS`, never `auto`."""
        self.total_bytes: int | None = rows.total_bytes
        """Size of the source on disk; None for a stream whose size nobody knows."""
        self._rows = rows
        self._problems = _problems(rows, source_format, columns)

    @property
    def done_bytes(self) -> int:
        """How much of the source was read; at the end, `total_bytes` where that is known."""
        return self._rows.done_bytes

    def __next__(self) -> SourceProblem:
        return next(self._problems)


def read_problems(
    path: str | Path, *, columns: Mapping[str, str] | None = None, source_format: SourceFormat = "auto"
) -> SourceReader:
    """Problems of one source in its order, read as they are asked for.

    Args:
        path: a file, a folder of data files, a folder saved by `datasets`, or a Hub id `owner/name:config@split`.
        columns: a format's own name of a field to the source's name for it.
        source_format: what the columns mean; `auto` tells by their names.

    Raises:
        DataError: at once for a source, format or field that does not exist, a source without rows, and
            columns that fit no format or several; while reading for a row that cannot be used or a
            duplicate id.
    """
    columns = columns or {}
    if source_format not in SOURCE_FORMATS:
        hint = did_you_mean(source_format, SOURCE_FORMATS)
        raise DataError(f"{path}: format {source_format!r} is not known; {hint}allowed: {', '.join(SOURCE_FORMATS)}")
    rows = opened(path)
    names = rows.column_names()
    if names is None:
        raise DataError(f"{path}: no rows; it must hold at least one problem")
    kind = _told_format(path, names, columns) if source_format == "auto" else source_format
    fields = _FORMATS[kind].names
    for field in columns:
        if field not in fields:
            hint = did_you_mean(field, fields)
            allowed = ", ".join(fields)
            raise DataError(f"{path}: --columns {field}=...: {kind} has no such field; {hint}allowed: {allowed}")
    return SourceReader(rows, kind, columns)


def _problems(rows: Rows, kind: str, columns: Mapping[str, str]) -> Iterator[SourceProblem]:
    form = _FORMATS[kind]
    wanted = {name for names in form.names.values() for name in names} | set(columns.values())
    seen = SeenIds()
    for place, values in rows.rows(wanted):
        try:
            yield form.problem(Row(values, place, form.names, columns), seen)
        except DataError as error:
            # A file put together from several is told so, instead of what its rows lack.
            others = _fitting_formats(values, columns)
            if not others or kind in others:
                raise
            fix = f"write one format a source, or pass --format {others[0]}"
            mixed = f"seen {shown_names(values)}: a row of format {others[0]} in a source read as {kind}"
            raise place.error("columns", mixed, fix) from error


def _told_format(source: str | Path, names: Collection[str], columns: Mapping[str, str]) -> str:
    fitting = _fitting_formats(names, columns)
    if len(fitting) == 1:
        return fitting[0]
    what = f"fits the formats {' and '.join(fitting)}" if fitting else "fits no format"
    known = "; ".join(f"{kind} ({form.marks})" for kind, form in _FORMATS.items())
    fix = f"pass --format, or --columns FIELD=NAME; allowed: {known}"
    raise DataError(f"{source}:1: columns: seen {shown_names(names)}, which {what}; {fix}")


def _fitting_formats(names: Collection[str], columns: Mapping[str, str]) -> list[str]:
    """The formats whose columns a row has, the user's own names replaced; several where they contradict."""
    present = (set(names) - set(columns.values())) | set(columns)
    asks, documents = present & {"question", "query"}, present & {"context", "document"}
    benchmark = present & {"all_classes", "choice_A"} or {"input", "context"} <= present
    if "reward_model" in present or ("prompt" in present and present & {"ability", "extra_info"}):
        return ["verl", "plain"] if asks and documents else ["verl"]
    if "prompt" in present:
        return ["trl", "longbench"] if benchmark else ["trl"]
    if benchmark:
        return ["longbench", "plain"] if asks and "input" in present else ["longbench"]
    return ["plain"] if asks or documents else []
