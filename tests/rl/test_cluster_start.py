"""A cluster that cannot start says why in one line, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl.cluster import Cluster
from rl.config import DataSection, ModelSection, RolloutSection, RunConfig, StageSection

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
