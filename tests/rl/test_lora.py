"""LoRA adapters: how they start, what they compute, and what is written of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rl.learner.lora import (
    CONFIG_KEY,
    adapter_config,
    adapter_names,
    adapter_weights,
    adapters_off,
    add_adapters,
    base_name,
    load_adapter,
    merged_weights,
)
from rl.rollout.weight_files import adapter_at, adapter_folder, require_adapter

peft = pytest.importorskip("peft", reason="peft is not installed")
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.tensor([[3, 9, 27, 17, 51, 25, 11, 33], [1, 5, 25, 61, 49, 53, 9, 45]])
MODELS = pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Qwen2ForCausalLM, Qwen2Config(**SMALL, tie_word_embeddings=True)),
        (LlamaForCausalLM, LlamaConfig(**SMALL, tie_word_embeddings=False)),
    ],
    ids=["qwen2-tied", "llama-untied"],
)


def build(kind: type = Qwen2ForCausalLM, config: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return kind(config or Qwen2Config(**SMALL)).to(dtype).eval()


def move_adapters(model: Any, seed: int = 1) -> None:
    """As training would, by much more: B is no longer zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


@MODELS
def test_fresh_adapters_change_nothing_and_moved_ones_do(kind: type, config: Any) -> None:
    model = build(kind, config)
    before = logits(model)
    add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=0)
    assert type(model) is kind
    assert torch.equal(logits(model), before)
    move_adapters(model)
    assert (logits(model) - before).abs().max() > 0.1


@MODELS
def test_merged_weights_compute_what_the_adapters_do_and_load_as_a_plain_model(
    kind: type, config: Any, tmp_path: Path
) -> None:
    model = build(kind, config)
    plain_names = {name for name, _ in model.named_parameters()}
    add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=0)
    move_adapters(model)
    merged = dict(merged_weights(model.named_parameters(), scaling=8.0 / 4))
    assert merged.keys() == plain_names
    save_file(merged, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(loaded) is kind
    assert (logits(loaded) - logits(model)).abs().max() <= 1e-5
    head, embedding = loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight
    assert (head is embedding) == config.tie_word_embeddings


def test_transformers_own_save_takes_the_merged_weights(tmp_path: Path) -> None:
    model = build()
    add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=0)
    move_adapters(model)
    model.save_pretrained(tmp_path, state_dict=dict(merged_weights(model.named_parameters(), scaling=2.0)))
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert (logits(loaded) - logits(model)).abs().max() <= 1e-5


def test_a_merged_weight_is_w_plus_scaling_times_b_a_in_its_own_type() -> None:
    # B A = (1, 2)^T (3, 4) = ((3, 4), (6, 8)); times 0.5 = ((1.5, 2), (3, 4)); plus ones.
    tensors = {
        "layers.0.q.base_layer.weight": torch.ones(2, 2, dtype=torch.bfloat16),
        "layers.0.q.base_layer.bias": torch.zeros(2),
        "layers.0.q.lora_A.default.weight": torch.tensor([[3.0, 4.0]]),
        "layers.0.q.lora_B.default.weight": torch.tensor([[1.0], [2.0]]),
        "norm.weight": torch.full((2,), 7.0),
    }
    merged = dict(merged_weights(tensors.items(), scaling=0.5))
    assert list(merged) == ["layers.0.q.bias", "layers.0.q.weight", "norm.weight"]
    assert merged["layers.0.q.weight"].dtype == torch.bfloat16
    assert merged["layers.0.q.weight"].tolist() == [[2.5, 3.0], [4.0, 5.0]]


def test_a_layer_whose_b_never_came_is_named() -> None:
    model = build()
    add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=0)
    lost = "model.layers.1.mlp.up_proj.lora_B.default.weight"
    with pytest.raises(ValueError, match=r"1 layers .* first 'model.layers.1.mlp.up_proj': only base_layer, lora_A"):
        list(merged_weights(((n, p) for n, p in model.named_parameters() if n != lost), scaling=2.0))


@MODELS
def test_with_adapters_off_the_model_is_the_frozen_base(kind: type, config: Any) -> None:
    model = build(kind, config)
    base = logits(model)
    add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=0)
    move_adapters(model)
    moved, trainable = logits(model), {n for n, p in model.named_parameters() if p.requires_grad}
    with adapters_off(model):
        assert torch.equal(logits(model), base)
        assert {n for n, p in model.named_parameters() if p.requires_grad} == trainable
    assert torch.equal(logits(model), moved)
    with pytest.raises(RuntimeError, match="stop"), adapters_off(model):
        raise RuntimeError("stop")
    assert torch.equal(logits(model), moved)


def test_a_model_without_adapters_has_no_frozen_base() -> None:
    with pytest.raises(ValueError, match="Qwen2ForCausalLM has no adapters"), adapters_off(build()):
        pass


def test_only_adapters_train_in_float32_and_every_targeted_layer_has_one() -> None:
    model = build(dtype=torch.bfloat16)
    add_adapters(model, rank=4, alpha=8.0, targets=["q_proj", "down_proj"], seed=0)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layers = [f"model.layers.{i}.{name}" for i in range(2) for name in ("self_attn.q_proj", "mlp.down_proj")]
    assert trainable.keys() == {f"{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if name not in trainable} == {torch.bfloat16}
    assert trainable[f"{layers[0]}.lora_A.default.weight"].shape == (4, 32)
    assert trainable[f"{layers[1]}.lora_B.default.weight"].shape == (32, 4)


def test_in_a_bfloat16_model_adapters_compute_in_bfloat16_and_gradients_reach_float32() -> None:
    model = build(dtype=torch.bfloat16)
    add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=0)
    move_adapters(model)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = model(IDS).logits.float().logsumexp(-1).sum()
    # A float32 copy of a layer's input would have its two sequences of eight tokens.
    own_inputs = [t for t in kept if t.dtype == torch.float32 and t.numel() == 16 * 48]
    assert not own_inputs
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_adapter_gradients_are_those_of_the_merged_weights_through_the_chain_rule() -> None:
    model = build()
    add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=0)
    move_adapters(model)
    plain = build()
    plain.load_state_dict(dict(merged_weights(model.named_parameters(), scaling=2.0)), strict=False)
    for m in (model, plain):
        m(IDS).logits.logsumexp(-1).sum().backward()
    whole = dict(plain.named_parameters())
    layer = model.model.layers[0].self_attn.v_proj
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    gradient = whole["model.layers.0.self_attn.v_proj.weight"].grad
    # W = W0 + 2 B A: dL/dA = 2 B^T dL/dW, dL/dB = 2 dL/dW A^T.
    torch.testing.assert_close(down.grad, 2 * up.detach().T @ gradient, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(up.grad, 2 * gradient @ down.detach().T, rtol=1e-4, atol=1e-4)


def test_the_start_is_a_function_of_the_seed_alone() -> None:
    def start(seed: int, disturb: int) -> dict[str, torch.Tensor]:
        model = build()
        torch.manual_seed(disturb)
        state = torch.get_rng_state()
        add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return adapter_weights(model.named_parameters())

    one, again, other = start(0, 5), start(0, 6), start(1, 5)
    assert all(torch.equal(one[name], again[name]) for name in one)
    for name, tensor in one.items():
        if "lora_B" in name:
            assert not tensor.any()
        else:
            bound = tensor.shape[1] ** -0.5
            assert 0.8 * bound < tensor.abs().max() <= bound
            assert not torch.equal(tensor, other[name])


def test_a_target_that_no_layer_has_is_refused_with_the_names_that_exist() -> None:
    for target in ("query", "lm_head", "proj"):
        with pytest.raises(ValueError, match=rf"'{target}' is no linear layer .*'qwen2'; there are down_proj, gate_pr"):
            add_adapters(build(), rank=4, alpha=8.0, targets=["q_proj", target], seed=0)


@MODELS
def test_the_written_adapter_is_peft_s_own_format(kind: type, config: Any, tmp_path: Path) -> None:
    model = build(kind, config)
    model.save_pretrained(tmp_path / "base")
    add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=0)
    move_adapters(model)
    text = adapter_config(rank=4, alpha=8.0, targets=ALL, base=str(tmp_path / "base"))
    file = str(tmp_path / "adapter.safetensors")
    save_file(adapter_weights(model.named_parameters()), file, metadata={"format": "pt", CONFIG_KEY: text})
    adapter = adapter_at(file)
    assert adapter is not None and adapter.rank == 4 and adapter.alpha == 8.0 and adapter.targets == tuple(ALL)
    with adapter_folder(file, adapter) as folder:
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    assert (logits(theirs) - logits(model)).abs().max() <= 1e-5
    assert not Path(folder).exists()


def test_an_adapter_read_back_is_the_adapter_written() -> None:
    model, other = build(), build()
    for seed, each in enumerate((model, other)):
        add_adapters(each, rank=4, alpha=8.0, targets=ALL, seed=seed)
        move_adapters(each, seed)
    assert not torch.equal(logits(model), logits(other))
    load_adapter(other, adapter_weights(model.named_parameters()).items())
    assert torch.equal(logits(model), logits(other))


def test_names_of_an_adapter_follow_from_the_base_model_s() -> None:
    model = build()
    plain = [name for name, _ in model.named_parameters()]
    add_adapters(model, rank=4, alpha=8.0, targets=["q_proj", "up_proj"], seed=0)
    named = [name for name, _ in model.named_parameters()]
    assert adapter_names(plain, ["q_proj", "up_proj"]) == adapter_weights(model.named_parameters()).keys()
    assert "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight" in adapter_names(plain, ["up_proj"])
    assert sorted(filter(None, map(base_name, named))) == sorted(plain)


def test_an_adapter_of_another_model_or_with_a_part_missing_is_refused(tmp_path: Path) -> None:
    model = build()
    plain = [name for name, _ in model.named_parameters()]
    add_adapters(model, rank=4, alpha=8.0, targets=ALL, seed=0)
    weights = adapter_weights(model.named_parameters())
    text = adapter_config(rank=4, alpha=8.0, targets=ALL, base="base")
    file = str(tmp_path / "adapter.safetensors")
    save_file(weights, file, metadata={CONFIG_KEY: text})
    adapter = adapter_at(file)
    assert adapter is not None
    require_adapter(file, adapter, plain)
    with pytest.raises(RuntimeError, match=r"no layer for 'base_model.model.model.layers.1"):
        require_adapter(file, adapter, [name for name in plain if ".layers.1." not in name])
    del weights["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    save_file(weights, file, metadata={CONFIG_KEY: text})
    with pytest.raises(RuntimeError, match=r"1 parameters are missing, first .*layers.1.mlp.up_proj.lora_B.weight"):
        require_adapter(file, adapter, plain)
