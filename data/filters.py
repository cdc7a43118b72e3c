"""What may be left out of a training set, each for a stated reason: off by default, asked for one by one.

A filter is asked about the problems in their order, once each. It says why one is left out; whoever runs it counts.
"""

from __future__ import annotations

import argparse
from array import array
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from data.contamination import DEFAULT_MIN_SHARE, DEFAULT_NGRAM_WORDS, EvaluationIndex
from data.golds import unreadable_gold
from data.problem import DataError, SourceProblem

DEFAULT_ANSWERABLE_ABOVE = 0.5
_MAX_RECENT = 65_536


class Filter(Protocol):
    """Says which problems are left out, and why."""

    @property
    def name(self) -> str:
        """One word for counts: `duplicate`, `unreadable_gold`, `answerable`, `contaminated`."""
        ...

    def reason(self, problem: SourceProblem) -> str | None:
        """Why this problem is left out, in one line; None: it is kept. Called once a problem, in order."""
        ...


class DuplicateFilter:
    """Leaves out problems whose document and question came before, spacing aside; the first one stays.

    Remembers a 64-bit hash, a position and the id of each problem kept: about 20 bytes beside the id's characters, and as
    much again for a moment while the columns grow.
    Two different problems are taken for one with probability n^2 / 2^65: 3e-6 at ten million.
    """

    name = "duplicate"

    def __init__(self) -> None:
        self._positions = _Positions()
        self._ids = bytearray()
        self._id_ends = array("q")

    def reason(self, problem: SourceProblem) -> str | None:
        first = self.first_id(problem)
        return None if first is None else f"same document and question as {first!r}"

    def first_id(self, problem: SourceProblem) -> str | None:
        """The id of the problem with this document and question that came first; None for a new one, now remembered."""
        content = (_respaced(problem.context), _respaced(problem.question))
        position = self._positions.setdefault(hash(content), len(self._id_ends))
        if position < len(self._id_ends):
            start = self._id_ends[position - 1] if position else 0
            return self._ids[start : self._id_ends[position]].decode()
        self._ids += problem.problem_id.encode()
        self._id_ends.append(len(self._ids))
        return None


class UnreadableGoldFilter:
    """Leaves out problems whose gold no rule can read, so that every answer to them scores 0; see `data.golds`."""

    name = "unreadable_gold"

    def reason(self, problem: SourceProblem) -> str | None:
        return unreadable_gold(problem)


class AnswerableFilter:
    """Leaves out problems that a model answers without the document, as `launch.eval --without_document true` found.

    Answerable: the mean value of a problem's valid scores (status ok) over all files is at least `above`. A problem
    without a valid score, or that was not evaluated, is kept.
    """

    name = "answerable"

    def __init__(self, *paths: str | Path, above: float = DEFAULT_ANSWERABLE_ABOVE) -> None:
        """Reads the files whole.

        Args:
            paths: files that `launch.eval --without_document true --out` wrote.
            above: in (0, 1].

        Raises:
            DataError: no such file, of another form, or of an evaluation that showed the document.
        """
        if not 0 < above <= 1:
            raise DataError(f"--answerable-above: seen {above}; it must be above 0 and at most 1")
        self.num_not_evaluated = 0
        """Problems asked about that the file does not hold."""
        self._means = _mean_values([Path(path) for path in paths])
        self._above = above

    def reason(self, problem: SourceProblem) -> str | None:
        if problem.problem_id not in self._means:
            self.num_not_evaluated += 1
            return None
        mean = self._means[problem.problem_id]
        if mean is None or mean < self._above:
            return None
        return f"answered without the document, mean value {mean:.2f}"


class ContaminatedFilter:
    """Leaves out problems whose question or document an evaluation set holds; see `data.contamination`."""

    name = "contaminated"

    def __init__(self, index: EvaluationIndex) -> None:
        self._index = index

    def reason(self, problem: SourceProblem) -> str | None:
        overlaps = self._index.overlaps(problem)
        return str(overlaps[0]) if overlaps else None


def add_filter_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the --drop-... options, read by `filters_from`."""
    group = parser.add_argument_group("filters", "each off by default; what they leave out is counted")
    group.add_argument(
        "--drop-duplicates", action="store_true", help="same document and question as before, spacing aside"
    )
    group.add_argument("--drop-unreadable-gold", action="store_true", help="golds that no rule can read")
    group.add_argument(
        "--drop-answerable",
        action="append",
        default=[],
        metavar="FILE",
        help="what a model answers without the document: FILE is written by launch.eval --without_document true --out; "
        "repeatable, for more answers to the same problems",
    )
    group.add_argument(
        "--answerable-above",
        type=float,
        default=DEFAULT_ANSWERABLE_ABOVE,
        metavar="MEAN",
        help="mean value from which a problem counts as answerable; a guess hits yes/no half the time and one of four "
        "options a quarter of the time, so give several FILEs of different seeds and ask for more; default: %(default)s",
    )
    group.add_argument(
        "--drop-contaminated",
        action="append",
        default=[],
        metavar="EVAL_SOURCE",
        help="question or document stands in this evaluation set (prepared set or data file); repeatable",
    )
    add_contamination_arguments(group)


def add_contamination_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds --contamination-ngram and --contamination-share."""
    parser.add_argument(
        "--contamination-ngram",
        type=int,
        default=DEFAULT_NGRAM_WORDS,
        metavar="N",
        help="words that two questions must share in a row; default: %(default)s",
    )
    parser.add_argument(
        "--contamination-share",
        type=float,
        default=DEFAULT_MIN_SHARE,
        metavar="SHARE",
        help="share of the shorter document's n-grams that two documents must have in common; default: %(default)s",
    )


def filters_from(args: argparse.Namespace) -> list[Filter]:
    """The filters that the arguments of `add_filter_arguments` ask for, in the order to run them.

    Duplicates come last, so that a problem is the first of its kind only if the others keep it.

    Raises:
        DataError: a value out of bounds, or a file or evaluation set that cannot be read.
    """
    filters: list[Filter] = []
    if args.drop_unreadable_gold:
        filters.append(UnreadableGoldFilter())
    if args.drop_answerable:
        filters.append(AnswerableFilter(*args.drop_answerable, above=args.answerable_above))
    if args.drop_contaminated:
        filters.append(ContaminatedFilter(index_from(args.drop_contaminated, args)))
    if args.drop_duplicates:
        filters.append(DuplicateFilter())
    return filters


def index_from(sources: Sequence[str], args: argparse.Namespace) -> EvaluationIndex:
    """The index of evaluation sets under the options of `add_contamination_arguments`.

    Raises:
        DataError: as `EvaluationIndex` does.
    """
    return EvaluationIndex(sources, ngram_words=args.contamination_ngram, min_share=args.contamination_share)


class _Positions:
    """A map from 64-bit hashes to positions, in sorted columns of 12 bytes an entry and a small dict of new ones."""

    def __init__(self) -> None:
        self._hashes: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._positions: npt.NDArray[np.uint32] = np.zeros(0, dtype=np.uint32)
        self._recent: dict[int, int] = {}

    def setdefault(self, key: int, position: int) -> int:
        """The key's position; a new key gets `position`."""
        place = int(self._hashes.searchsorted(np.int64(key)))
        if place < len(self._hashes) and self._hashes[place] == key:
            return int(self._positions[place])
        known = self._recent.setdefault(key, position)
        if len(self._recent) >= max(_MAX_RECENT, len(self._hashes) // 32):
            self._merge()
        return known

    def _merge(self) -> None:
        hashes = np.concatenate([self._hashes, np.fromiter(self._recent, np.int64, len(self._recent))])
        positions = np.concatenate([self._positions, np.fromiter(self._recent.values(), np.uint32, len(self._recent))])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._positions = hashes[order], positions[order]
        self._recent.clear()


def _respaced(text: str) -> str:
    return " ".join(text.split())


def _mean_values(paths: Sequence[Path]) -> dict[str, float | None]:
    """Problem id to the mean value of its valid scores; None where it has none."""
    values: dict[str, list[float]] = defaultdict(list)
    for path in paths:
        for problem_id, value, status in _items(path):
            known = values[problem_id]
            if status == "ok" and isinstance(value, int | float):
                known.append(value)
    return {problem_id: sum(known) / len(known) if known else None for problem_id, known in values.items()}


def _items(path: Path) -> list[tuple[str, object, object]]:
    """Problem id, value and status of each answer in an evaluation's file."""
    way_out = "name a file that launch.eval --without_document true --out wrote"
    try:
        result: Any = orjson.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"--drop-answerable {path}: cannot be read: {error.strerror}; {way_out}") from None
    except orjson.JSONDecodeError as error:
        raise DataError(f"--drop-answerable {path}: not JSON ({error}); {way_out}") from None
    try:
        without_document = result["config"].get("without_document", False)
        items = [(item["problem_id"], item["value"], item["status"]) for item in result["items"]]
    except (KeyError, TypeError, AttributeError, IndexError):
        raise DataError(
            f"--drop-answerable {path}: holds no config and items with problem_id, value and status; {way_out}"
        ) from None
    if without_document is not True:
        raise DataError(
            f"--drop-answerable {path}: the model was shown the document there, which tells nothing of what it answers "
            f"without; {way_out}"
        )
    return items
