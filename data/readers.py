"""Every data file that can be read, behind one function.

A format is a function `(path, columns) -> Iterator[SourceProblem]` in a module of its own and a line in
`_READERS`. Left out so far: TRL's prompt-only form, LongBench's, and Hugging Face dataset ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from data.fields import did_you_mean
from data.problem import DataError, SourceProblem
from data.read_jsonl import ALIASES, read_jsonl
from data.read_verl import COLUMNS, read_verl

SourceFormat = Literal["auto", "jsonl", "verl"]

_READERS: dict[str, tuple[Callable[[Path, Mapping[str, str]], Iterator[SourceProblem]], Collection[str]]] = {
    "jsonl": (read_jsonl, ALIASES),
    "verl": (read_verl, COLUMNS),
}
SOURCE_FORMATS: tuple[str, ...] = ("auto", *_READERS)


def read_problems(
    path: str | Path, *, columns: Mapping[str, str] | None = None, source_format: SourceFormat = "auto"
) -> Iterator[SourceProblem]:
    """Problems of one file in file order, read as they are asked for.

    Args:
        columns: the format's own name of a field to the file's name for it.
        source_format: `jsonl` (gzip or not), `verl`, or `auto`, which tells them by the first bytes.

    Raises:
        DataError: at once for a file, format or column name that does not exist; while reading for a
            row that cannot be used, a duplicate id, or a file without rows.
    """
    path = Path(path)
    if source_format not in SOURCE_FORMATS:
        hint = did_you_mean(source_format, SOURCE_FORMATS)
        raise DataError(f"{path}: format {source_format!r} is not known; {hint}allowed: {', '.join(SOURCE_FORMATS)}")
    kind = _detected_format(path) if source_format == "auto" else source_format
    _check_is_file(path)
    read, fields = _READERS[kind]
    for field in columns or {}:
        if field not in fields:
            hint = did_you_mean(field, fields)
            allowed = ", ".join(fields)
            raise DataError(f"{path}: --columns {field}=...: {kind} has no such field; {hint}allowed: {allowed}")
    return read(path, columns or {})


def _detected_format(path: Path) -> str:
    _check_is_file(path)
    with path.open("rb") as file:
        magic = file.read(4)
    return "verl" if magic == b"PAR1" or path.suffix == ".parquet" else "jsonl"


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path}: is a directory; name a data file in it")
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file; {did_you_mean(path.name, siblings)}give the path of a data file")
