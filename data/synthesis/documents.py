"""Where facts stand in a document: anywhere, or the needed ones at a wanted depth; and where they came to stand."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from data.synthesis.planting import Planting


def scatter(rng: random.Random, facts: Sequence[str], sentences: Sequence[str]) -> list[str]:
    """The document's parts: facts in random order in random gaps; the first is the text's own first sentence."""
    gaps: list[list[str]] = [[] for _ in sentences] or [[]]
    for fact in rng.sample(facts, len(facts)):
        rng.choice(gaps).append(fact)
    opening = sentences or [""]
    return [part for sentence, gap in zip(opening, gaps, strict=True) for part in (sentence, *gap) if part]


def plant_at(
    rng: random.Random, planting: Planting, sentences: Sequence[str], depth: float, spread: float
) -> list[str]:
    """The same, but the needed facts at `depth`, spread evenly over `spread` of the document, in random order.

    Each goes into the gap between two parts that is nearest, so it is off by half a sentence at most, and by the facts
    that share its gap.
    """
    needed = rng.sample(planting.facts[: planting.num_needed], planting.num_needed)
    parts = scatter(rng, planting.facts[planting.num_needed :], sentences)
    starts = [0, *accumulate(len(part) + 1 for part in parts)]
    num_chars = starts[-1] + sum(len(fact) + 1 for fact in needed) - 1
    placed: list[str] = []
    taken = num_before = 0
    for fact, at in zip(needed, wanted_depths(depth, spread, len(needed)), strict=True):
        wanted = at * (num_chars - len(fact)) - num_before
        gap = bisect_left(starts, wanted)
        if gap == len(starts) or (gap > 0 and wanted - starts[gap - 1] < starts[gap] - wanted):
            gap -= 1
        gap = max(gap, taken)
        placed += [*parts[taken:gap], fact]
        taken, num_before = gap, num_before + len(fact) + 1
    return placed + parts[taken:]


def wanted_depths(depth: float, spread: float, count: int) -> list[float]:
    """`count` depths over a band `spread` wide around `depth`, moved inwards where it would leave the document.

    >>> wanted_depths(0.5, 0.4, 3), wanted_depths(0.0, 0.4, 3), wanted_depths(1.0, 0.0, 2)
    ([0.3, 0.5, 0.7], [0.0, 0.2, 0.4], [1.0, 1.0])
    """
    start = min(max(depth - spread / 2, 0.0), 1.0 - spread)
    if count == 1:
        return [depth]
    return [round(start + spread * i / (count - 1), 9) for i in range(count)]


def measured_depths(context: str, facts: Sequence[str]) -> tuple[float, ...]:
    """Where each fact begins, 0 (the document's start) to 1 (it ends the document), by characters."""
    return tuple(round(context.index(fact) / max(1, len(context) - len(fact)), 4) for fact in facts)
