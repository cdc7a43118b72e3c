"""Which process gets which place in the Ray cluster: the bundles of one placement group, and the learner ranks' GPUs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rl.config import RunConfig
from rl.inputs import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class RankPlace:
    """Where one learner rank runs."""

    bundle: int
    """Index in `Placement.bundles`."""
    num_gpus: int
    """GPUs that Ray counts for it: 1, or 0 on CPU and where it uses a rollout worker's GPU."""
    shared_gpu: tuple[int, int] | None
    """(rollout worker, which of that worker's GPUs) that it uses beside the engine; None: no engine is on its GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """The places of a run's processes."""

    bundles: tuple[dict[str, float], ...]
    """What each bundle reserves, by Ray's names: rollout workers, then scoring workers, then ranks with a bundle of their own."""
    engine_gpus: int
    """GPUs of each rollout worker; 0 on CPU."""
    ranks: tuple[RankPlace, ...]
    """The learner's ranks, rank 0 first; empty: the learner lives in the driver."""


def place_processes(config: RunConfig, *, num_gpus: float, scoring_place: dict[str, float]) -> Placement:
    """Reserve for every process of the run what it needs.

    Ray counts no GPU twice: colocated ranks are counted without GPUs, in the bundles of the engines whose GPUs they use,
    rank i on the i-th of all engines' GPUs.

    Args:
        num_gpus: that the cluster has.
        scoring_place: what a scoring worker reserves.

    Raises:
        InputError: more colocated ranks than GPUs, or several ranks on CUDA in a cluster without a GPU.
    """
    rollout, learner = config.rollout, config.learner
    engine_gpus = rollout.tensor_parallel if num_gpus else 0
    use_gpus = bool(num_gpus) and config.model.device != "cpu"
    if learner.processes > 1 and config.model.device == "cuda" and not num_gpus:
        raise InputError(
            f"learner.processes: {learner.processes} processes on model.device=cuda, and the Ray cluster has no GPU; "
            "add GPU nodes, or set model.device=cpu"
        )
    colocated = use_gpus and learner.colocate
    if colocated and learner.processes > (engine_total := rollout.workers * engine_gpus):
        raise InputError(
            f"learner.processes: {learner.processes} processes on the rollout workers' {engine_total} GPUs "
            f"(rollout.workers={rollout.workers} x rollout.tensor_parallel={rollout.tensor_parallel}); lower "
            "learner.processes, raise rollout.workers, or set learner.colocate=false for GPUs of their own"
        )
    first_own = rollout.workers + config.reward.workers
    if not use_gpus and learner.processes == 1:
        ranks = []
    elif colocated:
        homes = [divmod(rank, engine_gpus) for rank in range(learner.processes)]
        ranks = [RankPlace(bundle=worker, num_gpus=0, shared_gpu=(worker, gpu)) for worker, gpu in homes]
    else:
        places = range(first_own, first_own + learner.processes)
        ranks = [RankPlace(bundle=bundle, num_gpus=int(use_gpus), shared_gpu=None) for bundle in places]
    guests = Counter(rank.bundle for rank in ranks)
    engines = [_bundle(cpus=1 + guests[worker], gpus=engine_gpus) for worker in range(rollout.workers)]
    own = [_bundle(cpus=1, gpus=rank.num_gpus) for rank in ranks if rank.bundle >= first_own]
    return Placement(
        bundles=(*engines, *[scoring_place] * config.reward.workers, *own),
        engine_gpus=engine_gpus,
        ranks=tuple(ranks),
    )


def _bundle(*, cpus: int, gpus: int) -> dict[str, float]:
    return {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})
