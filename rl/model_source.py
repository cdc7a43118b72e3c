"""Where a model lies: a folder or a Hugging Face id as it is, a ModelScope id as the folder it was downloaded to.

Nothing here imports torch, vllm or ray.
"""

from __future__ import annotations

from data.read_modelscope import downloaded, is_modelscope
from rl.config import RunConfig


def local_model(path: str) -> str:
    """The folder of `modelscope:owner/name` or `modelscope:owner/name@revision`; every other path unchanged.

    Raises:
        ModelScopeMissing: ModelScope's client is not installed.
        DataError: not an id of that form, or it could not be downloaded.
    """
    if not is_modelscope(path):
        return path
    name, _, revision = path.partition("@")
    return str(downloaded(name, "model", revision=revision or None))


def with_local_models(config: RunConfig) -> RunConfig:
    """The run's configuration with every model that it names where it lies: policy, judge, evaluated checkpoints.

    Raises:
        ModelScopeMissing, DataError: as `local_model`.
    """
    checkpoints = {name: local_model(path) for name, path in config.evaluation.checkpoints.items()}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"path": local_model(config.model.path)}),
            "reward": config.reward.model_copy(update={"judge_path": local_model(config.reward.judge_path)}),
            "evaluation": config.evaluation.model_copy(update={"checkpoints": checkpoints}),
        }
    )
