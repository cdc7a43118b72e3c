"""Where weights lie while they travel: safetensors, on shared memory where there is some."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def travelling_file() -> Iterator[str]:
    """A path for one safetensors file, unique to this run, in memory where possible; gone afterwards, come what may."""
    memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="longreach-weights-", dir=memory) as folder:
        yield str(Path(folder, "model.safetensors"))


def iter_weights(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) from a safetensors file or from every one in a folder, one tensor in memory at a time.

    Raises:
        FileNotFoundError: there is none.
    """
    from safetensors import safe_open

    for file in _files_or_raise(path):
        with safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118 -- safe_open is not iterable
                yield name, content.get_tensor(name)


def weight_names(path: str) -> frozenset[str]:
    """Names of the tensors at path (a safetensors file or a folder of them); empty where there is no such file."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in _files(path):
        with safe_open(file, "pt") as content:
            names.update(content.keys())
    return frozenset(names)


def require_names(path: str, expected: Iterable[str]) -> None:
    """Check that every parameter the model has is at path.

    Raises:
        FileNotFoundError: there is no file.
        RuntimeError: a parameter is missing; names the first.
    """
    _files_or_raise(path)
    missing = sorted(set(expected) - weight_names(path))
    if missing:
        raise RuntimeError(
            f"weights {path}: {len(missing)} parameters are missing, first {missing[0]!r}; "
            "the whole model must be written, under its Hugging Face names"
        )


def _files(path: str) -> list[Path]:
    place = Path(path)
    return sorted(place.glob("*.safetensors")) if place.is_dir() else [p for p in [place] if p.is_file()]


def _files_or_raise(path: str) -> list[Path]:
    files = _files(path)
    if not files:
        raise FileNotFoundError(f"weights {path}: no safetensors file there")
    return files
