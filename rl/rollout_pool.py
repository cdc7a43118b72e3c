"""The processes that sample: one engine each, behind one front that outlives their deaths.

Calls are pure functions of their arguments and of the weights, so a call that dies with its process is made again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rl.ray_actors import CALL_RETRIES, StaleWorker, call_result  # isort: skip  sets what ray reads when it is imported
import ray

from rl.config import RolloutSection
from rl.rollout.choose import build_engine
from rl.rollout.engine import SampleRequest
from rl.rollout.weight_files import travelling_file
from rl.types import Completion


class RolloutWorker:
    """One engine. Runs as an actor; `push` counts the weight updates that every worker must have seen to serve."""

    def __init__(
        self,
        model_path: str,
        dtype: str,
        section: RolloutSection,
        max_model_len: int,
        threads: int,
        lora_rank: int = 0,
    ) -> None:
        self._engine = build_engine(model_path, dtype, section, max_model_len, threads, lora_rank)
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

    def gpu_ids(self) -> list[str]:
        """Ids, as in CUDA_VISIBLE_DEVICES, of the GPUs that Ray gave this engine."""
        return [str(gpu) for gpu in ray.get_gpu_ids()]

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

    def gpu_ids(self) -> list[list[str]]:
        """Per worker, see `RolloutWorker.gpu_ids`; waits until every engine has started."""
        refs = [actor.gpu_ids.remote() for actor in self._actors]
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
