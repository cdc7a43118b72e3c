"""The prepared set on disk: `problems.jsonl`, one `Problem` a line, and the manifest that makes it valid.

A set appears whole or not at all: it is written to a hidden sibling, synced, and renamed into place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from data.fields import Place, SeenIds
from data.problem import DataError, Problem
from data.prompts import PromptTemplate

PROBLEMS_FILE = "problems.jsonl"
MANIFEST_FILE = "manifest.json"
FORMAT = "longreach-prepared-1"


@checked_dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class Manifest:
    """What a prepared set says about itself."""

    num_problems: int
    """Lines of problems.jsonl."""
    problems_sha256: str
    """Of problems.jsonl, hex."""
    tokenizer_fingerprint: str
    """Whose tokens were counted; see `data.token_counts.tokenizer_fingerprint`."""
    template: str
    """The prompt template's text."""
    windows: tuple[int, ...]
    """Upper bounds in tokens."""
    window_counts: tuple[int, ...]
    """Problems per window."""
    num_beyond: int
    """Problems longer than the last window."""
    max_prompt_tokens: int | None
    """The limit that was asked for."""
    overlong: str
    """What happened to longer prompts: drop, error or cut_middle."""
    num_dropped: int
    """Problems left out for their length."""
    num_cut: int
    """Problems whose document was cut."""
    num_cut_tokens: int
    """Tokens cut from them."""
    sources: tuple[str, ...]
    """Where the problems came from."""
    format: str = FORMAT


_MANIFEST = TypeAdapter(Manifest)
_PROBLEM = TypeAdapter(Problem)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedSet:
    """Measured problems, and what they were measured with."""

    problems: tuple[Problem, ...]
    template: PromptTemplate
    tokenizer_fingerprint: str
    fingerprint: str
    """sha256 over the problems, the template and the tokenizer: equal sets train alike."""
    manifest: Manifest


def load_prepared(path: str | Path) -> PreparedSet:
    """Reads a prepared set and verifies it against its manifest.

    Raises:
        DataError: no prepared set there, a file changed since it was written, a duplicate id, or no problem at all.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    file = path / PROBLEMS_FILE
    if not file.is_file():
        raise DataError(f"{file}: missing from the prepared set; run python -m data.prepare again")
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 != manifest.problems_sha256:
        seen = f"sha256 {sha256[:12]}... is not the manifest's {manifest.problems_sha256[:12]}..."
        raise DataError(f"{file}: {seen}; the file was changed, run python -m data.prepare again")
    problems = tuple(_problems(file))
    if not problems:
        raise DataError(f"{file}: no problem in it; run python -m data.prepare again")
    if len(problems) != manifest.num_problems:
        seen = f"{len(problems)} problems, the manifest says {manifest.num_problems}"
        raise DataError(f"{file}: {seen}; run python -m data.prepare again")
    identity = "\0".join([sha256, manifest.tokenizer_fingerprint, manifest.template])
    return PreparedSet(
        problems=problems,
        template=PromptTemplate(manifest.template),
        tokenizer_fingerprint=manifest.tokenizer_fingerprint,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        manifest=manifest,
    )


def write_prepared(path: Path, problems: Iterable[Problem], finish: Callable[[int, str], Manifest]) -> Manifest:
    """Writes a prepared set as `problems` arrive; an older prepared set at `path` is replaced at the end.

    Args:
        finish: makes the manifest from the number of problems and the sha256 of their file.

    Raises:
        DataError: `path` holds something that is not a prepared set. Whatever `problems` or `finish`
            raises passes through and leaves `path` as it was.
    """
    check_replaceable(path)
    with _renamed_into(path) as unfinished:
        digest, num_problems = hashlib.sha256(), 0
        with (unfinished / PROBLEMS_FILE).open("wb") as file:
            for problem in problems:
                line = orjson.dumps(dataclasses.asdict(problem), option=orjson.OPT_APPEND_NEWLINE)
                digest.update(line)
                num_problems += 1
                file.write(line)
            _sync(file)
        manifest = finish(num_problems, digest.hexdigest())
        with (unfinished / MANIFEST_FILE).open("wb") as file:
            file.write(_MANIFEST.dump_json(manifest, indent=2) + b"\n")
            _sync(file)
    return manifest


def check_replaceable(path: Path) -> None:
    """Refuses to write over anything but nothing, an empty directory or a prepared set.

    Raises:
        DataError: something else is there.
    """
    if path.is_dir() and ((path / MANIFEST_FILE).is_file() or not any(path.iterdir())):
        return
    if path.exists():
        raise DataError(f"{path}: exists and is not a prepared set; remove it or name another --out")


@contextmanager
def _renamed_into(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.unfinished-{os.getpid()}"
    replaced = path.parent / f".{path.name}.replaced-{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        if path.exists():
            path.rename(replaced)
        try:
            unfinished.rename(path)
        except OSError:
            if replaced.exists():
                replaced.rename(path)
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_FILE
    if not file.is_file():
        raise DataError(f"{path}: no prepared set there ({MANIFEST_FILE} is missing); make one with data.prepare")
    try:
        manifest = _MANIFEST.validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(f"{file}: {_first(error)}; run python -m data.prepare again") from error
    if manifest.format != FORMAT:
        raise DataError(
            f"{file}: format: seen {manifest.format!r}, read is {FORMAT!r}; run python -m data.prepare again"
        )
    return manifest


def _problems(file: Path) -> Iterator[Problem]:
    seen = SeenIds()
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                problem = _PROBLEM.validate_json(line)
            except ValidationError as error:
                raise DataError(f"{file}:{number}: {_first(error)}; run python -m data.prepare again") from error
            seen.add(problem.problem_id, Place(file, number), "problem_id")
            yield problem


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}".replace("\n", " ")
