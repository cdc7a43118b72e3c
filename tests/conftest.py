"""One thread, no network, no telemetry: set before anything imports torch, vLLM or ray. Which tests may run side by side."""

from __future__ import annotations

import os

import pytest

os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "WANDB_MODE": "offline",
    }
)

try:
    from hypothesis import settings
except ModuleNotFoundError:  # a GPU machine that runs the learner's tests alone may lack it
    settings = None

# The same examples on every machine, and no deadline: two cores are shared with Ray and vLLM.
if settings is not None:
    settings.register_profile("longreach", deadline=None, derandomize=True, print_blob=True)
    settings.load_profile("longreach")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For `-n 2 --dist loadgroup`: files that start Ray or vLLM share one process and begin first; any other file goes to either.

    First also among the hooks: pytest-xdist reads the groups in a hook of the same name.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    engines = {item.path for item in items if item.get_closest_marker("ray") or item.get_closest_marker("vllm")}
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("engines" if item.path in engines else file))
    items.sort(key=lambda item: item.path not in engines)
