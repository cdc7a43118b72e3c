"""A function run in several gloo processes on this machine's loopback."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(work: Callable[..., None], num_ranks: int, *arguments: Any) -> None:
    """work(*arguments) in each of num_ranks processes, with torch.distributed up; an error in one is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(num_ranks, str(Path(folder, "rendezvous")), work, arguments), nprocs=num_ranks)


def _rank(rank: int, num_ranks: int, rendezvous: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_ranks)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()
    # Gloo's threads outlive the group; one that wakes while the interpreter is torn down aborts a rank whose work is done.
    os._exit(0)
