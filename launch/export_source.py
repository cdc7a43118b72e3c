"""What is exported: one verified checkpoint, and what its run tells about it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.prepared import PreparedSet, load_prepared
from data.problem import DataError
from launch.cli import ConfigError
from rl.checkpoint import MANIFEST, CheckpointError, Manifest, find_latest, verify_checkpoint
from rl.config import RunConfig
from rl.run_folder import Evaluation, read_config, read_evaluations


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSource:
    """A checkpoint whose files are those of its manifest."""

    checkpoint: Path
    """Its folder, absolute, links followed."""
    manifest: Manifest
    run_dir: Path | None
    """The run's folder; None: the checkpoint lies somewhere else."""
    config: RunConfig | None
    """The run's configuration; None: as above."""
    meta: Mapping[str, Any]
    """Commit and versions of the run's start; empty without a run."""
    evaluations: tuple[Evaluation, ...]
    """The run's, by step; empty without a run."""

    @property
    def model(self) -> Path:
        """The policy in Hugging Face form, adapters merged."""
        return self.checkpoint / "model"

    def prepared_set(self) -> tuple[PreparedSet | None, str]:
        """The run's held-out set, else its training set, and its folder; else None and why.

        A relative path of the configuration is looked for from the working directory, as the run did.
        """
        if self.config is None:
            return None, "the checkpoint lies outside of a run's folder"
        why = []
        for path in filter(None, (self.config.data.test, self.config.data.train)):
            try:
                return load_prepared(path), path
            except (DataError, OSError) as error:
                why.append(" ".join(str(error).split()))
        return None, "; ".join(why)


def find_source(path: str) -> ExportSource:
    """The checkpoint at `path` (its folder or the model/ in it), or the newest whole one of the run at `path`.

    Reads and hashes every file of the checkpoint.

    Raises:
        ConfigError: nothing of the kind is there, the checkpoint is not whole, or its run's config.toml cannot be read.
        DataError: one of its run's evaluations cannot be read.
    """
    folder = Path(path)
    if folder.name == "model" and (folder.parent / MANIFEST).is_file():
        folder = folder.parent
    if (folder / MANIFEST).is_file():
        try:
            manifest = verify_checkpoint(folder)
        except CheckpointError as error:
            raise ConfigError(f"{folder}: {error}; name another step's folder, or the run's for its newest") from None
    elif (folder / "checkpoints").is_dir():
        found = find_latest(folder)
        if found.path is None or found.manifest is None:
            why = found.message or "checkpoints/ holds no step"
            raise ConfigError(f"{folder}: no checkpoint to export ({why}); name a run that has written one")
        folder, manifest = found.path, found.manifest
    else:
        seen = "neither checkpoints/ nor MANIFEST.json in it" if folder.is_dir() else "no such folder"
        raise ConfigError(f"{path}: {seen}; name a run's folder or one of its checkpoints/step-*")
    if not (folder / "model" / "config.json").is_file():
        raise ConfigError(f"{folder}: no model/config.json in it; name a checkpoint that python -m launch.rl wrote")
    checkpoint = folder.resolve()
    run_dir = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not (run_dir / "config.toml").is_file():
        return ExportSource(
            checkpoint=checkpoint, manifest=manifest, run_dir=None, config=None, meta={}, evaluations=()
        )
    config, meta = _run_config(run_dir)
    return ExportSource(
        checkpoint=checkpoint,
        manifest=manifest,
        run_dir=run_dir,
        config=config,
        meta=meta,
        evaluations=tuple(read_evaluations(run_dir)),
    )


def _run_config(run_dir: Path) -> tuple[RunConfig, Mapping[str, Any]]:
    try:
        config, meta = read_config(run_dir)
        return RunConfig.model_validate(config), meta
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{run_dir / 'config.toml'}: not this version's run configuration ({reason}); mend it, or copy the "
            "checkpoint's folder elsewhere to export it without its run"
        ) from None
