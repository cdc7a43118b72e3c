"""Real Ray around a real vLLM: workers that die, come back stale, and are brought up to date."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.problem import Question
from rl.cluster import Cluster
from rl.config import DataSection, ModelSection, RewardSection, RolloutSection, RunConfig, StageSection
from rl.ray_actors import StaleWorker
from rl.rollout.weights import sync_weights
from rl.rollout_pool import RolloutWorker
from tests.rl.tiny_model import PlainLearner, largest_difference, requests, write_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]
BOUND = 1e-3


def config(model_path: str, **rollout) -> RunConfig:
    return RunConfig(
        model=ModelSection(path=model_path, dtype="float32"),
        data=DataSection(train="unused"),
        stages=[StageSection(max_prompt_tokens=100, steps=1)],
        rollout=RolloutSection(kv_cache_gib=0.05, max_num_seqs=64, threads=1, **rollout),
        reward=RewardSection(workers=2),
    )


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cluster(model_path: str) -> Iterator[Cluster]:
    with Cluster(config(model_path), model_path=model_path, max_model_len=128) as running:
        yield running


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_comes_back_with_the_current_weights_and_the_same_tokens(
    cluster: Cluster, model_path: str
) -> None:
    learner = PlainLearner(model_path)
    learner.change()
    sync_weights(learner, cluster.workers, version=1, max_diff=BOUND)
    batch = requests(40)
    expected = cluster.workers.generate(batch)
    assert max(largest_difference(learner, r, c) for r, c in zip(batch[:3], expected[:3], strict=True)) < BOUND

    [pid] = cluster.workers.pids()
    threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
    assert cluster.workers.generate(batch) == expected
    assert cluster.workers.pids() != [pid]
    assert cluster.workers.generate(batch) == expected
    assert cluster.workers.policy_version == 1
    assert not list(Path("/dev/shm").glob("longreach-weights-*")) or not Path("/dev/shm").is_dir()


def test_scoring_keeps_the_order_over_several_workers(cluster: Cluster) -> None:
    question = Question(question="Which city?", answers=("Paris",), answer_type="text")
    texts = ["The answer is Paris.", "The answer is Rome.", "The answer is Paris."] * 3
    scores = cluster.scorer.score([(question, text) for text in texts])
    assert [score.value for score in scores] == [1.0, 0.0, 1.0] * 3
    assert cluster.scorer.score([]) == []


def test_an_empty_call_gives_an_empty_answer(cluster: Cluster) -> None:
    assert cluster.workers.generate([]) == []


def test_a_request_that_does_not_fit_is_the_callers_error(cluster: Cluster) -> None:
    [request] = requests(1)
    too_long = type(request)(prompt_token_ids=(5,) * 200, seeds=(0,), max_response_tokens=1, temperature=1.0)
    with pytest.raises(ValueError, match="max_model_len=128"):
        cluster.workers.generate([too_long])


def test_nothing_listens_beyond_this_machine(cluster: Cluster) -> None:
    import ray

    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert os.environ["RAY_AUTH_TOKEN"]


def test_a_worker_refuses_to_serve_weights_that_are_not_the_current_ones(model_path: str, tmp_path: Path) -> None:
    section = RolloutSection(engine="transformers")
    worker = RolloutWorker(model_path, "float32", section, 128, 1)
    worker.generate(requests(1), 0)
    with pytest.raises(StaleWorker, match="has seen weight push 0, the call wants 1"):
        worker.generate(requests(1), 1)
    with pytest.raises(FileNotFoundError):
        worker.update_weights(str(tmp_path / "gone.safetensors"), 1, 1)
    # After an update that failed half-way it serves neither the old nor the new version.
    for push in (0, 1):
        with pytest.raises(StaleWorker):
            worker.score([5, 6, 7], 1, push)


def test_a_worker_on_another_machine_is_sent_the_file(model_path: str, tmp_path: Path) -> None:
    worker = RolloutWorker(model_path, "float32", RolloutSection(engine="transformers"), 128, 1)
    learner = PlainLearner(model_path)
    learner.change()
    learner.write_weights(str(tmp_path / "new.safetensors"))
    worker.update_weights("/not/on/this/machine", 1, 1, (tmp_path / "new.safetensors").read_bytes())
    [request] = requests(1)
    assert largest_difference(learner, request, worker.generate([request], 1)[0]) < BOUND
