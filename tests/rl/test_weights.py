"""Weight sync, seen from the loop: what is refused, and what is left on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rl.rollout.engine import SampleRequest
from rl.rollout.weight_files import adapter_at, iter_weights, model_folder, travelling_file
from rl.rollout.weights import sync_weights
from rl.types import Completion


class NumberLearner:
    """A learner whose one weight is the number it writes and scores with."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.paths: list[str] = []

    def write_weights(self, path: str) -> None:
        self.paths.append(path)
        Path(path).write_text(str(self.weight))

    def logprobs(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[float]:
        return [-self.weight * token for token in response_ids]


class NumberWorkers:
    """Engines that read the number; those in `deaf` keep the one they had."""

    def __init__(self, deaf: Sequence[int] = ()) -> None:
        self.weights = [0.0, 0.0]
        self.deaf = deaf
        self.policy_version = 0

    def update_weights(self, path: str, version: int, *, rewrite: Callable[[str], None] | None = None) -> None:
        self.policy_version = version
        for i in range(2):
            if i not in self.deaf:
                self.weights[i] = float(Path(path).read_text())

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> dict[str, list[float]]:
        return {f"worker {i}": [-w * t for t in token_ids[num_prompt_tokens:]] for i, w in enumerate(self.weights)}

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        raise NotImplementedError


def test_a_sync_reaches_every_worker_and_leaves_no_file() -> None:
    learner, workers = NumberLearner(0.25), NumberWorkers()
    metrics = sync_weights(learner, workers, version=3, max_diff=1e-3)
    assert workers.weights == [0.25, 0.25] and workers.policy_version == 3
    assert metrics["policy/sync_probe_max_diff"] == 0.0 and metrics["time/sync_s"] >= 0.0
    assert not Path(learner.paths[0]).exists() and not Path(learner.paths[0]).parent.exists()


def test_a_worker_that_kept_its_old_weights_stops_the_run_by_name() -> None:
    # The first probe token is 7: learner -0.25 * 7 = -1.75, deaf worker 0.
    with pytest.raises(RuntimeError) as caught:
        sync_weights(NumberLearner(0.25), NumberWorkers(deaf=[1]), version=3, max_diff=1e-3)
    assert "version 3: worker 1 scores token 0 of the probe -0.000000, the learner -1.750000 nats" in str(caught.value)
    assert "1.8 > rollout.max_probe_diff=0.001" in str(caught.value)


def test_a_probe_that_is_not_a_number_stops_the_run() -> None:
    with pytest.raises(RuntimeError, match="difference nan"):
        sync_weights(NumberLearner(math.nan), NumberWorkers(), version=1, max_diff=1e9)


def test_the_file_is_gone_also_when_the_push_failed() -> None:
    with pytest.raises(RuntimeError, match="out of reach"), travelling_file() as path:
        Path(path).write_text("weights")
        raise RuntimeError("out of reach")
    assert not Path(path).parent.exists()


def test_two_runs_never_share_a_path() -> None:
    with travelling_file() as one, travelling_file() as other:
        assert one != other


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no safetensors file there"):
        list(iter_weights(str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="no safetensors file there"):
        list(iter_weights(str(tmp_path / "gone.safetensors")))


def test_a_whole_model_is_no_adapter_whether_file_or_folder(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert adapter_at(str(tmp_path / "model.safetensors")) is None
    assert adapter_at(str(tmp_path)) is None


def test_a_model_s_folder_is_itself_or_in_the_hub_s_cache(tmp_path: Path) -> None:
    assert model_folder(str(tmp_path)) == str(tmp_path)
    with pytest.raises(FileNotFoundError):
        model_folder("nobody/no-such-model")
