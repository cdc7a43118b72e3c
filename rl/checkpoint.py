"""Checkpoints that survive a kill at any instant.

    checkpoints/step-000020/
        model/          in Hugging Face form, what evaluation and serving load
        trainer/        optimizer and the rest of the learner, safetensors and JSON
        state.json      counters, curriculum, surplus groups, weight version, tracker run id
        MANIFEST.json   every file's size and sha256; written last, and what makes the folder a checkpoint
    checkpoints/latest -> step-000020      for people and commands; loading never trusts it

A folder is written under a temporary name, every file of it is synced, then it is renamed and its parent synced.
Old ones go only after the new one was read back. Nothing is pickled. Left out: writing in the background.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from rl.run_folder import sync_path, write_file

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"
STEP_NAME = re.compile(r"step-(\d{6,})")
ASIDE = re.compile(r"\.old-(step-\d{6,})\.\d+")
"""A checkpoint that is being replaced by one of the same step."""
DISCARDED = (".tmp-", ".gone-")
"""Half-written and half-deleted folders."""


class CheckpointError(RuntimeError):
    """A checkpoint that is not whole; the message names the file, what was seen and what was needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What MANIFEST.json says."""

    schema_version: int
    step: int
    protected: bool
    """Never pruned: the last checkpoint of a stage."""
    config_hash: str
    dataset_fingerprint: str
    versions: dict[str, str]
    files: dict[str, dict[str, Any]]
    """Path inside the folder -> {"size": bytes, "sha256": hex}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search for the newest checkpoint came to."""

    path: Path | None
    """The newest that verifies; None: none does."""
    manifest: Manifest | None
    """Its manifest."""
    skipped: tuple[tuple[Path, str], ...]
    """Newer ones that do not verify, and why, newest first."""

    @property
    def message(self) -> str:
        """One line for the console; empty when nothing had to be skipped."""
        if not self.skipped:
            return ""
        reasons = "; ".join(f"{path.name} skipped ({reason})" for path, reason in self.skipped)
        return f"checkpoint: {reasons}; " + (f"falling back to {self.path.name}" if self.path else "none is left")


def save_checkpoint(
    run_dir: Path,
    step: int,
    write: Callable[[Path], None],
    state: Mapping[str, Any],
    *,
    keep: int,
    protect: bool = False,
    config_hash: str = "",
    dataset_fingerprint: str = "",
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write checkpoints/step-<step> whole or not at all, then prune; returns its path.

    `write(folder)` fills `folder/model` and `folder/trainer` (both exist); `state` becomes state.json and comes back
    from `load_state` equal, tuples as lists. Afterwards the newest `keep` checkpoints up to `step` stay, and every
    protected one. An existing checkpoint of the same step is replaced.

    Raises:
        ValueError: `state` holds what JSON cannot carry exactly; nothing is written.
        CheckpointError: `write` left something other than plain files, or what was written does not read back.
        OSError: the disk is full or fails; checkpoints written before are untouched.
    """
    content = _exact_json(state)
    folder = run_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:06d}"
    temporary, final = folder / f".tmp-{name}.{os.getpid()}", folder / name
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for part in ("model", "trainer"):
            (temporary / part).mkdir(parents=True)
        write(temporary)
        (temporary / STATE).write_bytes(content)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "step": step,
            "protected": protect,
            "config_hash": config_hash,
            "dataset_fingerprint": dataset_fingerprint,
            "versions": dict(versions or {}),
            "files": _describe_files(temporary),
        }
        _sync_tree(temporary)
        write_file(temporary / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        _move_into_place(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    verify_checkpoint(final)
    _point_latest(folder, name)
    _prune(folder, step, keep)
    return final


def find_latest(run_dir: Path) -> Found:
    """The newest checkpoint that verifies; falling back is logged as a warning and told in `Found.message`.

    Reads and hashes whole checkpoints. Changes nothing on disk.
    """
    skipped: list[tuple[Path, str]] = []
    for _, path in sorted(_step_folders(run_dir / "checkpoints"), reverse=True):
        try:
            found = Found(path=path, manifest=verify_checkpoint(path), skipped=tuple(skipped))
            break
        except CheckpointError as error:
            skipped.append((path, str(error)))
    else:
        found = Found(path=None, manifest=None, skipped=tuple(skipped))
    if found.skipped:
        log.warning("%s", found.message)
    return found


def verify_checkpoint(path: Path) -> Manifest:
    """Read a checkpoint's manifest and compare every file it names: presence, size, sha256.

    Files that the manifest does not name are nobody's business here.

    Raises:
        CheckpointError: naming the first file that is missing, cut or changed.
    """
    manifest = read_manifest(path)
    for name, said in manifest.files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise CheckpointError(f"{MANIFEST}: {name!r} leads out of the checkpoint")
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            raise CheckpointError(f"{name}: {error.strerror}") from None
        if size != said["size"]:
            raise CheckpointError(f"{name}: {size} bytes, the manifest says {said['size']}")
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        hashes = pool.map(_sha256, [path / name for name in manifest.files])
        for (name, said), seen in zip(manifest.files.items(), hashes, strict=True):
            if seen != said["sha256"]:
                raise CheckpointError(f"{name}: sha256 {seen[:12]}..., the manifest says {said['sha256'][:12]}...")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """MANIFEST.json alone, its files unread.

    Raises:
        CheckpointError: missing, not JSON, of another schema version, or not listing state.json.
    """
    try:
        content = orjson.loads((path / MANIFEST).read_bytes())
        version = content["schema_version"]
        manifest = Manifest(**content) if version == SCHEMA_VERSION else None
        listed = manifest is None or all(
            isinstance(f["size"], int) and isinstance(f["sha256"], str) for f in manifest.files.values()
        )
    except OSError as error:
        raise CheckpointError(f"{MANIFEST}: {error.strerror}") from None
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{MANIFEST}: not a manifest ({error})") from None
    if manifest is None:
        raise CheckpointError(f"{MANIFEST}: schema version {version}, this code reads {SCHEMA_VERSION}")
    if not listed or STATE not in manifest.files:
        raise CheckpointError(f"{MANIFEST}: lists no {STATE}, or a file without size and sha256")
    return manifest


def load_state(path: Path) -> dict[str, Any]:
    """state.json of one checkpoint, checked against the manifest.

    Raises:
        CheckpointError: missing or changed.
    """
    said = read_manifest(path).files[STATE]
    try:
        content = (path / STATE).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path / STATE}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != said["sha256"]:
        raise CheckpointError(f"{path / STATE}: does not match the manifest")
    state: dict[str, Any] = orjson.loads(content)
    return state


def remove_leftovers(run_dir: Path) -> list[Path]:
    """Clear away what killed runs left half-done in checkpoints/; call it once at start, before `find_latest`.

    Half-written and half-deleted folders go. A checkpoint that was moved aside for its replacement comes back
    when the replacement never arrived. Returns the paths removed.
    """
    folder = run_dir / "checkpoints"
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        aside = ASIDE.fullmatch(path.name)
        if aside is not None and not (folder / aside[1]).exists():
            path.rename(folder / aside[1])
        elif aside is not None or path.name.startswith(DISCARDED):
            removed.append(path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    return removed


def _step_folders(folder: Path) -> list[tuple[int, Path]]:
    names = [(STEP_NAME.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return [(int(match[1]), path) for match, path in names if match is not None and path.is_dir()]


def _describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    files = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise CheckpointError(
                f"{path.relative_to(folder)}: a checkpoint holds plain files only, this is a link or a device"
            )
        if stat.S_ISREG(mode):
            files.append(path)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        hashes = list(pool.map(_sha256, files))
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, hashes, strict=True)
    }


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read: {error.strerror}") from error


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync_path(path)
    sync_path(folder)


def _move_into_place(temporary: Path, final: Path) -> None:
    aside = final.with_name(f".old-{final.name}.{os.getpid()}")
    if final.exists():
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)  # killed from here to the next rename: remove_leftovers brings it back
    temporary.rename(final)
    sync_path(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _point_latest(folder: Path, name: str) -> None:
    temporary = folder / f".tmp-latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name, target_is_directory=True)
    latest = folder / "latest"
    if latest.is_dir() and not latest.is_symlink():  # a run folder that was copied with its links followed
        shutil.rmtree(latest)
    temporary.replace(latest)
    sync_path(folder)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove what is older than the newest `keep` up to `step`; a folder without manifest does not count as one."""
    num_kept = 0
    for other, path in sorted(_step_folders(folder), reverse=True):
        if other > step:
            continue
        try:
            manifest = read_manifest(path)
        except CheckpointError:
            manifest = None
        if manifest is not None and num_kept < keep:
            num_kept += 1
        elif manifest is None or not manifest.protected:
            gone = folder / f".gone-{path.name}.{os.getpid()}"
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)
            shutil.rmtree(gone)


def _exact_json(state: Mapping[str, Any]) -> bytes:
    """JSON that loads back equal (tuples as lists); refuses NaN, huge integers and keys that JSON would change."""
    _refuse_inexact(state, "state")
    return orjson.dumps(state)


def _refuse_inexact(value: Any, where: str) -> None:
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"{where}: key {key!r} is {type(key).__name__}, JSON keeps only str keys; store pairs")
            _refuse_inexact(item, f"{where}.{key}")
    elif kind in (list, tuple):
        if set(map(type, value)) == {float} and all(map(math.isfinite, value)):
            return  # token-long lists are checked without a call per element
        if set(map(type, value)) == {int} and min(value) >= -(2**63) and max(value) < 2**64:
            return
        for index, item in enumerate(value):
            _refuse_inexact(item, f"{where}[{index}]")
    elif kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value} has no JSON form; a state holds finite numbers only")
    elif kind is int:
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"{where}: {value} does not fit 64 bits; store it as text")
    elif kind not in (str, bool, type(None)):
        raise ValueError(f"{where}: {kind.__name__} has no JSON form; store str, int, float, bool, None, list or dict")
