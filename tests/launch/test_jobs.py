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
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w

from launch.cli import exit_code
from launch.job import command
from launch.job import run as launch_job
from rl.config import RunConfig
from rl.metrics import read_metrics
from rl.run_folder import git_commit, read_config
from tests.rl.tiny_run import write_inputs
from tests.test_docs import blocks

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

    commit = git_commit(ROOT).removesuffix("-dirty")
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
    assert read_config(run_dir)[1]["commit"].removesuffix("-dirty") == commit

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
    from rl.ray_jobs import is_uploaded

    for name in (
        "launch/rl.py",
        "launch/configs/demo.toml",
        "docs/jobs.md",
        "tests/conftest.py",
        ".rayignore",
        ".git/HEAD",
    ):
        assert is_uploaded(ROOT / name, ROOT) == (package / name).exists(), name


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
    monkeypatch.chdir(folder)
    config = RunConfig.model_validate(
        tomllib.loads((folder / "jobs.toml").read_text())
        | {"run": {"dir": "runs/a b"}, "data": {"train": "train"}}
        | {"evaluation": {"checkpoints": {"base": "model", "other": "modelscope:Qwen/Qwen3-4B"}}}
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
    with contextlib.chdir(ROOT):
        assert exit_code(launch_job, [str(folder / "jobs.toml"), "--address", "http://127.0.0.1:9", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: command line: {words[0]}: ")


@dataclass(kw_only=True)
class KnownJobs:
    """Of Ray's client what launch.job calls, for a cluster of these jobs that ends each new one at once with 0."""

    states: dict[str, str]
    asked: list[dict[str, Any]] = field(default_factory=list)

    def list_jobs(self) -> list[SimpleNamespace]:
        return [self.get_job_info(job_id) for job_id in self.states]

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        from ray.job_submission import JobStatus

        status = JobStatus(self.states[job_id])
        return SimpleNamespace(submission_id=job_id, status=status, entrypoint="another", driver_exit_code=0)

    def submit_job(self, **asked: Any) -> None:
        self.asked.append(asked)
        self.states[asked["submission_id"]] = "SUCCEEDED"

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield f"{job_id} began\n"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[int, KnownJobs]]]:
    """Give launch.job the words on a cluster where jobs are in these states, from the project's folder; its exit code."""
    before = signal.getsignal(signal.SIGTERM)  # which launch.job hands on while it watches
    monkeypatch.chdir(ROOT)

    def give(*words: str, **states: str) -> tuple[int, KnownJobs]:
        jobs = KnownJobs(states={name.replace("_", "-"): state for name, state in states.items()})
        monkeypatch.setattr("rl.ray_jobs.JobSubmissionClient", lambda address: jobs)
        return exit_code(launch_job, words), jobs

    yield give
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
@pytest.mark.parametrize(
    ("live", "words"),
    [("demo_stage_1_1", []), ("demo_stage_all_3", ["--stage", "1"]), ("demo_stage_all_1", ["--attempt", "2"])],
)
def test_a_second_job_of_a_run_is_not_submitted_while_one_is_not_over(
    live: str, words: list[str], state: str, given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, jobs = given("launch/configs/demo.toml", *words, **{live: state})
    assert (code, jobs.asked) == (2, [])
    told, job_id = capsys.readouterr().err, live.replace("_", "-")
    assert told.startswith(f"error: job {job_id}: {state.lower()}, of the same run; ")
    assert f"or stop it with ray job stop {job_id}" in told


def test_a_job_is_submitted_with_the_commit_beside_other_runs_jobs_and_after_an_earlier_stages(given: Any) -> None:
    others = {
        "demo_control_stage_all_1": "RUNNING",
        "demo_stage_1_stage_all_1": "RUNNING",
        "demo_stage_1_1": "SUCCEEDED",
    }
    code, jobs = given("launch/configs/demo.toml", **others)
    [asked] = jobs.asked
    assert (code, asked["submission_id"]) == (0, "demo-stage-all-1")
    assert asked["runtime_env"]["env_vars"].get("LONGREACH_COMMIT", "") == git_commit(ROOT)


def test_a_copy_without_git_is_of_its_jobs_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGREACH_COMMIT", "c0ffee-dirty")
    assert git_commit(tmp_path) == "c0ffee-dirty"
    (tmp_path / ".git").mkdir()
    assert git_commit(tmp_path) != "c0ffee-dirty"


def test_the_pages_own_submission_gives_the_job_the_commit_and_time_to_stop() -> None:
    *_, block = blocks((ROOT / "docs/operations.md").read_text(), "run by tests/launch/test_jobs.py")
    shell = ["bash", "-c", f'ray() {{ printf "%s\\n" "$@"; }}\n{block}']
    words = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert json.loads(words[words.index("--runtime-env-json") + 1]) == {
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "1800", "LONGREACH_COMMIT": git_commit(ROOT)}
    }


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (None, "missing; a job's id begins with it"),
        ("a/b", "seen 'a/b', which a job's id begins with; allowed: letters,"),
    ],
)
def test_a_name_that_no_job_can_be_found_by_is_refused(
    name: str | None, told: str, tmp_path: Path, given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tomllib.loads((ROOT / "launch/configs/demo.toml").read_text())
    config["run"] = {"dir": "runs/l1"} | ({"name": name} if name else {})
    (tmp_path / "l1.toml").write_text(tomli_w.dumps(config))
    code, jobs = given(str(tmp_path / "l1.toml"))
    assert (code, jobs.asked) == (2, [])
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/l1.toml: run.name: {told}")


def test_a_configuration_that_stays_behind_is_refused(
    tmp_path: Path, given: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in ((".gitignore", "/runs/\n"), ("launch/rl.py", ""), ("launch/.rayignore", "mine.toml\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "runs").mkdir()
    for name, expected in (
        ("runs/l1.toml", 2),
        ("launch/mine.toml", 2),
        ("launch/../runs/l1.toml", 2),
        ("launch/l1.toml", 0),
    ):
        shutil.copy(ROOT / "launch/configs/demo.toml", tmp_path / name)
        code, jobs = given(str(tmp_path / name), "--working-dir", str(tmp_path))
        assert (code, len(jobs.asked)) == (expected, 1 - expected // 2), name
        told = capsys.readouterr().err
        assert not expected or told.startswith(
            f"error: {tmp_path / name}: the job would not have it, because .gitignore"
        )


def test_secrets_and_runs_stay_behind() -> None:
    from rl.ray_jobs import is_uploaded

    left_out = (".ray-42/token", ".env", ".env.local", "launch/.env", "runs/l1/config.toml", ".git/config")
    assert [name for name in left_out if is_uploaded(ROOT / name, ROOT)] == []
    assert is_uploaded(ROOT / "launch" / "rl.py", ROOT)
