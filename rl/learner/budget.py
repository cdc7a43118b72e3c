"""How many response tokens a micro-batch may hold, and how many positions a chunk of the head: arithmetic, no torch.

What a step needs beyond parameters, gradients and optimizer state has two peaks. The prompt's comes when its backward
pass starts: its own tensors, kept since its forward pass, and one layer's recomputation over all its tokens. The
responses' comes in every micro-batch: the prompt's kept tensors, the micro-batch's, and either one layer's recomputation
over it or a chunk of logits. The default micro-batch makes the second no higher than the first, but for ENOUGH_TOKENS, so
that memory is what one prompt costs, whatever the number of responses.

Counted are the tensors that autograd keeps in a Qwen2 or Llama decoder layer under flash attention; a few per cent of a
layer (Qwen3's query and key norms, LoRA's low-rank products) are not. The reference attention's score matrices, quadratic
in the prompt, are not either.

P prompt and N response tokens, S sequence-parallel ranks, which hold 1/S of the prompt each; L layers, H hidden size,
I intermediate size, A = Hq D and K = Hkv D widths of queries and of keys, V vocabulary, e bytes an element.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from rl.rank_trace import memory_state

if TYPE_CHECKING:
    import torch

HEAD_CHUNK_BYTES = 64 * 2**20
"""Float32 logits that exist at one time: enough rows for a fast product even at a vocabulary of 152K (110)."""
MIN_MICRO_BATCH_TOKENS = 256
"""Below this the kernels' fixed cost outweighs the memory saved."""
ENOUGH_TOKENS = 1024
"""Up to this many a micro-batch may add to the prompt's peak where memory is free: with fewer the matrix products are slower."""
_MAX_TOKENS = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """The sizes memory depends on."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    element_bytes: int
    """e, of the type the model computes in: 2 or 4."""

    @classmethod
    def of(cls, config: Any, *, element_bytes: int) -> Self:
        """From a Hugging Face configuration."""
        heads = config.num_attention_heads
        return cls(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=heads,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocab_size=config.vocab_size,
            element_bytes=element_bytes,
        )

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token in one layer: 2 K e."""
        return 2 * self.num_kv_heads * self.head_dim * self.element_bytes

    @property
    def kept_bytes(self) -> int:
        """What one layer keeps of one token for its backward pass: 2 (4 + 2 e) H + e (2 A + 2 K + 4 I) + 4 Hq.

        Both norms: their input in float32, the normalised input, the output. Attention: queries, keys, values, output and
        the float32 log-sum-exp. The feed-forward part: gate, its activation, up and their product.
        """
        e, queries = self.element_bytes, self.num_heads * self.head_dim
        norms = 2 * (4 + 2 * e) * self.hidden_size
        return norms + 2 * e * queries + self.kv_bytes + 4 * e * self.intermediate_size + 4 * self.num_heads

    @property
    def in_flight_bytes(self) -> int:
        """Gradients of one token at a layer's dearest moment, the product's in the feed-forward part: e (2 I + 2 H).

        Three of width I, where one kept tensor of that width is free again; the layer's output's and the residual's.
        """
        return 2 * self.element_bytes * (self.intermediate_size + self.hidden_size)

    @property
    def output_bytes(self) -> int:
        """One trained token between the last layer and the logits: (4 + 5 e) H, the final norm, copies and a gradient."""
        return (4 + 5 * self.element_bytes) * self.hidden_size

    @property
    def logit_bytes(self) -> int:
        """One position in the head: logits, probabilities and the entropy's terms in float32, and the product in a narrower type."""
        return self.vocab_size * (12 + (self.element_bytes if self.element_bytes < 4 else 0))


def head_chunk_tokens(vocab_size: int) -> int:
    """Positions whose float32 logits take HEAD_CHUNK_BYTES; at least 16, at most 4096."""
    return min(4096, max(16, HEAD_CHUNK_BYTES // (4 * vocab_size)))


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupMemory:
    """Bytes that one rank needs to learn from one group, beyond parameters, gradients and optimizer state."""

    shape: ModelShape
    prompt_tokens: int
    """P, of the whole prompt."""
    gradient_checkpointing: bool
    head_chunk_tokens: int
    offload_activations: bool = False
    sequence_parallel: int = 1

    @property
    def _own_tokens(self) -> int:
        return -(-self.prompt_tokens // self.sequence_parallel)

    @property
    def _held_per_token(self) -> int:
        """Under checkpointing a layer's input, e H, else all that it keeps; of all layers."""
        shape = self.shape
        per_layer = shape.element_bytes * shape.hidden_size if self.gradient_checkpointing else shape.kept_bytes
        return shape.num_layers * per_layer

    def _worked_per_token(self, *, held_on_device: bool) -> int:
        """In the layer that is at work backward: gradients, and what it recomputes or brings back from host memory."""
        if self.gradient_checkpointing or not held_on_device:
            return self.shape.in_flight_bytes + self.shape.kept_bytes
        return self.shape.in_flight_bytes

    @property
    def _gathered_bytes(self) -> int:
        """One layer's keys and values of all ranks and their gradients."""
        return 2 * self.shape.kv_bytes * self.prompt_tokens if self.sequence_parallel > 1 else 0

    @property
    def kv_bytes(self) -> int:
        """The prompt's keys and values, all layers, and their float32 gradients: L P/S 2 K (e + 4).

        Without checkpointing autograd keeps the same keys and values, and they count there.
        """
        shape = self.shape
        gradients = shape.kv_bytes // shape.element_bytes * 4
        own = shape.kv_bytes if self.gradient_checkpointing or self.offload_activations else 0
        return shape.num_layers * self._own_tokens * (own + gradients)

    @property
    def held_bytes(self) -> int:
        """What autograd keeps of the prompt from its forward to its backward pass: L P/S e H under checkpointing."""
        return self._held_per_token * self._own_tokens

    @property
    def prompt_peak_bytes(self) -> int:
        """When the prompt's backward pass starts: keys and values, held tensors, one layer at work over P/S tokens."""
        worked = self._worked_per_token(held_on_device=not self.offload_activations) * self._own_tokens
        return self._resident_bytes + worked + self._gathered_bytes

    def response_peak_bytes(self, num_tokens: int) -> int:
        """In a micro-batch of N tokens of this rank.

        The prompt's keys and values and held tensors, N tokens' held ones, and the larger of a layer at work over N tokens
        (with the prompt's key and value gradients before they are added) and the head: N output states and min(N, chunk)
        rows of logits.
        """
        shape = self.shape
        layer = self._worked_per_token(held_on_device=True) * num_tokens + shape.kv_bytes * self._own_tokens
        layer += self._gathered_bytes
        logits = shape.logit_bytes * min(num_tokens, self.head_chunk_tokens)
        head = shape.output_bytes * num_tokens + logits
        return self._resident_bytes + self._held_per_token * num_tokens + max(layer, head)

    def peak_bytes(self, num_tokens: int) -> int:
        """The larger of the two peaks, with micro-batches of num_tokens."""
        return max(self.prompt_peak_bytes, self.response_peak_bytes(num_tokens))

    @property
    def _resident_bytes(self) -> int:
        """Of the prompt, in both phases."""
        return self.kv_bytes + (0 if self.offload_activations else self.held_bytes)

    def micro_batch_tokens(self, *, free_bytes: int | None = None) -> int:
        """The most response tokens of this rank whose peak is no higher than the prompt's (or ENOUGH_TOKENS), and fits what is free.

        Args:
            free_bytes: beyond parameters, gradients and optimizer state; None: not looked at. Where it is what limits, the
                result is a power of two, so that a little more or less free memory does not change the micro-batches, and
                with them the last bits of the gradient.

        Returns:
            At least MIN_MICRO_BATCH_TOKENS, even where that does not fit: then nothing would.
        """
        num_tokens = max(ENOUGH_TOKENS, self._fitting(self.prompt_peak_bytes))
        if free_bytes is not None and (fitting := self._fitting(free_bytes)) < num_tokens:
            num_tokens = 2 ** (fitting.bit_length() - 1) if fitting else 0
        return max(MIN_MICRO_BATCH_TOKENS, num_tokens)

    def _fitting(self, num_bytes: int) -> int:
        return bisect_right(range(1, _MAX_TOKENS + 1), num_bytes, key=self.response_peak_bytes)


def free_bytes(device: torch.device, *, num_processes: int = 1) -> int | None:
    """Memory that this process may still take on the device; None where that is not known.

    On CUDA what the device has free and what this process's allocator holds unused. On CPU half of what the machine or
    container has available, divided by num_processes, the learner's on this machine: the C library keeps freed blocks of
    up to 32 MiB, and a step's resident peak was seen at 1.5 to 1.9 times what its tensors take.
    """
    if device.type == "cuda":
        import torch

        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = memory_state().free_bytes
    return free // (2 * num_processes) if free >= 0 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class StateMemory:
    """Bytes that one rank holds from step to step. W processes, each with 1/W of what is sharded."""

    num_frozen: int
    """Parameters without a gradient: LoRA's base, and a reference model's."""
    num_trained: int
    num_largest: int
    """Of the largest trained parameter."""
    num_gathered: int
    """Of FSDP's largest simultaneous gathering: all outside the layers, and two layers."""
    element_bytes: int
    has_masters: bool
    """Trained parameters are narrower than float32, so that masters are beside them; of one process only."""
    processes: int = 1
    sharded_gradients: bool = False
    offload_optimizer: bool = False

    @property
    def weight_bytes(self) -> int:
        """One process: e of a frozen one, and e or 4 of a trained one. Several: shards, 4 of a trained one, and what is gathered."""
        trained = self.element_bytes if self.has_masters else 4
        own = (self.element_bytes * self.num_frozen + trained * self.num_trained) // self.processes
        return own + (self.element_bytes * self.num_gathered if self.processes > 1 else 0)

    @property
    def gradient_bytes(self) -> int:
        """Float32 sums, whole unless each backward pass reduces them; and the largest parameter's share before it is added."""
        whole = self.num_trained if not self.sharded_gradients else self.num_trained // self.processes
        return 4 * whole + self.element_bytes * self.num_largest

    @property
    def optimizer_bytes(self) -> int:
        """Masters, where they are beside the parameters, and both moments; on the device or in host memory."""
        masters = 4 if self.has_masters or self.offload_optimizer else 0
        return (masters + 8) * self.num_trained // self.processes

    @property
    def device_bytes(self) -> int:
        return self.weight_bytes + self.gradient_bytes + (0 if self.offload_optimizer else self.optimizer_bytes)
