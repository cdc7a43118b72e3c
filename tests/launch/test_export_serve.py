"""The printed lines, run as they stand: vLLM serves the export, and what it answers is what the evaluation saw."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from openai import OpenAI
from transformers import AutoTokenizer

from data.prepared import load_prepared
from data.problem import Problem
from data.prompts import render_messages, render_prompt_ids
from launch.cli import exit_code
from launch.export import run
from rewards.service import ScorerConfig, build_scorer
from rl.evaluate import EvaluatedItem, evaluate
from rl.judge_process import is_cpu_build
from tests.launch.exported_run import ANSWERS, YARN, write_run
from tests.rl.engine_process import vllm_process
from tests.rl.test_judge_process import listening

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.vllm
ROOT = Path(__file__).resolve().parents[2]
START_S = 300.0
MAX_RESPONSE_TOKENS = 12


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that runs what the export printed, and the evaluation's answers by the checkpoint in an engine of ours."""

    pid: int
    url: str
    program: str
    problems: dict[str, Problem]
    items: tuple[EvaluatedItem, ...]


def printed(argv: list[str]) -> tuple[str, str]:
    """The line that serves and the program that asks, as the command prints them."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert exit_code(run, argv) == 0
    here = "\nserve it with the CPU build, as installed here:\n" if is_cpu_build() else "\nserve it:\n"
    serve, ask = output.getvalue().split(here)[1].split("\n\nask it:\n")
    return serve, ask


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(tiny: Path) -> Iterator[Served]:
    port = free_port()
    serve, program = printed([str(tiny), "--port", str(port)])
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    with (tiny / "server.log").open("wb") as log:
        server = subprocess.Popen(
            ["bash", "-c", f"exec env {serve}"], env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=tiny
        )
    try:
        problems, items = evaluated(tiny)  # on the other core, while the server loads
        wait_for(server, f"http://127.0.0.1:{port}/health", tiny / "server.log")
        yield Served(pid=server.pid, url=f"http://127.0.0.1:{port}/v1", program=program, problems=problems, items=items)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def evaluated(tiny: Path) -> tuple[dict[str, Problem], tuple[EvaluatedItem, ...]]:
    """The checkpoint's greedy answers through rl.evaluate and the in-process engine."""
    held_out = load_prepared(tiny.parent / "test")
    model = str(tiny / "checkpoints" / "latest" / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    problems = {problem.problem_id: problem for problem in held_out.problems}
    windows = {
        high: [p for p in problems.values() if low < p.num_prompt_tokens <= high] for low, high in ((0, 24), (24, 48))
    }
    scorer = build_scorer(ScorerConfig(require_closed_think=True))
    with vllm_process(model, max_model_len=64) as engine:
        result = evaluate(
            engine, windows, lambda problem: render_prompt_ids(tokenizer, problem, held_out.template), scorer,
            problems_per_window=8, max_response_tokens=MAX_RESPONSE_TOKENS, sampled=False, temperature=1.0, seed=0,
        )  # fmt: skip
    scorer.close()
    assert result.accuracy("greedy").mean == 1.0 and result.windows == (24, 48)
    assert {item.score.answer for item in result.items} == set(ANSWERS.values())
    return problems, result.items


def wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)


def test_the_server_gives_the_evaluations_answers_at_temperature_0(tiny: Path, served: Served) -> None:
    client = OpenAI(base_url=served.url, api_key="none")
    template = load_prepared(tiny.parent / "test").template
    assert len(served.items) == 16
    for item in served.items:
        reply = client.chat.completions.create(
            model="tiny | run",
            messages=render_messages(served.problems[item.problem_id], template),
            temperature=0,
            max_tokens=MAX_RESPONSE_TOKENS,
            extra_body={"skip_special_tokens": False},
        )
        assert reply.choices[0].message.content == item.response
        assert reply.choices[0].finish_reason == item.finish_reason == "stop"
        assert reply.usage.prompt_tokens == item.num_prompt_tokens  # the opened <think> and no token more
        assert reply.usage.completion_tokens == item.num_response_tokens


def test_the_printed_program_asks_with_the_runs_prompt(served: Served, tmp_path: Path) -> None:
    first = next(iter(served.problems))
    done = subprocess.run(
        [sys.executable, "-c", served.program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout in {f"{item.response}\n" for item in served.items if item.problem_id == first}, done.stderr


def test_the_server_samples_as_the_run_did_where_a_client_says_nothing(served: Served) -> None:
    client = OpenAI(base_url=served.url, api_key="none")
    problem = served.problems[served.items[0].problem_id]
    replies = client.chat.completions.create(model="tiny | run", messages=render_messages(problem), n=4, seed=0)
    assert all(choice.finish_reason in ("stop", "length") for choice in replies.choices)
    assert replies.usage.completion_tokens <= 4 * MAX_RESPONSE_TOKENS  # max_new_tokens is the run's


def test_the_server_listens_on_the_loopback_alone(served: Served) -> None:
    children = Path(f"/proc/{served.pid}/task/{served.pid}/children").read_text().split()
    addresses = [address for pid in (served.pid, *map(int, children)) for address in listening(pid)]
    assert addresses and set(addresses) == {"0100007F"}  # 127.0.0.1 as the kernel writes it


READ_BY_VLLM = """
import json, sys
from vllm.config import set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.rotary_embedding import get_rope
words = sys.argv[1:]
options = {key.lstrip("-").replace("-", "_"): value for key, value in zip(words[::2], words[1::2])}
engine = EngineArgs(
    model=options["model"], dtype=options["dtype"], max_model_len=int(options["max_model_len"]),
    hf_overrides=json.loads(options["hf_overrides"]), enforce_eager=True,
).create_engine_config()
config = engine.model_config
hf = config.hf_config
with set_current_vllm_config(engine):
    rope = get_rope(32, max_position=hf.max_position_embeddings, rope_parameters=hf.rope_parameters)
print(json.dumps([config.max_model_len, hf.rope_parameters, type(rope).__name__, len(rope.cos_sin_cache)]))
"""


def test_vllm_reads_the_extended_context_as_it_is_printed(tiny: Path) -> None:
    serve, _ = printed([str(tiny), "--rope_factor", "4"])
    words = shlex.split(serve)
    if not is_cpu_build():
        words[:3] = ["--model", words[2]]  # vllm serve FOLDER
    wanted = ("--model", "--dtype", "--max-model-len", "--hf-overrides")
    options = [word for key in wanted for word in (key, words[words.index(key) + 1])]
    done = subprocess.run(
        [sys.executable, "-c", READ_BY_VLLM, *options], env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    length, rope, kind, positions = json.loads(done.stdout.splitlines()[-1])
    assert (length, kind, positions) == (512, "YaRNScalingRotaryEmbedding", 512)
    assert rope == YARN | {"factor": 4.0}
