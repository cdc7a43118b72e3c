"""`python -m launch.report RUN [RUN ...] [--out FILE]`: one self-contained HTML page about a run, or several side by side.

Runs may have ended or be still going; of several the first is the control. The page needs nothing beside itself and
asks for nothing; see report_page for how text of a model stays text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from launch.cli import ENVIRONMENT_ERRNOS, ConfigError
from launch.cli import main as run_command
from launch.report_accuracy import accuracy_cell, accuracy_changes, accuracy_chart, baseline, window_bounds
from launch.report_browser import browser_of
from launch.report_compare import Runs, compare, labels_of
from launch.report_curriculum import curriculum_view
from launch.report_facts import headline, run_facts
from launch.report_items import result_views
from launch.report_page import render
from launch.report_pass_at_k import length_charts
from launch.report_rollouts import MAX_ROLLOUTS
from launch.report_stages import stage_bands, stage_spans, trained_up_to
from launch.report_training import training_charts
from launch.run_record import RunRecord, read_run
from rl.glossary import GLOSSARY
from rl.run_folder import write_file


def main(argv: Sequence[str]) -> None:
    """The command: write the page and say where."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.report", description="Write the report of a run, or of several."
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run's folder; of several the first is the control"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the file to write (default: report.html in the run's folder, comparison.html in the control's)",
    )
    arguments = parser.parse_args(argv)
    runs: list[Path] = arguments.runs
    print(write_report(runs[0], arguments.out) if len(runs) == 1 else write_comparison(runs, arguments.out))


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run's folder, by default as its report.html; returns the path.

    Raises:
        ConfigError: the folder is missing or holds no run, or no file can be written at `out`.
    """
    page = render_report(_read(run_dir, MAX_ROLLOUTS))
    return _written(out or run_dir / "report.html", page)


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about two or more runs, by default as comparison.html in the first one's folder; returns the path.

    Raises:
        ConfigError: a folder is missing, holds no run, or is named twice, or no file can be written at `out`.
    """
    folders = [run_dir.resolve() for run_dir in run_dirs]
    if twice := next((run_dir for run_dir in run_dirs if folders.count(run_dir.resolve()) > 1), None):
        raise ConfigError(f"{twice}: named twice; name each run once, the control first")
    records = [_read(run_dir, MAX_ROLLOUTS // len(run_dirs)) for run_dir in run_dirs]
    labels = labels_of(list(zip(run_dirs, records, strict=True)))
    page = render_comparison(list(zip(labels, records, strict=True)))
    return _written(out or run_dirs[0] / "comparison.html", page)


def render_report(record: RunRecord) -> str:
    """The page about one run."""
    bounds = window_bounds(record.evaluations)
    bands = stage_bands(stage_spans(record))
    return render(
        "report.html",
        title=record.name,
        record=record,
        headline=headline(record),
        facts=run_facts(record),
        accuracy_chart=accuracy_chart(record, bounds),
        bounds=bounds,
        trained_up_to=trained_up_to(record),
        cells={e.checkpoint: {b: accuracy_cell(e.windows.get(b)) for b in bounds} for e in record.evaluations},
        changes=accuracy_changes(record, bounds),
        results=result_views(record.results),
        curriculum=curriculum_view(record),
        charts=training_charts(record),
        length_charts=length_charts(record.rollouts.groups, _bounds(record), bands),
        browser=browser_of([(record.name, record)]),
        before=baseline(record.evaluations).checkpoint if record.evaluations else "",
        after=record.evaluations[-1].checkpoint if record.evaluations else "",
        versions=record.summary.get("versions") or record.meta.get("versions") or {},
        glossary=GLOSSARY,
        written=_now(),
    )


def render_comparison(runs: Runs) -> str:
    """The page about several runs, whose labels differ; the first is the control."""
    told = compare(runs)
    return render(
        "report_compare.html",
        title=" and ".join(told.labels),
        runs=runs,
        comparison=told,
        headlines=[(label, headline(record)) for label, record in runs],
        results=[(label, result_views(record.results)) for label, record in runs],
        length_charts=[
            (label, length_charts(record.rollouts.groups, _bounds(record), stage_bands(stage_spans(record))))
            for label, record in runs
        ],
        browser=browser_of(runs),
        written=_now(),
    )


def _read(run_dir: Path, max_rollouts: int) -> RunRecord:
    try:
        return read_run(run_dir, max_rollouts)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None


def _written(path: Path, page: str) -> Path:
    try:
        write_file(path, page.encode())
    except OSError as error:
        if error.errno in ENVIRONMENT_ERRNOS:
            raise
        raise ConfigError(f"out: no file can be written at {path} ({error.strerror}); choose another place") from None
    return path


def _bounds(record: RunRecord) -> list[int]:
    return sorted({span.high for span in stage_spans(record) if span.high})


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    run_command(main)
