"""The order of one group's work: prompt forward once, responses in micro-batches, prompt backward once.

The gradient is that of G separate sequences prompt + response; the prompt is paid for once, and
memory holds one prompt and one micro-batch whatever G is.

B responses a micro-batch, R tokens of the longest, P prompt tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from rl.learner.attention import Phase, PromptCache
from rl.types import MicroBatch


def backward_group(
    backbone: PreTrainedModel,
    prompt_token_ids: torch.Tensor,
    micro_batches: Sequence[MicroBatch],
    loss: Callable[[int, torch.Tensor], torch.Tensor],
) -> None:
    """Add the gradient of the sum of `loss` over the micro-batches to the parameters (arXiv 2606.01143).

    Args:
        backbone: the model without its head, with a `shared_prefix` attention.
        prompt_token_ids: [P] int64, P >= 1.
        micro_batches: the group's responses, at least one.
        loss: given a micro-batch's index and [B, R, H], the hidden states that predict its tokens, returns a scalar.

    Raises:
        ValueError: a layer of the backbone has no K/V to share.
    """
    cache = PromptCache()
    last = _prompt_forward(backbone, prompt_token_ids, cache)
    leaf = last.detach().requires_grad_()
    for i, batch in enumerate(micro_batches):
        loss(i, _predicting_states(backbone, cache, leaf, batch.token_ids, len(prompt_token_ids))).backward()
    last.backward(leaf.grad)


@torch.no_grad()
def score_group(
    backbone: PreTrainedModel,
    prompt_token_ids: torch.Tensor,
    micro_batches: Sequence[MicroBatch],
    score: Callable[[int, torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    """`backward_group` without gradients: the value of `score` for each micro-batch, in order."""
    cache = PromptCache()
    last = _prompt_forward(backbone, prompt_token_ids, cache)
    return [
        score(i, _predicting_states(backbone, cache, last, batch.token_ids, len(prompt_token_ids)))
        for i, batch in enumerate(micro_batches)
    ]


def _prompt_forward(backbone: PreTrainedModel, token_ids: torch.Tensor, cache: PromptCache) -> torch.Tensor:
    """[1, 1, H] hidden state of the prompt's last token, which predicts every response's first."""
    last = _forward(backbone, token_ids[None], 0, cache, "prompt")[:, -1:]
    if len(cache.layers) != backbone.config.num_hidden_layers:
        raise ValueError(
            f"{type(backbone).__name__}: {len(cache.layers)} of {backbone.config.num_hidden_layers} layers published their "
            "prompt's K/V, so the others have no softmax attention of their own; choose a model where all do"
        )
    return last


def _predicting_states(
    backbone: PreTrainedModel, cache: PromptCache, last: torch.Tensor, token_ids: torch.Tensor, num_prompt_tokens: int
) -> torch.Tensor:
    """[B, R, H] state from which each token of [B, R] is predicted; a response's last token predicts none."""
    first = last.expand(len(token_ids), 1, -1)
    if token_ids.shape[1] == 1:
        return first
    return torch.cat([first, _forward(backbone, token_ids[:, :-1], num_prompt_tokens, cache, "response")], dim=1)


def _forward(
    backbone: PreTrainedModel, token_ids: torch.Tensor, first_position: int, cache: PromptCache, phase: Phase
) -> torch.Tensor:
    end = first_position + token_ids.shape[1]
    positions = torch.arange(first_position, end, device=token_ids.device)[None]
    output = backbone(
        input_ids=token_ids,
        position_ids=positions.expand(len(token_ids), -1),
        use_cache=False,
        prompt_cache=cache,
        phase=phase,
    )
    return output.last_hidden_state  # type: ignore[no-any-return]
