"""What an evaluation asks: prepared sets, named suites, and any file that `data.readers` knows.

A named suite is a TOML file in `launch/suites/` (or one of your own, by its path): where its rows are, what their
columns mean, and how its answers are drawn. Left out: downloads; rows come from the Hub's cache, or from a folder.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from pydantic import Field, ValidationError

from data.fields import Place, did_you_mean
from data.prepared import MANIFEST_FILE, PreparedSet, load_prepared
from data.problem import DataError, Problem, SourceProblem
from data.prompts import L1_PROMPT, PromptTemplate, find_cut
from data.read_source import Rows, opened
from data.readers import SourceFormat, SourceReader, read_problems
from data.stored_problems import SelectedProblems, first_error
from data.token_counts import TokenCounter, tokenizer_fingerprint
from data.windows import assign_window, windows_from
from rl.config import Section
from rl.evaluate import choose_problems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUITES = Path(__file__).parent / "suites"
SOURCE_WINDOWS = (20_000, 60_000, 120_000)
"""Windows of what is no prepared set and asks for none; the paper's stages and its input limit."""
PREPARED_PER_WINDOW = 200
_DATA_ENDINGS = ("", ".jsonl", ".parquet", ".ndjson", ".jsonl.gz", ".ndjson.gz")


class SuiteFile(Section):
    """A suite's TOML file."""

    about: str
    """What it asks, in a line."""
    members: list[str] = Field(default_factory=list)
    """Other suites, asked one after the other; a suite with members has no rows of its own."""
    hub: str = ""
    """Where the rows are, as `owner/name:config@split`, or a path."""
    format: SourceFormat = "auto"
    """What the columns mean."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The format's name of a field to the source's. A document in parts (a list of texts, or of {title, text}) is joined."""
    constants: dict[str, str] = Field(default_factory=dict)
    """Columns that every row lacks, with their value."""
    max_prompt_tokens: int = Field(default=120_000, gt=0)
    """Longer prompts are cut in the document's middle."""
    max_response_tokens: int = Field(default=10_000, gt=0)
    """Output limit."""
    temperature: float = Field(default=0.7, gt=0.0)
    """Of sampled answers."""
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    """Nucleus mass of sampled answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """Problems to choose from, by window, and what they are asked with."""

    name: str
    source: str
    """Where the rows came from."""
    template: PromptTemplate
    fingerprint: str
    """sha256 of the problems, the template and, in a prepared set, the tokenizer that counted."""
    windows: Mapping[int, Sequence[Problem]]
    """Upper bound in prompt tokens to the window's problems, none of them empty."""
    defaults: SuiteFile
    """Limits and decoding where the command names none."""
    is_prepared: bool

    def chosen(self, per_window: int | None, *, seed: int) -> dict[int, tuple[Problem, ...]]:
        """Upper bound to the problems that are asked; None: 200 a window of a prepared set, all of another."""
        most = per_window or (PREPARED_PER_WINDOW if self.is_prepared else max(map(len, self.windows.values())))
        return {high: choose_problems(problems, most, seed=seed) for high, problems in self.windows.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A problem as the model is asked it."""

    problem: Problem
    """Measured with the model's tokenizer where there is one, and cut where it was too long."""
    num_cut_tokens: int
    """Tokens taken out of its document's middle."""


def load_suites(
    names: Sequence[str],
    *,
    suite_dir: str,
    windows: Sequence[int],
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    max_prompt_tokens: int | None,
) -> list[Suite]:
    """The suites that these names and paths mean, in order.

    Args:
        suite_dir: folder with a named suite's rows as NAME.jsonl, NAME.parquet or a folder NAME; empty: the Hub.
        windows: upper bounds; empty: each suite's own.
        tokenizer: called where prompts must be counted, which a prepared set needs not.
        max_prompt_tokens: None: each suite's own.

    Raises:
        DataError: a name that means nothing, a suite given twice, rows that cannot be read, or a window without problems.
    """
    suites = []
    for name, known in _named(names):
        prepared = known is None and (Path(name) / MANIFEST_FILE).is_file()
        if prepared:
            suites.append(_prepared(name, load_prepared(name), windows))
        else:
            limits = known or SuiteFile(about=name, hub=name)
            limit = max_prompt_tokens or limits.max_prompt_tokens
            problems, source = _rows(name, limits, suite_dir if known else "")
            suites.append(_measured(name, source, problems, limits, tokenizer(), windows, limit))
    return suites


def named_problems(name: str, suite_dir: str) -> Iterable[SourceProblem]:
    """The problems of one named suite, unmeasured.

    Raises:
        DataError: no such suite, one of several members, or rows that cannot be read.
    """
    (stem, suite), *others = _named([name])
    if suite is None or others:
        raise DataError(f"suite: {name!r} names no single suite; known are the files in launch/suites without members")
    return _rows(stem, suite, suite_dir)[0]


def _named(names: Sequence[str]) -> list[tuple[str, SuiteFile | None]]:
    """Every name with its file, members in place of the suite that names them; None: a path."""
    found: list[tuple[str, SuiteFile | None]] = []
    for name in names:
        path = Path(name) if name.endswith(".toml") else SUITES / f"{name}.toml"
        if not path.is_file():
            found.append((name, None))
            continue
        try:
            suite = SuiteFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"suite {path}: not TOML: {error}") from None
        except ValidationError as error:
            raise DataError(f"suite {path}: {first_error(error)}; see launch/suites for files that work") from None
        found += _named(suite.members) if suite.members else [(path.stem, suite)]
    if twice := next((name for i, (name, _) in enumerate(found) if name in [n for n, _ in found[:i]]), None):
        raise DataError(f"suite: {twice} is asked for twice; name it once")
    return found


def _rows(name: str, suite: SuiteFile, suite_dir: str) -> tuple[Iterable[SourceProblem], str]:
    source = suite.hub
    if suite_dir:
        places = [Path(suite_dir) / f"{name}{ending}" for ending in _DATA_ENDINGS]
        source = next((str(place) for place in places if place.exists()), "")
        if not source:
            raise DataError(
                f"suite_dir: {suite_dir} holds no {name}.jsonl, {name}.parquet or folder {name}; put it there"
            )
    try:
        rows = opened(source)
        # A file of the user's own has its own columns; the published ones are named in the suite.
        if suite.format == "auto" or not set(suite.columns.values()) <= set(rows.column_names() or ()):
            return read_problems(source), source
        return SourceReader(_Joined(rows, suite), suite.format, suite.columns), source
    except DataError as error:
        if suite.hub == name and not Path(name).exists():
            known = sorted(path.stem for path in SUITES.glob("*.toml"))
            hint = did_you_mean(name, known)
            raise DataError(f"suite: {error}; {hint}known by name: {', '.join(known)}") from None
        way_out = (
            "" if suite_dir or suite.hub == name else f"; or give its rows as DIR/{name}.jsonl with --suite_dir DIR"
        )
        raise DataError(f"suite {name}: {error}{way_out}") from None


class _Joined:
    """Rows with a suite's constant columns, and documents in parts joined to one text."""

    def __init__(self, rows: Rows, suite: SuiteFile) -> None:
        self.total_bytes = rows.total_bytes
        self._rows = rows
        self._constants = suite.constants
        self._context = suite.columns.get("context", "context")

    @property
    def done_bytes(self) -> int:
        return self._rows.done_bytes

    def column_names(self) -> tuple[str, ...] | None:
        names = self._rows.column_names()
        return None if names is None else (*names, *self._constants)

    def rows(self, names: Collection[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
        for place, row in self._rows.rows(names):
            context = row.get(self._context)
            joined = {self._context: "\n".join(map(_part, context))} if isinstance(context, list) else {}
            yield place, self._constants | row | joined


def _part(part: object) -> str:
    if isinstance(part, dict):
        return "\n".join(str(part[key]) for key in ("title", "text") if part.get(key))
    return str(part)


def _prepared(name: str, prepared: PreparedSet, windows: Sequence[int]) -> Suite:
    """Windows are counted with the set's own tokenizer, so that every model is asked the same problems."""
    lengths = prepared.problems.columns.num_prompt_tokens
    uppers = list(windows or prepared.manifest.windows)
    if not windows and int(lengths.max()) > uppers[-1]:
        uppers.append(int(lengths.max()))
    by_window = {
        window.high: SelectedProblems(
            prepared.problems, np.flatnonzero((lengths > window.low) & (lengths <= window.high))
        )
        for window in windows_from(uppers)
    }
    return Suite(
        name=name,
        source=", ".join(prepared.manifest.sources) or name,
        template=prepared.template,
        fingerprint=prepared.fingerprint,
        windows=_filled(name, by_window, asked=windows, longest=int(lengths.max())),
        defaults=SuiteFile(about=name, max_response_tokens=1024),
        is_prepared=True,
    )


def _measured(
    name: str,
    source: str,
    problems: Iterable[SourceProblem],
    suite: SuiteFile,
    tokenizer: PreTrainedTokenizerBase,
    windows: Sequence[int],
    max_prompt_tokens: int,
) -> Suite:
    counter = TokenCounter(tokenizer, L1_PROMPT, fingerprint=tokenizer_fingerprint(tokenizer), cache_dir=None)
    digest, longest = hashlib.sha256(L1_PROMPT.text.encode()), 0
    uppers = list(windows) or [bound for bound in SOURCE_WINDOWS if bound < max_prompt_tokens] + [max_prompt_tokens]
    by_window: dict[int, list[Problem]] = {window.high: [] for window in windows_from(uppers)}
    for problem in counter.measure(problems):
        digest.update(orjson.dumps({**asdict(problem), "num_prompt_tokens": 0}, option=orjson.OPT_APPEND_NEWLINE))
        length = min(problem.num_prompt_tokens, max_prompt_tokens)
        longest = max(longest, length)
        if (window := assign_window(length, uppers)) is not None:
            by_window[window.high].append(problem)
    return Suite(
        name=name,
        source=source,
        template=L1_PROMPT,
        fingerprint=digest.hexdigest(),
        windows=_filled(name, by_window, asked=windows, longest=longest),
        defaults=suite,
        is_prepared=False,
    )


def _filled(
    name: str, by_window: Mapping[int, Sequence[Problem]], *, asked: Sequence[int], longest: int
) -> dict[int, Sequence[Problem]]:
    empty = [high for high, problems in by_window.items() if not problems]
    if asked and empty:
        raise DataError(
            f"windows: {name} holds no problem in the windows ending at {empty}; its longest prompt has {longest} tokens"
        )
    return {high: problems for high, problems in by_window.items() if problems}


def fitted(
    suite: Suite,
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_prompt_tokens: int | None,
    without_document: bool,
) -> list[Fitted]:
    """The problems as the model is asked them, in order.

    Args:
        tokenizer: the model's own; None where nobody knows it: then the suite's counts stand and nothing is cut.
        max_prompt_tokens: longer prompts are cut in the document's middle; None: none is.

    Raises:
        DataError: a prompt whose question and template alone are longer.
    """
    if without_document:
        problems = [replace(problem, context="") for problem in problems]
    if tokenizer is None:
        return [Fitted(problem=problem, num_cut_tokens=0) for problem in problems]
    fingerprint = tokenizer_fingerprint(tokenizer)
    counter = TokenCounter(tokenizer, suite.template, fingerprint=fingerprint, cache_dir=None)
    fits = []
    for problem in counter.measure(problems):
        cut = problem
        if max_prompt_tokens is not None and problem.num_prompt_tokens > max_prompt_tokens:
            cut = find_cut(tokenizer, problem, suite.template, max_prompt_tokens).applied(problem)
        fits.append(Fitted(problem=cut, num_cut_tokens=problem.num_prompt_tokens - cut.num_prompt_tokens))
    return fits
