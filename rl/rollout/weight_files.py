"""Where weights lie while they travel: safetensors, on shared memory where there is room.

A file holds the whole model, or a LoRA adapter alone and the adapter's configuration in its metadata.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MIB = 2**20
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "longreach-weights-"
SIZE_VARIABLE = "LONGREACH_WEIGHT_BYTES"
"""Environment variable: bytes of the file in which the run's weights travel; processes started later inherit it."""
LEFTOVER_AGE_S = 60.0
"""A folder of this age that nobody holds is a leftover; a younger one may be about to be held."""


class NoRoom(RuntimeError):
    """No folder of this machine has room for the weights on their way to the engines."""

    exit_code = 3


def announce_size(num_bytes: int) -> None:
    """Say how large this run's travelling files are, before the first one.

    Raises:
        NoRoom: such a file fits nowhere on this machine.
    """
    os.environ[SIZE_VARIABLE] = str(num_bytes)
    _folder_with_room(num_bytes)


@contextmanager
def travelling_file() -> Iterator[str]:
    """A path for one safetensors file, unique to this run, in memory where it fits there; gone afterwards, come what may.

    Raises:
        NoRoom: it fits nowhere, or the place was full when it was written.
    """
    from safetensors import SafetensorError

    num_bytes = int(os.environ.get(SIZE_VARIABLE, "0"))
    with _temporary_folder(num_bytes) as folder:
        try:
            yield str(Path(folder, "model.safetensors"))
        except (OSError, RuntimeError, SafetensorError) as error:
            if os.strerror(errno.ENOSPC) not in str(error):
                raise
            raise NoRoom(_no_room(num_bytes)) from error


@contextmanager
def _temporary_folder(num_bytes: int) -> Iterator[str]:
    """Held by a lock as long as this process lives: whoever finds it without one may remove it."""
    where = _folder_with_room(num_bytes)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=where) as folder:
        held = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
        finally:
            os.close(held)


def _folder_with_room(num_bytes: int) -> Path:
    """The first folder that holds so many bytes and a tenth more, for what else lies there; leftovers go before."""
    for folder in _folders():
        _remove_leftovers(folder)
        if shutil.disk_usage(folder).free >= num_bytes + num_bytes // 10:
            return folder
    raise NoRoom(_no_room(num_bytes))


def _folders() -> list[Path]:
    """Shared memory where there is some, then the folder for temporary files."""
    memory = [SHARED_MEMORY] if os.access(SHARED_MEMORY, os.W_OK) else []
    return [*memory, Path(tempfile.gettempdir())]


def _no_room(num_bytes: int) -> str:
    seen = ", ".join(f"{folder} {shutil.disk_usage(folder).free / MIB:,.0f} MiB" for folder in _folders())
    needed = f"{num_bytes / MIB:,.0f} MiB and a tenth more are needed, " if num_bytes else ""
    return (
        f"no room for the weights on their way to the engines: {needed}free are {seen}; give "
        "the container more shared memory (docker: --shm-size, Kubernetes: an emptyDir of medium Memory at /dev/shm), or name "
        "a folder with room in TMPDIR"
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove this user's folders whose process was killed; a lock is seen across containers, a process id is not."""
    for place in folder.glob(f"{PREFIX}*"):
        try:
            held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, no folder, or gone by now
        try:
            status = os.fstat(held)
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > LEFTOVER_AGE_S:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)
        except BlockingIOError:
            continue  # its process lives
        finally:
            os.close(held)


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
    """Names of the tensors at path (a safetensors file or a folder of them).

    Raises:
        FileNotFoundError: there is no such file; nothing to miss is not nothing missing.
    """
    from safetensors import safe_open

    names: set[str] = set()
    for file in _files_or_raise(path):
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
    with _temporary_folder(len(adapter.config)) as folder:
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

    # No file is asked for: the hub's client refuses a folder that lacks one, and nobody loads all that a repository has.
    return str(snapshot_download(model, local_files_only=True, ignore_patterns="*"))


def require_names(path: str, expected: Iterable[str]) -> None:
    """Check that everything expected is at path.

    Raises:
        FileNotFoundError: there is no file.
        RuntimeError: a parameter is missing; names the first.
    """
    missing = sorted(set(expected) - weight_names(path))
    if missing:
        raise RuntimeError(
            f"weights {path}: {len(missing)} parameters are missing, first {missing[0]!r}; the whole model must be "
            "written, or all of its adapters, under their Hugging Face names"
        )


def _files_or_raise(path: str) -> list[Path]:
    place = Path(path)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [p for p in [place] if p.is_file()]
    if not files:
        raise FileNotFoundError(f"weights {path}: no safetensors file there")
    return files
