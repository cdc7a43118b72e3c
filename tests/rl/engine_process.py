"""An engine in a process of its own, and a pipe to it: vLLM changes torch for the whole process that holds it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from rl.config import RolloutSection
from rl.rollout.engine import SampleRequest
from rl.rollout.environment import engine_environment
from rl.types import Completion


class EngineProcess:
    """The `Workers` protocol over one engine at the other end of a pipe; `call` reaches the rest of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.policy_version = 0

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        return self.call("generate", requests)

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> dict[str, list[float]]:
        return {"worker": self.call("score", token_ids, num_prompt_tokens)}

    def update_weights(self, path: str, version: int, *, rewrite: Callable[[str], None] | None = None) -> None:
        self.call("update_weights", path, version)
        self.policy_version = version

    def refresh_tied_head(self, on: bool) -> None:
        self.call("refresh_tied_head", on)

    def call(self, name: str, *arguments: Any) -> Any:
        self._connection.send((name, arguments))
        worked, result = self._connection.recv()
        if not worked:
            raise result
        return result


@contextmanager
def vllm_process(model_path: str, max_model_len: int, *, lora_rank: int = 0) -> Iterator[EngineProcess]:
    """A VllmEngine on one thread; ended with the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = dict(os.environ)
    os.environ.update(engine_environment(1, cuda=False))
    process = context.Process(target=_serve, args=(theirs, model_path, max_model_len, lora_rank), daemon=True)
    try:
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    theirs.close()
    try:
        yield EngineProcess(ours)
    finally:
        ours.close()
        process.join(20)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(connection: Connection, model_path: str, max_model_len: int, lora_rank: int) -> None:
    import rl.rollout.vllm_engine as vllm_engine

    section = RolloutSection(kv_cache_gib=0.05, max_num_seqs=64)
    engine = vllm_engine.VllmEngine(
        model_path,
        dtype="float32",
        section=section,
        max_model_len=max_model_len,
        threads=1,
        seed=0,
        lora_rank=lora_rank,
    )
    real_refresh = vllm_engine.refresh_tied_head
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            engine.close()
            return
        try:
            if name == "refresh_tied_head":
                vllm_engine.refresh_tied_head = real_refresh if arguments[0] else lambda model: None
                connection.send((True, None))
            else:
                connection.send((True, getattr(engine, name)(*arguments)))
        except (ValueError, RuntimeError) as error:
            connection.send((False, error))
