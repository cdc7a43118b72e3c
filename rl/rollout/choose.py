"""Which engine samples on this machine, and that engine built in this process. Shared by Ray's workers and launch.eval."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from rl.config import RolloutSection
from rl.rollout.engine import Engine


class EngineMissing(RuntimeError):
    """The engine that the configuration asks for is not installed."""

    exit_code = 3


def engine_name(section: RolloutSection, *, key: str = "rollout.engine") -> Literal["vllm", "transformers"]:
    """What `section.engine` comes to here; `key` is what the user calls it.

    Raises:
        EngineMissing: vllm is asked for and not installed.
    """
    installed = find_spec("vllm") is not None
    if section.engine == "vllm" and not installed:
        raise EngineMissing(
            f"{key}: 'vllm' is not installed here; install longreach[gpu] (on CPU: make setup), or say 'transformers' or 'auto'"
        )
    return "vllm" if installed and section.engine != "transformers" else "transformers"


def build_engine(
    model_path: str, dtype: str, section: RolloutSection, max_model_len: int, threads: int, lora_rank: int = 0
) -> Engine:
    """The engine that `section` names, in this process, whose environment is `engine_environment`'s.

    lora_rank: of the adapters that weight updates bring; 0: they bring whole models.

    Raises:
        EngineMissing: as `engine_name`.
        ValueError: an engine that cannot be built like this.
    """
    if engine_name(section) == "vllm":
        from rl.rollout.vllm_engine import VllmEngine

        return VllmEngine(
            model_path,
            dtype=dtype,
            section=section,
            max_model_len=max_model_len,
            threads=threads,
            seed=0,
            lora_rank=lora_rank,
        )
    from rl.rollout.transformers_engine import TransformersEngine

    return TransformersEngine(model_path, dtype=dtype, max_model_len=max_model_len, threads=threads)
