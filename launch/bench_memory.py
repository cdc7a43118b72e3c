"""The peak of memory of one piece of work.

On CUDA: what torch's allocator had handed out, exact. On CPU: this process's resident set, whose peak Linux restarts on
request. For that to mean live tensors, and to come out the same twice, the C library must give freed memory back: under
`freed_at_once` every block of 128 KiB or more is its own mapping, which vanishes when it is freed, and what the heap keeps
of smaller ones is trimmed before the work starts. It must hold from the process's first large tensor on, since glibc
looks for room in its heap before it maps. A mapping a block costs time, so nothing is timed under it.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from launch.resident import peak_resident_bytes, resident_bytes, restart_peak

GIB = 1024**3
_TRIM_THRESHOLD, _MAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""
_LARGEST_MAP_THRESHOLD = 32 * 1024**2
"""Where glibc's own, moving threshold ends up in a process that frees large tensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """In GiB; None where this system does not tell."""

    total_gib: float | None
    """While the work ran: on CPU with the interpreter and its libraries, on CUDA tensors alone."""
    step_gib: float | None
    """Of it what was not there just before."""


UNKNOWN = Peak(total_gib=None, step_gib=None)


def peak_memory(work: Callable[[], object], device: str) -> Peak:
    """Run the work once, under `freed_at_once`; gradients and whatever else stays should be there already."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        return Peak(total_gib=peak / GIB, step_gib=(peak - before) / GIB)
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)
    resident = resident_bytes()
    if resident is None or not restart_peak():
        work()
        return UNKNOWN
    work()
    highest = peak_resident_bytes() or resident
    return Peak(total_gib=highest / GIB, step_gib=(highest - resident) / GIB)


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Within it glibc maps every large block by itself; after it large blocks are kept as in a process that has long trained."""
    library = _c_library()
    if library is None:
        yield
        return
    library.mallopt(_MAP_THRESHOLD, 128 * 1024)
    library.mallopt(_TRIM_THRESHOLD, 128 * 1024)
    try:
        yield
    finally:
        library.mallopt(_MAP_THRESHOLD, _LARGEST_MAP_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MAP_THRESHOLD)


def _c_library() -> ctypes.CDLL | None:
    """glibc; None with another C library."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def release_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
