"""The report's curriculum: stages as they went, pool, difficulty, replay, and what a run did not log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from launch.charts import BOTTOM, RIGHT, TOP, Chart
from launch.charts_bars import TIMELINE_LEFT, TimelineRow, bar_chart, timeline
from launch.report import write_report
from launch.report_curriculum import CurriculumView, curriculum_view
from launch.report_facts import headline
from launch.report_rollouts import NO_ROLLOUTS
from launch.report_stages import stage_bands, stage_spans, trained_up_to
from launch.run_record import RunRecord
from rl.run_folder import Evaluation, WindowAccuracy
from tests.launch.test_report import assert_inert

STAGES = [
    {"min_prompt_tokens": 100, "max_prompt_tokens": 320, "steps": 12},
    {"max_prompt_tokens": 480, "steps": 20, "replay_frac": 0.25},
    {"max_prompt_tokens": 640, "steps": 22, "replay_frac": 0.25},
]
TITLES = {
    "Difficulty", "Difficulty now", "Replay pool", "Draws", "Success of replay", "Dead groups", "Groups",
    "Surplus groups", "Refills", "Prompt tokens by window", "Plateau",
}  # fmt: skip


def stage_rows(*lengths: int) -> list[dict[str, Any]]:
    """A row a step, of stages that took so many steps."""
    stages = [index for index, length in enumerate(lengths) for _ in range(length)]
    return [{"step": step, "curriculum/stage": stage} for step, stage in enumerate(stages, 1)]


def full_row(step: int, stage: int) -> dict[str, Any]:
    """Every metric of the curriculum at one step."""
    return {
        "step": step, "reward/mean": 0.5, "curriculum/stage": stage, "curriculum/stage_step": step,
        "curriculum/replay_frac": 0.25 if stage else 0.0, "curriculum/short_frac": 0.1 if stage else 0.0,
        "curriculum/pool_size": 40 * stage, "curriculum/parked": 3, "curriculum/num_left": 2 * step,
        "curriculum/num_visited": 10 * step, "curriculum/dead_group_frac": 0.5, "curriculum/plateau_steps": 1,
        "curriculum/visited_by_reward/0": 1 * step, "curriculum/visited_by_reward/to_0.25": 0,
        "curriculum/visited_by_reward/to_0.5": 2 * step, "curriculum/visited_by_reward/to_0.75": 0,
        "curriculum/visited_by_reward/below_1": 3 * step, "curriculum/visited_by_reward/1": 4 * step,
        "curriculum/replay_reward_mean": 0.3, "curriculum/replay_gain": 0.125 * stage,
        "curriculum/prompt_tokens/320": 1000, "curriculum/prompt_tokens/1280": 3000,
        "rollout/num_sampled_groups": 96, "rollout/num_dead_groups": 48, "rollout/num_refill_rounds": 1,
        "rollout/num_carried_groups": 2, "rollout/num_surplus_groups": 4,
    }  # fmt: skip


def record_of(
    rows: Sequence[Mapping[str, Any]],
    *,
    stages: Sequence[Mapping[str, Any]] = STAGES,
    ended: bool = False,
    evaluations: Sequence[Evaluation] = (),
) -> RunRecord:
    return RunRecord(
        name="r", config={"stages": list(stages)} if stages else {}, meta={}, config_text="", rows=tuple(rows),
        evaluations=tuple(evaluations), summary={"seed": 0} if ended else {}, alarms=(),
        rollouts=NO_ROLLOUTS, results=(), missing=(),
    )  # fmt: skip


def chart_of(view: CurriculumView, title: str) -> Chart:
    return next(chart for chart in view.charts if chart.title == title)


def test_a_stage_that_a_plateau_ended_is_as_long_as_it_was_and_the_next_begins_after_it() -> None:
    spans = stage_spans(record_of(stage_rows(12, 14, 22), ended=True))
    assert [(s.first, s.last, s.state) for s in spans] == [(1, 12, "full"), (13, 26, "early"), (27, 48, "full")]
    assert [s.window for s in spans] == ["100 to 320", "320 to 480", "480 to 640"]
    assert [(band.first, band.last, band.label) for band in stage_bands(spans)] == [
        (1, 12, "≤320"), (13, 26, "≤480"), (27, 48, "≤640"),
    ]  # fmt: skip


def test_what_is_going_and_what_is_ahead_are_planned_from_where_the_run_stands() -> None:
    spans = stage_spans(record_of(stage_rows(10, 5)))
    # The first ended two steps early; the second has 15 of its 20 steps to go: 11 to 30, then 31 to 52.
    assert [(s.first, s.last, s.end, s.state) for s in spans] == [
        (1, 10, 10, "early"), (11, 15, 30, "going"), (31, 30, 52, "ahead"),
    ]  # fmt: skip
    assert headline(record_of(stage_rows(10, 5))).startswith("15 of 52 steps: ")


def test_a_run_that_did_not_log_its_stage_took_them_as_planned() -> None:
    spans = stage_spans(record_of([{"step": step} for step in range(1, 16)]))
    assert [(s.first, s.last, s.state) for s in spans] == [(1, 12, "full"), (13, 15, "going"), (33, 32, "ahead")]


def test_stages_are_known_from_the_metrics_alone() -> None:
    spans = stage_spans(record_of(stage_rows(3, 2), stages=()))
    assert [(s.first, s.last, s.window, s.state) for s in spans] == [
        (1, 3, "stage 1", "full"), (4, 5, "stage 2", "going"),
    ]  # fmt: skip
    assert stage_spans(record_of([], stages=())) == ()


def test_a_checkpoint_after_a_plateau_has_trained_on_the_next_window() -> None:
    at_27 = Evaluation(checkpoint="x", step=27, windows={"640": WindowAccuracy(num=1, greedy=0.0)})
    assert trained_up_to(record_of(stage_rows(12, 14, 1), evaluations=[at_27])) == 640
    assert trained_up_to(record_of(stage_rows(12, 15), evaluations=[at_27])) == 480


def test_a_run_cut_short_by_plateaus_is_told_as_complete() -> None:
    assert headline(record_of(stage_rows(12, 14, 22), ended=True)).startswith("48 steps over 3 stages: ")


def test_every_chart_is_drawn_when_everything_was_logged() -> None:
    view = curriculum_view(record_of([full_row(step, int(step > 3)) for step in range(1, 7)]))
    assert {chart.title for chart in view.charts} == TITLES
    assert view.missing == ()


def test_a_chart_without_data_is_left_out_and_its_metric_named(tmp_path: Path) -> None:
    older = [
        {"step": 1, "reward/mean": 0.5, "curriculum/stage": 0, "curriculum/replay_frac": 0.0, "curriculum/pool_size": 0}
    ]
    view = curriculum_view(record_of(older))
    assert {chart.title for chart in view.charts} == {"Replay pool", "Draws"}
    assert view.missing == (
        "Difficulty: left out: curriculum/visited_by_reward/<bin>",
        "Replay pool: drawn without curriculum/parked, curriculum/num_left",
        "Draws: drawn without curriculum/short_frac",
        "Success of replay: left out: curriculum/replay_reward_mean, curriculum/replay_gain",
        "Dead groups: left out: curriculum/dead_group_frac",
        "Groups: left out: rollout/num_sampled_groups, rollout/num_dead_groups",
        "Surplus groups: left out: rollout/num_carried_groups, rollout/num_surplus_groups",
        "Refills: left out: rollout/num_refill_rounds",
        "Prompt tokens by window: left out: curriculum/prompt_tokens/<window>",
        "Plateau: left out: curriculum/plateau_steps",
    )
    (tmp_path / "metrics.jsonl").write_bytes(orjson.dumps(older[0]))
    told = assert_inert(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert all(line in told for line in view.missing)


def test_difficulty_now_counts_the_last_steps_classes() -> None:
    view = curriculum_view(record_of([full_row(step, 0) for step in range(1, 11)]))
    # After step 10: 10, 0, 20, 0, 30, 40 of 100 problems.
    now = chart_of(view, "Difficulty now")
    assert [bar.text for bar in now.bars] == ["10 (10%)", "0 (0%)", "20 (20%)", "0 (0%)", "30 (30%)", "40 (40%)"]
    assert now.note == "100 problems visited until step 10"
    assert [area.last for area in chart_of(view, "Difficulty").areas] == ["10", "20", "30", "40"]


def test_the_colour_of_a_difficulty_is_the_same_over_time_and_now() -> None:
    view = curriculum_view(record_of([full_row(1, 0)]))
    assert [area.color for area in chart_of(view, "Difficulty").areas] == [0, 2, 4, 5]  # two classes are empty
    assert [bar.color for bar in chart_of(view, "Difficulty now").bars] == [0, 1, 2, 3, 4, 5]
    assert chart_of(view, "Difficulty").palette == chart_of(view, "Difficulty now").palette == "d"


def test_windows_come_by_length_and_what_is_no_bound_is_no_window() -> None:
    rows = [full_row(step, 0) | {"curriculum/prompt_tokens/<script>": 5} for step in (1, 2)]
    areas = chart_of(curriculum_view(record_of(rows)), "Prompt tokens by window").areas
    assert [(area.label, area.last) for area in areas] == [("≤320", "25%"), ("≤1,280", "75%")]  # not by text


def test_a_stages_line_has_the_means_over_its_own_steps() -> None:
    rows = [full_row(step, int(step > 2)) for step in (1, 2, 3, 4)]
    rows[2]["curriculum/replay_gain"] = 0.375  # step 4 has 0.125
    rows[0].pop("curriculum/replay_gain")
    first, second, third = curriculum_view(record_of(rows)).stages
    assert (first.replayed, first.replay_gain) == (0.0, 0.0)
    assert (second.replayed, second.replay_gain, second.replay_reward) == (0.25, 0.25, pytest.approx(0.3))
    assert (third.replayed, third.replay_gain) == (None, None)


def test_the_page_tells_the_stages_and_why_one_ended(tmp_path: Path) -> None:
    rows = [full_row(step, 0 if step <= 12 else 1 if step <= 26 else 2) for step in range(1, 49)]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    (tmp_path / "config.toml").write_text(
        "".join("[[stages]]\n" + "".join(f"{key} = {value}\n" for key, value in stage.items()) for stage in STAGES)
    )
    told = " ".join(assert_inert(write_report(tmp_path).read_text(encoding="utf-8")).text.split())
    for part in (
        "14 of 20 steps: plateau, 25% replay", "22 steps, 25% replay", "320 to 480", "13 to 26", "20 planned",
        "asked 25.0%", "+0.12", "regression to the mean", "Prompt tokens by window",
    ):  # fmt: skip
        assert part in told, part


def test_a_bar_of_the_timeline_covers_its_steps() -> None:
    rows = [
        TimelineRow(name="a", text="", first=1, last=5, planned_last=10, is_cut=True),
        TimelineRow(name="b", text="", first=6, last=20, planned_last=20),
    ]
    drawn = timeline(rows)
    unit = (RIGHT - TIMELINE_LEFT) / 20  # step s covers [s - 1, s] of 20
    first, second = drawn.bars
    assert (first.x, first.width) == (TIMELINE_LEFT, 5 * unit)
    assert (first.planned_x, first.planned_width) == (TIMELINE_LEFT + 5 * unit, 5 * unit)
    assert (second.x, second.width, second.planned_width) == (TIMELINE_LEFT + 5 * unit, 15 * unit, 0)
    assert first.anchor == "start" and second.top > first.top


def test_bars_are_as_high_as_their_values() -> None:
    chart = bar_chart("t", "", ["a", "b", "c"], [0, 50, 100], text=str, tick_text=str)
    assert [bar.height for bar in chart.bars] == [0, (BOTTOM - TOP) / 2, BOTTOM - TOP]
    assert all(bar.y + bar.height == BOTTOM for bar in chart.bars)
    assert bar_chart("t", "", ["a"], [0], text=str, tick_text=str).empty
