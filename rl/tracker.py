"""The mirror of metrics.jsonl in Weights & Biases; one warning when it fails, and training goes on without it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rl.config import TrackingSection
from rl.run_folder import write_file

log = logging.getLogger(__name__)

ID_FILE = "wandb_run_id"


class TrackerRun(Protocol):
    """The part of a `wandb.Run` that the mirror uses."""

    def log(self, data: dict[str, Any]) -> None: ...

    def finish(self) -> None: ...


class Tracker:
    """Rows go to a tracker until it fails once."""

    def __init__(self, run: TrackerRun | None, run_id: str, failures: tuple[type[Exception], ...]) -> None:
        self.run_id = run_id
        self._run = run
        self._failures = failures

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror one row; what is null there is absent here."""
        if self._run is None:
            return
        try:
            self._run.log({name: value for name, value in row.items() if value is not None})
        except self._failures as error:
            self._give_up(error)

    def close(self) -> None:
        """Tell the tracker that the run ended."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except self._failures as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        _warn(error)


def open_tracker(
    run_dir: Path, tracking: TrackingSection, config: Mapping[str, Any], run_id: str | None
) -> Tracker | None:
    """Start or resume the run's mirror; None when tracking is off.

    The run id comes from the checkpoint, else from the run's folder, else it is new; it is stored in the folder, so
    that a run killed before its first checkpoint keeps its id too. Offline files lie under the run's folder for
    `wandb sync`.
    """
    if tracking.wandb == "off":
        return None
    id_path = run_dir / ID_FILE
    stored = id_path.read_text().strip() if id_path.exists() else ""
    run_id = run_id or stored or secrets.token_hex(4)
    if run_id != stored:
        write_file(id_path, run_id.encode())
    try:
        import wandb
    except ImportError as error:
        _warn(error)
        return Tracker(None, run_id, ())
    # what wandb is seen to raise for a lost service, a full disk, a refused login or a value it cannot store
    failures = (wandb.Error, OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError)
    try:
        run = wandb.init(
            project=tracking.project,
            name=Path(run_dir).name,
            id=run_id,
            mode=tracking.wandb,
            dir=str(run_dir),
            config=dict(config),
            resume="allow",
        )
        run.define_metric("*", step_metric="step")
    except failures as error:
        _warn(error)
        return Tracker(None, run_id, ())
    return Tracker(run, run_id, failures)


def _warn(error: Exception) -> None:
    reason = " ".join(str(error).split())[:300]
    log.warning("W&B stopped (%s: %s); training goes on, metrics.jsonl has everything", type(error).__name__, reason)
