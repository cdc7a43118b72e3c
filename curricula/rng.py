"""Randomness without hidden state: every number is a pure function of names and counters.

A generator that is advanced has to be saved; a counter is an integer in a JSON file. Both functions
use streams that are fixed by their definition (BLAKE2b; Philox's raw words, which NumPy guarantees),
so a checkpoint draws the same under another Python or NumPy.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt


def _digest(names: tuple[str | int, ...], size: int) -> int:
    return int.from_bytes(blake2b(repr(names).encode(), digest_size=size).digest(), "little")


def uniform(*names: str | int) -> float:
    """A number in [0, 1) with 53 random bits that depends on the names alone."""
    return (_digest(names, 8) >> 11) * 2.0**-53


def permutation(n: int, *names: str | int) -> npt.NDArray[np.int64]:
    """A uniformly random order of 0..n-1, [n] int64, that depends on n and the names alone."""
    words = np.random.Philox(key=_digest(names, 16)).random_raw(n)
    return np.argsort(words, kind="stable")
