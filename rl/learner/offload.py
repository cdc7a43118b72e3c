"""What autograd keeps for the backward pass, in host memory instead of on the device.

Under non-reentrant checkpointing autograd keeps each layer's input and nothing else of the layer: P x H a layer. Each goes
to host memory while the next layer computes, and comes back when its layer's turn has come in the backward pass. None is
fetched ahead: at 60K tokens of a 7B model a copy is 430 MB, some 20 ms over PCIe, beside half a second of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch

MIN_BYTES = 2**20
"""A smaller tensor stays: it is nothing beside the layers' inputs, and starting two copies of it costs more than moving it."""


@dataclass(frozen=True, slots=True)
class _HostCopy:
    """A tensor in host memory."""

    tensor: torch.Tensor
    device: torch.device
    copied: torch.cuda.Event | None
    """After it the copy is complete; None: it is."""


Kept: TypeAlias = "torch.Tensor | _HostCopy"


@contextmanager
def activation_offload(device: torch.device, *, min_bytes: int = MIN_BYTES) -> Iterator[None]:
    """Within the block what autograd keeps goes to host memory, exactly; it comes back in the backward pass, wherever made.

    On CUDA to pinned memory, on a stream of its own. On CPU it is a copy in the same memory: nothing is saved there, and the
    same tensors take the same way. Left where they are: tensors below min_bytes, and leaves and their views, which live on
    elsewhere anyway: parameters, frozen ones too.

    Pinned memory comes in powers of two, so up to twice the tensors' size is taken; it is kept for the next step.
    """
    pack, unpack = (_cuda_copies if device.type == "cuda" else _plain_copies)(device)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: pack(tensor) if tensor.nbytes >= min_bytes and not _lives_on(tensor) else tensor,
        lambda kept: unpack(kept) if isinstance(kept, _HostCopy) else kept,
    ):
        yield


def _lives_on(tensor: torch.Tensor) -> bool:
    owner = tensor if tensor._base is None else tensor._base
    return isinstance(owner, torch.nn.Parameter) or (owner.is_leaf and owner.requires_grad)


Copies: TypeAlias = tuple[Callable[[torch.Tensor], Kept], Callable[[_HostCopy], torch.Tensor]]


def _plain_copies(device: torch.device) -> Copies:
    def pack(tensor: torch.Tensor) -> Kept:
        return _HostCopy(tensor.detach().clone(), device, None)

    def unpack(kept: _HostCopy) -> torch.Tensor:
        return kept.tensor

    return pack, unpack


def _cuda_copies(device: torch.device) -> Copies:
    stream = torch.cuda.Stream(device)

    def pack(tensor: torch.Tensor) -> Kept:
        if tensor.device.type != "cuda":
            return tensor
        source = tensor.detach()
        host = torch.empty_like(source, device="cpu", pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            host.copy_(source, non_blocking=True)
        # Its memory is given to another tensor only when the copy is behind it.
        source.record_stream(stream)
        return _HostCopy(host, device, stream.record_event())

    def unpack(kept: _HostCopy) -> torch.Tensor:
        assert kept.copied is not None
        # On the stream that reads it. The host's allocator holds the pinned memory back until this copy is behind it too.
        torch.cuda.current_stream(device).wait_event(kept.copied)
        return kept.tensor.to(kept.device, non_blocking=True)

    return pack, unpack
