"""The prepared set on disk: `problems.jsonl`, one `Problem` a line, and the manifest that makes it valid.

Beside them `columns.npz`, with which a set of millions opens in seconds, and `dropped.jsonl`, what was left out
and why. A set appears whole or not at all: it is written to a hidden sibling, synced, and renamed into place.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from data.column_file import ColumnWriter, read_columns
from data.dropped import Dropped
from data.problem import DataError, Problem
from data.prompts import PromptTemplate
from data.stored_problems import ProblemSequence, StoredProblems, first_error

PROBLEMS_FILE = "problems.jsonl"
COLUMNS_FILE = "columns.npz"
DROPPED_FILE = "dropped.jsonl"
MANIFEST_FILE = "manifest.json"
FORMAT = "longreach-prepared-2"


@checked_dataclass(frozen=True, kw_only=True, slots=True, config=ConfigDict(extra="forbid"))
class Manifest:
    """What a prepared set says about itself."""

    num_problems: int
    """Lines of problems.jsonl."""
    problems_sha256: str
    """Of problems.jsonl, hex."""
    columns_sha256: str
    """Of columns.npz, hex."""
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
    num_filtered: dict[str, int]
    """Problems left out by each filter that was asked for."""
    num_cut: int
    """Problems whose document was cut."""
    num_cut_tokens: int
    """Tokens cut from them."""
    sources: tuple[str, ...]
    """Where the problems came from."""
    format: str = FORMAT


_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedSet:
    """Measured problems, and what they were measured with."""

    problems: ProblemSequence
    """Lazy: ids, lengths and tasks stand in its `columns`, a text is read from disk each time it is asked for."""
    template: PromptTemplate
    tokenizer_fingerprint: str
    fingerprint: str
    """sha256 over the problems, the template and the tokenizer: equal sets train alike."""
    manifest: Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The files of a set that waits for its manifest."""

    num_prompt_tokens: npt.NDArray[np.int32]
    """[N] of each problem written."""
    problems_sha256: str
    columns_sha256: str
    num_dropped: Counter[str]
    """Problems left out, by filter name."""


def load_prepared(path: str | Path) -> PreparedSet:
    """Opens a prepared set and verifies its files against its manifest; that reads them once, at the disk's speed.

    Raises:
        DataError: no prepared set there, one of an older form, a file changed since it was written, or no
            problem at all. A line that is no problem is noticed when it is asked for.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    file = path / PROBLEMS_FILE
    _verify(path / COLUMNS_FILE, manifest.columns_sha256)
    _verify(file, manifest.problems_sha256)
    columns, line_ends = read_columns(path / COLUMNS_FILE)
    size = file.stat().st_size
    if size == 0 or manifest.num_problems == 0:
        raise DataError(f"{file}: no problem in it; run python -m data.prepare again")
    if (len(columns), line_ends[-1:].tolist()) != (manifest.num_problems, [size]):
        seen = f"{manifest.num_problems} problems in {size} bytes, {COLUMNS_FILE} has {len(columns)} of other lengths"
        raise DataError(f"{file}: {seen}; run python -m data.prepare again")
    identity = "\0".join([manifest.problems_sha256, manifest.tokenizer_fingerprint, manifest.template])
    return PreparedSet(
        problems=StoredProblems(file, columns, line_ends),
        template=PromptTemplate(manifest.template),
        tokenizer_fingerprint=manifest.tokenizer_fingerprint,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        manifest=manifest,
    )


def _verify(file: Path, sha256: str) -> None:
    if not file.is_file():
        raise DataError(f"{file}: missing from the prepared set; run python -m data.prepare again")
    seen = _sha256(file)
    if seen != sha256:
        differ = f"sha256 {seen[:12]}... is not the manifest's {sha256[:12]}..."
        raise DataError(f"{file}: {differ}; the file was changed, run python -m data.prepare again")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_prepared(
    path: Path, problems: Iterable[Problem | Dropped], finish: Callable[[Written], Manifest]
) -> Manifest:
    """Writes a prepared set as `problems` arrive; an older prepared set at `path` is replaced at the end.

    Args:
        finish: makes the manifest of what was written.

    Raises:
        DataError: `path` holds something that is not a prepared set. Whatever `problems` or `finish`
            raises passes through and leaves `path` as it was.
    """
    check_replaceable(path)
    with _renamed_into(path) as unfinished:
        digest, columns, num_dropped = hashlib.sha256(), ColumnWriter(), Counter[str]()
        with (unfinished / PROBLEMS_FILE).open("wb") as file, (unfinished / DROPPED_FILE).open("wb") as dropped:
            for problem in problems:
                line = orjson.dumps(dataclasses.asdict(problem), option=orjson.OPT_APPEND_NEWLINE)
                if isinstance(problem, Dropped):
                    dropped.write(line)
                    num_dropped[problem.filter] += 1
                    continue
                digest.update(line)
                file.write(line)
                columns.add(problem, len(line))
            _sync(file)
            _sync(dropped)
        columns.write(unfinished / COLUMNS_FILE)
        manifest = finish(
            Written(
                num_prompt_tokens=columns.num_prompt_tokens,
                problems_sha256=digest.hexdigest(),
                columns_sha256=_sha256(unfinished / COLUMNS_FILE),
                num_dropped=num_dropped,
            )
        )
        with (unfinished / MANIFEST_FILE).open("wb") as file:
            file.write(_MANIFEST.dump_json(manifest, indent=2) + b"\n")
            _sync(file)
    return manifest


def check_replaceable(path: Path) -> None:
    """Refuses to write over anything but nothing, an empty directory or a prepared set.

    Raises:
        DataError: something else is there, or no folder can be made there.
    """
    if path.is_dir() and ((path / MANIFEST_FILE).is_file() or not any(path.iterdir())):
        return
    if path.exists():
        raise DataError(f"{path}: exists and is not a prepared set; remove it or name another --out")
    nearest = next(place for place in path.absolute().parents if place.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise DataError(f"{path}: cannot be written, {nearest} is no writable folder; name another --out")


@contextmanager
def _renamed_into(path: Path) -> Iterator[Path]:
    unfinished = path.parent / f".{path.name}.unfinished-{os.getpid()}"
    replaced = path.parent / f".{path.name}.replaced-{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        unfinished.mkdir()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}: {error.filename}); name another --out"
        ) from error
    lock = os.open(unfinished, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: nothing will be removed there
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        os.close(lock)
        shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove_leftovers(path: Path) -> None:
    """What killed writers of this set left: their lock is free, for a lock ends with its process."""
    for leftover in path.parent.glob(f".{path.name}.unfinished-*"):
        folder = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        finally:
            os.close(folder)
        shutil.rmtree(leftover, ignore_errors=True)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_FILE
    if not file.is_file():
        raise DataError(f"{path}: no prepared set there ({MANIFEST_FILE} is missing); make one with data.prepare")
    content = file.read_bytes()
    try:
        said = orjson.loads(content)
        # Before the fields, of which an older form lacks some.
        if isinstance(said, dict) and said.get("format", FORMAT) != FORMAT:
            raise DataError(
                f"{file}: format: seen {said['format']!r}, read is {FORMAT!r}; run python -m data.prepare again"
            )
        return _MANIFEST.validate_json(content)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{file}: line: Invalid JSON ({error}); run python -m data.prepare again") from error
    except ValidationError as error:
        raise DataError(f"{file}: {first_error(error)}; run python -m data.prepare again") from error
