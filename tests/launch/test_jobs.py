"""A staged run on a real two-node Ray cluster through its Jobs API: killed, stopped, submitted again, and in the end as if undisturbed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from rl.metrics import read_metrics
from tests.rl.tiny_run import write_inputs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
STEPS = (2, 10)
MEASURED = ("time/", "perf/")


@dataclass(frozen=True, kw_only=True)
class TwoNodes:
    """The cluster, and what a shell that may use it has set."""

    address: str
    environment: dict[str, str]

    def ask(self, path: str, *, token: str = "") -> Any:
        """The Jobs API's answer, as JSON."""
        token = token or Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(f"{self.address}/api/jobs/{path}")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    """Up to the end of the module; its folder's name is short, because sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/launch/two_nodes.py"), str(folder)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), "the cluster did not start"
        yield TwoNodes(address=address, environment=environment)
    finally:
        process.stdin.close()
        process.wait(timeout=120)
        process.stdout.close()
        shutil.rmtree(folder)
        assert [name for name in command_lines() if str(folder) in name] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, data, and the configurations of two runs that differ in their folder alone: whole.toml and jobs.toml."""
    folder = tmp_path_factory.mktemp("jobs")
    config = write_inputs(folder)
    config["rollout"]["workers"] = 2  # with the driver and the scorer one process for each of the cluster's four CPUs
    for stage, steps in zip(config["stages"], STEPS, strict=True):
        stage["steps"] = steps
    for name in ("whole", "jobs"):
        run = config["run"] | {"name": name, "dir": str(folder / name)}
        (folder / f"{name}.toml").write_text(tomli_w.dumps(config | {"run": run}))
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The folder of a run that nobody disturbed, without a cluster."""
    arguments = [sys.executable, "-m", "launch.rl", str(folder / "whole.toml")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "whole"


def command_lines() -> Iterator[str]:
    """Of every process on this machine."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            yield file.read_text(errors="replace")


def submitted(cluster: TwoNodes, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launch.job", str(folder / "jobs.toml"), "--address", cluster.address, *arguments],
        cwd=ROOT, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ray_job_submit(cluster: TwoNodes, submission_id: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Ray's own command. The job sets a variable that our processes set as well, which Ray would not merge in ray.init."""
    options = ["--address", cluster.address, "--working-dir", ".", "--submission-id", submission_id]
    options += ["--entrypoint-num-cpus", "1", "--runtime-env-json", '{"env_vars": {"OMP_NUM_THREADS": "2"}}']
    return subprocess.run(
        ["ray", "job", "submit", *options, "--", "python", "-m", "launch.rl", *words],
        cwd=ROOT, env=cluster.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output."""
    output, _ = process.communicate(timeout=400)
    return process.returncode, output


def disturbed(
    process: subprocess.Popen[str], run_dir: Path, step: int, disturb: Callable[[], object]
) -> tuple[int, str]:
    """Wait until the run has made the step, disturb it, wait for the end of the command that submitted it."""
    while len(read_metrics(run_dir / "metrics.jsonl")) < step:
        if process.poll() is not None:
            pytest.fail(f"the run ended before step {step}: {ended(process)}")
        time.sleep(0.005)
    disturb()
    return ended(process)


def kill_driver(run_dir: Path) -> None:
    meta = tomllib.loads((run_dir / "config.toml").read_text())["meta"]
    os.kill(int(meta["pid"]), signal.SIGKILL)


def test_a_staged_run_that_is_killed_and_stopped_ends_with_the_figures_of_one_left_alone(
    cluster: TwoNodes, folder: Path, whole: Path
) -> None:
    run_dir = folder / "jobs"

    done = ray_job_submit(cluster, "first", str(folder / "jobs.toml"), "--stage", "1")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "stage 1 of 2 done" in done.stdout
    assert len(read_metrics(run_dir / "metrics.jsonl")) == STEPS[0]

    job = submitted(cluster, folder)
    code, output = disturbed(job, run_dir, STEPS[0] + 1, lambda: kill_driver(run_dir))
    assert code == 128 + signal.SIGKILL, output
    assert "job jobs-stage-all-1: failed, exit code 137; the same command submits the next attempt" in output

    job = submitted(cluster, folder)
    code, output = disturbed(job, run_dir, STEPS[0] + 3, job.terminate)  # which is passed on as a stop of the job
    assert code == 75, output
    assert "job jobs-stage-all-2: submitted" in output and "stopped by SIGTERM after step" in output
    last_step = read_metrics(run_dir / "metrics.jsonl")[-1]["step"]
    assert (run_dir / "checkpoints" / "latest").resolve().name == f"step-{last_step:06d}"
    assert STEPS[0] < last_step < sum(STEPS)

    code, output = ended(submitted(cluster, folder))
    assert code == 0, output
    assert f"resumed {run_dir} after step {last_step}" in output

    rows, expected = (read_metrics(d / "metrics.jsonl") for d in (run_dir, whole))
    assert [row["step"] for row in rows] == list(range(1, sum(STEPS) + 1))
    for row, other in zip(rows, expected, strict=True):
        assert {k: v for k, v in row.items() if not k.startswith(MEASURED)} == {
            k: v for k, v in other.items() if not k.startswith(MEASURED)
        }
    weights = "checkpoints/latest/model/model.safetensors"
    assert (run_dir / weights).read_bytes() == (whole / weights).read_bytes()

    code, output = ended(submitted(cluster, folder))
    assert (code, output) == (0, "job jobs-stage-all-3: succeeded already\n")
    code, output = ended(submitted(cluster, folder, "--", "--learner.lr", "0.1"))
    assert code == 2
    assert output.startswith(
        "error: job jobs-stage-all-3: succeeded already, with another command (python -m launch.rl"
    )


def test_ray_job_submit_uploads_little_and_tells_the_runs_own_error_and_exit_code(
    cluster: TwoNodes, folder: Path
) -> None:
    done = ray_job_submit(cluster, "relative", str(folder / "jobs.toml"), "--run.dir", "runs/relative")
    assert done.returncode == 1
    assert (
        "error: run.dir: 'runs/relative' is relative, and a Ray job's current folder goes with the job" in done.stdout
    )
    job = cluster.ask("relative")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 2)
    session = Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).parent / "session_latest"
    package = next((session / "runtime_resources" / "working_dir_files").glob("*/launch")).parent
    sizes = [path.stat().st_size for path in package.rglob("*") if path.is_file()]
    assert 1e5 < sum(sizes) < 5e6
    assert [path.name for path in (package / "data").iterdir() if path.is_dir()] == ["synthesis"]


def test_without_the_token_nothing_is_answered(cluster: TwoNodes) -> None:
    with pytest.raises(urllib.error.HTTPError, match=r"40[13]"):
        cluster.ask("", token="0" * 64)


def test_no_cluster_at_the_address_is_told_in_one_line(cluster: TwoNodes, folder: Path) -> None:
    nowhere = TwoNodes(address="http://127.0.0.1:9", environment=cluster.environment)
    code, output = ended(submitted(nowhere, folder))
    assert code == 3
    assert output.startswith("error: cluster http://127.0.0.1:9: Failed to connect to Ray")
    assert output.count("\n") == 1


def test_every_path_of_the_command_is_absolute_and_a_model_that_is_no_folder_stays_a_hub_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch.job import command
    from rl.config import RunConfig

    monkeypatch.chdir(folder)
    config = RunConfig.model_validate(
        tomllib.loads((folder / "jobs.toml").read_text())
        | {"run": {"dir": "runs/a b"}, "data": {"train": "train"}, "evaluation": {"checkpoints": {"base": "model"}}}
    )
    told = command("jobs.toml", config, ["--learner.lr", "1e-6"], stage="2", working_dir=Path("."))
    assert told == (
        f"python -m launch.rl jobs.toml --stage 2 --learner.lr 1e-6 --run.dir '{folder}/runs/a b' --data.train {folder}/train "
        f"--model.path {folder}/model --evaluation.checkpoints.base {folder}/model"
    )
    hub = config.model_copy(update={"model": config.model.model_copy(update={"path": "Qwen/Qwen3-4B"})})
    assert "--model.path" not in command(str(folder / "jobs.toml"), hub, [], stage="all", working_dir=ROOT)


@pytest.mark.parametrize("words", [["--stage", "3"], ["--working-dir", "/"]])
def test_a_submission_that_cannot_be_is_refused_before_the_cluster_is_asked(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from launch.cli import exit_code
    from launch.job import run

    with contextlib.chdir(ROOT):
        assert exit_code(run, [str(folder / "jobs.toml"), "--address", "http://127.0.0.1:9", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: command line: {words[0]}: ")
