"""The learner in several processes, one a GPU: Ray actors joined by torch.distributed, behind the methods of one `Learner`.

Every call goes to all ranks, and ranks wait for each other inside it. So when one fails, the others are ended: they hold
a step half done, or wait for ever. Left out: going on with the ranks that are left, and detecting a rank that hangs
without dying.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from rl.ray_actors import remote_error  # isort: skip  sets what ray reads when it is imported
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl.config import RunConfig
from rl.inputs import InputError
from rl.rank_trace import FOLDER, describe_end, describe_memory, leave_trace, memory_state
from rl.rollout.weight_files import travelling_file
from rl.types import RolloutGroup

COLLECTIVE_TIMEOUT = timedelta(days=1)
"""How long a rank waits for another. Ray tells of deaths within a second; this bounds nothing but a step that hangs, and
is above every step, checkpoint and imbalance between ranks there can be."""
ECHO_S = 3.0
"""After a first failure, how long the other ranks get to fail as well: the one that is seen first may only be an echo."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankProcess:
    """Where a rank lives."""

    node: str
    """Ray's id of its machine."""
    address: str
    """Of its machine in the cluster."""
    pid: int
    gpus: str
    """CUDA_VISIBLE_DEVICES; empty: not set."""

    def __str__(self) -> str:
        return f"{self.address}, pid {self.pid}" + (f", GPU {self.gpus}" if self.gpus else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendezvous:
    """Where the ranks meet."""

    host: str
    port: int
    num_ranks: int
    num_local: int
    """Ranks on the machine of the one that reads this."""


class RankDied(RuntimeError):
    """A learner rank's process ended in the middle of the run."""

    exit_code = 3


class LearnerRank:
    """One of the learner's processes. Runs as an actor; `start` and all after it are collective."""

    def __init__(self, rank: int, trace_folder: str) -> None:
        self._rank = rank
        leave_trace(Path(trace_folder), rank)

    def process(self) -> RankProcess:
        node = str(ray.get_runtime_context().get_node_id())
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return RankProcess(node=node, address=ray.util.get_node_ip_address(), pid=os.getpid(), gpus=gpus)

    def sees(self, path: str) -> bool:
        return Path(path).exists()

    def listen(self, host: str) -> int:
        """The port on which this rank waits for the others, at this address of its machine alone."""
        self._listening = socket.create_server((host, 0))
        return int(self._listening.getsockname()[1])

    def start(self, meeting: Rendezvous, config: RunConfig) -> str:
        """Meet the others and load the model; returns the learner's description."""
        threads = config.learner.threads or max(1, len(os.sched_getaffinity(0)) // meeting.num_local)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray's own value is 1; torch reads it at import
        if meeting.num_ranks > 1:
            self._join(meeting, config)
        from rl.learner.step import Learner

        self._learner = Learner(
            config.model.path,
            section=config.learner.model_copy(update={"threads": threads}),
            dtype=config.model.dtype,
            device=config.model.device,
            temperature=config.rollout.temperature,
        )
        return self._learner.description

    def call(self, method: str, *arguments: Any, **settings: Any) -> Any:
        """The learner's method; what it returns is the same on every rank and comes from rank 0 alone."""
        returned = getattr(self._learner, method)(*arguments, **settings)
        return returned if self._rank == 0 else None

    def counters(self) -> tuple[int, int]:
        """(num_updates, num_skipped_updates)"""
        return self._learner.num_updates, self._learner.num_skipped_updates

    def weights(self) -> bytes | None:
        """The file that `write_weights` writes, from rank 0: for a driver on another machine."""
        with travelling_file() as path:
            self._learner.write_weights(path)
            return Path(path).read_bytes() if self._rank == 0 else None

    def _join(self, meeting: Rendezvous, config: RunConfig) -> None:
        if meeting.host == LOOPBACK:
            # Unless they are told, both listen on the machine's address in its network, not on its loopback.
            loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
            os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback
        import torch
        import torch.distributed as dist

        on_gpu = config.model.device != "cpu" and torch.cuda.is_available()
        store = dist.TCPStore(
            meeting.host,
            meeting.port,
            meeting.num_ranks,
            is_master=self._rank == 0,
            timeout=COLLECTIVE_TIMEOUT,
            # By itself the store would listen on every interface.
            master_listen_fd=self._listening.detach() if self._rank == 0 else None,
        )
        dist.init_process_group(
            # With gloo for what is offloaded to host memory.
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=store,
            rank=self._rank,
            world_size=meeting.num_ranks,
            timeout=COLLECTIVE_TIMEOUT,
        )


class LearnerGroup:
    """The learner's ranks behind one front: `Learner`'s methods, with the same arguments and results.

    Folders that are saved to and loaded from lie on the machines of the ranks. With ranks on other machines than the
    driver, run.dir must be on a disk that all of them share.
    """

    def __init__(self, actors: Sequence[Any], config: RunConfig) -> None:
        """Wait until every rank has loaded the model.

        actors: of `LearnerRank`, rank 0 first; nothing has been called on them.

        Raises:
            InputError: a rank's machine does not see the run's folder.
            ValueError: no rank can load model.path.
            RankDied, RuntimeError: a rank could not start.
        """
        self._actors = list(actors)
        self._folder = Path(config.run.dir).absolute()
        self._ended = ""
        self._step = "before its first step"
        self.processes: list[RankProcess] = []
        """Where the ranks live, rank 0 first."""
        self.processes = self._results([actor.process.remote() for actor in self._actors], "start")
        self._here = str(ray.get_runtime_context().get_node_id())
        self._require_shared_folder()
        nodes = [process.node for process in self.processes]
        host = LOOPBACK if len(set(nodes)) == 1 else self.processes[0].address
        [port] = self._results([self._actors[0].listen.remote(host)], "start") if len(nodes) > 1 else [0]
        meetings = [
            Rendezvous(host=host, port=port, num_ranks=len(nodes), num_local=nodes.count(node)) for node in nodes
        ]
        starts = [actor.start.remote(meeting, config) for actor, meeting in zip(self._actors, meetings, strict=True)]
        self.description: str = self._results(starts, "start")[0]
        """See `Learner.description`."""

    @property
    def num_updates(self) -> int:
        """See `Learner.num_updates`."""
        return self._counters()[0]

    @property
    def num_skipped_updates(self) -> int:
        """See `Learner.num_skipped_updates`."""
        return self._counters()[1]

    def step(
        self,
        groups: Sequence[RolloutGroup],
        advantages: Sequence[Sequence[float]],
        *,
        lr: float,
        policy_version: int | None = None,
    ) -> dict[str, float]:
        """See `Learner.step`. The groups travel once, without their documents' text.

        Raises:
            ValueError: as `Learner.step`, when all ranks raise it.
            RankDied: a rank's process ended.
            RuntimeError: a rank raised anything else; the message names it.
        """
        if policy_version is not None:
            self._step = f"step {policy_version + 1}"
        sent = ray.put([replace(group, problem=replace(group.problem, context="")) for group in groups])
        metrics: dict[str, float] = self._call("step", sent, advantages, lr=lr, policy_version=policy_version)
        return metrics

    def logprobs(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[float]:
        """See `Learner.logprobs`. Raises: as `step`."""
        logprobs: list[float] = self._call("logprobs", list(prompt_ids), list(response_ids))
        return logprobs

    def write_weights(self, path: str) -> None:
        """See `Learner.write_weights`; the file is on the driver's machine. Raises: as `step`."""
        if self.processes[0].node == self._here:
            self._call("write_weights", path)
            return
        content = self._results([actor.weights.remote() for actor in self._actors], "write_weights")[0]
        partial = Path(f"{path}.partial")
        partial.write_bytes(content)
        os.replace(partial, path)

    def save_model(self, folder: str) -> None:
        """See `Learner.save_model`; the folder is on a disk that rank 0's machine shares. Raises: as `step`."""
        self._call("save_model", str(Path(folder).absolute()))

    def save(self, folder: str) -> None:
        """See `Learner.save`; the folder is on a disk that all ranks' machines share. Raises: as `step`."""
        self._call("save", str(Path(folder).absolute()))

    def load(self, folder: str) -> None:
        """See `Learner.load`; the folder is on a disk that all ranks' machines share. Raises: as `step`."""
        self._call("load", str(Path(folder).absolute()))

    def _counters(self) -> tuple[int, int]:
        counters: tuple[int, int] = self._results([actor.counters.remote() for actor in self._actors], "counters")[0]
        return counters

    def _call(self, method: str, *arguments: Any, **settings: Any) -> Any:
        refs = [actor.call.remote(method, *arguments, **settings) for actor in self._actors]
        return self._results(refs, method)[0]

    def _require_shared_folder(self) -> None:
        """A file that the driver writes into the run's folder is there on every rank's machine."""
        self._folder.mkdir(parents=True, exist_ok=True)
        marker = self._folder / f".driver-{os.getpid()}"
        marker.touch()
        try:
            seen = self._results([actor.sees.remote(str(marker)) for actor in self._actors], "start")
        finally:
            marker.unlink()
        for rank, (sees, process) in enumerate(zip(seen, self.processes, strict=True)):
            if not sees:
                raise InputError(
                    f"run.dir: {self._folder} on the driver's machine {ray.util.get_node_ip_address()} is not the folder "
                    f"that learner rank {rank} sees on {process.address}; put it on a disk that both share"
                )

    def _results(self, refs: Sequence[Any], method: str) -> list[Any]:
        """What the ranks return; refs[i] is rank i's.

        Raises: see `step`.
        """
        if self._ended:
            raise RuntimeError(f"{method}: the learner has ended: {self._ended}")
        waiting = list(refs)
        while waiting:
            done, waiting = ray.wait(waiting)
            if (error := remote_error(done[0])) is not None:
                if isinstance(error, RayTaskError) and waiting:
                    ray.wait(waiting, num_returns=len(waiting), timeout=ECHO_S)
                self._fail(refs, method)
        return ray.get(list(refs))

    def _fail(self, refs: Sequence[Any], method: str) -> NoReturn:
        """Tell the first cause, after ending every rank unless all of them refused the same arguments."""
        ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        errors = {rank: error for rank, ref in enumerate(refs) if ref in ready and (error := remote_error(ref))}
        rank, error = min(errors.items(), key=lambda item: (_distance(item[1]), item[0]))
        if isinstance(error, RayTaskError):
            if len(errors) == len(self._actors) and all(isinstance(_raised(e), ValueError) for e in errors.values()):
                raise _raised(error) from None
            what, kind = f"raised {_raised(error)!r}", RuntimeError
        else:
            num_kills = self._oom_kills(rank)
            what, kind = f"ended by {describe_end(self._folder / FOLDER, rank, str(error), num_kills)}", RankDied
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        where = f" ({self.processes[rank]})" if self.processes else ""
        memory = describe_memory(self._folder / FOLDER, len(self._actors), rank)
        self._ended = (
            f"learner rank {rank}{where} {what}, in {method} ({self._step}). {memory[0].upper()}{memory[1:]}. The other "
            "ranks were ended. Go on from the last checkpoint with --resume auto; if memory was short: lower "
            "learner.micro_batch_tokens, turn on learner.offload_activations or learner.offload_optimizer, or raise "
            "learner.processes"
        )
        raise kind(self._ended) from error

    def _oom_kills(self, rank: int) -> int:
        """See `describe_end`; asked of the machine of the rank that died."""
        if not self.processes:
            return -1
        there = NodeAffinitySchedulingStrategy(self.processes[rank].node, soft=False)
        ask = ray.remote(memory_state).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        try:
            return int(ray.get(ask.remote(), timeout=5.0).num_oom_kills)
        except (RayError, GetTimeoutError):
            return -1


def _raised(error: RayTaskError) -> Exception:
    cause = error.cause
    return cause if isinstance(cause, Exception) else error


def _distance(error: Exception) -> int:
    """From the first cause: a death, an exception, and what a rank says when it has lost another."""
    if not isinstance(error, RayTaskError):
        return 0
    text = repr(_raised(error))
    lost = (
        "gloo",
        "NCCL",
        "Connection closed",
        "Connection reset",
        "Broken pipe",
        "DistBackendError",
        "DistNetworkError",
    )
    return 2 if any(word in text for word in lost) else 1
