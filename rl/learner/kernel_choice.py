"""Which attention kernel a learner uses: the fast one, once it has been checked on the device it will run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig

from rl.learner.attention import merged_attention
from rl.learner.kernels import CpuFlash, CudaFlash, Kernel, Reference, Span


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadShape:
    """What a kernel is checked on."""

    num_heads: int
    num_key_value_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Self:
        """A model's."""
        heads = config.num_attention_heads
        return cls(
            num_heads=heads,
            num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        )


def choose_kernel(
    asked: Literal["auto", "flash", "reference"], *, device: torch.device, dtype: torch.dtype, shape: HeadShape
) -> tuple[Kernel, str]:
    """The kernel for this device, and a line that says which and why.

    A flash kernel is taken after its outputs and gradients on a small case, merged from two parts, have been compared
    with the formula in float32: its error may be twice that of torch's own attention, in the model's type, against the same.

    Raises:
        ValueError: flash is asked for and not exact (or not there) for this device, type and head size.
    """
    flash: Kernel = CudaFlash() if device.type == "cuda" else CpuFlash()
    if asked == "reference":
        return Reference(), "attention: reference (asked for)"
    try:
        error, bound = _error(flash, device, dtype, shape)
        problem = "" if error <= bound else f"it is off by {error:.1e}, torch's own attention by {bound / 2:.1e}"
    except (RuntimeError, NotImplementedError) as failure:
        problem = str(failure).splitlines()[0]
    if not problem:
        return flash, f"attention: {flash.name}, checked: off by {error:.1e} of at most {bound:.1e}"
    if asked == "flash":
        raise ValueError(
            f"learner.attention: 'flash' does not work for {dtype} with {shape} on {device} ({problem}); set it to auto or reference"
        )
    return Reference(), f"attention: reference, slow and large, since {flash.name} fails its check here ({problem})"


def _error(kernel: Kernel, device: torch.device, dtype: torch.dtype, shape: HeadShape) -> tuple[float, float]:
    """(the kernel's largest relative error over output and gradients, the bound: twice that of torch's own attention)."""
    keys_of_prompt, lengths = 48, (5, 19)
    total = keys_of_prompt + sum(lengths)
    draw = torch.Generator(device="cpu").manual_seed(0)
    q, k, v, weights = (
        torch.randn(1, heads, total, shape.head_dim, generator=draw).to(device, dtype)
        for heads in (shape.num_heads, shape.num_key_value_heads, shape.num_key_value_heads, shape.num_heads)
    )
    own = [Span(0, 5, 0, 5), Span(5, 24, 5, 24)]

    def merged(of: Kernel) -> Callable[..., torch.Tensor]:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            p = keys_of_prompt
            prompt = ([Span(0, total - p, 0, p)], False, k[:, :, :p], v[:, :, :p])
            return merged_attention(of, q[:, :, p:], [prompt, (own, True, k[:, :, p:], v[:, :, p:])], scale=0.2)

        return attend

    def torchs_own(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        p, row = keys_of_prompt, torch.arange(total - keys_of_prompt, device=device)
        response = (row >= lengths[0]).long()
        own_mask = (row[:, None] >= row) & (response[:, None] == response)
        mask = torch.cat([torch.ones(len(row), p, dtype=torch.bool, device=device), own_mask], 1)
        return F.scaled_dot_product_attention(q[:, :, p:], k, v, attn_mask=mask, scale=0.2, enable_gqa=True)

    exact = _outputs_and_gradients(merged(Reference()), q.float(), k.float(), v.float(), weights.float())
    got, usual = (
        max(
            float((a.float() - e).norm() / e.norm())
            for a, e in zip(_outputs_and_gradients(attend, q, k, v, weights), exact, strict=True)
        )
        for attend in (merged(kernel), torchs_own)
    )
    return got, 2.0 * max(usual, 1e-6)


def _outputs_and_gradients(attend: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> tuple[torch.Tensor, Any]:
    *inputs, weights = tensors
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = attend(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, weights[:, :, -out.shape[2] :])
