"""The order of one group's work: prompt forward once, responses in micro-batches, prompt backward once.

The gradient is that of G separate sequences prompt + response; the prompt is paid for once, and memory holds one prompt
and one micro-batch whatever G is. On several sequence-parallel ranks each call is made by all of them together.

P prompt tokens, N fed rows and M trained tokens of this rank's micro-batch, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from rl.learner.attention import PromptCache, TokenPass
from rl.learner.kernels import Kernel
from rl.learner.packing import own_rows
from rl.learner.ranks import Ranks, TokenLayout
from rl.learner.sharding import ShardedPolicy
from rl.types import MicroBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadyGroup:
    """A prompt and its micro-batches as this rank works on them."""

    prompt: torch.Tensor
    """[P'] int64, this rank's tokens of the prompt."""
    prompt_layout: TokenLayout
    batches: tuple[MicroBatch, ...]
    batch_layouts: tuple[TokenLayout, ...]


def ready_group(
    prompt_token_ids: Sequence[int], batches: Sequence[MicroBatch], ranks: Ranks, device: torch.device
) -> ReadyGroup:
    """Cut a group's tokens to what this rank holds of them, on its device."""
    prompt = TokenLayout.zigzag(len(prompt_token_ids), ranks.num_sequence)
    layouts = [TokenLayout.contiguous(len(b.token_ids), ranks.num_sequence) for b in batches]
    return ReadyGroup(
        prompt=prompt.local(torch.tensor(prompt_token_ids), ranks.sequence_rank).to(device),
        prompt_layout=prompt,
        batches=tuple(own_rows(b, layout, ranks, device) for b, layout in zip(batches, layouts, strict=True)),
        batch_layouts=tuple(layouts),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How this learner runs a group."""

    policy: ShardedPolicy
    kernel: Kernel
    ranks: Ranks
    offload: Callable[[], AbstractContextManager[object]] = nullcontext
    """Under it the prompt's forward pass is made; may keep what autograd saves elsewhere."""

    def backward(
        self, group: ReadyGroup, loss: Callable[[PreTrainedModel, int, torch.Tensor], torch.Tensor], *, is_last: bool
    ) -> None:
        """Add the gradient of the sum of `loss` over the micro-batches to the parameters (arXiv 2606.01143).

        Args:
            group: at least one micro-batch.
            loss: given the model, a micro-batch's index and [M, H], the states that predict its tokens, returns a scalar.
            is_last: of an update; sharded gradients are summed over the ranks after it (see `ShardedPolicy`).

        Raises:
            ValueError: a layer of the model has no K/V to share.
        """
        cache = PromptCache(group.prompt_layout)
        self.policy.reduce_gradients(False)
        with self.offload():
            row, owner = self._prompt_row(group, cache)
        leaf = self.ranks.share_row(row.detach().clone(), owner).requires_grad_()
        for i in range(len(group.batches)):
            self.policy(lambda model, i=i: loss(model, i, self._states(model, group, i, cache, leaf))).backward()
        total = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        self.ranks.sum_sequence(total)
        self.policy.reduce_gradients(is_last)
        row.backward(total if owner == self.ranks.sequence_rank else torch.zeros_like(total))

    @torch.no_grad()
    def score(
        self, group: ReadyGroup, score: Callable[[PreTrainedModel, int, torch.Tensor], torch.Tensor]
    ) -> list[torch.Tensor]:
        """`backward` without gradients: the value of `score` for each micro-batch, in order."""
        cache = PromptCache(group.prompt_layout)
        row, owner = self._prompt_row(group, cache)
        row = self.ranks.share_row(row.clone(), owner)
        return [
            self.policy(lambda model, i=i: score(model, i, self._states(model, group, i, cache, row)))
            for i in range(len(group.batches))
        ]

    def _prompt_row(self, group: ReadyGroup, cache: PromptCache) -> tuple[torch.Tensor, int]:
        """([1, H] on its owner the state of the prompt's last token, which predicts every response's first; the owner)."""
        layout, me = group.prompt_layout, self.ranks.sequence_rank
        owner, row = layout.find(layout.num_tokens - 1)
        full, causal = layout.attention_spans(me, [(0, layout.num_tokens)])
        token_pass = TokenPass(
            kernel=self.kernel, ranks=self.ranks, cache=cache, is_prompt=True, layout=layout, full=full, causal=causal
        )
        positions = layout.local(torch.arange(layout.num_tokens), me).to(group.prompt.device)

        def forward(model: PreTrainedModel) -> torch.Tensor:
            hidden = _hidden_states(model, group.prompt, positions, token_pass)
            # A copy, so that the other rows' states need not be kept for it.
            return hidden[row : row + 1].clone() if owner == me else hidden[:1].clone()

        state = self.policy(forward)
        num_layers = self.policy.model.config.num_hidden_layers
        if len(cache.layers) != num_layers:
            raise ValueError(
                f"{type(self.policy.model).__name__}: {len(cache.layers)} of {num_layers} layers published their "
                "prompt's K/V, so the others have no softmax attention of their own; choose a model where all do"
            )
        return state, owner

    def _states(
        self, model: PreTrainedModel, group: ReadyGroup, i: int, cache: PromptCache, prompt_row: torch.Tensor
    ) -> torch.Tensor:
        """[M, H] state from which each trained token of micro-batch i is predicted."""
        batch, layout = group.batches[i], group.batch_layouts[i]
        if not len(batch.token_ids):
            return prompt_row.expand(len(batch.sources), -1)
        full, causal = layout.attention_spans(self.ranks.sequence_rank, batch.documents)
        token_pass = TokenPass(
            kernel=self.kernel, ranks=self.ranks, cache=cache, is_prompt=False, layout=layout, full=full, causal=causal
        )
        hidden = _hidden_states(model, batch.token_ids, batch.position_ids, token_pass)
        return torch.cat([prompt_row, hidden]).index_select(0, batch.sources)


def _hidden_states(
    model: PreTrainedModel, token_ids: torch.Tensor, position_ids: torch.Tensor, token_pass: TokenPass
) -> torch.Tensor:
    """[N, H]"""
    output = model.base_model(
        input_ids=token_ids[None], position_ids=position_ids[None], use_cache=False, token_pass=token_pass
    )
    return output.last_hidden_state[0]
