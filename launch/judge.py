"""`python -m launch.judge --model PATH [--port N] [--name NAME]`: a judge for those who have none.

Serves a model with vLLM on this machine's loopback, in the foreground, until Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from launch.cli import ConfigError, load_config, main
from rl.config import Section
from rl.judge_process import JudgeFailed, JudgeProcess, JudgeSettings, is_cpu_build
from rl.model_source import local_model

CHECK_S = 0.5


class JudgeConfig(Section):
    """A judge: any instruction-tuned model that vLLM can serve."""

    model: str = ""
    """Folder or hub id in Hugging Face form, or a ModelScope id as in modelscope:owner/name."""
    name: str = "judge"
    """What its clients call the model."""
    port: int = Field(default=8100, ge=0, le=65535)
    """On 127.0.0.1; 0 takes a free one."""
    devices: str = ""
    """GPUs as in CUDA_VISIBLE_DEVICES, several for tensor parallelism; empty: the first, or none with vLLM's CPU build."""
    gpu_memory_frac: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of the GPUs' memory; lower it where the policy lives there too."""
    threads: int = Field(default=1, ge=1)
    """Compute threads (CPU build only)."""
    kv_cache_gib: float = Field(default=1.0, gt=0.0)
    """Memory for keys and values (CPU build only)."""
    dtype: str = "auto"
    """As vLLM's --dtype."""
    max_model_len: int = Field(default=0, ge=0)
    """Longest prompt plus reply in tokens; 0: 8,192, or what the model has where that is less."""
    max_num_seqs: int = Field(default=64, ge=1)
    """Verdicts that are decoded together."""
    deadline_s: float = Field(default=900.0, gt=0.0)
    """Seconds that loading may take."""
    log: str = ""
    """File for the server's output; empty: a temporary one, which stays only where the server failed."""


class _Stop(BaseException):
    """SIGTERM or Ctrl-C."""


def run(argv: Sequence[str]) -> int:
    """Serve until told to stop.

    Raises:
        ConfigError: no model is named.
        ModelScopeMissing, DataError: as `local_model`.
        JudgeUnusable, EngineMissing, JudgeFailed: as `JudgeProcess`.
    """
    config = load_config(JudgeConfig, argv, prog="python -m launch.judge").config
    if not config.model:
        raise ConfigError("model: empty; it is needed: python -m launch.judge --model FOLDER")
    with _log_file(config.log) as log:
        return _serve(config, log)


def _serve(config: JudgeConfig, log: str) -> int:
    settings = JudgeSettings(
        **config.model_dump(exclude={"model", "devices", "log"}),
        model=local_model(config.model),
        devices=config.devices or ("" if is_cpu_build() else "0"),
        log=log,
    )
    process = JudgeProcess(settings)
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        print(f"judge: loading {config.model} (log: {log})", flush=True)
        started = time.monotonic()
        with process:
            print(_told(process, time.monotonic() - started), flush=True)
            while True:
                process.check()
                time.sleep(CHECK_S)
    except _Stop:
        print("judge: ended", flush=True)
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log_file(path: str) -> Iterator[str]:
    """The path itself; for an empty one a temporary file, which a server that failed leaves behind to be read."""
    if path:
        yield path
        return
    folder = tempfile.mkdtemp(prefix="longreach-judge-")
    has_failed = False
    try:
        yield str(Path(folder, "judge.log"))
    except JudgeFailed:
        has_failed = True
        raise
    finally:
        if not has_failed:
            shutil.rmtree(folder)


def _told(process: JudgeProcess, seconds: float) -> str:
    flags = f"--reward.judge_url {process.url} --reward.judge_model {process.model}"
    return (
        f"judge: {process.model} answers at {process.url} ({seconds:.0f} s); Ctrl-C ends it\n"
        f"  python -m launch.rl CONFIG.toml {flags}\n"
        f"  python -m rewards.score --judge {process.url} --judge-model {process.model} < in.jsonl > out.jsonl"
    )


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise _Stop


if __name__ == "__main__":
    main(run)
