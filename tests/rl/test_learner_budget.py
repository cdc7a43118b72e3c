"""The memory budget: against the tensors a real layer keeps, by hand, and as the plan tells it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from transformers import LlamaConfig, PretrainedConfig, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from curricula.stage import Stage
from rl.config import DataSection, LearnerSection, ModelSection, RunConfig, StageSection
from rl.inputs import Inputs
from rl.learner.budget import (
    ENOUGH_TOKENS,
    MIN_MICRO_BATCH_TOKENS,
    GroupMemory,
    ModelShape,
    StateMemory,
    free_bytes,
    head_chunk_tokens,
)
from rl.plan import MemoryEstimate, estimate_memory, memory_lines

QWEN_7B = ModelShape(
    num_layers=28,
    hidden_size=3584,
    intermediate_size=18944,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    vocab_size=152064,
    element_bytes=2,
)
SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


def group(shape: ModelShape = QWEN_7B, *, prompt_tokens: int = 20_000, **settings: Any) -> GroupMemory:
    return GroupMemory(
        shape=shape,
        prompt_tokens=prompt_tokens,
        head_chunk_tokens=head_chunk_tokens(shape.vocab_size),
        **{"gradient_checkpointing": True, **settings},
    )


@pytest.mark.parametrize(("vocab_size", "tokens"), [(151_936, 110), (2**24, 16), (1_000, 4096)])
def test_a_head_chunk_is_64_mib_within_bounds(vocab_size: int, tokens: int) -> None:
    assert head_chunk_tokens(vocab_size) == tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer_class", "config"), [(Qwen2DecoderLayer, Qwen2Config(**SIZES)), (LlamaDecoderLayer, LlamaConfig(**SIZES))]
)
def test_a_layer_keeps_what_the_formula_counts(
    layer_class: type[torch.nn.Module], config: PretrainedConfig, dtype: torch.dtype
) -> None:
    num_tokens = 64
    torch.manual_seed(0)
    config._attn_implementation = "sdpa"
    layer = layer_class(config, layer_idx=0).to(dtype)
    head_dim = config.hidden_size // config.num_attention_heads
    rotary = (torch.ones(1, num_tokens, head_dim, dtype=dtype),) * 2
    hidden = torch.randn(1, num_tokens, config.hidden_size, dtype=dtype, requires_grad=True) * 1.0
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(hidden, position_embeddings=rotary, attention_mask=None)
    not_kept_per_layer = {p.untyped_storage().data_ptr() for p in (*layer.parameters(), *rotary)}
    num_bytes = sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in not_kept_per_layer)
    shape = ModelShape.of(config, element_bytes=dtype.itemsize)
    assert shape.kept_bytes * num_tokens == pytest.approx(num_bytes, rel=0.03)
    out.sum().backward()


def test_the_bytes_of_a_layer_by_hand() -> None:
    # 2 (4 + 4) 3584 + 2 (2 3584 + 2 512 + 4 18944) + 4 28, and 2 (2 18944 + 2 3584)
    assert QWEN_7B.kept_bytes == 57_344 + 167_936 + 112
    assert QWEN_7B.in_flight_bytes == 90_112
    assert QWEN_7B.kv_bytes == 2 * 4 * 128 * 2


def test_the_prompts_peak_by_hand() -> None:
    memory = group()
    # K and V in bfloat16 and their gradients in float32; a vector of 3584 a layer; a layer at work.
    assert memory.kv_bytes == 28 * 20_000 * 1024 * (2 + 4)
    assert memory.held_bytes == 28 * 20_000 * 3584 * 2
    assert memory.prompt_peak_bytes == memory.kv_bytes + memory.held_bytes + 20_000 * (225_392 + 90_112)
    offloaded = replace(memory, offload_activations=True)
    assert offloaded.prompt_peak_bytes == memory.prompt_peak_bytes - memory.held_bytes
    half = replace(memory, sequence_parallel=2)
    assert half.prompt_peak_bytes == memory.prompt_peak_bytes // 2 + 2 * 20_000 * QWEN_7B.kv_bytes


def test_without_checkpointing_every_layer_keeps_all() -> None:
    memory = group(gradient_checkpointing=False)
    gradients = 28 * 20_000 * 1024 * 4
    assert memory.prompt_peak_bytes == gradients + 20_000 * (28 * QWEN_7B.kept_bytes + QWEN_7B.in_flight_bytes)


@pytest.mark.parametrize(
    "settings", [{}, {"offload_activations": True}, {"sequence_parallel": 4}, {"gradient_checkpointing": False}]
)
@pytest.mark.parametrize("prompt_tokens", [8192, 20_000, 60_000])
def test_the_micro_batch_is_the_largest_that_does_not_raise_the_peak(
    settings: dict[str, Any], prompt_tokens: int
) -> None:
    memory = group(prompt_tokens=prompt_tokens, **settings)
    tokens = memory.micro_batch_tokens()
    assert memory.response_peak_bytes(tokens + 1) > memory.prompt_peak_bytes
    assert memory.response_peak_bytes(tokens) <= memory.prompt_peak_bytes or tokens == ENOUGH_TOKENS


def test_where_the_prompt_leaves_little_room_a_micro_batch_still_has_enough_tokens() -> None:
    small = replace(QWEN_7B, hidden_size=256, intermediate_size=1024, num_heads=4, num_kv_heads=2, num_layers=4)
    few, many = (group(replace(small, vocab_size=v), prompt_tokens=4096).micro_batch_tokens() for v in (151_936, 1_000))
    assert few == ENOUGH_TOKENS < many
    assert group(prompt_tokens=10).micro_batch_tokens() == ENOUGH_TOKENS


def test_free_memory_limits_in_powers_of_two_down_to_the_floor() -> None:
    memory = group()
    unlimited = memory.micro_batch_tokens()
    assert memory.micro_batch_tokens(free_bytes=memory.prompt_peak_bytes) == unlimited > 8192
    short = memory.response_peak_bytes(5000)
    assert memory.micro_batch_tokens(free_bytes=short) == 4096
    assert memory.micro_batch_tokens(free_bytes=short + 100 * 2**20) == 4096
    assert memory.micro_batch_tokens(free_bytes=0) == MIN_MICRO_BATCH_TOKENS


def test_free_memory_is_divided_by_those_who_share_it() -> None:
    one, four = (free_bytes(torch.device("cpu"), num_processes=n) for n in (1, 4))
    assert one is not None
    assert four is not None
    assert 2**20 < four < one


def test_the_state_by_hand() -> None:
    full = StateMemory(
        num_frozen=0, num_trained=1000, num_largest=100, num_gathered=300, element_bytes=2, has_masters=True
    )
    # bfloat16 weights; float32 sums and the largest parameter's own; master and two moments.
    assert (full.weight_bytes, full.gradient_bytes, full.optimizer_bytes) == (2000, 4200, 12_000)
    assert full.device_bytes == 18_200
    assert replace(full, offload_optimizer=True).device_bytes == 6_200
    sharded = replace(full, has_masters=False, processes=4)
    # Float32 shards and what is gathered; whole sums; two moments.
    assert (sharded.weight_bytes, sharded.gradient_bytes, sharded.optimizer_bytes) == (1000 + 600, 4200, 2000)
    assert replace(sharded, sharded_gradients=True).gradient_bytes == 1000 + 200


def estimated(model: dict[str, Any] | None = None, **learner: Any) -> tuple[MemoryEstimate, str]:
    """For a tiny tied Qwen2 in bfloat16, with one stage of 4096 + 256 tokens."""
    config = RunConfig(
        model=ModelSection(path="unused"),
        data=DataSection(train="unused"),
        stages=[StageSection(max_prompt_tokens=4096, steps=1, max_response_tokens=256)],
        learner=LearnerSection.model_validate(learner),
    )
    stage = Stage(index=0, low=0, high=4096, steps=1, max_response_tokens=256, replay_frac=0.0, lr=1e-6)
    nothing = cast(Any, None)
    inputs = Inputs(
        tokenizer=nothing, model_config=Qwen2Config(**SIZES, tie_word_embeddings=True, **(model or {})),
        template=nothing, stages=(stage,), train=(), train_fingerprint="", test={}, num_dropped=0, num_cut=0,
    )  # fmt: skip
    memory = estimate_memory(inputs, config)
    return memory, "\n".join(memory_lines(memory, config))


LAYER = 64 * (64 + 2 * 16) + 64 + 2 * 16 + 64 * 64 + 3 * 64 * 176 + 2 * 64
"""Parameters of a layer of SIZES: q, k, v with biases, o; gate, up, down; two norms."""


def test_the_plan_counts_parameters_once_and_tells_the_sizes_it_comes_to() -> None:
    memory, text = estimated()
    total = 512 * 64 + 4 * LAYER + 64
    assert memory.num_parameters == memory.num_trained == total
    assert memory.state.weight_bytes == 2 * total
    assert memory.state.optimizer_bytes == 12 * total
    assert memory.total_bytes == memory.state.device_bytes + memory.group.prompt_peak_bytes
    tokens = memory.group.micro_batch_tokens()
    assert f"micro_batch_tokens {tokens} at 4096 prompt tokens, or fewer where memory is short" in text
    assert "head_chunk_tokens 4096" in text
    assert f"({total:,} parameters)" in text


def test_a_given_micro_batch_is_the_one_estimated_but_no_larger_than_the_group() -> None:
    memory, text = estimated(micro_batch_tokens=100_000, head_chunk_tokens=7)
    assert memory.num_fed == 8 * 256
    assert "micro_batch_tokens 100000 at 4096 prompt tokens; head_chunk_tokens 7" in text
    longest_alone, _ = estimated(micro_batch_tokens=10)
    assert longest_alone.num_fed == 256


def test_of_adapters_only_the_adapters_have_gradients_and_moments() -> None:
    memory, text = estimated(lora_rank=8, lora_targets=["q_proj", "down_proj"])
    adapters = 4 * 8 * ((64 + 64) + (176 + 64))
    assert memory.num_trained == adapters
    assert memory.state.optimizer_bytes == 8 * adapters
    assert memory.state.weight_bytes == 2 * memory.num_parameters + 4 * adapters
    assert f"{adapters:,} trained in adapters" in text


def test_several_processes_hold_shards_and_offloads_go_to_host_memory() -> None:
    alone, _ = estimated()
    memory, text = estimated(processes=4, sequence_parallel=2, offload_optimizer=True, offload_activations=True)
    total = memory.num_parameters
    assert memory.state.num_gathered == total - 4 * LAYER + 2 * LAYER
    assert memory.group.held_bytes == alone.group.held_bytes // 2
    assert memory.host_bytes == 12 * total // 4 + memory.group.held_bytes
    assert memory.total_bytes == memory.state.weight_bytes + memory.state.gradient_bytes + memory.activation_bytes
    assert "in each of 4 processes" in text
    assert "in host memory" in text


def test_a_reference_model_is_counted_unless_it_is_the_adapters_base() -> None:
    plain, with_reference = estimated()[0], estimated(kl_coef=0.1)[0]
    assert with_reference.state.weight_bytes == plain.state.weight_bytes + 2 * plain.num_parameters
    adapters, both = estimated(lora_rank=8)[0], estimated(lora_rank=8, kl_coef=0.1)[0]
    assert both.total_bytes == adapters.total_bytes
