"""Where weights lie while they travel: safetensors, on shared memory where there is some.

A file holds the whole model, or a LoRA adapter alone and the adapter's configuration in its metadata.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def travelling_file() -> Iterator[str]:
    """A path for one safetensors file, unique to this run, in memory where possible; gone afterwards, come what may."""
    with _temporary_folder() as folder:
        yield str(Path(folder, "model.safetensors"))


@contextmanager
def _temporary_folder() -> Iterator[str]:
    memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="longreach-weights-", dir=memory) as folder:
        yield folder


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """What a file says of the LoRA adapter in it."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Last part(s) of the names of the layers that have one."""
    config: str
    """All of it: the text of peft's adapter_config.json."""


def adapter_at(path: str) -> Adapter | None:
    """The adapter that the safetensors file at path is; None where path holds a whole model."""
    from safetensors import safe_open

    from rl.learner.lora import CONFIG_KEY

    if not Path(path).is_file():
        return None
    with safe_open(path, "pt") as content:
        config = (content.metadata() or {}).get(CONFIG_KEY)
    if config is None:
        return None
    read = json.loads(config)
    return Adapter(rank=read["r"], alpha=read["lora_alpha"], targets=tuple(read["target_modules"]), config=config)


def require_adapter(path: str, adapter: Adapter, base_names: Iterable[str]) -> None:
    """Check that the file at path has the adapters of a model with these parameters, and nothing else.

    Raises:
        RuntimeError: a tensor is missing or has no place in the model; names the first.
    """
    from rl.learner.lora import adapter_names

    expected = adapter_names(base_names, adapter.targets)
    require_names(path, expected)
    if unknown := sorted(weight_names(path) - expected):
        raise RuntimeError(
            f"weights {path}: the model has no layer for {unknown[0]!r}; the adapter is of another model"
        )


@contextmanager
def adapter_folder(path: str, adapter: Adapter) -> Iterator[str]:
    """The adapter in the file at path as a folder in peft's form, which vLLM reads; gone afterwards."""
    with _temporary_folder() as folder:
        Path(folder, "adapter_config.json").write_text(adapter.config, encoding="utf-8")
        Path(folder, "adapter_model.safetensors").symlink_to(Path(path).absolute())
        yield folder


def model_folder(model: str) -> str:
    """The folder of a model that was loaded on this machine: itself, or where the hub's cache keeps it.

    Raises:
        FileNotFoundError: a hub id that is not in the cache.
    """
    if Path(model).is_dir():
        return model
    from huggingface_hub import snapshot_download

    return str(snapshot_download(model, local_files_only=True))


def require_names(path: str, expected: Iterable[str]) -> None:
    """Check that everything expected is at path.

    Raises:
        FileNotFoundError: there is no file.
        RuntimeError: a parameter is missing; names the first.
    """
    _files_or_raise(path)
    missing = sorted(set(expected) - weight_names(path))
    if missing:
        raise RuntimeError(
            f"weights {path}: {len(missing)} parameters are missing, first {missing[0]!r}; the whole model must be "
            "written, or all of its adapters, under their Hugging Face names"
        )


def _files(path: str) -> list[Path]:
    place = Path(path)
    return sorted(place.glob("*.safetensors")) if place.is_dir() else [p for p in [place] if p.is_file()]


def _files_or_raise(path: str) -> list[Path]:
    files = _files(path)
    if not files:
        raise FileNotFoundError(f"weights {path}: no safetensors file there")
    return files
