"""The mirrors hold every step once, whatever happened in between, and what happens to them stops nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rl.config import TrackingSection
from rl.metrics import MetricsLog, read_metrics
from rl.rollout_log import write_rollouts
from rl.samples import COLUMNS, MAX_ROWS, sample_rows
from rl.tracker import Tracker
from rl.wandb_files import BLOCK_BYTES, HEADER, read_records, repair_files
from rl.wandb_run import ID_FILE, WandbRun
from tests.rl.test_metrics import CONFIG, make_group
from tests.rl.wandb_server import API_KEY, WandbServer, wandb_server

WIDE = {f"reward/task-{i}/mean": i / 7 for i in range(150)}
"""Rows so wide that eight of them do not fit one block of W&B's file."""

START = f"""
import os, sys, time
from pathlib import Path
from rl.config import TrackingSection
from rl.metrics import MetricsLog
folder, mode, last_step, up_to, kill_after = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
log = MetricsLog(folder, TrackingSection(wandb=mode, group="g"), {{"run": {{"name": "n"}}}}, None, last_step=last_step)
for step in range(last_step + 1, up_to + 1):
    log.log(step, {{"policy/entropy": step / 10, "start": f"after {{last_step}}"}} | {WIDE!r})
if kill_after >= 0:
    time.sleep(kill_after)
    os.kill(os.getpid(), 9)
log.close()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    with wandb_server() as running:
        yield running


def start(server: WandbServer, folder: Path, mode: str, last_step: int, up_to: int, *, kill_after: int = -1) -> None:
    """One start of a run in a process of its own: steps after last_step up to up_to, then a kill where one is asked for."""
    command = [sys.executable, "-c", START, str(folder), mode, str(last_step), str(up_to), str(kill_after)]
    variables = environment(server) | {"TMPDIR": str(folder)}  # where W&B leaves folders when it is killed
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == (0 if kill_after < 0 else -signal.SIGKILL), done.stderr


def environment(server: WandbServer) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY, "WANDB_SILENT": "true", "PYTHONPATH": "."}


def offline_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def offline_rows(paths: list[Path]) -> list[dict[str, Any]]:
    """What W&B's files hold, in order; what lies in another value is named with a dot."""
    return [
        {".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for path in paths
        for record, _ in read_records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def assert_same(tracked: list[dict[str, Any]], folder: Path) -> None:
    """Every step of metrics.jsonl once, in order, under its own number, with everything it holds."""
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["_step"] for row in tracked] == [row["step"] for row in rows]
    for row, expected in zip(tracked, rows, strict=True):
        same = {name for name in expected if name != "start"}  # a step that is done again keeps what it first said
        assert {name: row[name] for name in same} == {name: expected[name] for name in same}


@pytest.fixture(scope="module")
def killed(server: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps, killed at once; taken up after step 3 to step 8, killed later; taken up after step 7 to the end."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    folder = tmp_path_factory.mktemp("offline")
    start(server, folder, "offline", 0, 5, kill_after=0)
    start(server, folder, "offline", 3, 8, kill_after=3)
    # The kill came within a record and, in another start, before the first one: what a longer run may leave behind.
    last = offline_files(folder)[-1]
    os.truncate(last, last.stat().st_size - 100)
    empty = folder / "wandb" / last.parent.name.replace("offline-run-2", "offline-run-3") / last.name
    empty.parent.mkdir()
    empty.write_bytes(HEADER)
    start(server, folder, "offline", 7, 9)
    return folder


def test_offline_files_hold_every_step_once_under_one_id_whenever_the_run_was_killed(killed: Path) -> None:
    run_id = (killed / ID_FILE).read_text()
    paths = offline_files(killed)
    assert len(paths) >= 2 and {path.stem for path in paths} == {f"run-{run_id}"}
    assert any(path.stat().st_size > BLOCK_BYTES for path in paths)
    assert_same(offline_rows(paths), killed)


def test_wandb_shows_a_run_under_its_folders_name(killed: Path) -> None:
    records = [record for path in offline_files(killed) for record, _ in read_records(path)]
    assert {r.run.display_name for r in records if r.WhichOneof("record_type") == "run"} == {killed.name}


def test_wandb_sync_sends_what_the_killed_run_left(killed: Path, server: WandbServer) -> None:
    folders = [str(path.parent) for path in offline_files(killed)]
    command = [str(Path(sys.executable).parent / "wandb"), "sync", "--yes", *folders]
    done = subprocess.run(command, cwd=killed, env=environment(server), capture_output=True, text=True, check=False)
    run_id = (killed / ID_FILE).read_text()
    assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr
    assert_same(server.rows(run_id), killed)
    assert server.groups[run_id] == "g"


HANGS = """
import os, signal, sys, time
from pathlib import Path
import rl.wandb_run
from rl.config import TrackingSection
rl.wandb_run.ANSWER_TIMEOUT_S = 1
tracker = rl.wandb_run.wandb_tracker(Path(sys.argv[1]), TrackingSection(wandb="offline"), {}, "abc", [])
import wandb
os.kill(wandb.setup().ensure_service()._proc._process.pid, signal.SIGSTOP)
for step in range(1, int(sys.argv[2])):
    tracker.log({"step": step} | {f"m{i}": 1.0 for i in range(2000)})
tracker.close()
print("closed", flush=True)
"""


@pytest.mark.parametrize("num_steps", [1, 60], ids=["at the end", "on the way"])
def test_a_process_of_wandbs_that_hangs_keeps_no_run_from_going_on_or_ending(tmp_path: Path, num_steps: int) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    variables = os.environ | {"WANDB_SILENT": "true", "PYTHONPATH": ".", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path), str(num_steps)],
        env=variables, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "closed\n")
    assert done.stderr == (
        "W&B stopped (TimeoutError: its process did not answer for 1 s and was ended); training goes on, metrics.jsonl has everything\n"
    )


def test_online_a_resumed_run_goes_on_where_the_server_is(server: WandbServer, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    start(server, tmp_path, "online", 0, 5)
    start(server, tmp_path, "online", 3, 7)
    run_id = (tmp_path / ID_FILE).read_text()
    assert_same(server.rows(run_id), tmp_path)
    assert [row["start"] for row in server.rows(run_id)] == ["after 0"] * 5 + ["after 3"] * 2


def test_a_file_that_is_not_wandbs_is_named(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    path = tmp_path / "wandb" / "offline-run-1-abc" / "run-abc.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"run-abc\.wandb: begins with b'somethi'"):
        repair_files(tmp_path, "abc")


class Broken:
    """A tracked run whose service dies after some rows."""

    def __init__(self, num_good: int) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.num_good = num_good

    def log(self, row: Mapping[str, Any], rollouts: Path | None) -> None:
        if len(self.rows) == self.num_good:
            raise BrokenPipeError("service is gone")
        self.rows.append(row)

    def finish(self) -> None:
        raise BrokenPipeError("service is gone")


def refused() -> Broken:
    raise OSError("no space")


@pytest.mark.parametrize("num_good", [1, 3])
def test_a_tracker_that_fails_warns_once_and_is_left_alone(num_good: int, caplog: pytest.LogCaptureFixture) -> None:
    run = Broken(num_good)
    tracker = Tracker("W&B", lambda: run)
    for step in (1, 2, 3):
        tracker.log({"step": step, "policy/entropy": None})
    tracker.close()
    tracker.close()
    assert run.rows == [{"step": step} for step in range(1, num_good + 1)]
    assert [record.getMessage() for record in caplog.records] == [
        "W&B stopped (BrokenPipeError: service is gone); training goes on, metrics.jsonl has everything"
    ]


def test_a_tracker_that_does_not_start_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker("TensorBoard", refused)
    tracker.log({"step": 1})
    tracker.close()
    assert [record.getMessage() for record in caplog.records] == [
        "TensorBoard stopped (OSError: no space); training goes on, metrics.jsonl has everything"
    ]


class Service:
    """What W&B is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, Any]]] = []

    def log(self, data: dict[str, Any], *, step: int, commit: bool) -> None:
        assert commit
        self.told.append((step, data))

    def finish(self) -> None:
        """Nothing is left."""


def test_a_table_of_answers_goes_along_when_it_is_due(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    group = make_group("p", (1.0, 0.0) * 10)
    rollouts = write_rollouts(tmp_path, 2, [(group, (0.7, -0.7) * 10)])
    service = Service()
    run = WandbRun(service, last_step=0, sample_every=2)
    for step in (1, 2, 3):
        run.log({"step": step, "reward/mean": 0.5}, rollouts)
    assert [(step, sorted(data)) for step, data in service.told] == [
        (1, ["reward/mean", "step"]),
        (2, ["reward/mean", "samples", "step"]),
        (3, ["reward/mean", "step"]),
    ]
    table = service.told[1][1]["samples"]
    assert isinstance(table, wandb.Table)
    assert table.columns == list(COLUMNS) and len(table.data) == MAX_ROWS


def test_samples_are_spread_over_the_step_and_cut_to_their_ends(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    groups = [make_group(f"p{i}", (1.0, 0.0), response=f"<b>{i}" + "x" * 9000 + "end") for i in range(8)]
    rows = sample_rows(write_rollouts(tmp_path, 1, [], groups))
    shown = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    assert [row["problem"] for row in shown] == [f"p{i}" for i in range(8)]
    # 4 + 9000 + 3 characters, of which 2000 and 2000 are shown.
    assert shown[3]["response"] == "<b>3" + "x" * 1996 + "\n[... 5,007 characters ...]\n" + "x" * 1997 + "end"
    assert shown[0]["context"] == "a" * 400 + "\n[...]\n" + "b" * 400
    assert sample_rows(write_rollouts(tmp_path, 2, [])) == []


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    tracking = TrackingSection(tensorboard=True)
    first = MetricsLog(tmp_path, tracking, CONFIG, None)
    for step in (1, 2, 3, 4, 5):
        first.log(step, {"policy/entropy": step / 4, "policy/kl_ref": None, "task": "door"})
    # A kill: nothing is closed, and steps 4 and 5 are done again.
    resumed = MetricsLog(tmp_path, tracking, CONFIG, None, last_step=3)
    for step in (4, 5, 6):
        resumed.log(step, {"policy/entropy": step / 2})
    scalars = tensorboard_scalars(tmp_path)
    first.close()
    resumed.close()
    assert scalars["policy/entropy"] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 2.0), (5, 2.5), (6, 3.0)]
    assert set(scalars) == {"policy/entropy", "health/num_nonfinite"}


def test_tensorboard_turned_on_later_shows_the_steps_before(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    first = MetricsLog(tmp_path, TrackingSection(), CONFIG, None)
    first.log(1, {"reward/mean": 0.25})
    first.close()
    resumed = MetricsLog(tmp_path, TrackingSection(tensorboard=True), CONFIG, None, last_step=1)
    resumed.log(2, {"reward/mean": 0.5})
    resumed.close()
    assert tensorboard_scalars(tmp_path)["reward/mean"] == [(1, 0.25), (2, 0.5)]
