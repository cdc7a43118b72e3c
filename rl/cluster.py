"""Ray: the processes that sample and score, started, found, restarted and ended. The only file here that imports ray.

The driver holds the loop and the learner. A rollout worker is an actor with one engine; a scoring worker is an actor
with one scorer. Calls are pure functions of their arguments and of the weights, so a call that dies with its process
is made again. Left out: detecting a process that hangs without dying.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

if not os.environ.get("RAY_ADDRESS"):
    # Ray replaces 127.0.0.1 by the machine's own address, and listens on every interface, unless it thinks that no
    # cluster can be formed from here. It reads this at import, whatever the operating system, despite its name.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# A worker's traceback comes with the exception; Ray would print it to stdout as well. Read at import, too.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"Traceback \(most recent call last\)")

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from data.problem import Question
from rewards.metrics import merged
from rewards.service import ScorerConfig, build_scorer
from rewards.types import Score
from rl.config import RolloutSection, RunConfig
from rl.rollout.choose import build_engine, engine_name
from rl.rollout.engine import SampleRequest
from rl.rollout.environment import engine_environment
from rl.rollout.weight_files import travelling_file
from rl.types import Completion

PROJECT_ROOT = Path(__file__).resolve().parents[1]
CALL_RETRIES = 3
"""Times a call is made again after its process died, before the run gives up on it."""
PLACEMENT_TIMEOUT_S = 120.0
JUDGE_CACHE = "judge_cache.sqlite"
"""In the run's folder: verdicts already given."""
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
"""Requests and completions are lists of integers: megabytes, also at 60K tokens."""


class StaleWorker(RuntimeError):
    """The worker holds other weights than the call asks for: it was restarted since they were pushed."""


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


class ScoringWorker:
    """One scorer. Runs as an actor."""

    def __init__(self, config: ScorerConfig) -> None:
        self._scorer = build_scorer(config)

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        return self._scorer.score(items)

    def metrics(self) -> dict[str, float]:
        return self._scorer.metrics()


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
        return [_get(ref, f"rollout worker {i}, start") for i, ref in enumerate(refs)]

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
                return _get(ref, what)
            except StaleWorker:
                self._push_again(worker)
                ref = self._submit(*call)
        return _get(ref, what)

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
        nodes = [_get(self._actors[i].node.remote(), f"rollout worker {i}, start") for i in workers]
        content = ray.put(Path(path).read_bytes()) if set(nodes) - {here} and Path(path).is_file() else None
        refs = [
            self._actors[i].update_weights.remote(path, self._version, self._push, None if node == here else content)
            for i, node in zip(workers, nodes, strict=True)
        ]
        for i, ref in zip(workers, refs, strict=True):
            _get(ref, f"rollout worker {i}, update_weights of version {self._version}")


class ScoringPool:
    """The scoring workers behind one front (`rewards.types.Scorer`)."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        """One score per item, in order. What a worker died over too often is `infra_error`: excluded, never a zero."""
        num_workers = min(len(self._actors), len(items))
        parts = [list(items[i::num_workers]) for i in range(num_workers)]
        refs = [actor.score.remote(part) for actor, part in zip(self._actors, parts, strict=False)]
        scores: list[Score] = [_UNSCORED] * len(items)
        for i, (ref, part) in enumerate(zip(refs, parts, strict=True)):
            scores[i::num_workers] = self._part(ref, i, part)
        return scores

    def metrics(self) -> dict[str, float]:
        """See `Scorer.metrics`: of all workers that answer."""
        refs = [actor.metrics.remote() for actor in self._actors]
        return merged([one for ref in refs if (one := _unless_dead(ref)) is not None])

    def close(self) -> None:
        """See `Scorer.close`; the cluster ends the workers."""

    def _part(self, ref: Any, worker: int, items: list[tuple[Question, str]]) -> list[Score]:
        try:
            result: list[Score] = ray.get(ref)
        except RayActorError as error:
            reason = f"scoring worker {worker}: {_cause(error)}"
            return [Score(value=None, status="infra_error", source="rule", answer=None, reason=reason)] * len(items)
        return result


def _unless_dead(ref: Any) -> dict[str, float] | None:
    try:
        metrics: dict[str, float] = ray.get(ref)
    except RayActorError:
        return None
    return metrics


_UNSCORED = Score(value=None, status="infra_error", source="rule", answer=None, reason="not scored")


def scorer_config(config: RunConfig, *, require_closed_think: bool) -> ScorerConfig:
    """What each of the run's scoring workers builds its scorer from; they share the judge's concurrency and cache."""
    reward = config.reward
    return ScorerConfig(
        factory=reward.scorer,
        judge_url=reward.judge_url,
        judge_model=reward.judge_model,
        judge_concurrency=max(1, reward.judge_concurrency // reward.workers),
        judge_cache=str(Path(config.run.dir).absolute() / JUDGE_CACHE) if reward.judge_cache else "",
        judge_timeout_s=reward.judge_timeout_s,
        judge_cooldown_s=reward.judge_cooldown_s,
        second_opinion=reward.second_opinion,
        canaries_per_batch=reward.canaries_per_batch,
        require_closed_think=require_closed_think,
    )


class Cluster:
    """Ray and this run's workers in it, from `with` to its end.

    Under `ray job submit`, or with RAY_ADDRESS set, it joins that cluster; else it starts one in this machine's
    loopback and ends it. Entering returns at once: engines start while the driver loads the learner, and the first call
    waits for them.
    """

    def __init__(self, config: RunConfig, *, model_path: str, max_model_len: int, require_closed_think: bool = False):
        """max_model_len: longest prompt plus response, in tokens, that any stage or evaluation samples.

        require_closed_think: see `ScorerConfig`.
        """
        self._config = config
        self._model_path = model_path
        self._max_model_len = max_model_len
        self._scorer_config = scorer_config(config, require_closed_think=require_closed_think)
        self._group: Any = None
        self._actors: list[Any] = []

    def __enter__(self) -> Self:
        """Start or join Ray, reserve the workers' places, start them.

        Raises:
            EngineMissing: an engine that is not installed.
            RuntimeError: the cluster has no room for the workers.
        """
        engine_name(self._config.rollout)
        num_workers = self._config.rollout.workers + self._config.reward.workers
        self._joined = _start_ray(max(num_workers, os.cpu_count() or 1))
        try:
            self._start_workers()
        except BaseException:
            self.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """End this run's workers, and Ray when it was started here. Safe to call again."""
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
        bundles = [place] * rollout.workers + [{"CPU": 1.0}] * reward.workers
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


def _get(ref: Any, what: str) -> Any:
    """The call's result; the worker's own error as it was raised there, a death as RuntimeError with Ray's cause."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, StaleWorker | ValueError):
            raise error.cause from None
        raise RuntimeError(f"{what}: {error.cause!r}") from error
    except RayActorError as error:
        raise RuntimeError(f"{what}: {_cause(error)}") from error


def _cause(error: RayActorError) -> str:
    """Why Ray gave up on an actor, in one line: its own error when it could not start, else how the process ended."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "creation task" in lines[0]:
        return f"it could not start: {lines[-1]}"
    return f"its process died {CALL_RETRIES + 1} times: {' '.join(lines)}"
