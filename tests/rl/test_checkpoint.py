"""Checkpoints: a kill at any instant, damage of every kind, pruning, and state that comes back equal."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from data.problem import Problem
from rewards.types import Score
from rl.checkpoint import (
    CheckpointError,
    find_latest,
    load_state,
    read_manifest,
    remove_leftovers,
    save_checkpoint,
    verify_checkpoint,
)
from rl.group_state import group_from_dict, group_to_dict
from rl.types import Rollout, RolloutGroup

ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from pathlib import Path
from rl.checkpoint import find_latest, load_state, remove_leftovers, save_checkpoint

run_dir = Path(sys.argv[1])
remove_leftovers(run_dir)
found = find_latest(run_dir)
step = load_state(found.path)["step"] if found.path else 0

def write(folder):
    for i in range(6):
        (folder / "model" / f"part-{i}.safetensors").write_bytes(bytes([(step + i) % 256]) * 200_000)
    (folder / "trainer" / "optimizer.safetensors").write_bytes(bytes([step % 256]) * 1_500_000)

while True:
    step += 1
    save_checkpoint(run_dir, step, write, {"step": step}, keep=1, protect=step % 50 == 0)
    save_checkpoint(run_dir, step, write, {"step": step}, keep=1, protect=step % 50 == 0)  # the same step again
    print(step, flush=True)
"""


def _write(folder: Path) -> None:
    (folder / "model" / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "trainer" / "optimizer.safetensors").write_bytes(b"moments" * 500)


def _save(run_dir: Path, step: int, **more: Any) -> Path:
    return save_checkpoint(run_dir, step, _write, {"step": step}, **{"keep": 9, **more})


def _steps(run_dir: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (run_dir / "checkpoints").iterdir() if p.name.startswith("step-"))


def test_every_kill_leaves_a_checkpoint_that_loads_and_no_step_is_lost(tmp_path: Path) -> None:
    chance = random.Random(0)
    before, num_leftovers = 0, 0
    for _ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()  # one more complete checkpoint, then a kill at any instant of the next
        time.sleep(chance.uniform(0.0, 0.25))
        writer.send_signal(signal.SIGKILL)
        told = [int(line) for line in writer.communicate()[0].split()]

        num_leftovers += len(remove_leftovers(tmp_path))
        found = find_latest(tmp_path)
        assert found.path is not None
        assert found.skipped == ()
        step = load_state(found.path)["step"]
        assert step >= max([before + 1, *told]), "a checkpoint that was reported as written is gone"
        assert (found.path / "trainer" / "optimizer.safetensors").read_bytes() == bytes([step % 256]) * 1_500_000
        assert all(p.name == "latest" or p.name.startswith("step-") for p in (tmp_path / "checkpoints").iterdir())
        before = step
    assert num_leftovers > 0, "no kill hit a write; the test proves nothing"


def test_a_checkpoint_holds_what_was_given_and_a_manifest_of_it(tmp_path: Path) -> None:
    versions = {"torch": "2.13.0"}
    path = save_checkpoint(
        tmp_path,
        20,
        _write,
        {"a": 1},
        keep=1,
        protect=True,
        config_hash="c",
        dataset_fingerprint="d",
        versions=versions,
    )
    assert path == tmp_path / "checkpoints" / "step-000020"
    manifest = verify_checkpoint(path)
    assert set(manifest.files) == {
        "model/config.json",
        "model/model.safetensors",
        "state.json",
        "trainer/optimizer.safetensors",
    }
    assert manifest.files["model/model.safetensors"]["size"] == 7000
    assert (manifest.step, manifest.protected, manifest.config_hash, manifest.dataset_fingerprint) == (
        20,
        True,
        "c",
        "d",
    )
    assert manifest.versions == versions
    assert os.readlink(tmp_path / "checkpoints" / "latest") == "step-000020"
    assert (tmp_path / "checkpoints" / "latest" / "model" / "config.json").read_text() == "{}"


def _truncate(path: Path) -> None:
    file = path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _flip_a_byte(path: Path) -> None:
    file = path / "trainer" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[1234] ^= 1
    file.write_bytes(content)


def _edit_manifest(**change: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = orjson.loads((path / "MANIFEST.json").read_bytes())
        (path / "MANIFEST.json").write_bytes(orjson.dumps({**content, **change}))

    return edit


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_truncate, "model/model.safetensors: 6999 bytes, the manifest says 7000"),
        (_flip_a_byte, "trainer/optimizer.safetensors: sha256"),
        (lambda path: (path / "model" / "config.json").unlink(), "model/config.json: No such file"),
        (lambda path: (path / "state.json").write_bytes(b""), "state.json: 0 bytes"),
        (lambda path: (path / "MANIFEST.json").write_bytes(b""), "MANIFEST.json: not a manifest"),
        (lambda path: (path / "MANIFEST.json").write_bytes(b"[]"), "MANIFEST.json: not a manifest"),
        (lambda path: (path / "MANIFEST.json").unlink(), "MANIFEST.json: No such file"),
        (lambda path: shutil.rmtree(path / "trainer"), "trainer/optimizer.safetensors: No such file"),
        (_edit_manifest(schema_version=2), "schema version 2, this code reads 1"),
        (_edit_manifest(files={}), "lists no state.json"),
        (_edit_manifest(files=3), "not a manifest"),
        (_edit_manifest(files={"state.json": {"size": 1}}), "not a manifest"),
        (
            _edit_manifest(
                files={"state.json": {"size": 1, "sha256": ""}, "../step-000001/state.json": {"size": 1, "sha256": ""}}
            ),
            "state.json: 10 bytes",
        ),
    ],
)
def test_a_damaged_newest_is_skipped_by_name_and_the_one_before_loads(
    damage: Callable[[Path], None], named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = _save(tmp_path, 1), _save(tmp_path, 2)
    damage(newest)
    found = find_latest(tmp_path)
    assert found.path == older
    assert [path for path, _ in found.skipped] == [newest]
    assert named in found.skipped[0][1]
    assert "step-000002 skipped" in found.message
    assert "falling back to step-000001" in found.message
    assert found.message in caplog.text
    assert load_state(older) == {"step": 1}


def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path, 2)
    outside = {"size": 10, "sha256": ""}
    _edit_manifest(files={"../x": outside, "state.json": outside})(path)
    with pytest.raises(CheckpointError, match=r"'\.\./x' leads out"):
        verify_checkpoint(path)


def test_nothing_found_is_said_quietly_and_everything_broken_loudly(tmp_path: Path) -> None:
    assert find_latest(tmp_path).path is None
    assert find_latest(tmp_path).message == ""
    (_save(tmp_path, 3) / "MANIFEST.json").unlink()
    assert "none is left" in find_latest(tmp_path).message


def test_the_newest_keep_and_the_protected_stay(tmp_path: Path) -> None:
    for step in range(1, 8):
        _save(tmp_path, step, keep=2, protect=step in (2, 6))
    assert _steps(tmp_path) == [2, 6, 7]


def test_a_broken_checkpoint_does_not_count_as_one_that_is_kept(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    (_save(tmp_path, 2) / "MANIFEST.json").unlink()
    _save(tmp_path, 3, keep=2)
    assert _steps(tmp_path) == [1, 3]


def test_a_failing_write_leaves_the_earlier_checkpoints_and_no_folder(tmp_path: Path) -> None:
    kept = _save(tmp_path, 1, keep=1)

    def full_disk(folder: Path) -> None:
        _write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, full_disk, {}, keep=1)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"latest", "step-000001"}
    assert find_latest(tmp_path).path == kept


def test_links_are_refused(tmp_path: Path) -> None:
    def link(folder: Path) -> None:
        (folder / "model" / "model.safetensors").symlink_to("/dev/null")

    with pytest.raises(CheckpointError, match=r"model/model\.safetensors: a checkpoint holds plain files only"):
        save_checkpoint(tmp_path, 1, link, {}, keep=1)
    assert _steps(tmp_path) == []


def test_a_checkpoint_moved_aside_comes_back_when_its_replacement_never_came(tmp_path: Path) -> None:
    path = _save(tmp_path, 5)
    path.rename(path.with_name(".old-step-000005.77"))
    (path.parent / ".tmp-step-000006.77").mkdir()
    (path.parent / ".gone-step-000001.77").mkdir()
    assert {p.name for p in remove_leftovers(tmp_path)} == {".tmp-step-000006.77", ".gone-step-000001.77"}
    assert find_latest(tmp_path).path == path


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"rng": {"x": math.nan}}, r"state\.rng\.x: nan has no JSON form"),
        ({"logprobs": [-0.5, -math.inf]}, r"state\.logprobs\[1\]: -inf"),
        ({"rng": 2**127}, r"state\.rng: \d+ does not fit 64 bits"),
        ({"ids": [0, 2**64]}, r"state\.ids\[1\]: \d+ does not fit"),
        ({"seen": {3: 1}}, r"state\.seen: key 3 is int"),
        ({"pool": {"a"}}, r"state\.pool: set has no JSON form"),
    ],
)
def test_a_state_that_json_would_change_is_refused_before_anything_is_written(
    state: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path, 1, _write, state, keep=1)
    assert not (tmp_path / "checkpoints").exists()


def test_a_changed_state_is_not_loaded(tmp_path: Path) -> None:
    path = _save(tmp_path, 7)
    (path / "state.json").write_bytes(b'{"step":8}')
    with pytest.raises(CheckpointError, match="does not match the manifest"):
        load_state(path)
    assert read_manifest(path).step == 7


def test_surplus_groups_come_back_equal_to_the_last_bit(tmp_path: Path) -> None:
    chance = random.Random(1)
    logprobs = (*(-chance.expovariate(1.0) * 10 ** chance.uniform(-12, 2) for _ in range(5000)), -5e-324, -0.1, -0.0)
    problem = Problem(
        problem_id="musique-17",
        task="musique",
        context="A long \u2028 document \U0001f600",
        question="Who?",
        answers=("Ada", "Ada Lovelace"),
        answer_type="choice",
        options=("Ada", "Grace"),
        num_prompt_tokens=3,
    )
    scored = Score(value=1 / 3, status="ok", source="rule", answer="Ada", reason="equal", latency_s=0.125, attempts=2)
    unknown = Score(value=None, status="timeout", source="judge", answer=None)
    rollouts = tuple(
        Rollout(
            sample_index=i,
            token_ids=tuple(range(len(logprobs))),
            sampling_logprobs=logprobs,
            text="so \x00 Ada",
            finish_reason="stop",
            score=score,
            reward=score.value,
        )
        for i, score in enumerate((scored, unknown))
    )
    group = RolloutGroup(problem=problem, prompt_token_ids=(1, 2, 3), rollouts=rollouts, policy_version=4)
    path = save_checkpoint(tmp_path, 1, _write, {"surplus": [group_to_dict(group)]}, keep=1)
    back = group_from_dict(load_state(path)["surplus"][0])
    assert back == group
    assert [x.hex() for x in back.rollouts[0].sampling_logprobs] == [x.hex() for x in logprobs]


def test_a_group_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="surplus group: not what this version writes"):
        group_from_dict({"rollouts": []})
