"""Verdicts on disk: kept, shared, and never worth a score."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import pytest

from rewards.judge_cache import JudgeCache


def test_verdicts_come_back_also_in_another_cache_object(tmp_path: Path) -> None:
    cache = JudgeCache(tmp_path / "new" / "judge.sqlite")
    assert cache.get(["a"]) == {}
    cache.put({"a": True, "b": False})
    cache.put({"b": True})
    assert JudgeCache(tmp_path / "new" / "judge.sqlite").get(["a", "b", "c"]) == {"a": True, "b": True}


def test_more_keys_than_one_query_takes(tmp_path: Path) -> None:
    cache = JudgeCache(tmp_path / "j")
    verdicts = {f"k{i}": i % 3 == 0 for i in range(2500)}
    cache.put(verdicts)
    assert cache.get([*verdicts, "unknown"]) == verdicts


def _fill(path: str, start: int) -> None:
    cache = JudgeCache(path)
    for i in range(start, start + 50):
        cache.put({f"k{i}": True})
    assert cache.num_errors == 0


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "j")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fill, args=(path, start)) for start in (0, 50, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(JudgeCache(path).get([f"k{i}" for i in range(150)])) == 150


def test_a_file_that_is_no_cache_costs_calls_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j"
    path.write_bytes(content := b"no database" * 200)
    cache = JudgeCache(path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cache.get(["a"]) == {}
        cache.put({"a": True})
    assert cache.num_errors == 4
    assert len(caplog.records) == 1 and "going on without it" in caplog.text
    assert path.read_bytes() == content


def test_an_empty_file_becomes_a_cache(tmp_path: Path) -> None:
    (tmp_path / "j").touch()
    cache = JudgeCache(tmp_path / "j")
    assert cache.get(["a"]) == {}
    cache.put({"a": True})
    assert (cache.get(["a"]), cache.num_errors) == ({"a": True}, 0)


def test_a_place_for_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file" / "judge"):
        with pytest.raises(ValueError, match="judge cache"):
            JudgeCache(place)
