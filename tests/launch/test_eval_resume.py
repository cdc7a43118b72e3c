"""An evaluation that was killed, refused or short of a judge, and the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from data.prepare import prepare
from launch.cli import exit_code
from launch.eval import run
from tests.launch.test_eval import problem, read, write_model
from tests.rewards.judge_server import YES, judge_server

NUM_PROBLEMS, SAMPLES = 6, 3


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command's arguments, without `--out`."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("inputs")
    model = write_model(folder / "model")
    problems = [problem(i, f"It was Ada, said number {i}.") for i in range(NUM_PROBLEMS)]
    prepare(problems, AutoTokenizer.from_pretrained(model), folder / "set", windows=(400,))
    return [
        "--model", model, "--suite", str(folder / "set"), "--engine", "transformers", "--threads", "1",
        "--max_response_tokens", "8", "--num_samples", str(SAMPLES), "--batch", "1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert evaluate(words, folder) == 0
    return folder


def evaluate(words: list[str], folder: Path, *more: str) -> int:
    """In `folder`, so that every result has the same `out`."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return exit_code(run, [*words, "--out", "out/", *more])
    finally:
        os.chdir(before)


def result(folder: Path) -> bytes:
    return (folder / "out" / "result.json").read_bytes()


def test_every_problem_has_its_greedy_and_its_sampled_answers_and_pass_at_k(uninterrupted: Path) -> None:
    whole = orjson.loads(result(uninterrupted))
    asked = [(item["problem_id"], item["decoding"], item["sample"]) for item in whole["items"]]
    assert len(set(asked)) == len(asked) == NUM_PROBLEMS * (1 + SAMPLES)
    responses = {item["response"] for item in whole["items"] if item["decoding"] == "sampled"}
    assert len(responses) > NUM_PROBLEMS  # the samples of a problem differ
    [sampled] = [one for one in whole["figures"] if one["decoding"] == "sampled" and one["window"] is None]
    assert set(sampled["pass_at"]) == {"1", "2", "3"}


@pytest.mark.parametrize("share", [0.0, 0.02, 0.35, 0.6, 0.99])
def test_after_a_stop_at_any_byte_the_rerun_ends_with_the_bits_of_the_uninterrupted_one(
    words: list[str], uninterrupted: Path, tmp_path: Path, share: float
) -> None:
    whole = (uninterrupted / "out" / "answers.jsonl").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "answers.jsonl").write_bytes(whole[: int(share * len(whole))])
    assert evaluate(words, tmp_path) == 0
    assert result(tmp_path) == result(uninterrupted)
    assert set((tmp_path / "out" / "answers.jsonl").read_bytes().splitlines()) >= set(whole.splitlines())


def test_a_killed_process_is_followed_by_one_that_asks_only_what_is_missing(
    words: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "launch.eval", *words, "--out", "out/"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    answers = tmp_path / "out" / "answers.jsonl"
    while process.poll() is None and not (answers.exists() and answers.read_bytes().count(b"\n") > 1):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed_at = answers.read_bytes()
    assert not (tmp_path / "out" / "result.json").exists()
    assert evaluate(words, tmp_path) == 0
    assert result(tmp_path) == result(uninterrupted)
    kept = killed_at[: killed_at.rfind(b"\n") + 1]
    assert answers.read_bytes().startswith(kept) and kept.count(b"\n") > 1


def test_a_complete_evaluation_starts_no_model(
    words: list[str], uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rl.rollout.transformers_engine", None)
    before = result(uninterrupted)
    assert evaluate(words, uninterrupted) == 0
    assert result(uninterrupted) == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--temperature", "0.5"], "suites.0.temperature was 0.7, is 0.5"),
        (["--num_samples", "2"], "decoding.num_samples was 3, is 2"),
        (["--problems_per_window", "5"], "suites.0.num_problems.400 was 6, is 5"),
    ],
)
def test_a_rerun_with_other_settings_is_refused_with_the_difference_named(
    words: list[str], uninterrupted: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    assert evaluate(words, uninterrupted, *more) == 2
    assert told in capsys.readouterr().err


def test_answers_that_other_code_scored_are_not_mixed_with_new_ones(
    words: list[str], uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = read(uninterrupted / "out" / "result.json")["pinned"]["code"]
    answers = tmp_path / "out" / "answers.jsonl"
    answers.parent.mkdir()
    answers.write_text((uninterrupted / "out" / "answers.jsonl").read_text().replace(code, "sha256:0"))
    assert evaluate(words, tmp_path) == 2
    assert f"code was 'sha256:0', is '{code}'" in capsys.readouterr().err


def test_another_model_under_the_same_path_is_noticed(
    words: list[str], uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(words[1]) / "generation_config.json"
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    assert evaluate(words, uninterrupted) == 2
    path.write_bytes(before)
    assert "model.fingerprint was 'sha256:" in capsys.readouterr().err


def items_of(folder: Path) -> list[dict[str, Any]]:
    return list(read(folder / "out" / "result.json")["items"])


def test_a_judge_that_is_down_loses_no_item_and_the_rerun_asks_it_alone(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Six answers: fewer failures than make the judge's client pause.
    words = [*words, "--greedy", "false", "--num_samples", "2", "--problems_per_window", "3"]
    (tmp_path / "alone").mkdir()
    assert evaluate(words, tmp_path / "alone") == 0
    alone = items_of(tmp_path / "alone")
    with judge_server("401") as server:
        judged = ["--judge_url", server.url, "--judge_model", "m", "--max_invalid_frac", "0.0"]
        assert evaluate(words, tmp_path, *judged) == 4
        assert "have no valid score" in capsys.readouterr().err
        down, whole = items_of(tmp_path), read(tmp_path / "out" / "result.json")["figures"][-1]
        invalid = [item for item in down if item["value"] is None]
        assert [item["response"] for item in down] == [item["response"] for item in alone]
        assert invalid and {item["status"] for item in invalid} == {"infra_error"}
        assert all(item["failure"] for item in invalid)
        assert (whole["num_problems"], whole["num_items"], whole["num_invalid"]) == (3, 6, len(invalid))

        server.mode, server.content = "ok", YES
        assert evaluate(words, tmp_path, *judged) == 0
    up = items_of(tmp_path)
    assert [item["response"] for item in up] == [item["response"] for item in alone]  # nothing was sampled again
    settled = [item for item, old in zip(up, down, strict=True) if old["value"] is None]
    assert {(item["value"], item["source"]) for item in settled} == {(1.0, "judge")}
    assert [i for i in up if i not in settled] == [i for i in down if i not in invalid]
