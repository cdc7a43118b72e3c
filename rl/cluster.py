"""Ray: the processes that sample and score, started, found, restarted and ended.

The driver holds the loop and the learner. A rollout worker is an actor with one engine; a scoring worker is an actor
with one scorer. Calls are pure functions of their arguments and of the weights, so a call that dies with its process
is made again. Left out: detecting a process that hangs without dying.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rl.ray_actors import CALL_RETRIES, StaleWorker, call_result  # isort: skip  sets what ray reads when it is imported
import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl.config import RolloutSection, RunConfig
from rl.judge_process import JudgeFailed, JudgeProcess, JudgeSettings, is_cpu_build
from rl.rollout.choose import build_engine, engine_name
from rl.rollout.engine import SampleRequest
from rl.rollout.environment import engine_environment
from rl.rollout.weight_files import travelling_file
from rl.scoring import ScoringPool, ScoringWorker, scorer_config
from rl.types import Completion

PROJECT_ROOT = Path(__file__).resolve().parents[1]
PLACEMENT_TIMEOUT_S = 120.0
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
"""Requests and completions are lists of integers: megabytes, also at 60K tokens."""


class RolloutWorker:
    """One engine. Runs as an actor; `push` counts the weight updates that every worker must have seen to serve."""

    def __init__(self, model_path: str, dtype: str, section: RolloutSection, max_model_len: int, threads: int) -> None:
        self._engine = build_engine(model_path, dtype, section, max_model_len, threads)
        self._push = 0

    def generate(self, requests: Sequence[SampleRequest], push: int) -> list[list[Completion]]:
        self._require(push)
        return self._engine.generate(requests)

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int, push: int) -> list[float]:
        self._require(push)
        return self._engine.score(token_ids, num_prompt_tokens)

    def update_weights(self, path: str, version: int, push: int, content: bytes | None = None) -> None:
        """content: the file at path, when path is on another machine."""
        self._push = -1  # Serves nothing while the weights are neither the old nor the new ones.
        if content is None:
            self._engine.update_weights(path, version)
        else:
            with travelling_file() as here:
                Path(here).write_bytes(content)
                self._engine.update_weights(here, version)
        self._push = push

    def pid(self) -> int:
        return os.getpid()

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def _require(self, push: int) -> None:
        if self._push != push:
            raise StaleWorker(f"worker has seen weight push {self._push}, the call wants {push}")


class RolloutPool:
    """The rollout workers behind one front (`rl.rollout.engine.Workers`).

    A restarted worker holds the start model. It refuses the first call, gets the current weights, and the call is made
    again: the tokens are the same, whoever samples them.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)
        self._version = 0
        self._push = 0
        self._path = ""
        self._rewrite: Callable[[str], None] | None = None

    @property
    def policy_version(self) -> int:
        """See `Workers.policy_version`."""
        return self._version

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See `Workers.generate`: request i goes to worker i mod n, whatever their speed, so that a resumed run repeats it.

        Raises:
            ValueError: a request does not fit the engine.
            RuntimeError: a worker died in this call more often than CALL_RETRIES.
        """
        num_workers = min(len(self._actors), len(requests))
        calls = [(i, "generate", (list(requests[i::num_workers]),)) for i in range(num_workers)]
        completions: list[list[Completion]] = [[] for _ in requests]
        for (i, _, _), part in zip(calls, self._call(calls), strict=True):
            completions[i::num_workers] = part
        return completions

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> dict[str, list[float]]:
        """See `Workers.score`. Raises: RuntimeError, as `generate`."""
        calls = [(i, "score", (list(token_ids), num_prompt_tokens)) for i in range(len(self._actors))]
        return {f"rollout worker {i}": scores for i, scores in enumerate(self._call(calls))}

    def update_weights(self, path: str, version: int, *, rewrite: Callable[[str], None] | None = None) -> None:
        """See `Workers.update_weights`.

        Raises:
            RuntimeError: the weights do not fit the model, or a worker died too often.
        """
        self._push += 1
        self._version, self._path, self._rewrite = version, path, rewrite
        self._update(range(len(self._actors)), path)

    def pids(self) -> list[int]:
        """Process ids on their own machines; waits until every engine has started."""
        refs = [actor.pid.remote() for actor in self._actors]
        return [call_result(ref, f"rollout worker {i}, start") for i, ref in enumerate(refs)]

    def _call(self, calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> list[Any]:
        refs = [self._submit(*call) for call in calls]
        return [self._result(ref, call) for ref, call in zip(refs, calls, strict=True)]

    def _submit(self, worker: int, method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._actors[worker], method).remote(*arguments, self._push)

    def _result(self, ref: Any, call: tuple[int, str, tuple[Any, ...]]) -> Any:
        worker, method, _ = call
        what = f"rollout worker {worker}, {method}"
        for _ in range(CALL_RETRIES):
            try:
                return call_result(ref, what)
            except StaleWorker:
                self._push_again(worker)
                ref = self._submit(*call)
        return call_result(ref, what)

    def _push_again(self, worker: int) -> None:
        if self._rewrite is None:
            self._update([worker], self._path)
            return
        with travelling_file() as path:
            self._rewrite(path)
            self._update([worker], path)

    def _update(self, workers: Sequence[int], path: str) -> None:
        """Workers on this machine read the file; to others it goes through Ray, once. A folder is taken to be shared."""
        here = ray.get_runtime_context().get_node_id()
        nodes = [call_result(self._actors[i].node.remote(), f"rollout worker {i}, start") for i in workers]
        content = ray.put(Path(path).read_bytes()) if set(nodes) - {here} and Path(path).is_file() else None
        refs = [
            self._actors[i].update_weights.remote(path, self._version, self._push, None if node == here else content)
            for i, node in zip(workers, nodes, strict=True)
        ]
        for i, ref in zip(workers, refs, strict=True):
            call_result(ref, f"rollout worker {i}, update_weights of version {self._version}")


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
            RuntimeError: the cluster has no room for the workers.
            JudgeFailed: the run's own judge did not start.
        """
        engine_name(self._config.rollout)
        num_workers = self._config.rollout.workers + self._config.reward.workers
        self._joined = _start_ray(max(num_workers, os.cpu_count() or 1))
        try:
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

    def _start_workers(self) -> None:
        rollout, reward = self._config.rollout, self._config.reward
        num_gpus = rollout.tensor_parallel if ray.cluster_resources().get("GPU", 0) else 0
        threads = rollout.threads or max(1, len(os.sched_getaffinity(0)) // rollout.workers)
        place = {"CPU": 1.0} | ({"GPU": float(num_gpus)} if num_gpus else {})
        bundles = [place] * rollout.workers + [_scoring_place(near=self._judge is not None)] * reward.workers
        self._group = placement_group(bundles, strategy="PACK")
        try:
            ray.get(self._group.ready(), timeout=PLACEMENT_TIMEOUT_S)
        except GetTimeoutError as error:
            raise RuntimeError(
                f"cluster: no room for {bundles} within {PLACEMENT_TIMEOUT_S:.0f} s, it has {ray.cluster_resources()}; "
                "lower rollout.workers, rollout.tensor_parallel or reward.workers, or add nodes"
            ) from error
        engines = []
        for i in range(rollout.workers):
            options = self._options(i, num_gpus, engine_environment(threads, cuda=bool(num_gpus)))
            actor = ray.remote(RolloutWorker).options(**options)
            engines.append(
                actor.remote(self._model_path, self._config.model.dtype, rollout, self._max_model_len, threads)
            )
            self._actors.append(engines[-1])
        scorers = []
        for i in range(reward.workers):
            options = self._options(rollout.workers + i, 0, {"OMP_NUM_THREADS": "1"})
            scorers.append(ray.remote(ScoringWorker).options(**options).remote(self._scorer_config))
            self._actors.append(scorers[-1])
        self.workers = RolloutPool(engines)
        self.scorer = ScoringPool(scorers)

    def _options(self, bundle: int, num_gpus: int, environment: dict[str, str]) -> dict[str, Any]:
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
