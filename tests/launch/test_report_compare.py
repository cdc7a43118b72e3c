"""Several runs on one page: the control comes first, differences have intervals, and only what differs is listed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

from launch import report
from launch.cli import ConfigError, exit_code
from launch.report import write_comparison
from launch.report_compare import compare, different_settings, labels_of
from launch.report_rollouts import NO_ROLLOUTS
from launch.run_record import RunRecord
from rl.run_folder import Evaluation, WindowAccuracy
from tests.launch.test_report import assert_inert, write_run


def record(name: str = "r", shares: dict[str, float] | None = None, **fields: Any) -> RunRecord:
    windows = {bound: WindowAccuracy(num=200, greedy=share) for bound, share in (shares or {}).items()}
    given: dict[str, Any] = {
        "config": {}, "meta": {}, "config_text": "", "rows": (), "summary": {}, "alarms": (), "rollouts": NO_ROLLOUTS,
        "results": (), "missing": (),
        "evaluations": (Evaluation(checkpoint="final", step=9, windows=windows),) if windows else (),
    }  # fmt: skip
    return RunRecord(name=name, **given | fields)


def test_accuracy_is_compared_with_the_first_runs_window_by_window() -> None:
    told = compare([("a", record(shares={"160": 0.5, "512": 0.4})), ("b", record(shares={"160": 0.7, "1024": 0.9}))])
    control, other = told.accuracy
    assert told.bounds == ("160", "512", "1024")
    assert control.changes == ()
    change, *rest = other.changes
    assert change is not None and rest == [None, None]
    assert change.points == pytest.approx(20) and change.is_clear
    assert [cell and cell.greedy for cell in other.cells] == [0.7, None, 0.9]
    assert [line.label for line in told.accuracy_chart.lines] == ["a", "b"]


def test_where_a_run_began_is_told_beside_where_it_ended() -> None:
    began = Evaluation(checkpoint="sft", step=0, windows={"160": WindowAccuracy(num=200, greedy=0.1)})
    ended = Evaluation(checkpoint="final", step=9, windows={"160": WindowAccuracy(num=200, greedy=0.6)})
    told = compare([("a", record(evaluations=(began, ended))), ("b", record(evaluations=(began, ended)))])
    assert [(line.label, line.checkpoint, len(line.changes)) for line in told.accuracy] == [
        ("a", "sft", 0), ("a", "final", 0), ("b", "sft", 0), ("b", "final", 1),
    ]  # fmt: skip


def test_a_run_without_evaluations_or_steps_is_compared_in_what_it_has() -> None:
    rows = tuple({"step": step, "reward/mean": 0.5} for step in (1, 2))
    told = compare([("a", record()), ("b", record(shares={"160": 0.5}, rows=rows))])
    assert [line.label for line in told.accuracy] == ["b"] and told.accuracy[0].changes == ()
    assert [chart.title for chart in told.charts] == ["Reward"]
    assert dict(told.facts)["steps"] == ("-", "2 steps")


def test_a_runs_curve_ends_where_the_run_does() -> None:
    short, long = (tuple({"step": step, "reward/mean": 0.5} for step in range(1, n + 1)) for n in (2, 4))
    [chart] = compare([("a", record(rows=short)), ("b", record(rows=long))]).charts
    assert [hover.text for hover in chart.hovers] == [
        "step 1: a 0.5, b 0.5", "step 2: a 0.5, b 0.5", "step 3: a none, b 0.5", "step 4: a none, b 0.5",
    ]  # fmt: skip


def test_stages_are_shaded_where_all_runs_took_them_alike() -> None:
    rows = tuple({"step": step, "reward/mean": 0.5, "curriculum/stage": step // 3} for step in range(1, 6))
    other = tuple({**row, "curriculum/stage": 0} for row in rows)
    assert len(compare([("a", record(rows=rows)), ("b", record(rows=rows))]).charts[0].bands) == 2
    assert len(compare([("a", record(rows=rows)), ("b", record(rows=other))]).charts[0].bands) == 0


def test_only_the_settings_that_differ_are_listed() -> None:
    first = {"learner": {"lr": 1e-6, "clip": 0.2}, "stages": [{"steps": 2}, {"steps": 3}], "windows": [1, 2]}
    second = {"learner": {"lr": 2e-6, "clip": 0.2}, "stages": [{"steps": 2}], "windows": [1, 3], "seed": 1}
    assert different_settings([first, second]) == [
        ("learner.lr", ("1e-06", "2e-06")),
        ("seed", ("-", "1")),
        ("stages.1.steps", ("3", "-")),
        ("windows", ("[1, 2]", "[1, 3]")),
    ]


def test_runs_of_the_same_name_are_told_apart_by_their_folders() -> None:
    paths = [Path("/runs/x/seed-0"), Path("/runs/y/seed-0"), Path("/runs/y/seed-1"), Path("/runs/z")]
    names = ["demo", "demo", "demo", "control"]
    runs = [(path, record(name)) for path, name in zip(paths, names, strict=True)]
    assert labels_of(runs) == ["x/seed-0", "y/seed-0", "seed-1", "control"]


def test_the_command_writes_one_page_about_several_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    write_run(first, num_steps=3)
    shutil.copytree(first, second)
    config = (second / "config.toml").read_text()
    (second / "config.toml").write_text(config.replace("group_size = 8", "group_size = 16"))
    capsys.readouterr()
    report.main([str(first), str(second)])
    page = first / "comparison.html"
    assert capsys.readouterr().out == f"{page}\n"
    told = assert_inert(page.read_text(encoding="utf-8")).text
    for part in (
        "second against first",
        "curriculum.group_size816",
        "less the control",
        "Accuracy by prompt length",
        "Reward",
    ):
        assert part in told, part
    with pytest.raises(ConfigError, match="named twice"):
        write_comparison([first, second, first / "."])
    with pytest.raises(ConfigError, match="no such folder"):
        write_comparison([first, tmp_path / "none"])


def test_a_place_where_no_file_can_be_written_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "one", num_steps=2)
    write_run(tmp_path / "two", num_steps=2)
    taken = tmp_path / "file"
    taken.write_text("mine")
    for runs in (["one"], ["one", "two"]):
        for out in (taken / "r.html", taken / "x" / "r.html", tmp_path / "one"):
            assert exit_code(report.main, [*(str(tmp_path / name) for name in runs), "--out", str(out)]) == 2
            told = capsys.readouterr().err
            assert told.startswith(f"error: out: no file can be written at {out} (") and told.count("\n") == 1
    assert taken.read_text() == "mine" and not list(tmp_path.rglob(".tmp-*"))
