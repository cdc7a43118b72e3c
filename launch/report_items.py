"""Results of launch.eval in a run's folder, answer by answer: accuracy over length and depth, and how often one of k is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from data.synthesis.cells import cell_of_id
from launch.eval_figures import grid_kind
from launch.report_pass_at_k import Counts, ks_up_to, mean_pass_at_k
from rl.evaluate import RIGHT_FROM, wilson_interval

ALL_KINDS = "all together"
NUM_SHADES = 6
"""Classes of a cell's colour: five equal ones, and one for 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultItem:
    """One answer to one held-out problem."""

    suite: str
    """The set that it is from; empty: not told."""
    problem_id: str
    task: str
    window: int | None
    """Upper bound in prompt tokens; None: not told."""
    is_greedy: bool
    value: float | None
    """Score in [0, 1]; None: not valid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultFile:
    """What one call of launch.eval found out."""

    name: str
    """The file, seen from the run's folder."""
    model: str
    items: tuple[ResultItem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatCell:
    """How some problems were answered."""

    mean: float
    """Over the problems, of each one's mean score; without a valid score an answer has 0, as everywhere in evaluation."""
    half_width: float
    """Half of the 95 % Wilson interval, with the problems as trials."""
    num: int
    """Problems."""
    shade: int
    """0 to NUM_SHADES - 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """Accuracy over the prompt's length and the depth at which the needed facts stand."""

    title: str
    lengths: tuple[int, ...]
    """Columns, in tokens."""
    rows: tuple[tuple[float, tuple[HeatCell | None, ...]], ...]
    """(depth, its cells), from the document's beginning to its end; None: no problem of this kind."""

    @property
    def nums(self) -> str:
        """Problems of a cell, for people: one number, or the least and the most."""
        nums = [cell.num for _, cells in self.rows for cell in cells if cell]
        return f"{min(nums):,}" if min(nums) == max(nums) else f"{min(nums):,} to {max(nums):,}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PassRow:
    """One window of several sampled answers to each problem."""

    window: str
    num_problems: int
    shares: tuple[float | None, ...]
    """By k; None: no problem has so many answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultView:
    """One suite of a result file, ready to draw."""

    file: ResultFile
    suite: str
    decoding: str
    """Of the answers in `accuracy` and the maps: `greedy`, `sampled` where there are no others."""
    accuracy: HeatCell
    num_invalid: int
    maps: tuple[HeatMap, ...]
    ks: tuple[int, ...]
    """Empty: one answer to each problem."""
    pass_rows: tuple[PassRow, ...]

    @property
    def suite_name(self) -> str:
        """For a heading: of a prepared set, whose name is its path, the last part."""
        return Path(self.suite).name or self.suite


def read_result_files(run_dir: Path, missing: list[str]) -> list[ResultFile]:
    """Every *.json in the folder, and anywhere in its folders named eval*, that holds a launch.eval result's items, by name."""
    found = []
    for path in sorted([*run_dir.glob("*.json"), *run_dir.glob("eval*/**/*.json")]):
        name = path.relative_to(run_dir).as_posix()
        try:
            content = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            if path.name != "summary.json" and path.parent.name != "evaluations":  # their own readers complain
                missing.append(f"{name} cannot be read ({error}).")
            continue
        listed = content.get("items") if isinstance(content, dict) else None
        if not isinstance(listed, list):
            continue
        items = [item for one in listed if (item := _item(one)) is not None]
        if lost := len(listed) - len(items):
            missing.append(
                f"{name}: {lost} of {len(listed)} items have no problem_id or a score outside [0, 1] and are left out."
            )
        if items:
            config = content.get("config")
            model = config.get("model", "") if isinstance(config, dict) else ""
            found.append(ResultFile(name=name, model=str(model), items=tuple(items)))
    return found


def result_views(files: Sequence[ResultFile]) -> list[ResultView]:
    """The figures of every suite of every file."""
    return [_view(file, suite) for file in files for suite in dict.fromkeys(item.suite for item in file.items)]


def _view(file: ResultFile, suite: str) -> ResultView:
    own = [item for item in file.items if item.suite == suite]
    greedy = [item for item in own if item.is_greedy]
    items = greedy or own
    ks, rows = _pass_rows([item for item in own if not item.is_greedy])
    return ResultView(
        file=file,
        suite=suite,
        decoding="greedy" if greedy else "sampled",
        accuracy=_cell(items),
        num_invalid=sum(item.value is None for item in items),
        maps=tuple(heat_maps(items)),
        ks=ks,
        pass_rows=rows,
    )


def heat_maps(items: Sequence[ResultItem]) -> list[HeatMap]:
    """One map of all problems whose id names length and depth; with several kinds (`grid_kind`), one more for each."""
    by_title: dict[str, dict[tuple[int, float], list[ResultItem]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        cell = cell_of_id(item.problem_id)
        if cell is not None and cell.depth is not None:
            for title in (ALL_KINDS, grid_kind(cell)):
                by_title[title][cell.length, cell.depth].append(item)
    if len(by_title) == 2:
        del by_title[ALL_KINDS]
    return [_heat_map(title, cells) for title, cells in by_title.items()]


def _heat_map(title: str, cells: Mapping[tuple[int, float], Sequence[ResultItem]]) -> HeatMap:
    lengths = sorted({length for length, _ in cells})
    depths = sorted({depth for _, depth in cells})
    return HeatMap(
        title=title,
        lengths=tuple(lengths),
        rows=tuple((d, tuple(_cell(cells[n, d]) if (n, d) in cells else None for n in lengths)) for d in depths),
    )


def _cell(items: Sequence[ResultItem]) -> HeatCell:
    by_problem: dict[str, list[float]] = defaultdict(list)
    for item in items:
        by_problem[item.problem_id].append(item.value or 0.0)
    num = len(by_problem)
    mean = sum(sum(values) / len(values) for values in by_problem.values()) / num
    low, high = wilson_interval(mean, num)
    shade = min(int(mean * (NUM_SHADES - 1) + 1e-9), NUM_SHADES - 1)
    return HeatCell(mean=mean, half_width=(high - low) / 2, num=num, shade=shade)


def _pass_rows(items: Sequence[ResultItem]) -> tuple[tuple[int, ...], tuple[PassRow, ...]]:
    """(k, rows by window and one of all) of the sampled answers; empty where no problem has several."""
    by_problem: dict[tuple[int | None, str], list[bool]] = defaultdict(list)
    for item in items:
        by_problem[item.window, item.problem_id].append((item.value or 0.0) >= RIGHT_FROM)
    counts: dict[int | None, list[Counts]] = defaultdict(list)
    for (window, _), answers in by_problem.items():
        counts[window].append((len(answers), sum(answers)))
    every = [pair for pairs in counts.values() for pair in pairs]
    most = max((num for num, _ in every), default=0)
    if most < 2:
        return (), ()
    ks = ks_up_to(most)
    windows = sorted(window for window in counts if window is not None)
    named = {f"≤{window:,}": counts[window] for window in windows}
    if len(named) != 1:
        named["all"] = every
    rows = [
        PassRow(window=name, num_problems=len(pairs), shares=tuple(mean_pass_at_k(pairs, k) for k in ks))
        for name, pairs in named.items()
    ]
    return ks, tuple(rows)


def _item(one: Any) -> ResultItem | None:
    if not isinstance(one, dict) or not isinstance(problem_id := one.get("problem_id"), str):
        return None
    value = one.get("score", one.get("value"))
    if isinstance(value, dict):
        value = value.get("value")
    if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
        return None
    window = one.get("window")
    return ResultItem(
        suite=str(one.get("suite", "")),
        problem_id=problem_id,
        task=str(one.get("task", "")),
        window=window if isinstance(window, int) else None,
        is_greedy=one.get("decoding", "greedy") == "greedy",
        value=None if value is None else float(value),
    )
