"""Which rollouts a page carries: whole groups, evenly over the run, and never more than it can hold."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from launch.report_browser import browser_of
from launch.report_rollouts import NO_ROLLOUTS, Rollouts, evenly, read_run_rollouts
from rl.rollout_log import write_rollouts
from tests.launch.test_report import rollout_group
from tests.launch.test_report_compare import record

RIGHT, WRONG, UNKNOWN = ("answer: 48213", 1.0), ("answer: 48231", 0.0), ("answer: 1", None)


def read(run_dir: Path, max_rows: int = 2000) -> Rollouts:
    missing: list[str] = []
    rollouts = read_run_rollouts(run_dir, max_rows, missing)
    assert missing == []
    return rollouts


def embedded(rollouts: Rollouts, max_bytes: int = 8_000_000) -> tuple[dict[str, Any], str]:
    browser = browser_of([("a", record(rollouts=rollouts))], max_bytes)
    assert browser is not None
    return json.loads(browser.data), browser.told


def test_even_choice_keeps_both_ends() -> None:
    assert evenly(range(10), 4) == [0, 3, 6, 9]
    assert evenly(range(3), 5) == [0, 1, 2]
    assert (evenly(range(3), 1), evenly(range(3), 0)) == ([2], [])


def test_of_many_steps_whole_groups_are_chosen_evenly(tmp_path: Path) -> None:
    for step in range(1, 71):
        groups = [rollout_group(10 * step + i, [RIGHT, WRONG]) for i in range(4)]
        write_rollouts(tmp_path, step, [(group, (1.0, -1.0)) for group in groups])
    rollouts = read(tmp_path, max_rows=240)  # 60 steps at most, so four rows of each: two groups
    assert (rollouts.num_rows, rollouts.num_steps, len(rollouts.rows)) == (560, 70, 240)
    steps = sorted({row["step"] for row in rollouts.rows})
    assert len(steps) == 60 and (steps[0], steps[-1]) == (1, 70)
    assert max(b - a for a, b in pairwise(steps)) == 2
    first = [row["problem_id"] for row in rollouts.rows if row["step"] == 1]
    assert first == ["lookup-10", "lookup-10", "lookup-13", "lookup-13"]
    data, told = embedded(rollouts)
    assert len(data["rollouts"]) == 240 and len(data["problems"]) == 120
    assert told.startswith("240 of 560 rollouts, from 60 of 70 steps: whole groups, chosen evenly;")


def test_a_page_that_would_be_too_large_is_thinned_evenly_and_says_so(tmp_path: Path) -> None:
    for step in range(1, 31):
        write_rollouts(tmp_path, step, [(rollout_group(step, [(f"{step} " * 900, 1.0), WRONG]), (1.0, -1.0))])
    rollouts = read(tmp_path)
    data, told = embedded(rollouts, max_bytes=40_000)
    assert 20_000 < len(json.dumps(data)) < 44_000
    steps = [one["step"] for one in data["rollouts"]]
    assert (steps[0], steps[-1]) == (1, 30) and len(steps) % 2 == 0
    assert f"{len(steps)} of 60 rollouts, from {len(steps) // 2} of 30 steps" in told and "0.04 MB at most" in told
    assert embedded(rollouts)[1] == "All 60 rollouts of 30 steps."


def test_long_texts_keep_their_ends_and_hidden_characters_are_spelt_out(tmp_path: Path) -> None:
    long = "a" * 5000 + "\u202e" + "b" * 5000
    write_rollouts(tmp_path, 1, [(rollout_group(1, [(long, 1.0)], question="\x00?"), (0.5,))])
    data, _ = embedded(read(tmp_path))
    assert data["rollouts"][0]["response"] == "a" * 2000 + "\n[... 6,001 characters ...]\n" + "b" * 2000
    assert data["problems"][0]["question"] == "\u2400?"


def test_a_group_left_over_for_the_next_step_is_counted_once_in_the_step_that_sampled_it(tmp_path: Path) -> None:
    trained, surplus, unknown = (rollout_group(i, [RIGHT, WRONG, UNKNOWN]) for i in (1, 2, 3))
    nothing = rollout_group(4, [UNKNOWN, UNKNOWN])
    write_rollouts(tmp_path, 1, [(trained, (1.0, -1.0, None))], [surplus, nothing])
    write_rollouts(tmp_path, 2, [(surplus, (1.0, -1.0, None)), (unknown, (1.0, -1.0, None))])
    counted = [(g.step, g.num_valid, g.num_right, g.mean) for g in read(tmp_path).groups]
    assert counted == [(1, 2, 1, 0.5), (1, 2, 1, 0.5), (1, 0, 0, None), (2, 2, 1, 0.5)]


def test_a_file_of_another_kind_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    write_rollouts(tmp_path, 1, [(rollout_group(1, [RIGHT, WRONG]), (1.0, -1.0))])
    parquet.write_table(pyarrow.table({"problem_id": ["a"]}), tmp_path / "rollouts" / "step-000002.parquet")
    (tmp_path / "rollouts" / "step-000003.parquet").write_bytes(b"PAR1")
    missing: list[str] = []
    rollouts = read_run_rollouts(tmp_path, 100, missing)
    assert (rollouts.num_rows, rollouts.num_steps) == (2, 1)
    assert "step-000002.parquet: has no column num_prompt_tokens, score, policy_version" in missing[0]
    assert "step-000003.parquet: not a readable parquet file" in missing[1]


def test_a_run_without_rollouts_has_no_browser() -> None:
    assert browser_of([("a", record(rollouts=NO_ROLLOUTS))]) is None
