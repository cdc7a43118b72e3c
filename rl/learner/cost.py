"""The arithmetic of one group's step: what ranks are balanced by, what prompt-once saves at best, how busy a GPU was.

Forward, per token: 2 FLOPs a weight of the linear layers (4 projections, gated MLP); attention 4 Hq D per layer and
(query, key) pair, causal pairs only; the head 2 H V where a token is predicted. P prompt tokens, R tokens a response, G
responses, H hidden size, Hq/Hkv query and key heads of size D, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

SUSTAINED_FLOPS = 790e12
"""What an H100 or H200 sustains in large bf16 matrix products; the 100 % of MFU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardFlops:
    """FLOPs of a forward pass by kind."""

    linear: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All three."""
        return self.linear + self.attention + self.head


def prompt_once(config: PreTrainedConfig, p: int, lengths: Sequence[int]) -> ForwardFlops:
    """One prompt and responses of these lengths that see it: P + sum R tokens, P^2 / 2 + sum (P R + R^2 / 2) pairs."""
    pairs = p**2 / 2 + sum(p * r + r**2 / 2 for r in lengths)
    return _forward(config, tokens=p + sum(lengths), pairs=pairs, predicted=sum(lengths))


def separate_sequences(config: PreTrainedConfig, p: int, lengths: Sequence[int]) -> ForwardFlops:
    """Sequences prompt + response, the head on response positions: sum (P + R) tokens, sum (P + R)^2 / 2 pairs."""
    pairs = sum((p + r) ** 2 / 2 for r in lengths)
    return _forward(config, tokens=sum(p + r for r in lengths), pairs=pairs, predicted=sum(lengths))


def ideal_speedup(config: PreTrainedConfig, prompt_tokens: int, response_tokens: int, group_size: int) -> float:
    """Arithmetic of G separate sequences over that of one prompt and G responses.

    Linear layers G(P+R) / (P+GR), causal attention G(P+R)^2 / (P^2 + G(R^2+2PR)), the head GR on both sides.
    """
    sizes = (prompt_tokens, [response_tokens] * group_size)
    return separate_sequences(config, *sizes).total / prompt_once(config, *sizes).total


def useful_flops(forward: ForwardFlops, *, frozen: bool) -> float:
    """Of a forward and backward pass, as MFU counts them.

    Linear layers and head 3 times their forward, attention 3.5 times (the flash backward forms the scores again). What
    gradient checkpointing computes a second time is not useful and is not counted.

    Args:
        frozen: LoRA: linear layers and head have no gradient of their own weights, so 2 times; the adapters are left out.
    """
    return (2.0 if frozen else 3.0) * (forward.linear + forward.head) + 3.5 * forward.attention


def _forward(config: PreTrainedConfig, *, tokens: int, pairs: float, predicted: int) -> ForwardFlops:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    query, key = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    weights = config.hidden_size * (2 * query + 2 * key + 3 * config.intermediate_size)
    return ForwardFlops(
        linear=2.0 * config.num_hidden_layers * weights * tokens,
        attention=4.0 * config.num_hidden_layers * query * pairs,
        head=2.0 * config.hidden_size * config.vocab_size * predicted,
    )
