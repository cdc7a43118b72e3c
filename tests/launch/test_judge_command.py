"""`python -m launch.judge`: what it refuses, what it says, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import orjson
import pytest

from launch.cli import exit_code
from launch.judge import run
from tests.rl.tiny_model import write_tiny_model


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = exit_code(run, words)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return code, told


def test_a_judge_without_a_model_or_with_no_such_folder_is_a_configuration_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, told = refused(capsys)
    assert code == 2 and told.startswith("error: model: empty; it is needed")
    code, told = refused(capsys, "--model", str(tmp_path / "none"))
    assert code == 2 and told.startswith("error: judge: there is no folder")
    code, told = refused(capsys, "--model", str(tmp_path))
    assert code == 2 and "holds no model that can be read" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.vllm
def test_the_log_of_a_server_that_failed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    model = write_tiny_model(tmp_path / "model")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, told = refused(capsys, "--model", model, "--port", "0", "--deadline_s", "0.01")
    [log] = tmp_path.glob("longreach-judge-*/judge.log")
    assert code == 3 and f"no answer within 0 s; {log} ends with:" in told


def test_a_taken_port_is_a_configuration_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    model = write_tiny_model(tmp_path / "model")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, told = refused(capsys, "--model", model, "--port", str(port))
    assert code == 2
    assert told.startswith(f"error: judge: port {port} on 127.0.0.1 cannot be used")


def test_without_vllm_it_is_one_line_and_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own mark for a package that cannot be imported
    code, told = refused(capsys, "--model", write_tiny_model(tmp_path / "model"))
    assert code == 3
    assert told.startswith("error: judge: vLLM is not installed here; install")


@pytest.mark.vllm
def test_it_prints_the_flags_that_reach_it_and_ends_cleanly_when_told_to(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    model = write_tiny_model(tmp_path / "model")
    words = ["--model", model, "--name", "small", "--port", "0"]
    command = [sys.executable, "-m", "launch.judge", *words, "--kv_cache_gib", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        told = [process.stdout.readline() for _ in range(4)]
        assert process.poll() is None, process.stderr.read()
        log = Path(re.search(r"\(log: (.+)\)", told[0])[1])
        assert log.is_file()
        url = re.search(r"http://127\.0\.0\.1:\d+/v1", told[1])[0]
        assert f"--reward.judge_url {url} --reward.judge_model small" in told[2]
        assert f"python -m rewards.score --judge {url} --judge-model small" in told[3]
        with urlopen(f"{url}/models", timeout=20) as reply:
            assert [one["id"] for one in orjson.loads(reply.read())["data"]] == ["small"]
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout.read() == "judge: ended\n"
        assert process.stderr.read() == ""
        assert not log.parent.exists()
    with pytest.raises(URLError):
        urlopen(f"{url}/models", timeout=5)
