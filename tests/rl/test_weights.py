"""Weight sync, seen from the loop: what is refused, and what is left on disk."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from rl.rollout import weight_files
from rl.rollout.engine import SampleRequest
from rl.rollout.weight_files import (
    SIZE_VARIABLE,
    NoRoom,
    adapter_at,
    announce_size,
    iter_weights,
    model_folder,
    travelling_file,
    weight_names,
)
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


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A small shared memory, with 100 bytes free, and a folder for temporary files, with 1,000."""
    free = {tmp_path / "memory": 100, tmp_path / "disk": 1000}
    for folder in free:
        folder.mkdir()
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(weight_files, "SHARED_MEMORY", tmp_path / "memory")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(free[folder]))
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    return tmp_path / "memory", tmp_path / "disk"


@pytest.mark.parametrize(("num_bytes", "name"), [(91, "memory"), (92, "disk"), (909, "disk")])
def test_weights_travel_through_memory_where_they_and_a_tenth_more_fit(
    num_bytes: int, name: str, places: tuple[Path, Path]
) -> None:
    announce_size(num_bytes)
    with travelling_file() as path:
        assert Path(path).parents[1].name == name


def test_weights_that_fit_nowhere_are_told_with_the_sizes_before_the_run_starts(places: tuple[Path, Path]) -> None:
    with pytest.raises(
        NoRoom,
        match=r"no room for the weights .*: 3 MiB and a tenth more are needed, free are \S+/memory 0 MiB, .*TMPDIR",
    ):
        announce_size(3 * 2**20)
    assert NoRoom.exit_code == 3


def test_a_place_that_was_full_when_the_file_was_written_is_the_same_error(places: tuple[Path, Path]) -> None:
    with pytest.raises(NoRoom, match=r"no room for the weights .*: free are /"), travelling_file():
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError, match="another"), travelling_file():
        raise SafetensorError("another")


KILLED = """
import os
from pathlib import Path
from rl.rollout import weight_files
weight_files.SHARED_MEMORY = Path(os.environ["TMPDIR"])
with weight_files.travelling_file() as path:
    print(path, flush=True)
    input()
"""


def test_what_a_killed_run_left_is_removed_and_what_a_live_one_uses_is_not(places: tuple[Path, Path]) -> None:
    memory, _ = places
    variables = os.environ | {"TMPDIR": str(memory), "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip()).parent
        assert folder.parent == memory
        an_hour_ago = time.time() - 3600
        os.utime(folder, (an_hour_ago, an_hour_ago))
        with travelling_file():
            assert folder.is_dir()
        process.kill()
    young, link = memory / "longreach-weights-young", memory / "longreach-weights-link"
    young.mkdir()
    link.symlink_to(memory.parent)
    os.utime(folder, (an_hour_ago, an_hour_ago))
    with travelling_file():
        assert not folder.exists() and young.is_dir() and link.is_symlink()


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no safetensors file there"):
        list(iter_weights(str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="no safetensors file there"):
        list(iter_weights(str(tmp_path / "gone.safetensors")))
    with pytest.raises(FileNotFoundError, match="no safetensors file there"):
        weight_names("me/tiny")


def test_a_whole_model_is_no_adapter_whether_file_or_folder(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert adapter_at(str(tmp_path / "model.safetensors")) is None
    assert adapter_at(str(tmp_path)) is None


def write_hub_cache(cache: Path, name: str, model: Path) -> Path:
    """The model as the hub's client would keep it; returns its folder there."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot, branch = repository / "snapshots" / ("0" * 40), repository / "refs" / "main"
    shutil.copytree(model, snapshot)
    branch.parent.mkdir()
    branch.write_text("0" * 40)
    return snapshot


def test_a_model_s_folder_is_itself_or_in_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    save_file({"weight": torch.zeros(1)}, model / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = write_hub_cache(tmp_path / "cache", "me/tiny", model)
    assert model_folder(str(model)) == str(model) and model_folder("me/tiny") == str(snapshot)
    with pytest.raises(FileNotFoundError):
        model_folder("nobody/no-such-model")
