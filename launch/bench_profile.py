"""Where one turn of work spends its time, by kind of operation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

KINDS: dict[str, tuple[str, ...]] = {
    "attention backward": ("flash_attention_for_cpu_backward", "flash_attention_backward", "flash_bwd"),
    "attention forward": ("flash_attention_for_cpu", "flash_attention_forward", "flash_fwd"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "gemm", "cutlass", "nvjet"),
    "copies and fills": ("aten::copy_", "aten::cat", "aten::fill_", "aten::zero_", "memcpy", "memset"),
}
"""Substrings of operators' and kernels' names, the first that fits counts; what fits none is elementwise and the rest."""
REST = "elementwise and the rest"


def time_shares(work: Callable[[], object], *, on_cuda: bool) -> dict[str, float]:
    """Shares of the time that operators took themselves (on CUDA: that kernels took on the device), by KINDS and REST."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiled:
        work()
        if on_cuda:
            torch.cuda.synchronize()
    seconds = dict.fromkeys((*KINDS, REST), 0.0)
    for event in profiled.key_averages():
        spent = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        name = event.key.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)
        seconds[kind] += spent
    total = sum(seconds.values())
    return {kind: spent / total for kind, spent in seconds.items()}
