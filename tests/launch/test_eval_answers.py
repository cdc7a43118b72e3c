"""Answers on disk: what a kill leaves, what a rerun asks, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from launch.cli import ConfigError
from launch.eval_answers import AnswerFile

SETTINGS = {"model": {"fingerprint": "sha256:1"}, "suites": [{"name": "s", "windows": (1, 2)}], "judge": None}
ROWS = [{"problem_id": "p0", "value": 1.0}, {"problem_id": "p1", "value": None, "response": "line\n\u2028break"}]


def written(path: Path) -> bytes:
    file = AnswerFile(path, SETTINGS)
    file.append(ROWS[:1])
    file.append(ROWS[1:])
    file.close()
    return path.read_bytes()


def test_whatever_byte_a_kill_stopped_at_the_whole_lines_are_read_and_the_file_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = written(path)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        file = AnswerFile(path, SETTINGS)
        num_whole = max(0, whole[:size].count(b"\n") - 1)
        assert file.rows == ROWS[:num_whole]
        file.append(ROWS[num_whole:])
        file.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": {"fingerprint": "sha256:2"}}, "model.fingerprint was 'sha256:1', is 'sha256:2'"),
        ({"suites": [{"name": "s", "windows": (1, 3)}]}, "suites.0.windows was [1, 2], is [1, 3]"),
        ({"judge": {"url": "http://judge"}}, "judge.url was None, is 'http://judge'"),
    ],
)
def test_other_settings_are_refused_and_the_difference_is_named(
    tmp_path: Path, changed: dict[str, object], told: str
) -> None:
    path = tmp_path / "answers.jsonl"
    before = written(path)
    with pytest.raises(ConfigError, match="holds answers under other settings") as caught:
        AnswerFile(path, SETTINGS | changed)
    assert told in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"some": "other file"}\n', "holds no answers of an evaluation"),
        (b"no line end", "holds no answers of an evaluation"),
        (b'{"format":"longreach-answers-1"}\nno json\n{}\n', "2: not JSON"),
        (b'{"format":"longreach-answers-1"}\n[1]\n{}\n', "2: no JSON object"),
    ],
)
def test_a_file_of_another_kind_is_left_alone(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        AnswerFile(path, SETTINGS)
    assert told in str(caught.value)
    assert path.read_bytes() == content


def test_a_second_evaluation_of_the_same_file_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.jsonl", SETTINGS)
    with pytest.raises(ConfigError, match="is being written by another evaluation"):
        AnswerFile(tmp_path / "answers.jsonl", SETTINGS)
    file.close()
    AnswerFile(tmp_path / "answers.jsonl", SETTINGS).close()


def test_the_first_line_is_the_settings(tmp_path: Path) -> None:
    first = written(tmp_path / "answers.jsonl").splitlines()[0]
    assert orjson.loads(first)["settings"]["suites"] == [{"name": "s", "windows": [1, 2]}]


def test_without_any_answer_other_settings_may_follow(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerFile(path, SETTINGS).close()
    AnswerFile(path, SETTINGS | {"judge": {"url": "http://judge"}}).close()
    assert orjson.loads(path.read_bytes())["settings"]["judge"] == {"url": "http://judge"}
