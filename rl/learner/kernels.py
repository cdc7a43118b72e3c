"""Attention kernels that give, beside the output, the log-sum-exp by which partial attentions are merged.

A kernel attends over spans: rows [q0, q1) of the queries to rows [k0, k1) of the keys, one span a call on CPU, adjacent
spans in one variable-length call on CUDA. Its backward pass is given the *merged* output and log-sum-exp, and so returns
exactly its part of the merged gradient: softmax probabilities are exp(score - lse) and the row term is sum(do * o).

T query rows, S key rows, Hq/Hkv query and key heads (Hq a multiple of Hkv), D head size.
Left out: FlexAttention, whose backward pass cannot be given another's log-sum-exp (and which has none on CPU).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch

NOTHING_SEEN = -1e30
"""Log-sum-exp of a row that attends to nothing: finite, so that merging two such rows gives 0 and not NaN."""


class Span(NamedTuple):
    """Query rows [q0, q1) attend to key rows [k0, k1)."""

    q0: int
    q1: int
    k0: int
    k1: int


class Kernel(Protocol):
    """A pair of passes over spans whose query rows are disjoint and ascending."""

    name: str

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: Sequence[Span], *, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of every span's rows.

        Args:
            q: [1, Hq, T, D]; k, v: [1, Hkv, S, D].
            spans: rows in no span get output 0 and log-sum-exp NOTHING_SEEN.
            causal: within a span, row q0 + i sees keys up to k0 + i; its two ranges are equally long then.
            scale: factor on the scores.

        Returns:
            (output [1, Hq, T, D], log-sum-exp [1, Hq, T] float32 or wider).
        """
        ...

    def backward(
        self, saved: Saved, k: torch.Tensor, v: torch.Tensor, spans: Sequence[Span], *, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(dq [1, Hq, T, D], dk, dv [1, Hkv, S, D]) of this part of a merged attention."""
        ...


class Saved(NamedTuple):
    """What every part's backward pass is given: gradient, queries, merged output [1, Hq, T, D] and log-sum-exp [1, Hq, T]."""

    grad: torch.Tensor
    q: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor


class CpuFlash:
    """The CPU kernels behind torch's scaled_dot_product_attention; float32 (bfloat16's backward is ten times slower)."""

    name = "flash (CPU)"
    _forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    _backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: Sequence[Span], *, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [
            self._forward(q[:, :, a:b], k[:, :, c:d], v[:, :, c:d], 0.0, causal, scale=scale) for a, b, c, d in spans
        ]
        return parts[0] if _is_whole(spans, q.shape[2]) else _place_rows(q, spans, parts)

    def backward(
        self, saved: Saved, k: torch.Tensor, v: torch.Tensor, spans: Sequence[Span], *, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        def part(a: int, b: int, c: int, d: int) -> tuple[torch.Tensor, ...]:
            grad, q, out, lse = (x[:, :, a:b] for x in saved)
            return self._backward(grad, q, k[:, :, c:d], v[:, :, c:d], out, lse.contiguous(), 0.0, causal, scale=scale)

        return _sum_gradients(saved.q, k, v, spans, (part(*span) for span in spans))


class CudaFlash:
    """FlashAttention 2 as torch ships it, variable-length form: bfloat16 or float16, head size a multiple of 8, up to 256."""

    name = "flash (CUDA)"
    _forward = torch.ops.aten._flash_attention_forward.default
    _backward = torch.ops.aten._flash_attention_backward.default

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: Sequence[Span], *, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts, places = [], []
        for run in _adjacent(spans):
            a, b, c, d = _extent(run)
            q_starts, k_starts, longest_q, longest_k = _sequence_starts(tuple(run), q.device)
            out, lse, *_ = self._forward(
                _rows(q, a, b), _rows(k, c, d), _rows(v, c, d), q_starts, k_starts, longest_q, longest_k,
                0.0, causal, False, scale=scale,
            )  # fmt: skip
            parts.append((out.transpose(0, 1)[None], lse[None]))
            places.append(Span(a, b, c, d))
        return parts[0] if _is_whole(places, q.shape[2]) else _place_rows(q, places, parts)

    def backward(
        self, saved: Saved, k: torch.Tensor, v: torch.Tensor, spans: Sequence[Span], *, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        def part(run: Sequence[Span]) -> tuple[torch.Tensor, ...]:
            a, b, c, d = _extent(run)
            starts = _sequence_starts(tuple(run), k.device)
            no_dropout = torch.zeros(2, dtype=torch.uint64, device=k.device)
            gradients = self._backward(
                _rows(saved.grad, a, b), _rows(saved.q, a, b), _rows(k, c, d), _rows(v, c, d), _rows(saved.out, a, b),
                saved.lse[0, :, a:b].contiguous(), *starts, 0.0, causal, no_dropout, no_dropout[:0], scale=scale,
            )  # fmt: skip
            return tuple(x.transpose(0, 1)[None] for x in gradients)

        runs = _adjacent(spans)
        return _sum_gradients(saved.q, k, v, [_extent(run) for run in runs], (part(run) for run in runs))


class Reference:
    """The formula itself, with whole score matrices: for tests, and where no flash kernel is exact."""

    name = "reference"

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: Sequence[Span], *, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = []
        for a, b, c, d in spans:
            scores = self._scores(q[:, :, a:b], k[:, :, c:d], causal, scale)
            lse = scores.logsumexp(-1)
            values = _repeat(v[:, :, c:d], q.shape[1]).to(scores.dtype)
            parts.append((((scores - lse[..., None]).exp() @ values).to(q.dtype), lse))
        return _place_rows(q, spans, parts)

    def backward(
        self, saved: Saved, k: torch.Tensor, v: torch.Tensor, spans: Sequence[Span], *, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        def part(a: int, b: int, c: int, d: int) -> tuple[torch.Tensor, ...]:
            grad, q, out, lse = (x[:, :, a:b] for x in saved)
            scores = self._scores(q, k[:, :, c:d], causal, scale)
            grad, out = grad.to(scores.dtype), out.to(scores.dtype)
            keys, values = (_repeat(x[:, :, c:d], q.shape[1]).to(scores.dtype) for x in (k, v))
            probs = (scores - lse[..., None]).exp()
            dscores = probs * (grad @ values.transpose(-1, -2) - (grad * out).sum(-1, keepdim=True)) * scale
            dk, dv = dscores.transpose(-1, -2) @ q.to(scores.dtype), probs.transpose(-1, -2) @ grad
            dk, dv = (x.unflatten(1, (k.shape[1], -1)).sum(2) for x in (dk, dv))
            return dscores @ keys, dk, dv

        return _sum_gradients(saved.q, k, v, spans, (part(*span) for span in spans))

    @staticmethod
    def _scores(q: torch.Tensor, k: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = scale * (q.to(wide) @ _repeat(k, q.shape[1]).to(wide).transpose(-1, -2))
        if causal:
            scores.masked_fill_(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -torch.inf)
        return scores


def _repeat(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    return x.repeat_interleave(num_heads // x.shape[1], dim=1)


def _is_whole(spans: Sequence[Span], num_rows: int) -> bool:
    return len(spans) == 1 and spans[0][:2] == (0, num_rows)


def _place_rows(
    q: torch.Tensor, spans: Sequence[Span], parts: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    # In memory [1, T, Hq, D], as the kernels write their output and the model reads it next.
    outs, lses = [part_out.transpose(1, 2) for part_out, _ in parts], [part_lse for _, part_lse in parts]
    if _is_cover([(span.q0, span.q1) for span in spans], q.shape[2]):
        return torch.cat(outs, 1).transpose(1, 2), torch.cat(lses, 2)
    out = torch.zeros_like(q.transpose(1, 2), memory_format=torch.contiguous_format)
    lse = q.new_full(q.shape[:3], NOTHING_SEEN, dtype=torch.promote_types(q.dtype, torch.float32))
    for (a, b, _, _), part_out, part_lse in zip(spans, outs, lses, strict=True):
        out[:, a:b] = part_out
        lse[:, :, a:b] = part_lse
    return out.transpose(1, 2), lse


def _sum_gradients(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    spans: Sequence[Span],
    parts: Iterable[tuple[torch.Tensor, ...]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of all spans; keys that several spans see get the sum."""
    covers = ([(s.q0, s.q1) for s in spans], q.shape[2]), ([(s.k0, s.k1) for s in spans], k.shape[2])
    if all(_is_cover(*cover) for cover in covers):
        dq, dk, dv = (x[0] if len(x) == 1 else torch.cat(x, 2) for x in zip(*parts, strict=True))
        return dq, dk, dv
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for (a, b, c, d), (part_dq, part_dk, part_dv) in zip(spans, parts, strict=True):
        dq[:, :, a:b] += part_dq
        dk[:, :, c:d] += part_dk
        dv[:, :, c:d] += part_dv
    return dq, dk, dv


def _is_cover(ranges: Sequence[tuple[int, int]], num_rows: int) -> bool:
    """Whether the ranges follow one another without a gap from 0 to num_rows."""
    return [a for a, _ in ranges] + [num_rows] == [0] + [b for _, b in ranges]


def _rows(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """[1, H, T, D] to the rows [T', H, D] of the variable-length kernels; no copy where the model laid x out so."""
    rows = x[0, :, start:end].transpose(0, 1)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _adjacent(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans whose query rows and key rows both follow one another without a gap, together."""
    runs: list[list[Span]] = []
    for span in spans:
        if runs and (runs[-1][-1].q1, runs[-1][-1].k1) == (span.q0, span.k0):
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


def _extent(run: Sequence[Span]) -> Span:
    return Span(run[0].q0, run[-1].q1, run[0].k0, run[-1].k1)


@lru_cache(maxsize=64)
def _sequence_starts(run: tuple[Span, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """Cumulative lengths [len(run) + 1] int32 of queries and keys, and the longest of each; every layer asks again."""
    a, _, c, _ = run[0]
    q_starts = torch.tensor([0, *(span.q1 - a for span in run)], dtype=torch.int32, device=device)
    k_starts = torch.tensor([0, *(span.k1 - c for span in run)], dtype=torch.int32, device=device)
    return q_starts, k_starts, max(s.q1 - s.q0 for s in run), max(s.k1 - s.k0 for s in run)
