"""Ray: the processes that sample, score and learn, placed, started and ended.

The driver holds the loop, and the learner where that is one process without a GPU; else each learner rank is an actor.
A rollout worker is an actor with one engine; a scoring worker is an actor with one scorer.
Left out: detecting a process that hangs without dying.
"""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rl.ray_actors import CALL_RETRIES  # isort: skip  sets what ray reads when it is imported
import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl.config import RunConfig
from rl.judge_process import JudgeFailed, JudgeProcess, JudgeSettings, is_cpu_build
from rl.learner_group import LearnerGroup, LearnerRank
from rl.placement import Placement, place_processes
from rl.rank_trace import FOLDER
from rl.rollout.choose import engine_name
from rl.rollout.environment import engine_environment
from rl.rollout.weight_files import SIZE_VARIABLE
from rl.rollout_pool import RolloutPool, RolloutWorker
from rl.scoring import ScoringPool, ScoringWorker, scorer_config

if TYPE_CHECKING:
    from rl.learner.step import Learner

PROJECT_ROOT = Path(__file__).resolve().parents[1]
PLACEMENT_TIMEOUT_S = 120.0
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
"""Requests and completions are lists of integers: megabytes, also at 60K tokens."""
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
"""For a process that holds a learner rank."""


class Cluster:
    """Ray and this run's workers in it, from `with` to its end.

    Under `ray job submit`, or with RAY_ADDRESS set, it joins that cluster; else it starts one in this machine's
    loopback and ends it. Entering returns at once: engines start while the driver loads the learner, and the first call
    waits for them.
    """

    def __init__(self, config: RunConfig, *, model_path: str, max_model_len: int, require_closed_think: bool = False):
        """Starts nothing yet.

        Args:
            config: of the run.
            model_path: what the rollout workers load.
            max_model_len: longest prompt plus response, in tokens, that any stage or evaluation samples.
            require_closed_think: see `ScorerConfig`.

        Raises:
            EngineMissing, JudgeUnusable: a judge of the run's own that cannot be served here.
        """
        self._config = config
        self._model_path = model_path
        self._max_model_len = max_model_len
        self._scorer_config = scorer_config(config, require_closed_think=require_closed_think)
        self._judge: JudgeProcess | None = None
        if config.reward.judge_path:
            self._judge = JudgeProcess(own_judge(config))
            self._scorer_config = replace(self._scorer_config, judge_url=self._judge.url, judge_model=self._judge.model)
        self._group: Any = None
        self._actors: list[Any] = []

    def __enter__(self) -> Self:
        """Start or join Ray, reserve the workers' places, start them.

        Raises:
            EngineMissing: an engine that is not installed.
            InputError: learner ranks that this cluster cannot place.
            RuntimeError: the cluster has no room for the workers.
            JudgeFailed: the run's own judge did not start.
        """
        engine_name(self._config.rollout)
        config = self._config
        num_processes = config.rollout.workers + config.reward.workers + config.learner.processes
        self._joined = _start_ray(max(num_processes, os.cpu_count() or 1))
        try:
            self._placement = place_processes(
                config,
                num_gpus=ray.cluster_resources().get("GPU", 0.0),
                scoring_place=_scoring_place(near=self._judge is not None),
            )
            self._reserve(self._placement)
            self._start_workers()
            if self._judge is not None:
                self._judge.__enter__()
        except BaseException:
            self.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def ensure_judge(self) -> None:
        """Start the run's own judge again, at the same address, if it has ended.

        Raises:
            JudgeFailed: it did not start.
        """
        if self._judge is None:
            return
        try:
            self._judge.check()
        except JudgeFailed as error:
            print(f"{error}; starting it again", file=sys.stderr, flush=True)
            self._judge.restart()

    def shutdown(self) -> None:
        """End this run's workers, its judge, and Ray when it was started here. Safe to call again."""
        if self._judge is not None:
            self._judge.close()
        if not ray.is_initialized():
            return
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        self._actors = []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
        ray.shutdown()

    def open_learner(self) -> Learner | LearnerGroup:
        """The start model's learner, in this process or in Ray's, ready; engines go on starting meanwhile.

        Ranks that share GPUs with engines start after them: an engine measures what memory is free when it starts.

        Raises:
            ValueError: nothing loadable at model.path, or a kind of model the learner refuses.
            InputError, RankDied, RuntimeError: as `LearnerGroup`.
        """
        config, ranks = self._config, self._placement.ranks
        if not ranks:
            from rl.learner.step import Learner

            return Learner(
                config.model.path,
                section=config.learner,
                dtype=config.model.dtype,
                device=config.model.device,
                temperature=config.rollout.temperature,
            )
        engine_gpus = self.workers.gpu_ids() if any(place.shared_gpu for place in ranks) else []
        traces = str(Path(config.run.dir).absolute() / FOLDER)
        actors = []
        for rank, place in enumerate(ranks):
            environment = dict(_QUIET)
            if place.shared_gpu is not None:
                worker, gpu = place.shared_gpu
                environment["CUDA_VISIBLE_DEVICES"] = engine_gpus[worker][gpu]
            options = self._options(place.bundle, place.num_gpus, environment)
            # Its weights and optimizer state would be lost: a rank that died is the run's end, not a restart.
            options |= {"max_restarts": 0, "max_task_retries": 0}
            actors.append(ray.remote(LearnerRank).options(**options).remote(rank, traces))
            self._actors.append(actors[-1])
        return LearnerGroup(actors, config)

    def _reserve(self, placement: Placement) -> None:
        self._group = placement_group(list(placement.bundles), strategy="PACK")
        try:
            ray.get(self._group.ready(), timeout=PLACEMENT_TIMEOUT_S)
        except GetTimeoutError as error:
            raise RuntimeError(
                f"cluster: no room for {list(placement.bundles)} within {PLACEMENT_TIMEOUT_S:.0f} s, it has "
                f"{ray.cluster_resources()}; lower rollout.workers, rollout.tensor_parallel, reward.workers or "
                "learner.processes, or add nodes"
            ) from error

    def _start_workers(self) -> None:
        rollout, reward = self._config.rollout, self._config.reward
        num_gpus = self._placement.engine_gpus
        threads = rollout.threads or max(1, len(os.sched_getaffinity(0)) // rollout.workers)
        engines = []
        for i in range(rollout.workers):
            options = self._options(i, num_gpus, engine_environment(threads, cuda=bool(num_gpus)))
            arguments = (self._model_path, self._config.model.dtype, rollout, self._max_model_len, threads)
            actor = ray.remote(RolloutWorker).options(**options)
            engines.append(actor.remote(*arguments, self._config.learner.lora_rank))
            self._actors.append(engines[-1])
        scorers = []
        for i in range(reward.workers):
            options = self._options(rollout.workers + i, 0, {"OMP_NUM_THREADS": "1"})
            scorers.append(ray.remote(ScoringWorker).options(**options).remote(self._scorer_config))
            self._actors.append(scorers[-1])
        self.workers = RolloutPool(engines)
        self.scorer = ScoringPool(scorers)

    def _options(self, bundle: int, num_gpus: int, environment: dict[str, str]) -> dict[str, Any]:
        environment = environment | {SIZE_VARIABLE: os.environ.get(SIZE_VARIABLE, "0")}
        if not self._joined:
            # Elsewhere the job's working_dir is on every worker's path already.
            inherited = os.environ.get("PYTHONPATH")
            environment = environment | {"PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT_ROOT), inherited]))}
        return {
            "num_cpus": 1,
            "num_gpus": num_gpus,
            "max_restarts": -1,
            "max_task_retries": CALL_RETRIES,
            "runtime_env": {"env_vars": environment},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle),
        }


def own_judge(config: RunConfig) -> JudgeSettings:
    """How the run serves its judge; the cache knows it by its path."""
    reward = config.reward
    return JudgeSettings(
        model=reward.judge_path,
        name=reward.judge_path,
        log=str(Path(config.run.dir).absolute() / "judge.log"),
        devices=reward.judge_gpus or ("" if is_cpu_build() else "0"),
        gpu_memory_frac=reward.judge_gpu_memory_frac,
    )


def _scoring_place(*, near: bool) -> dict[str, float]:
    """What a scoring worker takes; `near`: on this machine, whose loopback the judge listens on."""
    if not near:
        return {"CPU": 1.0}
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    name = next(key for key in resources if key.startswith("node:") and "__" not in key)
    return {"CPU": 1.0, name: 0.001}


def _start_ray(num_cpus: int) -> bool:
    """Join the cluster that RAY_ADDRESS names (`ray job submit` sets it), or start one; True when joined."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray hides the GPUs from actors that ask for none, with a warning about doing so.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Otherwise a driver under `uv run` makes every worker build the environment again.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # What a worker raises reaches the caller; Ray would print it a second time.
    quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", **quiet)
        return True
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Other users of this machine reach its loopback too, and whoever reaches Ray runs code. Ray 2.60 asks for a
        # token by itself, but would keep one in the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=LOCAL_OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        **quiet,
    )
    return False
