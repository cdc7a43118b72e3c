"""Curves of several seeds: their mean and interval by hand, and pictures that are whole, escaped and legible."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from data.problem import DataError
from launch.study_charts import LABEL_GAP, WIDTH, band_chart, interval_chart
from launch.study_curves import Curve, mean_curve, mean_interval, read_curve, study_curves

SVG = "{http://www.w3.org/2000/svg}"


def write_metrics(run_dir: Path, rows: list[dict[str, float | None]]) -> Path:
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_bytes(b"\n".join(orjson.dumps({"step": i, **r}) for i, r in enumerate(rows, 1)))
    return run_dir


def line(slope: float, *xs: float) -> Curve:
    return [(x, slope * x) for x in xs]


def labels_of(svg: str) -> list[tuple[float, str]]:
    """(y, text) of the names at the curves' ends."""
    root = ElementTree.fromstring(svg)
    return [(float(t.get("y", "")), t.text or "") for t in root.iter(f"{SVG}text") if "label" in t.get("class", "")]


def test_the_interval_is_students() -> None:
    # 1, 2, 3: mean 2, s = 1 with n - 1, t(2) = 4.303: half = 4.303 / sqrt(3) = 2.4843
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, -0.4843, 4.4843), abs=1e-4)
    assert mean_interval([5.0]) == (5.0, 5.0, 5.0)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_many_seeds_come_close_to_the_normal_interval() -> None:
    values = [0.0, 1.0] * 50  # s = sqrt(100 / 4 / 99) = 0.50252; t(99) = 1.9842
    assert mean_interval(values)[2] - 0.5 == pytest.approx(1.9842 * 0.050252, rel=2e-3)


def test_seeds_with_the_same_steps_are_averaged_step_by_step() -> None:
    points = mean_curve([line(1.0, 1, 2, 3), line(3.0, 1, 2, 3)])
    assert [(p.x, p.mean) for p in points] == [(1, 2.0), (2, 4.0), (3, 6.0)]
    # at x = 1: values 1 and 3, s = sqrt(2), t(1) = 12.706: half = 12.706
    assert points[0].high == pytest.approx(2.0 + 12.706)


def test_the_mean_ends_where_the_first_seed_ends() -> None:
    points = mean_curve([line(1.0, 1, 2, 3, 4), line(3.0, 1, 2)])
    assert [p.x for p in points] == [1, 2]


def test_seeds_with_other_times_are_interpolated_between_their_points() -> None:
    points = mean_curve([line(1.0, 0, 10), line(2.0, 0, 4, 12)])
    assert (points[0].x, points[-1].x) == (0, 10)
    assert all(p.mean == pytest.approx(1.5 * p.x) for p in points)


def test_seconds_leave_evaluation_out(tmp_path: Path) -> None:
    run_dir = write_metrics(
        tmp_path / "a",
        [
            {"reward/mean": 0.1, "time/step_s": 2.0, "time/eval_s": 0.0},
            {"reward/mean": None, "time/step_s": 3.0},
            {"reward/mean": 0.3, "time/step_s": 9.0, "time/eval_s": 5.0},
        ],
    )
    assert read_curve(run_dir, "reward/mean", over="seconds") == [(2.0, 0.1), (9.0, 0.3)]
    assert read_curve(run_dir, "reward/mean") == [(1.0, 0.1), (3.0, 0.3)]


def test_a_smoothed_value_is_the_mean_of_the_last_ones(tmp_path: Path) -> None:
    run_dir = write_metrics(tmp_path / "a", [{"m": value} for value in (1.0, 3.0, 8.0)])
    assert read_curve(run_dir, "m", smooth_steps=2) == [(1.0, 1.0), (2.0, 2.0), (3.0, 5.5)]


def test_a_metric_that_no_step_has_is_refused_with_its_name(tmp_path: Path) -> None:
    run_dir = write_metrics(tmp_path / "a", [{"reward/mean": 0.5}])
    with pytest.raises(DataError, match=r"no step of 1 has 'policy/entropy'"):
        read_curve(run_dir, "policy/entropy")
    with pytest.raises(DataError, match="time/step_s"):
        read_curve(run_dir, "reward/mean", over="seconds")


def test_a_picture_has_a_line_a_variant_and_a_band_where_there_are_seeds(tmp_path: Path) -> None:
    runs = {}
    for variant, num_seeds in (("staged", 3), ("one seed", 1)):
        folders = [tmp_path / variant / str(seed) for seed in range(num_seeds)]
        runs[variant] = [
            write_metrics(folder, [{"m": 0.1 * step + 0.01 * seed} for step in range(5)])
            for seed, folder in enumerate(folders)
        ]
    svg = band_chart(study_curves(runs, "m"), title="M", x_label="steps", y_label="m")
    root = ElementTree.fromstring(svg)
    assert len(list(root.iter(f"{SVG}polyline"))) == 2
    assert len(list(root.iter(f"{SVG}polygon"))) == 1
    assert {text for _, text in labels_of(svg)} == {"staged", "one seed"}
    assert "staged ends at 0.41; one seed ends at 0.4" in (root.findtext(f"{SVG}desc") or "")


def test_a_picture_stands_alone_in_light_and_dark() -> None:
    for svg in (
        band_chart({"a": [line(1.0, 1, 2)]}, title="t", x_label="x", y_label="y"),
        interval_chart([("a", 0.5, 0.4, 0.6)], title="t", x_label="x"),
    ):
        root = ElementTree.fromstring(svg)
        assert root.get("viewBox", "").split()[2] == str(WIDTH)
        assert "prefers-color-scheme:dark" in svg and "@media not print" in svg
        assert not re.search(r"url\(|@import|href|<script|\bon\w+=", svg)


def test_names_are_text_and_nothing_else() -> None:
    attack = '"><script>alert(1)</script>'
    for svg in (
        band_chart({attack: [line(1.0, 1, 2)]}, title=attack, x_label=attack, y_label=attack),
        interval_chart([(attack, 0.5, 0.4, 0.6)], title=attack, x_label=attack),
    ):
        root = ElementTree.fromstring(svg)
        assert "script" not in {element.tag.removeprefix(SVG) for element in root.iter()}
        assert root.findtext(f"{SVG}title") == attack


def test_names_at_the_curves_ends_do_not_touch() -> None:
    curves = {f"variant {i}": [[(0.0, 0.0), (1.0, 0.5 + 1e-4 * i)], [(0.0, 1.0), (1.0, 0.5)]] for i in range(8)}
    curves["low"] = [[(0.0, 0.0), (1.0, 0.0)]]
    heights = sorted(y for y, _ in labels_of(band_chart(curves, title="t", x_label="x", y_label="y")))
    assert len(heights) == 9
    assert min(b - a for a, b in pairwise(heights)) >= LABEL_GAP - 0.11  # rounded to 0.1


def test_on_a_logarithmic_axis_the_mean_is_geometric() -> None:
    seeds = [[(1.0, 1e-6), (2.0, 1e-6)], [(1.0, 1e-4), (2.0, 1e-4)]]
    svg = band_chart({"a": seeds}, title="t", x_label="x", y_label="y", log=True)
    assert "a ends at 1e-5" in svg
    with pytest.raises(ValueError, match="no variant of 1 has a curve"):
        band_chart({"a": [[(1.0, 0.0)]]}, title="t", x_label="x", y_label="y", log=True)


def test_a_wild_band_does_not_flatten_the_curves() -> None:
    calm = [[(float(x), 0.5 + 0.01 * x) for x in range(10)] for _ in range(3)]
    wild = [[(x, y + shift) for x, y in calm[0]] for shift in (-50.0, 0.0, 50.0)]
    svg = band_chart({"calm": calm, "wild": wild}, title="t", x_label="x", y_label="y")
    # All means lie in [0.5, 0.59]; half of that range beyond both ends is [0.455, 0.635].
    ticks = [float(t) for t in re.findall(r'class="tick end"[^>]*>([^<]+)<', svg)]
    assert min(ticks) >= 0.4 and max(ticks) <= 0.7
    assert all(math.isfinite(float(n)) for n in re.findall(r"[\d.]+", svg.split("<polyline")[1].split("/>")[0]))


def test_a_dot_stands_between_the_ends_of_its_interval() -> None:
    svg = interval_chart([("a", 0.5, 0.4, 0.8), ("b", 0.2, 0.2, 0.2)], title="t", x_label="x", reference=0.4)
    root = ElementTree.fromstring(svg)
    group = next(g for g in root.iter(f"{SVG}g"))
    bar, dot = group.find(f"{SVG}line"), group.find(f"{SVG}circle")
    assert bar is not None and dot is not None
    x1, x2, cx = float(bar.get("x1", "")), float(bar.get("x2", "")), float(dot.get("cx", ""))
    assert (cx - x1) / (x2 - x1) == pytest.approx(0.25, abs=0.01)  # (0.5 - 0.4) / (0.8 - 0.4)
    reference = next(e for e in root.iter(f"{SVG}line") if e.get("class") == "reference")
    assert float(reference.get("x1", "")) == pytest.approx(x1, abs=0.1)
    assert "0.50 [0.40, 0.80]" in svg


def test_rows_that_make_no_interval_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'a': needs low <= mean <= high, got 0.6, 0.5, 0.7"):
        interval_chart([("a", 0.5, 0.6, 0.7)], title="t", x_label="x")
    with pytest.raises(ValueError, match="no rows"):
        interval_chart([], title="t", x_label="x")
