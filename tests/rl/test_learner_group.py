"""Learner ranks in real processes: the same results as one learner, and no hang whatever becomes of a rank."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rl.cluster import PROJECT_ROOT, Cluster
from rl.config import DataSection, LearnerSection, ModelSection, RolloutSection, RunConfig, RunSection, StageSection
from rl.inputs import InputError
from rl.learner.step import Learner
from rl.learner_group import LearnerGroup, LearnerRank, RankDied
from tests.rl.learner_cases import group
from tests.rl.tiny_model import write_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]
GROUPS = [group(17, [5, 9, 1, 7], seed=1), group(3, [2, 6], seed=2), group(30, [4, 4, 11], seed=3)]
ADVANTAGES = [[1.0, -0.5, 0.25, -2.0], [0.7, -0.7], [1.5, 0.1, -1.1]]


def config(folder: Path, model_path: str, **learner: Any) -> RunConfig:
    return RunConfig(
        run=RunSection(dir=str(folder / "run")),
        model=ModelSection(path=model_path, dtype="float32"),
        data=DataSection(train="unused"),
        stages=[StageSection(max_prompt_tokens=100, steps=1)],
        rollout=RolloutSection(engine="transformers", threads=1),
        learner=LearnerSection.model_validate({"threads": 1, "gradient_checkpointing": False, **learner}),
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The configuration of a learner in two processes."""
    model_path = write_tiny_model(tmp_path_factory.mktemp("model"))
    return config(tmp_path_factory.mktemp("two"), model_path, processes=2)


@pytest.fixture(scope="module")
def cluster(two: RunConfig) -> Iterator[Cluster]:
    with Cluster(two, model_path=two.model.path, max_model_len=128) as running:
        yield running


@pytest.fixture(scope="module")
def placed(cluster: Cluster) -> LearnerGroup:
    """The learner as a run gets it."""
    learner = cluster.open_learner()
    assert isinstance(learner, LearnerGroup)
    return learner


def local(of: RunConfig) -> Learner:
    return Learner(of.model.path, section=of.learner, dtype="float32", device="cpu", temperature=1.0)


def start(kind: type[LearnerRank], of: RunConfig, num_ranks: int = 2) -> LearnerGroup:
    """A learner of ranks of this kind, beside the placed one."""
    import ray  # after rl.cluster, which sets what ray reads when it is imported

    traces = Path(of.run.dir).absolute() / "learner"
    environment = {"env_vars": {"PYTHONPATH": str(PROJECT_ROOT)}}
    options = {"num_cpus": 0, "max_restarts": 0, "runtime_env": environment}
    actors = [ray.remote(kind).options(**options).remote(rank, str(traces)) for rank in range(num_ranks)]
    return LearnerGroup(actors, of)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for_end(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + 20
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.05)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], atol=1e-5) for n in one)


def test_two_ranks_learn_what_one_learner_learns(placed: LearnerGroup, two: RunConfig, tmp_path: Path) -> None:
    alone = local(two.model_copy(update={"learner": two.learner.model_copy(update={"processes": 1})}))
    for version in range(2):
        expected = alone.step(GROUPS, ADVANTAGES, lr=1e-3, policy_version=version)
        got = placed.step(GROUPS, ADVANTAGES, lr=1e-3, policy_version=version)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert math.isclose(got[name], value, rel_tol=1e-4, abs_tol=1e-5), (name, got[name], value)
    assert (placed.num_updates, placed.num_skipped_updates) == (2, 0)
    prompt, response = GROUPS[0].prompt_token_ids, GROUPS[0].rollouts[0].token_ids
    assert placed.logprobs(prompt, response) == pytest.approx(alone.logprobs(prompt, response), abs=1e-4)
    for subject, name in ((placed, "got"), (alone, "expected")):
        subject.write_weights(str(tmp_path / f"{name}.safetensors"))
        subject.save_model(str(tmp_path / name))
    assert close(load_file(tmp_path / "got.safetensors"), load_file(tmp_path / "expected.safetensors"))
    saved = [AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("got", "expected")]
    assert close(*saved)


def test_what_the_ranks_saved_they_take_up_again(placed: LearnerGroup, tmp_path: Path) -> None:
    placed.save(str(tmp_path / "trainer"))
    updates = placed.num_updates
    expected = placed.step(GROUPS, ADVANTAGES, lr=1e-3)
    assert placed.num_updates == updates + 1
    assert placed.step(GROUPS, ADVANTAGES, lr=1e-3) != expected  # it has moved on
    placed.load(str(tmp_path / "trainer"))
    assert placed.num_updates == updates
    assert placed.step(GROUPS, ADVANTAGES, lr=1e-3) == pytest.approx(expected, rel=1e-6)


def test_what_every_rank_refuses_is_the_callers_error_and_the_learner_goes_on(placed: LearnerGroup) -> None:
    with pytest.raises(ValueError, match=r"^2 lists of advantages for 3 groups"):
        placed.step(GROUPS, ADVANTAGES[:2], lr=1e-3)
    assert len(placed.logprobs([1, 2, 3], [4, 5])) == 2


class ReadingRank(LearnerRank):
    """Tells what it was sent instead of learning."""

    def call(self, method: str, *arguments: Any, **settings: Any) -> Any:
        return [(g.problem.problem_id, g.problem.context, g.prompt_token_ids) for g in arguments[0]]


def test_groups_travel_without_their_documents(cluster: Cluster, two: RunConfig) -> None:
    learner = start(ReadingRank, two, num_ranks=1)
    made = [replace(g, problem=replace(g.problem, context="a long document")) for g in GROUPS]
    told: Any = learner.step(made, ADVANTAGES, lr=0.0)
    assert told == [(g.problem.problem_id, "", g.prompt_token_ids) for g in GROUPS]


def test_a_rank_that_is_killed_in_a_step_ends_it_with_its_name(cluster: Cluster, two: RunConfig) -> None:
    learner = start(LearnerRank, two)
    pids = [process.pid for process in learner.processes]
    many = [group(600, [100] * 4, seed=i) for i in range(400)]  # about half a minute
    killed_at = []

    def kill() -> None:
        os.kill(pids[1], signal.SIGKILL)
        killed_at.append(time.monotonic())

    threading.Timer(2.0, kill).start()
    with pytest.raises(RankDied, match=rf"^learner rank 1 \(127.0.0.1, pid {pids[1]}\) ended by SIGKILL") as caught:
        learner.step(many, [[1.0, -1.0, 0.5, -0.5]] * len(many), lr=1e-3, policy_version=6)
    assert time.monotonic() - killed_at[0] < 8.0
    told = str(caught.value)
    assert "in step (step 7)" in told
    assert "rank 0 0." in told and "rank 1 0." in told and "GiB free" in told
    assert "--resume auto" in told and "learner.micro_batch_tokens" in told
    wait_for_end(pids)
    with pytest.raises(RuntimeError, match=rf"^logprobs: the learner has ended: learner rank 1 .*pid {pids[1]}"):
        learner.logprobs([1, 2, 3], [4])


class FaultyRank(LearnerRank):
    """Rank 1 fails as `method` says, while rank 0 waits for it in a collective, where it fails only by losing rank 1."""

    def call(self, method: str, *arguments: Any, **settings: Any) -> Any:
        import torch.distributed as dist

        if self._rank == 1 and method == "step":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB, 70.1 GiB reserved by PyTorch")
        if self._rank == 1 and method == "save":
            os.kill(os.getpid(), signal.SIGKILL)  # rank 0 sees its connection close, perhaps before Ray sees the death
        dist.barrier()


@pytest.mark.parametrize(
    ("method", "kind", "told"),
    [
        (
            "step",
            RuntimeError,
            r"raised OutOfMemoryError\('CUDA out of memory. .*70.1 GiB reserved by PyTorch'\), in step",
        ),
        ("save", RankDied, r"ended by SIGKILL.*, in save"),
    ],
)
def test_the_first_cause_is_named_and_not_what_the_others_made_of_it(
    cluster: Cluster, two: RunConfig, tmp_path: Path, method: str, kind: type[Exception], told: str
) -> None:
    learner = start(FaultyRank, two)
    pids = [process.pid for process in learner.processes]
    started = time.monotonic()
    with pytest.raises(kind, match=rf"^learner rank 1 \(127.0.0.1, pid {pids[1]}\) {told}") as caught:
        learner.step(GROUPS, ADVANTAGES, lr=0.0) if method == "step" else learner.save(str(tmp_path))
    assert type(caught.value) is kind
    assert time.monotonic() - started < 15.0
    wait_for_end(pids)


class ElsewhereRank(LearnerRank):
    """As on a machine that has another disk under the same path."""

    def sees(self, path: str) -> bool:
        return False


def test_a_machine_that_does_not_see_the_runs_folder_is_named(cluster: Cluster, two: RunConfig) -> None:
    with pytest.raises(
        InputError, match=rf"^run.dir: {two.run.dir} on the driver's machine 127.0.0.1 .* rank 0 sees on 127"
    ):
        start(ElsewhereRank, two)


def test_a_model_that_no_rank_can_load_ends_the_start(cluster: Cluster, two: RunConfig, tmp_path: Path) -> None:
    nowhere = two.model_copy(update={"model": ModelSection(path=str(tmp_path / "gone"), dtype="float32")})
    with pytest.raises(ValueError, match="gone"):
        start(LearnerRank, nowhere)
