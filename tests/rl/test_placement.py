"""Who gets which place, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from rl.config import DataSection, LearnerSection, ModelSection, RewardSection, RolloutSection, RunConfig, StageSection
from rl.inputs import InputError
from rl.placement import Placement, place_processes


def place(
    num_gpus: float, *, device: str = "auto", workers: int = 1, tensor_parallel: int = 1, **learner: Any
) -> Placement:
    config = RunConfig(
        model=ModelSection.model_validate({"path": "m", "device": device}),
        data=DataSection(train="d"),
        stages=[StageSection(max_prompt_tokens=100, steps=1)],
        rollout=RolloutSection(workers=workers, tensor_parallel=tensor_parallel),
        learner=LearnerSection(**learner),
        reward=RewardSection(workers=2),
    )
    return place_processes(config, num_gpus=num_gpus, scoring_place={"CPU": 1.0, "node:here": 0.001})


SCORING = ({"CPU": 1.0, "node:here": 0.001},) * 2


def test_one_process_without_a_gpu_stays_in_the_driver() -> None:
    alone = place(0)
    assert alone.ranks == ()
    assert alone.bundles == ({"CPU": 1.0}, *SCORING)
    assert place(8, device="cpu").ranks == ()  # the engines use the GPUs, the learner does not


def test_several_processes_on_cpu_have_bundles_of_their_own() -> None:
    made = place(0, processes=2)
    assert made.bundles == ({"CPU": 1.0}, *SCORING, {"CPU": 1.0}, {"CPU": 1.0})
    assert [(r.bundle, r.num_gpus, r.shared_gpu) for r in made.ranks] == [(3, 0, None), (4, 0, None)]


def test_colocated_ranks_take_the_engines_gpus_one_each_and_ray_counts_none_twice() -> None:
    made = place(8, workers=2, tensor_parallel=2, processes=3)
    assert [r.shared_gpu for r in made.ranks] == [(0, 0), (0, 1), (1, 0)]
    assert [r.bundle for r in made.ranks] == [0, 0, 1]
    assert [r.num_gpus for r in made.ranks] == [0, 0, 0]
    assert made.bundles == ({"CPU": 3.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 2.0}, *SCORING)
    assert [r.shared_gpu for r in place(1).ranks] == [(0, 0)]  # also a single one


def test_split_ranks_have_gpus_of_their_own() -> None:
    made = place(8, workers=2, tensor_parallel=2, processes=2, colocate=False)
    assert made.bundles[:2] == ({"CPU": 1.0, "GPU": 2.0},) * 2
    assert made.bundles[4:] == ({"CPU": 1.0, "GPU": 1.0},) * 2
    assert [(r.bundle, r.num_gpus, r.shared_gpu) for r in made.ranks] == [(4, 1, None), (5, 1, None)]


def test_more_colocated_ranks_than_gpus_are_refused_with_both_numbers() -> None:
    with pytest.raises(
        InputError, match=r"^learner.processes: 5 processes on the rollout workers' 4 GPUs .*colocate=false"
    ):
        place(8, workers=2, tensor_parallel=2, processes=5)


def test_ranks_on_cuda_without_a_gpu_in_the_cluster_are_refused() -> None:
    with pytest.raises(InputError, match=r"^learner.processes: 2 processes on model.device=cuda, .* no GPU"):
        place(0, device="cuda", processes=2)
