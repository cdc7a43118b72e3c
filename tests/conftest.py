"""One thread, no network, no telemetry: set before anything imports torch, vLLM or ray."""

from __future__ import annotations

import os

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
