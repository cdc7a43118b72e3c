"""A real vLLM: its log-probabilities are the model's, before and after new weights, and a broken sync is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rl.rollout.engine import SampleRequest
from rl.rollout.weights import sync_weights
from tests.rl.adapter_learner import RANK, AdapterLearner
from tests.rl.engine_process import EngineProcess, vllm_process
from tests.rl.test_weights import write_hub_cache
from tests.rl.tiny_model import PlainLearner, largest_difference, requests, write_tiny_model

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.vllm
BOUND = 1e-3
"""Nats; float32 on both sides gives about 2e-5."""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(model_path: str) -> Iterator[EngineProcess]:
    with vllm_process(model_path, max_model_len=128) as process:
        yield process


@pytest.fixture
def learner(model_path: str, engine: EngineProcess) -> PlainLearner:
    learner = PlainLearner(model_path)
    sync_weights(learner, engine, version=0, max_diff=BOUND)
    return learner


def test_logprobs_are_those_of_the_distribution_sampled_from(engine: EngineProcess, learner: PlainLearner) -> None:
    [request] = requests(1)
    [completions] = engine.generate([request])
    assert largest_difference(learner, request, completions) < BOUND
    # With one candidate left, the renormalised log-probability is 0 whatever the model's own is.
    [only] = engine.generate([replace(request, top_k=1)])
    assert {value for completion in only for value in completion.logprobs} == {0.0}
    assert only[0].token_ids == only[1].token_ids


def test_the_same_call_gives_the_same_rollouts(engine: EngineProcess, learner: PlainLearner) -> None:
    batch = requests(6)
    first = engine.generate(batch)
    engine.generate(requests(6, seed=9))
    assert engine.generate(batch) == first
    assert len({completion.token_ids for completion in first[0]}) > 1


def test_greedy_and_seeded_requests_share_a_call(engine: EngineProcess, learner: PlainLearner) -> None:
    mixed = [requests(1)[0], requests(1, samples=2, temperature=0.0, seed=3)[0]]
    sampled, greedy = engine.generate(mixed)
    assert len(sampled) == 4 and greedy[0] == greedy[1]
    assert {c.finish_reason for c in sampled + greedy} <= {"stop", "length"}


def test_after_a_sync_the_engine_holds_the_learners_weights(engine: EngineProcess, learner: PlainLearner) -> None:
    batch = requests(2)
    before = engine.generate(batch)
    learner.change()
    metrics = sync_weights(learner, engine, version=1, max_diff=BOUND)
    after = engine.generate(batch)
    assert before != after
    assert max(largest_difference(learner, r, c) for r, c in zip(batch, after, strict=True)) < BOUND
    assert 0.0 < metrics["policy/sync_probe_max_diff"] < BOUND


def test_no_prefix_of_the_old_weights_is_read_after_a_sync(engine: EngineProcess, learner: PlainLearner) -> None:
    [request] = requests(1, samples=1)
    long = replace(request, prompt_token_ids=(request.prompt_token_ids * 3)[:110])
    engine.generate([long])
    learner.change(seed=2)
    sync_weights(learner, engine, version=1, max_diff=BOUND)
    assert largest_difference(learner, long, engine.generate([long])[0]) < BOUND


def test_a_tied_head_that_stays_stale_stops_the_run(engine: EngineProcess, learner: PlainLearner) -> None:
    learner.change(seed=3)
    engine.refresh_tied_head(False)
    try:
        with pytest.raises(RuntimeError, match=r"version 7: worker scores token \d+ .* > rollout.max_probe_diff=0.001"):
            sync_weights(learner, engine, version=7, max_diff=BOUND)
    finally:
        engine.refresh_tied_head(True)
    sync_weights(learner, engine, version=8, max_diff=BOUND)


def test_a_file_without_all_of_the_model_is_refused(
    engine: EngineProcess, learner: PlainLearner, model_path: str, tmp_path: Path
) -> None:
    weights = load_file(os.path.join(model_path, "model.safetensors"))
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "part.safetensors")
    with pytest.raises(RuntimeError, match=r"1 parameters are missing, first 'model.layers.1.mlp.up_proj.weight'"):
        engine.update_weights(str(tmp_path / "part.safetensors"), 1)
    sync_weights(learner, engine, version=2, max_diff=BOUND)


def test_a_prompt_that_does_not_fit_is_refused(engine: EngineProcess) -> None:
    request = SampleRequest(prompt_token_ids=(5,) * 120, seeds=(0,), max_response_tokens=9, temperature=1.0)
    with pytest.raises(ValueError, match="120 prompt \\+ 9 response tokens > max_model_len=128"):
        engine.generate([request])


@pytest.fixture(scope="module")
def adapter_engine(model_path: str) -> Iterator[EngineProcess]:
    pytest.importorskip("peft", reason="peft is not installed")
    with vllm_process(model_path, max_model_len=128, lora_rank=RANK) as process:
        yield process


def test_a_second_adapter_replaces_the_first_with_all_that_was_cached(
    adapter_engine: EngineProcess, model_path: str
) -> None:
    learner = AdapterLearner(model_path)
    [request] = requests(1)
    long = replace(request, prompt_token_ids=(request.prompt_token_ids * 3)[:110])
    sampled = []
    for version in (0, 1, 2):
        sync_weights(learner, adapter_engine, version=version, max_diff=1e-4)
        for _ in range(2):
            sampled.append(adapter_engine.generate([long]))
            assert largest_difference(learner, long, sampled[-1][0]) < 1e-4
        learner.change(seed=version)
    assert sampled[0] == sampled[1] and sampled[2] == sampled[3] and sampled[4] == sampled[5]
    assert sampled[0] != sampled[2] != sampled[4]
    # The first three syncs held: versions may be given twice, and the adapters are the last ones all the same.
    sync_weights(learner, adapter_engine, version=2, max_diff=1e-4)
    assert largest_difference(learner, long, adapter_engine.generate([long])[0]) < 1e-4


def test_an_adapter_belongs_to_the_start_model_whatever_came_between(
    adapter_engine: EngineProcess, model_path: str, tmp_path: Path
) -> None:
    learner, other, [request] = AdapterLearner(model_path), PlainLearner(model_path), requests(1)
    learner.change()
    other.change(seed=5)
    other.model.save_pretrained(tmp_path)
    sync_weights(learner, adapter_engine, version=1, max_diff=1e-4)
    adapter_engine.update_weights(str(tmp_path), 0)
    assert largest_difference(other, request, adapter_engine.generate([request])[0]) < 1e-4
    sync_weights(learner, adapter_engine, version=2, max_diff=1e-4)
    assert largest_difference(learner, request, adapter_engine.generate([request])[0]) < 1e-4


def test_an_engine_built_without_adapters_refuses_one(
    engine: EngineProcess, learner: PlainLearner, model_path: str, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    path = str(tmp_path / "adapter.safetensors")
    AdapterLearner(model_path).write_weights(path)
    with pytest.raises(RuntimeError, match=r"an adapter of rank 4, this engine was built with lora_rank=0"):
        engine.update_weights(path, 1)
    sync_weights(learner, engine, version=2, max_diff=BOUND)


OUTSIDE_AN_ENGINE = """
import sys
from types import SimpleNamespace
from rl.rollout.vllm_engine import FileTransfer, FileUpdate, _lora_arguments
print([_lora_arguments(r, "float32", cpu=True)["max_lora_rank"] for r in (1, 4, 8, 9, 48, 512)])
for rank, cpu in ((513, True), (8, False)):
    try:
        _lora_arguments(rank, "float32", cpu=cpu)
    except ValueError as error:
        print(error)
transfer = FileTransfer.__new__(FileTransfer)
transfer.model_config = SimpleNamespace(model="me/tiny", hf_text_config=SimpleNamespace(tie_word_embeddings=True))
try:
    transfer.receive_weights(FileUpdate(path=sys.argv[1]))
except RuntimeError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def told(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What OUTSIDE_AN_ENGINE prints; in a process of its own: importing vLLM changes torch."""
    folder = tmp_path_factory.mktemp("hub")
    write_hub_cache(folder, "me/tiny", Path(model_path))
    weights = load_file(os.path.join(model_path, "model.safetensors"))
    del weights["model.norm.weight"]
    save_file(weights, folder / "part.safetensors")
    ran = subprocess.run(
        [sys.executable, "-c", OUTSIDE_AN_ENGINE, str(folder / "part.safetensors")],
        env=os.environ | {"HF_HUB_CACHE": str(folder)}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return ran.stdout.splitlines()[-4:]


def test_vllm_reserves_the_next_rank_it_knows_and_refuses_one_beyond(told: list[str]) -> None:
    ranks, too_large, too_wide, _ = told
    assert ranks == "[1, 8, 8, 16, 64, 512]"
    assert too_large.startswith("learner.lora_rank: 513 > 512, the largest rank that vLLM samples with")
    assert too_wide.startswith("model.dtype: vLLM's LoRA kernels on CUDA do not take 'float32'")


def test_a_file_without_all_of_the_model_is_refused_for_a_hub_id_too(told: list[str]) -> None:
    assert "part.safetensors: 1 parameters are missing, first 'model.norm.weight'; the whole model" in told[-1]
