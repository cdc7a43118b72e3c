import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.problem import DataError
from data.prompts import count_prompt_tokens
from data.readers import read_problems
from data.synthesis.__main__ import main
from data.synthesis.cells import cell_of_id
from data.synthesis.resume import ResumableFile
from tests.data.tokenizers import word_tokenizer


def _run(tmp_path, *words: str) -> int:
    return main([*words, "--out", str(tmp_path / "made.jsonl")])


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_file_holds_count_rows_per_task_and_window_and_is_read_back(tmp_path, capsys) -> None:
    assert _run(tmp_path, "--task", "lookup,arithmetic", "--lengths", "100,150", "--count", "3") == 0
    problems = list(read_problems(tmp_path / "made.jsonl"))
    assert [p.task for p in problems] == ["lookup"] * 6 + ["arithmetic"] * 6
    assert len({p.problem_id for p in problems}) == 12
    assert [p.answer_type for p in problems] == ["text"] * 6 + ["number"] * 6
    assert "12 problems" in capsys.readouterr().out


def test_lengths_are_the_tokenizers_whole_prompt(tmp_path) -> None:
    word_tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert _run(tmp_path, "--tokenizer", str(tmp_path / "tokenizer"), "--lengths", "200", "--count", "4") == 0
    rows = _rows(tmp_path / "made.jsonl")
    problems = list(read_problems(tmp_path / "made.jsonl"))
    assert [row["num_prompt_tokens"] for row in rows] == count_prompt_tokens(word_tokenizer(), problems)
    assert all(len(p.context.split()) < row["num_prompt_tokens"] <= 200 for p, row in zip(problems, rows, strict=True))


def test_labels_say_the_cell_and_where_the_facts_stand(tmp_path) -> None:
    wanted = ["--hops", "3", "--distractors", "similar", "--depth", "0.2,0.8", "--spread", "0.1"]
    assert _run(tmp_path, "--lengths", "2000", "--min-length", "1900", "--count", "2", *wanted) == 0
    rows = _rows(tmp_path / "made.jsonl")
    assert [row["depth"] for row in rows] == [0.2, 0.2, 0.8, 0.8]
    assert all((row["length"], row["num_hops"], row["distractors"]) == (2000, 3, "similar") for row in rows)
    for row in rows:
        assert sorted(row["needle_depths"]) == pytest.approx([row["depth"] + d for d in (-0.05, 0, 0.05)], abs=0.02)
    assert rows[0]["problem_id"] == "chain-train-0-2000-hops3-similar-depth0.2-spread0.1-0"


def test_a_grid_is_one_file_whose_ids_give_the_cells_back(tmp_path) -> None:
    asked = ["--grid", "--task", "lookup,choice", "--lengths", "200,400", "--depth", "0,0.5,1", "--split", "test"]
    assert _run(tmp_path, *asked, "--count", "3") == 0
    rows = {row["problem_id"]: row for row in _rows(tmp_path / "made.jsonl")}
    read = [problem.problem_id for problem in read_problems(tmp_path / "made.jsonl")]
    assert len(rows) == 2 * 2 * 3 * 3 and list(rows) == read
    for problem_id in read:
        cell, row = cell_of_id(problem_id), rows[problem_id]
        assert (cell.task, cell.length, cell.depth) == (row["task"], row["length"], row["depth"])
        assert cell.length * 0.95 - 1 <= row["num_prompt_tokens"] <= cell.length


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path) -> None:
    word_tokenizer().save_pretrained(tmp_path / "tokenizer")
    asked = ["--task", "lookup,chain", "--lengths", "150,200", "--count", "150"]
    asked += ["--tokenizer", str(tmp_path / "tokenizer")]
    made = []
    for workers in ("1", "3"):
        out = tmp_path / f"{workers}.jsonl"
        assert main([*asked, "--workers", workers, "--out", str(out)]) == 0
        made.append(out.read_bytes())
    assert made[0] == made[1] and made[0].count(b"\n") == 600


EAGER = "import data.synthesis.resume as r, data.synthesis.__main__ as m; r._COMMIT_EVERY_S = 0; m.main({})"
"""The command in a process that can be killed, with what is written safe on disk at once."""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_run_goes_on_where_it_stopped_and_gives_the_same_bytes(tmp_path, capsys, workers) -> None:
    asked = ["--task", "lookup,arithmetic", "--lengths", "300", "--count", "3000"]
    killed, whole, state = (tmp_path / name for name in ("killed.jsonl", "whole.jsonl", "killed.jsonl.partial.json"))
    command = [*asked, "--workers", workers, "--out", str(killed)]
    process = subprocess.Popen([sys.executable, "-c", EAGER.format(command)], cwd=Path(__file__).parents[2])
    while process.poll() is None and not (state.exists() and json.loads(state.read_bytes())["num_rows"] >= 256):
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = children.read_text().split() if children.exists() else []
    assert workers == "1" or len(pids) >= 2
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not killed.exists() and (tmp_path / "killed.jsonl.partial").exists()
    until = time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(_runs(pid) for pid in pids)
    assert main(command) == 0
    (after,) = re.findall(r"going on after (\d+) of 6000", capsys.readouterr().out)
    assert 256 <= int(after) < 6000
    assert main([*asked, "--out", str(whole)]) == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.jsonl", "whole.jsonl"]


def _runs(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_torn_tail_is_made_again_and_an_older_file_stands_until_the_new_one_is_whole(tmp_path) -> None:
    out = tmp_path / "made.jsonl"
    out.write_text("older")
    with ResumableFile(out, {"seed": 0}) as file:
        file.append(b"1\n2\n", 2)
        file._commit()
        file.append(b'{"torn', 1)
    assert out.read_text() == "older"
    with ResumableFile(out, {"seed": 0}) as file:
        assert file.num_rows == 2
        file.append(b"3\n", 1)
        file.finish()
    assert out.read_bytes() == b"1\n2\n3\n" and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("spoil", "seed", "message"),
    [
        (lambda partial, state: None, 1, "begun with seed 0, now 1; give the same arguments"),
        (lambda partial, state: partial.write_bytes(b""), 0, "0 bytes, its state says 4; remove"),
        (lambda partial, state: state.write_bytes(b"{}"), 0, "no state of this command"),
    ],
)
def test_a_partial_file_that_does_not_fit_is_refused_and_kept(tmp_path, spoil, seed, message) -> None:
    partial, state = tmp_path / "made.jsonl.partial", tmp_path / "made.jsonl.partial.json"
    with ResumableFile(tmp_path / "made.jsonl", {"seed": 0}) as file:
        file.append(b"1\n2\n", 2)
        file._commit()
    spoil(partial, state)
    before = partial.read_bytes(), state.read_bytes()
    with pytest.raises(DataError, match=message):
        ResumableFile(tmp_path / "made.jsonl", {"seed": seed})
    assert (partial.read_bytes(), state.read_bytes()) == before


def test_two_processes_do_not_write_one_file(tmp_path) -> None:
    with (
        ResumableFile(tmp_path / "made.jsonl", {}),
        pytest.raises(DataError, match="another process is writing it"),
    ):
        ResumableFile(tmp_path / "made.jsonl", {})


def test_a_full_disk_is_one_line_and_keeps_what_was_written(tmp_path, capsys, monkeypatch) -> None:
    def refuse(self: ResumableFile, lines: bytes, num_rows: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ResumableFile, "append", refuse)
    assert _run(tmp_path, "--lengths", "100", "--count", "2") == 2
    error = capsys.readouterr().err
    assert "cannot be written (No space left on device)" in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["made.jsonl.partial"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lengths", "many"], "--lengths: seen 'many'"),
        (["--lengths", "200,100"], "windows: [200, 100]"),
        (["--lengths", "100", "--count", "0"], "--count: 0 is below 1"),
        (["--lengths", "100", "--task", "riddle"], "task: 'riddle' is not one of"),
        (["--lengths", "100", "--workers", "0"], "--workers: 0 is below 1"),
        (["--lengths", "100", "--task", "chain,chain"], "chain-train-0-100: asked for twice"),
        (["--lengths", "100", "--task", "lookup", "--hops", "3"], "--hops: lookup has no hops"),
        (["--lengths", "100", "--hops", "1"], "hops: 1 is outside 2..16"),
        (["--lengths", "100", "--depth", "deep"], "--depth: seen 'deep'"),
        (["--lengths", "100", "--depth", "2"], "depth: 2 is outside 0..1"),
        (["--lengths", "100", "--spread", "0.5"], "give a depth too"),
        (["--lengths", "100", "--grid", "--min-length", "50"], "--min-length: a grid's prompts are just below"),
        (["--lengths", "20"], "tokens without any text > window (0, 20]; fewer num_facts"),
        (["--lengths", "100", "--corpus", "/nowhere/at/all"], "--corpus /nowhere/at/all: not a folder"),
        (["--lengths", "100", "--tokenizer", "/nowhere/at/all"], "--tokenizer /nowhere/at/all: no tokenizer there"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(tmp_path, capsys, words, message) -> None:
    assert _run(tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--lengths"], ["--lengths", "100", "--seed", "x"], ["--split", "all"], []])
def test_what_the_parser_refuses_is_one_line_too(tmp_path, capsys, words) -> None:
    with pytest.raises(SystemExit) as exited:
        _run(tmp_path, *words)
    error = capsys.readouterr().err
    assert exited.value.code == 2
    assert error.startswith("error: ") and "--help" in error and error.count("\n") == 1


def test_help_names_every_option_and_how_to_go_on(capsys) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["--help"])
    said = capsys.readouterr().out
    assert exited.value.code == 0
    for word in ("--grid", "--depth", "--hops", "--distractors", "--workers", "--spread", ".partial", "cell_of_id"):
        assert word in said
