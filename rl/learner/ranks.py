"""The learner's processes: who this one is, and how the tokens of one sequence lie on several.

World W = data-parallel D x sequence-parallel S ranks; S neighbours share each prompt and its responses.
Without torch.distributed there is one rank, and every call here is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.distributed as dist

from rl.learner.kernels import Span


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLayout:
    """How a sequence of tokens is cut into chunks and dealt to the sequence-parallel ranks.

    The last chunks may hold fewer tokens than `chunk` or none; every rank then holds padding, so that all are equally long.
    """

    num_tokens: int
    chunk: int
    """Tokens of a chunk, >= 1."""
    chunks: tuple[tuple[int, ...], ...]
    """Per rank the indices of its chunks, in its own order."""

    @classmethod
    def contiguous(cls, num_tokens: int, num_ranks: int) -> Self:
        """One chunk a rank: for responses, whose tokens all cost about the same (they all see the whole prompt)."""
        return cls(
            num_tokens=num_tokens,
            chunk=max(1, -(-num_tokens // num_ranks)),
            chunks=tuple((rank,) for rank in range(num_ranks)),
        )

    @classmethod
    def zigzag(cls, num_tokens: int, num_ranks: int) -> Self:
        """Rank r gets chunks r and 2S - 1 - r of 2S: under a causal mask all have the same work."""
        if num_ranks == 1:
            return cls.contiguous(num_tokens, 1)
        return cls(
            num_tokens=num_tokens,
            chunk=max(1, -(-num_tokens // (2 * num_ranks))),
            chunks=tuple((rank, 2 * num_ranks - 1 - rank) for rank in range(num_ranks)),
        )

    @property
    def num_local(self) -> int:
        """Tokens on each rank, padding included."""
        return self.chunk * len(self.chunks[0])

    def ranges(self, rank: int) -> list[tuple[int, int, int]]:
        """(first row on the rank, start, end) of its chunks that hold tokens [start, end) of the sequence."""
        spans = [
            (i * self.chunk, index * self.chunk, min((index + 1) * self.chunk, self.num_tokens))
            for i, index in enumerate(self.chunks[rank])
        ]
        return [span for span in spans if span[1] < span[2]]

    def find(self, token: int) -> tuple[int, int]:
        """(rank, row on it) of a token."""
        for rank in range(len(self.chunks)):
            for row, start, end in self.ranges(rank):
                if start <= token < end:
                    return rank, row + token - start
        raise IndexError(f"token {token} of {self.num_tokens}")

    def local(self, values: torch.Tensor, rank: int) -> torch.Tensor:
        """[num_local, ...] of [num_tokens, ...]: this rank's rows, zeros where it holds padding."""
        if len(self.chunks) == 1 and self.num_local == self.num_tokens:
            return values
        rows = values.new_zeros(self.num_local, *values.shape[1:])
        for row, start, end in self.ranges(rank):
            rows[row : row + end - start] = values[start:end]
        return rows

    def attention_spans(self, rank: int, documents: Sequence[tuple[int, int]]) -> tuple[list[Span], list[Span]]:
        """Causal attention of the rank's rows inside each document [start, end) of the whole sequence.

        Returns:
            (spans of earlier rows of the same document, seen in full; spans of the rows themselves, seen causally);
            query rows count on the rank, key rows in the sequence.
        """
        full, causal = [], []
        for row, start, end in self.ranges(rank):
            for first, last in documents:
                a, b = max(start, first), min(end, last)
                if a < b:
                    rows = (row + a - start, row + b - start)
                    causal.append(Span(*rows, a, b))
                    if first < a:
                        full.append(Span(*rows, first, a))
        return full, causal


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among the learner's."""

    rank: int = 0
    world_size: int = 1
    num_sequence: int = 1
    """S, ranks that share a sequence."""
    sequence_group: Any = None
    """Their process group; None: this rank alone."""

    @classmethod
    def here(cls, num_sequence: int) -> Self:
        """From torch.distributed where it is initialized; collective then.

        Raises:
            ValueError: num_sequence does not divide the number of processes.
        """
        if not (dist.is_available() and dist.is_initialized()):
            if num_sequence > 1:
                raise ValueError(
                    f"learner.sequence_parallel: {num_sequence} in a single process; set learner.processes to a multiple of it"
                )
            return cls()
        world, rank = dist.get_world_size(), dist.get_rank()
        if world % num_sequence:
            raise ValueError(f"learner.sequence_parallel: {num_sequence} does not divide the {world} learner processes")
        own = None
        if num_sequence > 1:
            for first in range(0, world, num_sequence):
                group = dist.new_group(list(range(first, first + num_sequence)))
                if first <= rank < first + num_sequence:
                    own = group
        return cls(rank=rank, world_size=world, num_sequence=num_sequence, sequence_group=own)

    @property
    def sequence_rank(self) -> int:
        """0..S-1"""
        return self.rank % self.num_sequence

    @property
    def num_data(self) -> int:
        """D, how many groups are learned from at the same time."""
        return self.world_size // self.num_sequence

    @property
    def data_rank(self) -> int:
        """0..D-1"""
        return self.rank // self.num_sequence

    @property
    def min_rows(self) -> int:
        """Rows that a forward pass has at least: several ranks gather each layer's parameters together, so none may leave it out."""
        return self.num_sequence if self.world_size > 1 else 0

    def gather(self, local: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """[1, H, num_local, D] of every sequence rank to the whole [1, H, num_tokens, D]; without gradient; S > 1."""
        send = local.contiguous()
        received = send.new_empty(self.num_sequence, *send.shape[1:])
        dist.all_gather_into_tensor(received, send, group=self.sequence_group)
        chunks = {
            index: received[rank, :, i * layout.chunk : (i + 1) * layout.chunk]
            for rank, indices in enumerate(layout.chunks)
            for i, index in enumerate(indices)
        }
        return torch.cat([chunks[index] for index in sorted(chunks)], dim=1)[None, :, : layout.num_tokens]

    def scatter_sum(self, whole: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """The sum over sequence ranks of [1, H, num_tokens, D], of it this rank's [1, H, num_local, D]; zeros at padding; S > 1."""
        send = whole.new_zeros(self.num_sequence, whole.shape[1], layout.num_local, whole.shape[3])
        for rank in range(self.num_sequence):
            for row, start, end in layout.ranges(rank):
                send[rank, :, row : row + end - start] = whole[0, :, start:end]
        received = torch.empty_like(send[:1])
        dist.reduce_scatter_tensor(received, send, group=self.sequence_group)
        return received

    def share_row(self, row: torch.Tensor, owner: int) -> torch.Tensor:
        """A tensor of sequence rank `owner` on all of them; without gradient."""
        if self.num_sequence > 1:
            row = row.contiguous()
            dist.broadcast(row, group=self.sequence_group, group_src=owner)
        return row

    def sum_sequence(self, value: torch.Tensor) -> torch.Tensor:
        """In place, the sum over the sequence ranks."""
        if self.num_sequence > 1:
            dist.all_reduce(value, group=self.sequence_group)
        return value

    def sum_all(self, value: torch.Tensor) -> torch.Tensor:
        """In place, the sum over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def max_all(self, value: torch.Tensor) -> torch.Tensor:
        """In place, the largest over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value
