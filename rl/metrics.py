"""One dict and one log call a step: metrics.jsonl always, the console and the trackers beside it.

metrics.jsonl holds one object a step, each on disk before the next step begins. A number that is not finite is
written as null, never as 0, and counted. A resumed run takes the file up where its checkpoint was, so that no step
stands in it twice. alarms.jsonl holds an object for every alarm raised or cleared, and goes back with it. The trackers
are mirrors: whatever happens to them, training goes on. What the metrics mean: rl/glossary.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, SupportsFloat

import orjson

from rl.alarms import AlarmEvent
from rl.config import TrackingSection
from rl.console import open_console
from rl.glossary import GLOSSARY as GLOSSARY
from rl.glossary import NONFINITE
from rl.run_folder import write_file
from rl.tensorboard_log import TensorBoardRun
from rl.tracker import Tracker
from rl.wandb_run import wandb_run_id, wandb_tracker

FILE = "metrics.jsonl"
ALARMS_FILE = "alarms.jsonl"

Value = SupportsFloat | str | None


class MetricsLog:
    """The one place a step's numbers go."""

    def __init__(
        self,
        run_dir: Path,
        tracking: TrackingSection,
        config: Mapping[str, Any],
        run_id: str | None,
        *,
        last_step: int = 0,
    ) -> None:
        """Open the log; `config` is the run's `model_dump()`, its stages give the console its totals.

        `run_id` is the tracker's id from the checkpoint, None at a first start (the id then comes from the run's
        folder, or is new). `last_step` is the step resumed from: later rows belong to work that is done again and go.
        """
        self.path = run_dir / FILE
        self.last_step = last_step
        self.run_id = None if tracking.wandb == "off" else wandb_run_id(run_dir, run_id)
        """W&B's run id, for the checkpoint; None where W&B is off."""
        rewind_metrics(self.path, last_step)
        rewind_alarms(run_dir / ALARMS_FILE, last_step)
        self._file = self.path.open("ab")
        self._alarms = (run_dir / ALARMS_FILE).open("ab")
        done = read_metrics(self.path)
        self._trackers: list[Tracker] = []
        if self.run_id:
            self._trackers.append(wandb_tracker(run_dir, tracking, config, self.run_id, done))
        if tracking.tensorboard:
            self._trackers.append(Tracker("TensorBoard", lambda: TensorBoardRun(run_dir, done)))
        self._console = open_console(config, last_step)

    def log(
        self,
        step: int,
        metrics: Mapping[str, Value],
        *,
        alarms: Sequence[AlarmEvent] = (),
        rollouts: Path | None = None,
    ) -> None:
        """Write one step's row and the alarms it raised or cleared, durably, then mirror the row.

        Values are numbers (Python's, NumPy's, 0-d tensors), text or None. `rollouts` is the step's file of them, from
        which trackers show a few.

        Raises:
            ValueError: the step is not after the last one.
            OSError: metrics.jsonl cannot be written.
        """
        if step <= self.last_step:
            raise ValueError(f"metrics: step {step} after step {self.last_step}; every step is logged once, in order")
        row = _plain_row(step, metrics)
        _append(self._alarms, [asdict(event) for event in alarms])
        _append(self._file, [row])
        self.last_step = step
        for tracker in self._trackers:
            tracker.log(row, rollouts)
        self._console.show(row)
        for event in alarms:
            self._console.tell(f"{'ALARM ' if event.raised else ''}{event.message}")

    def close(self) -> None:
        """End the mirrors and close the file."""
        self._console.close()
        for tracker in self._trackers:
            tracker.close()
        self._file.close()
        self._alarms.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl by step; lines that are not whole rows (a write that was cut) are left out.

    Of several rows of one step the last counts. A missing file has no rows.
    """
    rows = {row["step"]: row for row in _stepped_rows(path)}
    return [rows[step] for step in sorted(rows)]


def read_alarms(path: Path) -> list[dict[str, Any]]:
    """The rows of an alarms.jsonl, in order: {step, name, message, raised}. A missing file has none."""
    return _stepped_rows(path)


def rewind_metrics(path: Path, last_step: int) -> None:
    """Leave in the file whole rows up to `last_step` and nothing else; the file exists afterwards."""
    _rewrite(path, [row for row in read_metrics(path) if row["step"] <= last_step])


def rewind_alarms(path: Path, last_step: int) -> None:
    """The same of an alarms.jsonl."""
    _rewrite(path, [row for row in read_alarms(path) if row["step"] <= last_step])


def _stepped_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows that have a step."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _rewrite(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    if not path.exists() or path.read_bytes() != content:
        write_file(path, content)


def _append(file: IO[bytes], rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def _plain_row(step: int, metrics: Mapping[str, Value]) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step}
    num_nonfinite = 0
    for name, value in metrics.items():
        if value is None or isinstance(value, (str, int)):
            row[name] = value
            continue
        number = float(value)
        row[name] = number if math.isfinite(number) else None
        num_nonfinite += not math.isfinite(number)
    row[NONFINITE] = num_nonfinite
    return row
