"""A cluster that cannot start says why in one line, and leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rl.cluster import Cluster
from rl.config import DataSection, LearnerSection, ModelSection, RolloutSection, RunConfig, RunSection, StageSection
from rl.inputs import InputError
from rl.learner_group import LearnerGroup
from tests.rl.tiny_model import write_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


def test_an_engine_that_cannot_start_is_named_with_its_own_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray  # after rl.cluster, which sets what ray reads when it is imported

    folder = str(tmp_path / "no-model")
    config = RunConfig(
        model=ModelSection(path=folder, dtype="float32"),
        data=DataSection(train="unused"),
        stages=[StageSection(max_prompt_tokens=100, steps=1)],
        rollout=RolloutSection(engine="transformers", threads=1),
    )
    with (
        pytest.raises(RuntimeError, match=r"^rollout worker 0, start: it could not start: \w+: .*no-model"),
        Cluster(config, model_path=folder, max_model_len=128) as cluster,
    ):
        cluster.workers.pids()
    assert not ray.is_initialized()
    assert "Traceback" not in capfd.readouterr().out


def on_two_gpus(folder: Path, **learner: Any) -> RunConfig:
    """For a machine on which Ray believes in GPUs that are not there; the learner finds none and computes on CPU."""
    return RunConfig(
        run=RunSection(dir=str(folder / "run")),
        model=ModelSection(path=write_tiny_model(folder / "model"), dtype="float32", device="auto"),
        data=DataSection(train="unused"),
        stages=[StageSection(max_prompt_tokens=100, steps=1)],
        rollout=RolloutSection(engine="transformers", threads=1, workers=2),
        learner=LearnerSection.model_validate({"threads": 1, "processes": 2, **learner}),
    )


@pytest.mark.parametrize(("colocate", "num_gpus"), [(True, 2), (False, 4)])
def test_ranks_share_the_engines_gpus_or_have_others_and_the_end_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colocate: bool, num_gpus: int
) -> None:
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", f'{{"GPU": {num_gpus}}}')
    config = on_two_gpus(tmp_path, colocate=colocate)
    with Cluster(config, model_path=config.model.path, max_model_len=128) as cluster:
        learner = cluster.open_learner()
        assert isinstance(learner, LearnerGroup)
        engines = [gpu for gpus in cluster.workers.gpu_ids() for gpu in gpus]
        ranks = [process.gpus for process in learner.processes]
        assert len({*engines, *ranks}) == num_gpus
        assert (ranks == engines) is colocate
        assert len(learner.logprobs([1, 2, 3], [4, 5])) == 2
        pids = [*cluster.workers.pids(), *(process.pid for process in learner.processes)]
        assert len(set(pids)) == 4
    assert wait_for_end(pids) == []


def test_more_ranks_than_gpus_to_share_end_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 2}')
    config = on_two_gpus(tmp_path, processes=3)
    with (
        pytest.raises(InputError, match=r"3 processes on the rollout workers' 2 GPUs"),
        Cluster(config, model_path=config.model.path, max_model_len=128),
    ):
        pass
    assert not ray.is_initialized()


def wait_for_end(pids: list[int]) -> list[int]:
    """Those that are still there after a while."""
    deadline = time.monotonic() + 20
    while (alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive
