"""Rows read from every kind of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.problem import SourceProblem
from data.readers import read_problems


def read_as(source_format: str, folder: Path, *rows: dict[str, Any]) -> list[SourceProblem]:
    """The rows as JSONL, told to be of this format; the same rows as parquet must read alike."""
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "a.parquet")
    reader = read_problems(folder / "a.jsonl")
    assert reader.source_format == source_format
    problems = list(reader)
    assert list(read_problems(folder / "a.parquet")) == problems
    return problems
