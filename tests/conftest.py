"""One thread, no network, no telemetry: set before anything imports torch, vLLM or ray. Which tests may run side by side."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

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


class Lanes:
    """Which tests `-n 2` runs side by side: files that start Ray or vLLM share one process, any other file goes to either."""

    ENGINES = "engines"
    _IS_ONE = re.compile(r"pytest\.mark\.(?:ray|vllm)\b")

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lanes: dict[str, str] = {}

    def lane(self, nodeid: str) -> str:
        """The lane of a test's file."""
        file = nodeid.partition("::")[0]
        if file not in self._lanes:
            text = (self._root / file).read_text(encoding="utf-8")
            self._lanes[file] = self.ENGINES if self._IS_ONE.search(text) else file
        return self._lanes[file]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The engines' lane begins first, because it takes longest."""
    lanes = Lanes(config.rootpath)
    items.sort(key=lambda item: lanes.lane(item.nodeid) != Lanes.ENGINES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """pytest-xdist's own groups (3.8) come to nothing under pytest 9.2, where a test's id is not what it sets."""
    from xdist.scheduler import LoadScopeScheduling

    lanes = Lanes(config.rootpath)

    class LaneScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return lanes.lane(nodeid)

    return LaneScheduling(config, log)
