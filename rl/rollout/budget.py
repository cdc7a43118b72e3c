"""What fits into a rollout engine's memory: weights, working memory and, in the rest, keys and values. Arithmetic, no torch.

The counterpart of rl/learner/budget.py. vLLM measures its working memory when it starts; the estimate here counts what one
forward pass of its largest batch holds at its widest, and the logits of its sequences.

L layers, H hidden size, I intermediate size, V vocabulary, Hkv key heads of size D, e bytes an element; T GPUs share an
engine, each with 1/T of the weights and with Hkv/T of the key heads, at least one.
"""

from __future__ import annotations

from dataclasses import dataclass

from rl.learner.budget import ModelShape

GIB = 1024**3
BATCH_TOKENS = 8192
LARGE_BATCH_TOKENS = 16_384
LARGE_GPU_GIB = 70.0
"""vLLM's largest batch is BATCH_TOKENS, and LARGE_BATCH_TOKENS on a GPU of this size or more (but the A100)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineMemory:
    """Bytes on each GPU of one engine, or of an engine on CPU."""

    shape: ModelShape
    num_parameters: int
    num_adapter: int
    """Of one adapter (LoRA); 0: none."""
    tensor_parallel: int
    """T."""
    max_num_seqs: int
    """Sequences that decode together."""
    batch_tokens: int
    """Tokens of its largest forward pass."""

    @property
    def weight_bytes(self) -> int:
        """e (N / T + adapter)."""
        return self.shape.element_bytes * (self.num_parameters // self.tensor_parallel + self.num_adapter)

    @property
    def working_bytes(self) -> int:
        """A batch's states and its feed-forward product, e (4 H + 3 I / T) a token; logits, probabilities and their order, 12 V a sequence."""
        shape = self.shape
        per_token = shape.element_bytes * (4 * shape.hidden_size + 3 * shape.intermediate_size // self.tensor_parallel)
        return self.batch_tokens * per_token + 12 * shape.vocab_size * self.max_num_seqs

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token: L 2 max(1, Hkv / T) D e."""
        shape = self.shape
        heads = max(1, shape.num_kv_heads // self.tensor_parallel)
        return shape.num_layers * 2 * heads * shape.head_dim * shape.element_bytes

    def cache_tokens(self, num_bytes: float) -> int:
        """Tokens whose keys and values fit beside weights and working memory into so many bytes; 0 where those do not fit."""
        return max(0, int(num_bytes - self.weight_bytes - self.working_bytes) // self.token_bytes)
