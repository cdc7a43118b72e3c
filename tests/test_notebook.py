"""The notebook runs from top to bottom; its own assertions hold what it says."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.test_docs import ROOT


def test_the_notebook_runs_from_top_to_bottom() -> None:
    with tempfile.TemporaryDirectory() as sockets:
        command = [
            Path(sys.executable).with_name("jupyter-execute"),
            "--KernelManager.transport=ipc",
            f"--KernelManager.ip={sockets}/kernel",
            "docs/one_step.ipynb",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
