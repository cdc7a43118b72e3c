"""The transformers engine: pure, and right to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rl.rollout.engine import SampleRequest, response_text, stop_token_ids
from rl.rollout.transformers_engine import TransformersEngine, processed_logprobs, uniform
from rl.rollout.weights import sync_weights
from tests.rl.adapter_learner import AdapterLearner
from tests.rl.tiny_model import EOS, PlainLearner, largest_difference, requests, write_tiny_model


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(model_path: str) -> TransformersEngine:
    return TransformersEngine(model_path, dtype="float32", max_model_len=128, threads=1, device="cpu")


def test_a_request_gives_the_same_bits_whatever_else_is_in_the_call(engine: TransformersEngine) -> None:
    batch = requests(4)
    together = engine.generate(batch)
    backwards = engine.generate(batch[::-1])[::-1]
    alone = [engine.generate([request])[0] for request in batch]
    assert together == backwards == alone


def test_another_seed_gives_another_sample_and_the_same_seed_the_same(engine: TransformersEngine) -> None:
    [request] = requests(1, samples=2)
    first, second = engine.generate([request])[0]
    twice = engine.generate([replace(request, seeds=(request.seeds[0], request.seeds[0]))])[0]
    assert first != second
    assert twice == [first, first]


def test_logprobs_are_those_of_the_whole_sequence_at_once(engine: TransformersEngine, model_path: str) -> None:
    [request] = requests(1)
    [completions] = engine.generate([request])
    learner = PlainLearner(model_path)
    assert largest_difference(learner, request, completions) < 1e-4
    ids = [*request.prompt_token_ids, *completions[0].token_ids]
    scored = engine.score(ids, len(request.prompt_token_ids))
    assert scored == pytest.approx(completions[0].logprobs, abs=1e-4)


def test_greedy_ignores_seeds_and_takes_the_most_likely_token(engine: TransformersEngine, model_path: str) -> None:
    [request] = requests(1, samples=3, temperature=0.0)
    [completions] = engine.generate([request])
    assert completions[0] == completions[1] == completions[2]
    logits = PlainLearner(model_path).model(torch.tensor([request.prompt_token_ids])).logits[0, -1]
    assert completions[0].token_ids[0] == int(logits.argmax())


def test_a_response_ends_with_the_end_token_and_its_text_does_not_show_it(model_path: str) -> None:
    engine = TransformersEngine(model_path, dtype="float32", max_model_len=128, threads=1, device="cpu")
    [request] = requests(1, temperature=0.0, samples=1)
    [[plain]] = engine.generate([request])
    assert plain.finish_reason == "length" and len(plain.token_ids) == 12
    engine._stop = frozenset({plain.token_ids[3]})
    [[stopped]] = engine.generate([request])
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == plain.token_ids[: plain.token_ids.index(plain.token_ids[3]) + 1]
    assert response_text(engine._tokenizer, [5, 6, EOS, EOS]) == response_text(engine._tokenizer, [5, 6])


def test_temperature_then_top_k_then_top_p_then_renormalised() -> None:
    # p = (0.5, 0.3, 0.15, 0.05). top_k 3 leaves (0.526, 0.316, 0.158); of those top_p 0.8 needs the first two.
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    filtered = processed_logprobs(logits, temperature=1.0, top_p=0.8, top_k=3).exp()
    assert filtered.tolist()[0] == pytest.approx([0.5 / 0.8, 0.3 / 0.8, 0.0, 0.0])
    # At temperature 0.5 probabilities go with their squares: 0.25, 0.09, 0.0225, 0.0025 of 0.365.
    cold = processed_logprobs(logits, temperature=0.5, top_p=1.0, top_k=-1).exp()
    assert cold.tolist()[0] == pytest.approx([x / 0.365 for x in (0.25, 0.09, 0.0225, 0.0025)])
    one = processed_logprobs(logits, temperature=1.0, top_p=1e-6, top_k=-1)
    assert one.tolist()[0] == [pytest.approx(0.0), -math.inf, -math.inf, -math.inf]


def test_draws_are_uniform_and_differ_by_seed_and_by_position() -> None:
    draws = [uniform(seed, counter) for seed in range(100) for counter in range(100)]
    assert len(set(draws)) == 10_000 and min(draws) >= 0.0 and max(draws) < 1.0
    # The mean of 10,000 uniforms has a standard deviation of 0.0029.
    assert abs(sum(draws) / 10_000 - 0.5) < 0.012
    assert max(abs(sum(0.1 * d <= x < 0.1 * (d + 1) for x in draws) - 1000) for d in range(10)) < 150


def test_samples_follow_the_models_distribution(engine: TransformersEngine, model_path: str) -> None:
    request = SampleRequest(
        prompt_token_ids=(5, 6, 7), seeds=tuple(range(2000)), max_response_tokens=1, temperature=1.0
    )
    [completions] = engine.generate([request])
    p = PlainLearner(model_path).model(torch.tensor([[5, 6, 7]])).logits[0, -1].detach().softmax(-1)
    likeliest = int(p.argmax())
    share = sum(c.token_ids[0] == likeliest for c in completions) / 2000
    assert share == pytest.approx(float(p[likeliest]), abs=4 * (0.25 / 2000) ** 0.5)


def test_new_weights_are_taken_and_a_tied_head_with_them(model_path: str, tmp_path: Path) -> None:
    engine = TransformersEngine(model_path, dtype="float32", max_model_len=128, threads=1, device="cpu")
    learner = PlainLearner(model_path)
    learner.change()
    learner.write_weights(str(tmp_path / "new.safetensors"))
    engine.update_weights(str(tmp_path / "new.safetensors"), 1)
    [request] = requests(1)
    [completions] = engine.generate([request])
    assert largest_difference(learner, request, completions) < 1e-4


def test_a_checkpoint_with_a_missing_or_an_unknown_name_is_refused(model_path: str, tmp_path: Path) -> None:
    engine = TransformersEngine(model_path, dtype="float32", max_model_len=128, threads=1, device="cpu")
    state = {n: t.contiguous() for n, t in PlainLearner(model_path).model.state_dict().items() if n != "lm_head.weight"}
    path = str(tmp_path / "part.safetensors")
    save_file({n: t for n, t in state.items() if "layers.1.mlp.up_proj" not in n}, path)
    with pytest.raises(RuntimeError, match=r"1 parameters are missing, first 'model.layers.1.mlp.up_proj.weight'"):
        engine.update_weights(path, 1)
    save_file({f"module.{n}": t for n, t in state.items()}, path)
    with pytest.raises(RuntimeError, match=r"no parameter 'module\."):
        engine.update_weights(path, 1)


class OneWorker:
    """The `Workers` protocol over one engine in this process."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine = engine
        self.policy_version = 0
        self.generate = engine.generate

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> dict[str, list[float]]:
        return {"worker": self.engine.score(token_ids, num_prompt_tokens)}

    def update_weights(self, path: str, version: int, *, rewrite: Callable[[str], None] | None = None) -> None:
        self.engine.update_weights(path, version)
        self.policy_version = version


def test_adapters_come_and_go_and_another_model_between_them(model_path: str) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    engine = TransformersEngine(model_path, dtype="float32", max_model_len=128, threads=1, device="cpu")
    workers, learner, [request] = OneWorker(engine), AdapterLearner(model_path), requests(1)
    for version in (0, 1, 2):
        sync_weights(learner, workers, version=version, max_diff=1e-4)
        assert largest_difference(learner, request, engine.generate([request])[0]) < 1e-4
        learner.change(seed=version)
    other = PlainLearner(model_path)
    other.change()
    sync_weights(other, workers, version=0, max_diff=1e-4)
    assert largest_difference(other, request, engine.generate([request])[0]) < 1e-4
    sync_weights(learner, workers, version=3, max_diff=1e-4)
    assert largest_difference(learner, request, engine.generate([request])[0]) < 1e-4
    few = AdapterLearner(model_path, targets=["v_proj", "up_proj"])
    few.change()
    sync_weights(few, workers, version=4, max_diff=1e-4)


def test_a_file_that_does_not_fit_leaves_the_engine_as_it_was(model_path: str, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    engine = TransformersEngine(model_path, dtype="float32", max_model_len=128, threads=1, device="cpu")
    learner, [request] = AdapterLearner(model_path), requests(1)
    learner.change()
    path = str(tmp_path / "weights.safetensors")
    learner.write_weights(path)
    engine.update_weights(path, 1)
    expected = engine.generate([request])
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    del weights["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"]
    save_file(weights, path, metadata=metadata)
    with pytest.raises(RuntimeError, match=r"1 parameters are missing, first 'base_model.*up_proj.lora_A.weight'"):
        engine.update_weights(path, 2)
    # Without the configuration in its metadata it passes for a whole model.
    save_file(weights, path)
    with pytest.raises(RuntimeError, match=r"no parameter 'base_model"):
        engine.update_weights(path, 2)
    assert engine.generate([request]) == expected


def test_a_prompt_that_does_not_fit_is_refused_with_both_lengths(engine: TransformersEngine) -> None:
    request = SampleRequest(prompt_token_ids=(5,) * 120, seeds=(0,), max_response_tokens=9, temperature=1.0)
    with pytest.raises(ValueError, match="120 prompt \\+ 9 response tokens > max_model_len=128"):
        engine.generate([request])


def test_every_end_token_of_a_model_is_known(model_path: str, engine: TransformersEngine, tmp_path: Path) -> None:
    assert stop_token_ids(model_path, engine._tokenizer) == {EOS}
    write_tiny_model(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    assert stop_token_ids(str(tmp_path), engine._tokenizer) == {1, 7}
