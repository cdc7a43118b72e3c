"""What an engine's process needs in its environment before it starts: most of it is read once, at import."""

from __future__ import annotations


def engine_environment(threads: int, *, cuda: bool) -> dict[str, str]:
    """Variables for a process that holds one engine with `threads` compute threads (CPU; at least 1)."""
    quiet = {
        # On the CPU build, warnings are about preloading allocators; on CUDA they can matter.
        "VLLM_LOGGING_LEVEL": "WARNING" if cuda else "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        # A weight update must never travel as a pickle.
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",
    }
    # The actor already is the engine's own process; a second one would only add a copy of every result.
    in_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if cuda:
        return quiet | in_process
    return (
        quiet
        | in_process
        | {
            "OMP_NUM_THREADS": str(threads),
            # Cores are shared with the learner, so threads are neither pinned nor left spinning when they wait.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_WAIT_POLICY": "PASSIVE",
            "KMP_BLOCKTIME": "1",
            # vLLM compiles one small function (the rank of a token) through a C++ compiler: 2 to 6 s of the first
            # batch, a compiler needed on the machine, and no gain that could be measured.
            "TORCHDYNAMO_DISABLE": "1",
        }
    )
