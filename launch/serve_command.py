"""How an exported model is served and asked: vLLM's command line, and a client with the run's own prompt.

Left out: everything that only the machine it runs on can decide (tensor parallelism, memory shares, quantisation).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cli import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from data.prompts import PromptTemplate

HOST = "127.0.0.1"
CPU_ENVIRONMENT = {
    # Threads neither pinned nor left spinning, no C++ compiler needed, workers that speak on the loopback alone.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_HOST_IP": HOST,
}
CPU_OPTIONS = "--enforce-eager --block-size 32 --distributed-executor-backend uni --kv-cache-memory-bytes"
CPU_CACHE_BYTES = 2**30


def rope_overrides(model: PretrainedConfig, factor: float) -> dict[str, Any]:
    """What vLLM's --hf-overrides takes to read `factor` times the model's original context by YaRN (arXiv 2309.00071).

    vLLM replaces `rope_parameters` whole and takes max_position_embeddings for the length after scaling, so both stand
    here, the base frequency included.

    Args:
        factor: over the original context; of a model that has YaRN already, in place of its own factor.

    Raises:
        ConfigError: a kind of rope that YaRN cannot replace, or a factor that would not extend what the model reads.
    """
    rope = dict(getattr(model, "rope_parameters", None) or {})
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "yarn") or "rope_theta" not in rope:
        raise ConfigError(
            f"rope_factor: the model's rope is of type {kind!r}, only 'default' and 'yarn' can be extended; "
            "leave rope_factor out"
        )
    longest = int(model.max_position_embeddings)
    original = int(rope.get("original_max_position_embeddings") or longest) if kind == "yarn" else longest
    extended = int(original * factor)
    if extended <= longest:
        raise ConfigError(
            f"rope_factor: {factor:g} times the original {original} positions are {extended}, the model reads {longest} "
            f"already; allowed above {longest / original:g}, or leave it out"
        )
    rope |= {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": original}
    return {"rope_parameters": rope, "max_position_embeddings": extended}


def serve_command(
    folder: str | Path, *, name: str, dtype: str, max_model_len: int, overrides: Mapping[str, Any], port: int, cpu: bool
) -> str:
    """A shell line that serves the folder on this machine's loopback, for vLLM's CPU build where `cpu` is true.

    The sampling defaults are those of the folder's generation_config.json.
    """
    options: list[str | int | Path] = ["--host", HOST, "--port", port, "--served-model-name", name, "--dtype", dtype]
    options += ["--max-model-len", max_model_len]
    if overrides:
        options += ["--hf-overrides", json.dumps(overrides, separators=(",", ":"))]
    if not cpu:
        return _shell(["vllm", "serve", folder, *options])
    # The CPU build's `vllm` command looks for a package of that name and fails, so its module is named.
    command = ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", folder, *options]
    settings = [f"{key}={value}" for key, value in CPU_ENVIRONMENT.items()]
    return f"{' '.join(settings)} {_shell(command)} {CPU_OPTIONS} {CPU_CACHE_BYTES}"


def _shell(words: list[str | int | Path]) -> str:
    return shlex.join(str(word) for word in words)


def ask_program(
    template: PromptTemplate, *, name: str, max_tokens: int, port: int, problems: Path | None = None
) -> str:
    """A Python program that asks the server with the run's prompt, greedily, and prints the reply.

    Args:
        problems: a prepared set's file, whose first problem is asked; None: document.txt, and a question to be filled in.

    The reply is all that the model wrote: its reasoning, and the answer after it.
    """
    parts = re.split(r"\{(context|question)\}", template.text)
    places = {"context": "document", "question": "question"}
    prompt = "\n    + ".join(places[part] if i % 2 else repr(part) for i, part in enumerate(parts) if part)
    if problems is None:
        imports = "from pathlib import Path"
        source = 'document = Path("document.txt").read_text(encoding="utf-8")\nquestion = "..."'
    else:
        imports = "import json"
        source = f"""\
with open({str(problems)!r}, encoding="utf-8") as lines:
    problem = json.loads(next(lines))  # the first one; or a document and a question of your own
document, question = problem["context"], problem["question"]"""
    return f"""\
{imports}

from openai import OpenAI

{source}
prompt = (
    {prompt}
)
client = OpenAI(base_url="http://{HOST}:{port}/v1", api_key="none")
reply = client.chat.completions.create(
    model={name!r},
    messages=[{{"role": "user", "content": prompt}}],
    temperature=0,
    max_tokens={max_tokens},
    extra_body={{"skip_special_tokens": False}},
)
print(reply.choices[0].message.content)
"""
