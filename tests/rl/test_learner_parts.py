"""The learner's parts: attention, head, packing, and which models are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

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

from rl.learner.attention import IMPLEMENTATION, merged_attention
from rl.learner.kernel_choice import HeadShape, choose_kernel
from rl.learner.kernels import CpuFlash, CudaFlash, Kernel, Reference, Saved, Span
from rl.learner.logprobs import token_logprobs
from rl.learner.packing import micro_batches, num_micro_batches, trained_responses
from rl.learner.policy import load_policy, max_shared_tokens, refuse_inexact
from rl.types import MicroBatch
from tests.rl.learner_cases import FAMILIES, ROPE, group, tiny_config


@pytest.mark.parametrize("kernel", [CpuFlash(), Reference()], ids=lambda k: k.name)
@pytest.mark.parametrize("prompt_length", [1, 13])
def test_merged_attention_equals_softmax_over_prompt_and_own_past(kernel: Kernel, prompt_length: int) -> None:
    torch.manual_seed(0)
    hq, hkv, d, scale, lengths = 4, 2, 8, 0.3, [5, 1, 3]
    t = sum(lengths) + 2  # Two rows belong to no response: they see the prompt alone.
    shapes = [(1, hq, t, d), (1, hkv, t, d), (1, hkv, t, d), (1, hkv, prompt_length, d), (1, hkv, prompt_length, d)]
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    spans = [Span(0, 5, 0, 5), Span(5, 6, 5, 6), Span(6, 9, 6, 9)]
    visible = torch.zeros(t, prompt_length + t, dtype=torch.bool)
    visible[:, :prompt_length] = True
    for a, b, c, e in spans:
        visible[a:b, prompt_length + c : prompt_length + e] = torch.ones(b - a, b - a, dtype=torch.bool).tril()

    def plain(q: torch.Tensor, *kv: torch.Tensor) -> torch.Tensor:
        k, v, pk, pv = (x.repeat_interleave(hq // hkv, dim=1) for x in kv)
        scores = scale * q @ torch.cat([pk, k], 2).transpose(-1, -2)
        return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ torch.cat([pv, v], 2)

    def merged(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pk: torch.Tensor, pv: torch.Tensor) -> torch.Tensor:
        parts = [([Span(0, t, 0, prompt_length)], False, pk, pv), (spans, True, k, v)]
        return merged_attention(kernel, q, parts, scale=scale)

    expected, got = plain(*inputs), merged(*inputs)
    assert torch.allclose(got, expected, atol=1e-12)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, weights), torch.autograd.grad(expected, inputs, weights), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("kernel", [CpuFlash(), Reference()], ids=lambda k: k.name)
def test_rows_that_see_nothing_get_zeros_and_keys_seen_twice_the_sum(kernel: Kernel) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 7, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    # Rows 0 and 6 see nothing, as padding on a sequence-parallel rank; keys 0 and 1 are seen by both spans.
    spans = [Span(1, 4, 0, 3), Span(4, 6, 0, 2)]
    got = merged_attention(kernel, q, [(spans, False, k, v)], scale=1.0)
    assert not got[:, :, [0, 6]].any()
    expected = torch.cat(
        [(q[:, :, a:b] @ k[:, :, c:d].transpose(-1, -2)).softmax(-1) @ v[:, :, c:d] for a, b, c, d in spans], 2
    )
    assert torch.allclose(got[:, :, 1:6], expected, atol=1e-12)
    weights = torch.randn_like(got)
    ours = torch.autograd.grad(got, (q, k, v), weights)
    for one, other in zip(ours, torch.autograd.grad(expected, (q, k, v), weights[:, :, 1:6]), strict=True):
        assert torch.isfinite(one).all()
        assert torch.allclose(one, other, atol=1e-12)


def test_a_kernel_is_taken_only_after_it_was_compared_with_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, where = HeadShape(num_heads=4, num_key_value_heads=2, head_dim=8), torch.device("cpu")

    def choose(asked: Literal["auto", "flash", "reference"]) -> tuple[Kernel, str]:
        return choose_kernel(asked, device=where, dtype=torch.float32, shape=shape)

    assert choose("auto")[0].name == choose("flash")[0].name == "flash (CPU)"
    assert choose("reference")[0].name == "reference"
    right = CpuFlash.backward

    def wrong(self: CpuFlash, saved: Saved, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        # Its own log-sum-exp instead of the merged one, as a kernel would that keeps it to itself.
        return right(self, saved._replace(lse=saved.lse - 1e-3), *args, **kwargs)

    monkeypatch.setattr(CpuFlash, "backward", wrong)
    kernel, line = choose("auto")
    assert kernel.name == "reference"
    assert "fails its check" in line
    with pytest.raises(ValueError, match=r"learner.attention: 'flash' does not work"):
        choose("flash")


def test_cuda_calls_fit_torchs_operators_and_their_shapes() -> None:
    # Without a GPU the kernels' own shape functions still say what they take and return.
    q, k, v = (torch.empty(1, heads, 24, 16, dtype=torch.bfloat16, device="meta") for heads in (4, 2, 2))
    spans = [Span(0, 5, 0, 5), Span(5, 24, 5, 24)]
    kernel = CudaFlash()
    out, lse = kernel.forward(q, k, v, spans, causal=True, scale=0.25)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, (1, 4, 24), torch.float32)
    gradients = kernel.backward(Saved(out, q, out, lse), k, v, spans, causal=True, scale=0.25)
    assert [g.shape for g in gradients] == [q.shape, k.shape, v.shape]


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


def test_entropy_has_a_gradient_where_it_is_asked_for() -> None:
    hidden, weight, targets = head_case()
    logprobs, entropies = token_logprobs(
        hidden, weight, targets, temperature=0.7, chunk_tokens=5, entropy_has_gradient=True
    )
    full = (hidden @ weight.T / 0.7).log_softmax(-1)
    expected = (full.gather(-1, targets[:, None])[:, 0], -(full.exp() * full).sum(-1))
    upstream = [torch.randn(len(targets)) for _ in range(2)]
    for ours, theirs in zip(
        torch.autograd.grad((logprobs, entropies), (hidden, weight), upstream),
        torch.autograd.grad(expected, (hidden, weight), upstream),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_head_that_has_a_gradient_already_gets_its_share_added() -> None:
    hidden, weight, targets = head_case()
    for _ in range(2):
        token_logprobs(hidden, weight, targets, temperature=0.7, chunk_tokens=5)[0].sum().backward()
    expected = torch.autograd.grad(
        (hidden @ weight.T / 0.7).log_softmax(-1).gather(-1, targets[:, None]).sum(), (hidden, weight)
    )
    for tensor, gradient in zip((hidden, weight), expected, strict=True):
        assert tensor.grad is not None
        assert torch.allclose(tensor.grad, 2 * gradient, atol=1e-5)


def packed(lengths: list[int], num_batches: int, min_rows: int = 0) -> list[MicroBatch]:
    made = group(4, lengths, seed=1)
    responses = trained_responses(made.rollouts, [0.1 * (i + 1) for i in range(len(lengths))])
    return micro_batches(responses, num_batches, num_prompt_tokens=4, min_rows=min_rows)


def test_responses_lie_end_to_end_without_padding() -> None:
    made = group(4, [3, 1, 2], seed=1)
    (batch,) = packed([3, 1, 2], 1)
    long, one, short = (made.rollouts[i].token_ids for i in (0, 1, 2))
    # Longest first; of each all but its last token is fed, and all are trained.
    assert batch.token_ids.tolist() == [*long[:2], *short[:1]]
    assert batch.position_ids.tolist() == [4, 5, 4]
    assert batch.documents == ((0, 2), (2, 3))
    assert batch.targets.tolist() == [*long, *short, *one]
    assert batch.sources.tolist() == [0, 1, 2, 0, 3, 0]
    assert batch.advantages.tolist() == pytest.approx([0.1] * 3 + [0.3] * 2 + [0.2])
    assert batch.sampling_logprobs.tolist() == pytest.approx(
        [x for i in (0, 2, 1) for x in made.rollouts[i].sampling_logprobs]
    )


def test_micro_batches_are_about_equal_and_within_the_limit() -> None:
    assert num_micro_batches([5, 2, 3, 1, 1], 6) == 2
    assert [len(b.targets) for b in packed([5, 2, 3, 1, 1], 2)] == [6, 6]
    # A longer response goes alone, and is then the limit.
    assert num_micro_batches([9, 2, 2], 4) == 2
    assert [len(b.targets) for b in packed([9, 2, 2], 2)] == [9, 4]
    assert num_micro_batches([], 4) == 0
    assert num_micro_batches([3, 3, 3], 5) == 3
    assert num_micro_batches([1] * 7, 1) == 7


def test_empty_micro_batches_keep_step_with_other_ranks() -> None:
    one, other = packed([3], 2, min_rows=4)
    assert (len(one.token_ids), one.documents, len(one.targets)) == (4, ((0, 2),), 3)
    assert (len(other.token_ids), other.documents, len(other.targets)) == (4, (), 0)


def test_a_response_without_tokens_is_left_out() -> None:
    assert trained_responses(group(4, [0]).rollouts, [1.0]) == []


def test_missing_advantages_and_logprobs_are_refused() -> None:
    made = group(4, [2, 3])
    with pytest.raises(ValueError, match="1 advantages for 2 rollouts"):
        trained_responses(made.rollouts, [0.0])
    broken = dataclasses.replace(made.rollouts[1], sampling_logprobs=(0.0,))
    with pytest.raises(ValueError, match="rollout 1: 1 sampling_logprobs for 3 token_ids"):
        trained_responses([made.rollouts[0], broken], [0.0, 0.0])


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
    ],
)
def test_models_the_shared_prompt_is_not_exact_for_are_refused_by_name(config: PretrainedConfig, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        refuse_inexact(config)


@pytest.mark.parametrize("family", [*FAMILIES, *ROPE])
def test_plain_softmax_models_are_accepted(family: str) -> None:
    refuse_inexact(tiny_config(family))


def test_only_rope_that_depends_on_the_length_limits_it() -> None:
    assert max_shared_tokens(tiny_config("llama-yarn")) is None
    assert max_shared_tokens(tiny_config("llama-linear")) is None
    assert max_shared_tokens(tiny_config("llama-dynamic")) == 256
    long = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=4, max_position_embeddings=256,
        rope_parameters={**long, "original_max_position_embeddings": 64, "factor": 4.0},
    )  # fmt: skip
    assert max_shared_tokens(config) == 64


def test_a_missing_model_is_one_line_that_names_it(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    with pytest.raises(ValueError, match="there is no folder") as caught:
        load_policy(missing, dtype=torch.float32)
    assert missing in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_one_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_policy(str(tmp_path), dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_attention_variants_are_refused_where_they_are_called() -> None:
    from transformers import AttentionInterface

    attention = AttentionInterface()[IMPLEMENTATION]
    x = torch.zeros(1, 1, 2, 4)
    for variant in ({"dropout": 0.1}, {"softcap": 30.0}, {"sliding_window": 8}, {"s_aux": torch.zeros(1)}):
        with pytest.raises(ValueError, match="Identity: attention"):
            attention(torch.nn.Identity(), x, x, x, token_pass=None, **variant)


def test_attention_keeps_one_copy_of_the_prompt() -> None:
    saved: list[int] = []
    responses, h, r, p, d = 16, 2, 3, 500, 8
    q, k, v = (torch.randn(1, h, responses * r, d, requires_grad=True) for _ in range(3))
    prompt = [torch.randn(1, h, p, d, requires_grad=True) for _ in range(2)]
    own = [Span(i * r, i * r + r, i * r, i * r + r) for i in range(responses)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        merged_attention(
            CpuFlash(), q, [([Span(0, responses * r, 0, p)], False, *prompt), (own, True, k, v)], scale=1.0
        )
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
        load_policy(str(tmp_path), dtype=torch.float32)
