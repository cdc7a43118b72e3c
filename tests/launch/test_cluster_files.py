"""The files for clusters: the SLURM script run with stand-ins for SLURM and Ray that record their calls, the RayJob against its fields."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.cli import load_config
from launch.rl import FLAGS
from rl.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
SBATCH = ROOT / "launch" / "cluster" / "slurm.sbatch"
RAYJOB = ROOT / "launch" / "cluster" / "rayjob.yaml"
ALIVE_S = 60

# Each prints its own name and arguments, the token's file mode and whether it is set, as one line of calls.jsonl.
RECORD = f"""#!{sys.executable}
import json, os, signal, sys, time
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
token = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
mode = oct(os.stat(token).st_mode & 0o777) if token else ""
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([name, *words, mode]) + "\\n")
if name == "scontrol" and words[0] == "show":
    print("node-a\\nnode-b\\nnode-c")
if name == "ray" and words[0] == "status":
    if os.environ.get("TERM_AT") == "status":
        os.kill(os.getppid(), signal.SIGTERM)
    sys.exit('"--head"' not in open(os.environ["CALLS"]).read())
if name == "srun" and "hostname" in words:
    print("10.0.0.7 fe80::1")
if name == "srun" and "ray" in words:
    time.sleep({ALIVE_S})
if name == "python" and words[:2] == ["-c", "import secrets; print(secrets.token_hex(32))"]:
    print("5" * 64)
if name == "python" and words[:2] == ["-m", "launch.job"]:
    code = int(os.environ["JOB_ENDS_WITH"])
    open("written", "w").close()
    while open(os.environ["CALLS"]).read().count('"--block"') < min(2, int(os.environ["SLURM_JOB_NUM_NODES"])):
        time.sleep(0.02)  # heads and workers are started in the background
    if os.environ.get("TERM_AT") == "import":
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
    if code == 75:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        open(os.environ["CALLS"] + ".waiting", "w").close()
        time.sleep({ALIVE_S})
    sys.exit(code)
"""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch job that ended."""

    code: int
    calls: list[list[str]]
    errors: str

    def of(self, *start: str) -> list[list[str]]:
        """Calls that begin so, the token's mode last."""
        return [call for call in self.calls if call[: len(start)] == list(start)]


def run_batch(folder: Path, *arguments: str, ends_with: int = 0, nodes: int = 3, term_at: str = "") -> Batch:
    """Run the script; a job that ends with 75 is one that SLURM's SIGTERM ends, which otherwise comes at `term_at`, if at all."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("ray", "srun", "scontrol", "python"):
        (programs / name).write_text(RECORD)
        (programs / name).chmod(0o755)
    calls = folder / "calls.jsonl"
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls), "JOB_ENDS_WITH": str(ends_with), "RAY_ADDRESS": "x", "TERM_AT": term_at,
        "SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "node-[a-c]",
    }  # fmt: skip
    process = subprocess.Popen(
        ["bash", str(SBATCH), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    waiting = Path(f"{calls}.waiting")
    deadline = time.monotonic() + ALIVE_S
    while ends_with == 75 and not waiting.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if ends_with == 75:
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=ALIVE_S)
    lines = calls.read_text().splitlines() if calls.exists() else []
    return Batch(code=process.returncode, calls=[json.loads(line) for line in lines], errors=errors)


def test_the_slurm_script_starts_a_head_then_workers_then_the_job_and_leaves_no_token(tmp_path: Path) -> None:
    batch = run_batch(tmp_path, "run.toml", "--learner.lr", "1e-6", "--run.dir", "/shared/a b")
    assert batch.code == 0, batch.errors
    [head] = [call for call in batch.of("srun") if "--head" in call]
    assert "--nodelist=node-a" in head and "--node-ip-address=10.0.0.7" in head and "--dashboard-host=127.0.0.1" in head
    [workers] = [call for call in batch.of("srun") if "--address=10.0.0.7:6379" in call]
    assert workers[:3] == ["srun", "--nodes=2", "--ntasks=2"] and "--exclude=node-a" in workers
    [job] = batch.of("python", "-m", "launch.job")
    assert job[3:-1] == [
        *("run.toml", "--stage", "all", "--address", "http://127.0.0.1:8265", "--stop-wait-s", "110"),
        *("--", "--learner.lr", "1e-6", "--run.dir", "/shared/a b"),
    ]
    assert {call[-1] for call in (head, workers, job)} == {"0o600"}
    assert batch.calls.index(head) < min(batch.calls.index(call) for call in (workers, job))
    assert batch.of("scontrol", "requeue") == []
    assert list(tmp_path.glob(".ray-*")) == []
    (tmp_path / "mine").touch()
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in ("mine", "written")}
    assert len(modes) == 1, "what the run writes is as readable as the user's own files"


def test_a_stage_after_the_configuration_is_the_jobs_own_option(tmp_path: Path) -> None:
    batch = run_batch(tmp_path, "run.toml", "--stage", "1", "--learner.lr", "1e-6", nodes=1)
    [job] = batch.of("python", "-m", "launch.job")
    assert (job[3:6], job[job.index("--") : -1]) == (["run.toml", "--stage", "1"], ["--", "--learner.lr", "1e-6"])


def test_one_node_needs_no_workers(tmp_path: Path) -> None:
    batch = run_batch(tmp_path, "run.toml", nodes=1)
    assert [call for call in batch.of("srun") if "--block" in call and "--head" not in call] == []
    assert len(batch.of("python", "-m", "launch.job")) == 1


def test_a_sigterm_reaches_the_job_and_exit_code_75_puts_the_batch_job_back_into_the_queue(tmp_path: Path) -> None:
    batch = run_batch(tmp_path, "run.toml", ends_with=75)
    assert batch.code == 75, batch.errors
    assert batch.of("scontrol", "requeue") == [["scontrol", "requeue", "42", "0o600"]]


@pytest.mark.parametrize("moment", ["status", "import"])
def test_a_sigterm_before_the_run_is_watched_requeues_as_well(tmp_path: Path, moment: str) -> None:
    batch = run_batch(tmp_path, "run.toml", term_at=moment)
    assert batch.code == 75, batch.errors
    assert batch.of("scontrol", "requeue") == [["scontrol", "requeue", "42", "0o600"]]
    assert list(tmp_path.glob(".ray-*")) == []


@pytest.mark.parametrize("code", [2, 137, 143])
def test_any_other_exit_code_is_the_batch_jobs_own_and_final(tmp_path: Path, code: int) -> None:
    batch = run_batch(tmp_path, "run.toml", ends_with=code)
    assert batch.code == code
    assert batch.of("scontrol", "requeue") == []


def test_without_a_configuration_nothing_is_started(tmp_path: Path) -> None:
    batch = run_batch(tmp_path)
    assert (batch.code, batch.calls) == (2, [])
    assert batch.errors.startswith("usage: sbatch launch/cluster/slurm.sbatch CONFIG.toml")


def test_the_slurm_options_ask_for_a_signal_in_time_and_for_another_turn() -> None:
    text = SBATCH.read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert (options["requeue"], options["signal"], options["open-mode"]) == ("", "B:TERM@120", "append")
    [stop_wait] = re.findall(r"^STOP_WAIT_S=(\d+)$", text, re.MULTILINE)
    assert int(stop_wait) < int(options["signal"].rpartition("@")[2])


# The fields of a RayJob that are used, and what each must be: a type, or a mapping of the fields within; of a list, every element.
POD = {
    "containers": [
        {"name": str, "image": str, "workingDir": str, "env": list, "resources": {"requests": dict, "limits": dict}, "volumeMounts": list}
    ],
    "volumes": list,
}  # fmt: skip
SCHEMA = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "entrypointNumCpus": int,
        "runtimeEnvYAML": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str},
            "headGroupSpec": {"rayStartParams": dict, "template": {"spec": POD}},
            "workerGroupSpecs": [
                {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "rayStartParams": dict, "template": {"spec": POD}}
            ],
        },
    },
}  # fmt: skip


def misfits(value: Any, schema: Any, path: str = "") -> list[str]:
    """Where the value is not as the schema says; missing and unknown fields too."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{path}: no mapping"]
        unequal = [f"{path}.{key}: missing or unknown" for key in value.keys() ^ schema.keys()]
        return unequal + [
            m for key in value.keys() & schema.keys() for m in misfits(value[key], schema[key], f"{path}.{key}")
        ]
    if isinstance(schema, list):
        if not isinstance(value, list) or not value:
            return [f"{path}: no list with elements"]
        return [m for i, element in enumerate(value) for m in misfits(element, schema[0], f"{path}[{i}]")]
    return [] if isinstance(value, schema) else [f"{path}: {value!r} is no {schema.__name__}"]


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return yaml.safe_load(RAYJOB.read_text())


def test_the_rayjob_has_the_fields_of_one(rayjob: dict[str, Any]) -> None:
    assert misfits(rayjob, SCHEMA) == []
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")


def test_the_check_of_fields_finds_what_is_wrong(rayjob: dict[str, Any]) -> None:
    wrong = rayjob | {"spec": rayjob["spec"] | {"backoffLimit": "10", "backoff": 1}}
    assert misfits(wrong, SCHEMA) == [".spec.backoff: missing or unknown", ".spec.backoffLimit: '10' is no int"]


def test_the_rayjob_resumes_on_a_shared_volume_under_a_token_with_the_gpus_of_its_preset(
    rayjob: dict[str, Any],
) -> None:
    spec = rayjob["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"] and spec["entrypointNumCpus"] == 1
    assert cluster["authOptions"] == {"mode": "token"}
    python, flag, module, preset, *words = shlex.split(spec["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "launch.rl")
    image = Path("/opt/longreach")
    file = ROOT / Path(preset).relative_to(image)
    command = load_config(RunConfig, [str(file), *words], prog="python -m launch.rl", flags=FLAGS)
    assert command.values["resume"] == "auto"
    assert all(path.startswith("/shared/") for path in (command.config.run.dir, command.config.data.train))
    groups = [cluster["headGroupSpec"] | {"replicas": 1}, *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"]["containers"][0] for group in groups]
    assert all({"name": "shared", "mountPath": "/shared"} in pod["volumeMounts"] for pod in pods)
    gpus = sum(
        g["replicas"] * int(p["resources"]["limits"]["nvidia.com/gpu"]) for g, p in zip(groups, pods, strict=True)
    )
    assert (
        gpus
        == command.config.rollout.workers * command.config.rollout.tensor_parallel
        == command.config.learner.processes
    )
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "1800"}}
