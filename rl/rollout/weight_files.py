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

    files = sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else [Path(path)]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"weights {path}: no safetensors file there")
    for file in files:
        with safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118 -- safe_open is not iterable
                yield name, content.get_tensor(name)


def weight_names(path: str) -> frozenset[str]:
    """Names of the tensors at path (a safetensors file or a folder of them); empty where there is no such file."""
    from safetensors import safe_open

    files = Path(path).glob("*.safetensors") if Path(path).is_dir() else [p for p in [Path(path)] if p.is_file()]
    names: set[str] = set()
    for file in files:
        with safe_open(file, "pt") as content:
            names.update(content.keys())
    return frozenset(names)


def require_names(path: str, expected: Iterable[str]) -> None:
    """Raise RuntimeError, naming the first, when a parameter that the model has is not at path."""
    missing = sorted(set(expected) - weight_names(path))
    if missing:
        raise RuntimeError(
            f"weights {path}: {len(missing)} parameters are missing, first {missing[0]!r}; "
            "the whole model must be written, under its Hugging Face names"
        )
