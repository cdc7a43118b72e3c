"""Cells: problems of one kind (task, window, depth, hops, distractors), and the id that says which.

An id is `TASK-SPLIT-SEED-LENGTH[-hopsK][-similar][-depthD[-spreadS]]-NUMBER`, and goes unchanged through data.prepare,
rollouts and reports; `cell_of_id` reads it back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from data.problem import DataError
from data.synthesis.words import Split, keys_of

Distractors = Literal["plain", "similar"]
DISTRACTORS: tuple[Distractors, ...] = ("plain", "similar")
DEFAULT_HOPS, MAX_HOPS = 2, 16
GRID_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
GRID_TOLERANCE_FRAC, _MIN_GRID_TOLERANCE = 0.05, 10
"""A grid's prompts are at most this share (and at least ten tokens) shorter than the length that names their cell."""
_ID = re.compile(
    r"(?P<task>[a-z_]+)-(?P<split>train|dev|test)-(?P<seed>-?\d+)-(?P<length>\d+)(?:-hops(?P<hops>\d+))?"
    r"(?P<similar>-similar)?(?:-depth(?P<depth>[\d.e-]+?)(?:-spread(?P<spread>[\d.e-]+?))?)?-(?P<number>\d+)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """All that decides problem i beside i itself, the corpus and the counter."""

    task: str
    split: Split
    seed: int
    min_tokens: int
    """Prompts are longer than this,"""
    max_tokens: int
    """and at most this long: the cell's length."""
    num_facts: int = 8
    """Facts planted, distractors included."""
    num_keys: int | None = None
    """Keys in use; None: all of the split's."""
    num_hops: int = DEFAULT_HOPS
    """Facts in a chain; no other task has hops."""
    distractors: Distractors = "plain"
    """`similar`: about people whose names look like those of the needed facts."""
    depth: float | None = None
    """Where the needed facts stand, 0 (first) to 1 (last); None: anywhere."""
    spread: float = 0.0
    """Share of the document that the needed facts are spread over, evenly, around `depth`."""

    def check(self) -> None:
        """Raises:
        DataError: a value outside its range, which the message names.
        """
        low, high = self.min_tokens, self.max_tokens
        if not 0 <= low < high:
            raise DataError(f"window ({low}, {high}]: the lower bound must be at least 0 and below the upper")
        num_keys = len(keys_of(self.split, self.num_keys))
        if not 1 <= self.num_facts <= num_keys:
            raise DataError(
                f"num_facts: {self.num_facts} is outside 1..{num_keys}, the keys of split {self.split} in use"
            )
        if not 2 <= self.num_hops <= MAX_HOPS:
            raise DataError(f"hops: {self.num_hops} is outside 2..{MAX_HOPS}; one hop is the task lookup")
        if self.distractors not in DISTRACTORS:
            raise DataError(f"distractors: {self.distractors!r} is not one of {', '.join(DISTRACTORS)}")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise DataError(f"depth: {self.depth:g} is outside 0..1; write a share of the document, e.g. 0.5")
        if not 0 <= self.spread <= 1:
            raise DataError(f"spread: {self.spread:g} is outside 0..1; write a share of the document, e.g. 0.2")
        if self.spread and self.depth is None:
            raise DataError("spread: without a depth the facts stand anywhere; give a depth too, e.g. 0.5")

    def problem_id(self, number: int) -> str:
        """The id of problem `number`; its part before the last `-` is the same for the whole cell."""
        hops = f"-hops{self.num_hops}" if self.num_hops != DEFAULT_HOPS else ""
        similar = "-similar" if self.distractors == "similar" else ""
        depth = "" if self.depth is None else f"-depth{self.depth:g}"
        spread = f"-spread{self.spread:g}" if self.spread else ""
        return f"{self.task}-{self.split}-{self.seed}-{self.max_tokens}{hops}{similar}{depth}{spread}-{number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CellLabels:
    """What a problem's id says of its cell."""

    task: str
    length: int
    """Upper bound of the prompt's tokens."""
    depth: float | None
    """None: the facts stand anywhere."""
    num_hops: int
    """Of a chain; 1 for the other tasks."""
    distractors: Distractors


def cell_of_id(problem_id: str) -> CellLabels | None:
    """The cell that an id names; None where no synthetic problem is called so."""
    match = _ID.fullmatch(problem_id)
    if match is None:
        return None
    default_hops = DEFAULT_HOPS if match["task"] == "chain" else 1
    try:
        return CellLabels(
            task=match["task"],
            length=int(match["length"]),
            depth=None if match["depth"] is None else float(match["depth"]),
            num_hops=int(match["hops"] or default_hops),
            distractors="similar" if match["similar"] else "plain",
        )
    except ValueError:  # digits that are no number, or more of them than Python reads
        return None


def cells_between(kind: Cell, tasks: Sequence[str], uppers: Sequence[int], depths: Sequence[float]) -> list[Cell]:
    """Cells of `kind` for every task, window between rising lengths (the first from `kind.min_tokens`) and depth."""
    windows = zip([kind.min_tokens, *uppers], uppers, strict=False)
    return _cells(kind, tasks, list(windows), depths)


def grid_cells(kind: Cell, tasks: Sequence[str], lengths: Sequence[int], depths: Sequence[float]) -> list[Cell]:
    """Cells of `kind` for every task, length (prompts just below it) and depth (none given: `GRID_DEPTHS`)."""
    windows = [
        (max(0, length - max(_MIN_GRID_TOLERANCE, int(length * GRID_TOLERANCE_FRAC))), length) for length in lengths
    ]
    return _cells(kind, tasks, windows, depths or GRID_DEPTHS)


def _cells(kind: Cell, tasks: Sequence[str], windows: Sequence[tuple[int, int]], depths: Sequence[float]) -> list[Cell]:
    wanted: Sequence[float | None] = depths or [None]
    cells = [
        replace(
            kind,
            task=task,
            min_tokens=low,
            max_tokens=high,
            depth=depth,
            num_hops=kind.num_hops if task == "chain" else DEFAULT_HOPS,
        )
        for task in tasks
        for low, high in windows
        for depth in wanted
    ]
    for cell in cells:
        cell.check()
    ids = [cell.problem_id(0) for cell in cells]
    if twice := next((i for i in ids if ids.count(i) > 1), None):
        raise DataError(f"{twice.rpartition('-')[0]}: asked for twice; name each task, length and depth once")
    return cells
