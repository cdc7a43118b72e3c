"""The command, run as a user runs it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

import rewards.score
from rewards.hybrid import RuleScorer
from tests.rewards.judge_server import judge_server

ROOT = Path(__file__).parents[2]
RIGHT = "the answer is Barack Obama"
ROW = {
    "id": "a",
    "question": "Who?",
    "answers": ["Barack Obama"],
    "answer_type": "text",
    "response": RIGHT,
}


def score(lines: list[object], *arguments: str) -> tuple[int, list[dict], str]:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    command = [sys.executable, "-m", "rewards.score", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT, timeout=60)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_rows_come_out_in_order_with_the_documented_fields() -> None:
    choice = {
        **ROW,
        "id": 7,
        "answers": ["B"],
        "answer_type": "choice",
        "options": ["London", "Paris"],
        "response": "Answer: Paris",
    }
    code, rows, stderr = score([ROW, choice, {**ROW, "id": "c", "response": "<think>"}])
    assert (code, stderr) == (0, "")
    assert rows == [
        {"id": "a", "value": 1.0, "status": "ok", "source": "rule", "answer": "Barack Obama"},
        {"id": 7, "value": 1.0, "status": "ok", "source": "rule", "answer": "Paris"},
        {"id": "c", "value": 0.0, "status": "ok", "source": "rule", "answer": None},
    ]


def test_a_bad_row_is_marked_with_its_line_and_the_others_are_scored() -> None:
    bad = ["{not json", "[1]", "\xff", {**ROW, "answers": []}, {**ROW, "answers": "x"}, {**ROW, "answer_type": "free"}]
    bad += [
        {"id": "z"},
        {**ROW, "response": None},
        {**ROW, "options": [1]},
        {**ROW, "id": [1]},
        '{"id": "\\ud800"}',
        "[" * 5000,
    ]
    code, rows, _ = score([ROW, "", *bad, ROW])
    assert code == 0
    assert [row["value"] for row in rows] == [1.0, *[None] * len(bad), 1.0]
    for number, row in enumerate(rows[1:-1], start=3):
        assert row["status"] == "parse_error"
        assert row["error"].startswith(f"line {number}: ")
    assert rows[7]["id"] == "z" and "missing question, answers" in rows[7]["error"]
    assert "free" in rows[6]["error"] and "text, number, choice, yesno" in rows[6]["error"]


def test_explain_adds_a_reason() -> None:
    _, rows, _ = score([ROW], "--explain")
    assert rows[0]["reason"] == "text: equals 'Barack Obama' (read after 'the answer is')"


def test_a_judge_is_asked_and_an_unreachable_one_leaves_a_zero_unknown() -> None:
    wrong = {**ROW, "response": "the answer is the 44th president"}
    with judge_server() as server:
        code, rows, _ = score([ROW, wrong], "--judge", server.url, "--judge-model", "m")
    assert (code, [(row["value"], row["source"]) for row in rows]) == (0, [(1.0, "rule"), (1.0, "judge")])
    with judge_server("401") as server:
        code, rows, _ = score([ROW, wrong], "--judge", server.url, "--judge-model", "m")
    assert (code, [(row["value"], row["status"]) for row in rows]) == (0, [(1.0, "ok"), (None, "infra_error")])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        code, rows, stderr = score([wrong], "--judge", url, "--judge-model", "m")
    assert (code, [(row["value"], row["status"]) for row in rows]) == (0, [(None, "infra_error")])
    assert stderr.startswith("score: 1 of 1 rows have no value (infra_error 1); the first: judge: http")


def test_a_second_run_asks_the_cache_and_a_judge_that_always_says_yes_has_no_second_opinion(tmp_path: Path) -> None:
    wrong = {**ROW, "response": "the answer is the 44th president"}
    with judge_server() as server:
        judge = ["--judge", server.url, "--judge-model", "m", "--judge-cache", str(tmp_path / "verdicts")]
        runs = [score([wrong, wrong], *judge)[1] for _ in range(2)]
        assert len(server.requests) == 1
        _, doubted, _ = score([wrong], *judge, "--second-opinion")
    assert [[(row["value"], row["source"]) for row in rows] for rows in runs] == [
        [(1.0, "judge")] * 2,
        [(1.0, "cache")] * 2,
    ]
    assert (doubted[0]["value"], doubted[0]["source"]) == (0.0, "judge")


def test_memory_does_not_grow_with_the_input() -> None:
    row = (json.dumps({**ROW, "response": "word " * 800 + RIGHT}) + "\n").encode()
    code = (
        "import resource, sys, rewards.score as command; code = command.main([]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    peaks = []
    for count in (2_000, 40_000):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
            assert run.stdin and run.stderr
            for _ in range(count // 1000):
                run.stdin.write(row * 1000)
            run.stdin.close()
            peaks.append(int(run.stderr.read()))
    assert peaks[1] - peaks[0] < 8 * 1024, "160 MB of rows took more than 8 MiB beyond 8 MB of rows"


def test_a_line_too_long_to_hold_is_one_bad_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards.score, "MAX_LINE_BYTES", 1000)
    row = json.dumps(ROW).encode()
    out = BytesIO()
    told = rewards.score.score_stream(BytesIO(b"\n".join([row, b"x" * 5000, row])), out, RuleScorer())
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row["value"] for row in rows] == [1.0, None, 1.0]
    assert rows[1]["error"] == "line 2: longer than 1000 bytes"
    assert told == "score: 1 of 3 rows have no value (parse_error 1); the first: line 2: longer than 1000 bytes"


def test_wrong_usage_exits_with_two_and_says_what_is_wrong() -> None:
    for arguments in (
        ["--judge", "http://h/v1"],
        ["--judge-model", "m"],
        ["--judge", "h", "--judge-model", "m"],
        ["--nope"],
        ["--second-opinion"],
        ["--judge", "http://h/v1", "--judge-model", "m", "--canaries", "-1"],
        ["--judge", "http://h/v1", "--judge-model", "m", "--judge-concurrency", "0"],
    ):
        code, rows, stderr = score([ROW], *arguments)
        assert (code, rows) == (2, [])
        assert arguments[0] in stderr or "judge" in stderr


def test_rows_stream_out_before_the_input_ends() -> None:
    lines = (json.dumps(ROW) + "\n").encode() * 300
    command = [sys.executable, "-m", "rewards.score"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as running:
        assert running.stdin and running.stdout
        running.stdin.write(lines)
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["value"] == 1.0
        running.stdin.close()
        assert sum(1 for _ in running.stdout) == 299


def test_importing_the_rewards_is_light() -> None:
    code = (
        "import sys, time; start = time.process_time(); import rewards.service, rewards.judge, rewards.score;"
        "took = time.process_time() - start;"
        "print(took, *sorted({'openai', 'tenacity', 'torch', 'ray', 'vllm', 'pydantic'} & set(sys.modules)))"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        took, *heavy = done.stdout.split()
        assert heavy == []
        times.append(float(took))
    assert min(times) < 0.2
