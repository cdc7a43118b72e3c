"""The mirror of metrics.jsonl in TensorBoard event files, RUN/tensorboard. Numbers only: what a model wrote stays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"


class TensorBoardRun:
    """An event file; every step is with the operating system before the next one begins."""

    def __init__(self, run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """`rows`: the steps done before. Steps after them are done again: readers forget those of earlier files.

        Raises:
            ImportError: tensorboard is not installed.
        """
        from torch.utils.tensorboard import SummaryWriter

        folder = run_dir / FOLDER
        is_new = not folder.is_dir() or not any(folder.iterdir())
        last_step = rows[-1]["step"] if rows else 0
        self._writer = SummaryWriter(str(folder), purge_step=None if is_new else last_step + 1)
        for row in rows if is_new else ():
            self.log(row, None)

    def log(self, row: Mapping[str, Any], rollouts: Path | None) -> None:
        """One scalar a number."""
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()
