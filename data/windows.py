"""Windows of prompt length: stage k takes L_{k-1} < tokens <= L_k (QwenLong-L1, arXiv 2505.17667, eq. 9)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.problem import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A range of prompt lengths in tokens."""

    low: int
    """Exclusive."""
    high: int
    """Inclusive."""

    def __contains__(self, num_tokens: int) -> bool:
        return self.low < num_tokens <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowHistogram:
    """How many prompts each window holds."""

    windows: tuple[Window, ...]
    """Shortest first."""
    counts: tuple[int, ...]
    """One per window."""
    num_beyond: int
    """Prompts longer than the last window."""


def windows_from(uppers: Sequence[int]) -> tuple[Window, ...]:
    """The windows (0, L_1], (L_1, L_2], ... of the upper bounds L_1 < L_2 < ...

    Raises:
        DataError: no bounds, or bounds that are not positive and strictly rising.
    """
    if not uppers or any(high <= low for low, high in zip((0, *uppers), uppers, strict=False)):
        raise DataError(f"windows: {list(uppers)} must be positive token counts, each above the one before")
    return tuple(Window(low=low, high=high) for low, high in zip((0, *uppers), uppers, strict=False))


def assign_window(num_tokens: int, uppers: Sequence[int]) -> Window | None:
    """The window that a prompt of `num_tokens` (>= 1) falls into; None where it is longer than the last bound.

    Raises:
        DataError: bad bounds, as in `windows_from`, or a length below 1.
    """
    windows = windows_from(uppers)
    if num_tokens < 1:
        raise DataError(f"num_tokens: {num_tokens} is not a prompt's length; it must be at least 1")
    index = bisect_left(uppers, num_tokens)
    return windows[index] if index < len(windows) else None


def window_histogram(lengths: Iterable[int] | npt.NDArray[np.integer[Any]], uppers: Sequence[int]) -> WindowHistogram:
    """Counts `lengths` (prompt tokens, each >= 1; a column of them is fastest) by window.

    Raises:
        DataError: bad bounds, as in `windows_from`.
    """
    windows = windows_from(uppers)
    column = lengths if isinstance(lengths, np.ndarray) else np.fromiter(lengths, dtype=np.int64)
    counts = np.bincount(np.searchsorted(uppers, column, side="left"), minlength=len(windows) + 1).tolist()
    return WindowHistogram(windows=windows, counts=tuple(counts[:-1]), num_beyond=counts[-1])
