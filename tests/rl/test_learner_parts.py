"""The learner's parts: attention, head, packing, and which models are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
)

from rl.learner.attention import flash_response_attention, reference_response_attention
from rl.learner.logprobs import token_logprobs
from rl.learner.packing import micro_batches
from rl.learner.policy import load_policy, refuse_inexact
from tests.rl.learner_cases import group, tiny_config


@pytest.mark.parametrize("attention", [flash_response_attention, reference_response_attention])
@pytest.mark.parametrize("prompt_length", [1, 13])
def test_response_attention_equals_softmax_over_prompt_and_own_past(
    attention: Callable[..., torch.Tensor], prompt_length: int
) -> None:
    torch.manual_seed(0)
    b, hq, hkv, r, d, scale = 3, 4, 2, 5, 8, 0.3
    shapes = [(b, hq, r, d), (b, hkv, r, d), (b, hkv, r, d), (1, hkv, prompt_length, d), (1, hkv, prompt_length, d)]
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def plain(q: torch.Tensor, *kv: torch.Tensor) -> torch.Tensor:
        k, v, pk, pv = (x.expand(b, -1, -1, -1).repeat_interleave(hq // hkv, dim=1) for x in kv)
        scores = scale * q @ torch.cat([pk, k], 2).transpose(-1, -2)
        hidden = torch.ones(r, r, dtype=torch.bool).triu(1)
        scores[..., prompt_length:].masked_fill_(hidden, -torch.inf)
        return scores.softmax(-1) @ torch.cat([pv, v], 2)

    expected, got = plain(*inputs), attention(*inputs, scale=scale)
    assert torch.allclose(got, expected, atol=1e-12)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)


def head_case(n: int = 23, v: int = 50, h: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(n, h, requires_grad=True), torch.randn(v, h, requires_grad=True)
    return hidden, weight, torch.randint(v, (n,))


@pytest.mark.parametrize("chunk_tokens", [1, 5, 23, 1000])
def test_logprobs_entropies_and_gradients_equal_the_full_softmax_for_every_chunk_size(chunk_tokens: int) -> None:
    hidden, weight, targets = head_case()
    logprobs, entropies = token_logprobs(hidden, weight, targets, temperature=0.7, chunk_tokens=chunk_tokens)
    full = (hidden @ weight.T / 0.7).log_softmax(-1)
    expected = full.gather(-1, targets[:, None])[:, 0]
    assert torch.allclose(logprobs, expected, atol=1e-5)
    assert torch.allclose(entropies, -(full.exp() * full).sum(-1), atol=1e-5)
    assert not entropies.requires_grad
    upstream = torch.randn(len(targets))
    for ours, theirs in zip(
        torch.autograd.grad(logprobs, (hidden, weight), upstream),
        torch.autograd.grad(expected, (hidden, weight), upstream),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_logits_of_more_than_one_chunk_never_exist() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return out

    hidden, weight, targets = head_case(n=200, v=50, h=8)
    with Largest() as largest:
        token_logprobs(hidden, weight, targets, temperature=1.0, chunk_tokens=10)[0].sum().backward()
    # [N, H] is 1600, a chunk of logits 500, the weight 400; the full logits would be 10000.
    assert largest.numel == 1600


def test_micro_batches_are_sorted_padded_and_within_the_token_limit() -> None:
    made = group(4, [2, 5, 3, 1], seed=1)
    batches = micro_batches(made.rollouts, [0.1, 0.2, 0.3, 0.4], max_tokens=10)
    # Lengths 5 3 | 2 1: two rows of 5 fill 10 tokens, then two rows of 2.
    assert [tuple(b.token_ids.shape) for b in batches] == [(2, 5), (2, 2)]
    assert batches[0].loss_mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert torch.cat([b.advantages for b in batches]).tolist() == pytest.approx([0.2, 0.3, 0.1, 0.4])
    assert batches[0].token_ids[1].tolist() == [*made.rollouts[2].token_ids, 0, 0]
    assert batches[0].sampling_logprobs[1, 3:].tolist() == [0.0, 0.0]


def test_a_response_longer_than_the_limit_goes_alone() -> None:
    batches = micro_batches(group(4, [9, 2, 2]).rollouts, [0.0] * 3, max_tokens=4)
    assert [tuple(b.token_ids.shape) for b in batches] == [(1, 9), (2, 2)]


def test_a_response_without_tokens_is_left_out() -> None:
    assert micro_batches(group(4, [0]).rollouts, [1.0], max_tokens=4) == []


def test_missing_advantages_and_logprobs_are_refused() -> None:
    made = group(4, [2, 3])
    with pytest.raises(ValueError, match="1 advantages for 2 rollouts"):
        micro_batches(made.rollouts, [0.0], max_tokens=8)
    broken = dataclasses.replace(made.rollouts[1], sampling_logprobs=(0.0,))
    with pytest.raises(ValueError, match="rollout 1: 1 sampling_logprobs for 3 token_ids"):
        micro_batches([made.rollouts[0], broken], [0.0, 0.0], max_tokens=8)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (MistralConfig(sliding_window=64), "'mistral' has sliding_window=64"),
        (Qwen2Config(use_sliding_window=True, max_window_layers=1), "'qwen2' has layers of type sliding_attention"),
        (Gemma2Config(), "'gemma2' has layers of type sliding_attention"),
        (GptOssConfig(), "'gpt_oss' has layers of type sliding_attention"),
        (MambaConfig(), "'mamba' has layers of type linear_attention"),
        (GraniteConfig(logits_scaling=8.0), "'granite' has logits_scaling=8.0"),
        (LlamaConfig(attention_dropout=0.1), "'llama' has attention_dropout=0.1"),
        (LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "rope_type=dynamic"),
    ],
)
def test_models_the_shared_prompt_is_not_exact_for_are_refused_by_name(config: PretrainedConfig, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        refuse_inexact(config)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_plain_softmax_models_are_accepted(family: str) -> None:
    refuse_inexact(tiny_config(family))
    refuse_inexact(MistralConfig(sliding_window=None))


def test_a_missing_model_is_one_line_that_names_it(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    with pytest.raises(ValueError, match="there is no folder") as caught:
        load_policy(missing, dtype=torch.float32, device=torch.device("cpu"))
    assert missing in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_one_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_policy(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_attention_variants_are_refused_where_they_are_called() -> None:
    from transformers import AttentionInterface

    from rl.learner.attention import IMPLEMENTATION, PromptCache

    attention = AttentionInterface()[IMPLEMENTATION]
    x = torch.zeros(1, 1, 2, 4)
    for variant in ({"dropout": 0.1}, {"softcap": 30.0}, {"sliding_window": 8}, {"s_aux": torch.zeros(1)}):
        with pytest.raises(ValueError, match="Identity: attention"):
            attention(torch.nn.Identity(), x, x, x, prompt_cache=PromptCache(), phase="prompt", **variant)


def test_flash_attention_keeps_one_copy_of_the_prompt() -> None:
    saved: list[int] = []
    b, h, r, p, d = 16, 2, 3, 500, 8
    q, k, v = (torch.randn(b, h, r, d, requires_grad=True) for _ in range(3))
    prompt = [torch.randn(1, h, p, d, requires_grad=True) for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        flash_response_attention(q, k, v, *prompt)
    assert max(saved) == h * p * d


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11), "'gpt2' has dropout transformer.drop"),
        (PhiConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=11), "head with a bias"),
    ],
)
def test_what_only_the_built_model_shows_is_refused_by_name(
    config: PretrainedConfig, named: str, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=named):
        load_policy(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
