"""From items to figures: accuracy strict and lenient, pass@k, and length x depth grids; as a table and as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from data.synthesis.cells import CellLabels, cell_of_id
from rl.evaluate import RIGHT_FROM, Accuracy, Decoding, EvaluatedItem, pass_at_k, summarize


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteItem:
    """One answer to one of a suite's problems."""

    suite: str
    num_cut_tokens: int
    """Tokens taken out of the document's middle; 0: it was shown whole."""
    lenient: float | None
    """max(score, published match), see `launch.eval_lenient`; None: unknown."""
    item: EvaluatedItem

    @property
    def key(self) -> tuple[str, str, Decoding]:
        """What one request asked: suite, problem and decoding."""
        return self.suite, self.item.problem_id, self.item.decoding

    def row(self) -> dict[str, Any]:
        """Plain values, equal for equal answers: no times, no counts of attempts."""
        item, score = self.item, self.item.score
        return {
            "suite": self.suite,
            "problem_id": item.problem_id,
            "task": item.task,
            "window": item.window,
            "decoding": item.decoding,
            "sample": item.sample,
            "value": score.value,
            "lenient": self.lenient,
            "status": score.status,
            # Whether a verdict was cached depends on what was asked before a kill.
            "source": "judge" if score.source == "cache" else score.source,
            "answer": score.answer,
            "failure": "" if score.value is not None else score.reason,
            "num_prompt_tokens": item.num_prompt_tokens,
            "num_cut_tokens": self.num_cut_tokens,
            "num_response_tokens": item.num_response_tokens,
            "finish_reason": item.finish_reason,
            "response": item.response,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What a set of items comes to."""

    suite: str
    decoding: Decoding
    window: int | None
    """Upper bound of the prompts' tokens; None: every window."""
    task: str | None
    """None: every task."""
    strict: Accuracy
    """Of the score: max(rule, judge)."""
    lenient: Accuracy
    """Of the lenient score."""
    num_cut: int
    """Problems whose document was cut in the middle."""
    pass_at: dict[int, float]
    """k to pass@k, where there are several samples; one is right from RIGHT_FROM on, and not without a valid score."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        strict = asdict(self.strict)
        return {
            "suite": self.suite,
            "decoding": self.decoding,
            "window": self.window,
            "task": self.task,
            "num_problems": strict.pop("num_problems"),
            "accuracy": strict.pop("mean"),
            **strict,
            "lenient": {"accuracy": self.lenient.mean, "low": self.lenient.low, "high": self.lenient.high},
            "num_cut": self.num_cut,
            "pass_at": {str(k): value for k, value in self.pass_at.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class GridCell:
    """Accuracy where the needed facts stand at one depth of prompts of one length."""

    suite: str
    decoding: Decoding
    task: str
    length: int
    depth: float
    strict: Accuracy


def all_figures(items: Sequence[SuiteItem]) -> list[Figures]:
    """Per suite and decoding: every window, all together, then every task where there are several."""
    found = []
    for suite in _distinct(items, lambda item: item.suite):
        own = [item for item in items if item.suite == suite]
        tasks = sorted({item.item.task for item in own})
        for decoding in _distinct(own, lambda item: item.item.decoding):
            some = [item for item in own if item.item.decoding == decoding]
            for window in sorted({item.item.window for item in some}):
                found.append(figures_of([i for i in some if i.item.window == window], window=window))
            found.append(figures_of(some))
            if len(tasks) > 1:
                found += [figures_of([i for i in some if i.item.task == task], task=task) for task in tasks]
    return found


def figures_of(items: Sequence[SuiteItem], *, window: int | None = None, task: str | None = None) -> Figures:
    """Of items of one suite and decoding, at least one; `window` and `task` are their names."""
    plain = [item.item for item in items]
    credited = [
        replace(item.item, score=replace(item.item.score, value=item.lenient, status="ok"))
        for item in items
        if item.lenient is not None
    ]
    unknown = [item.item for item in items if item.lenient is None]
    return Figures(
        suite=items[0].suite,
        decoding=items[0].item.decoding,
        window=window,
        task=task,
        strict=summarize(plain),
        lenient=summarize(credited + unknown),
        num_cut=len({item.item.problem_id for item in items if item.num_cut_tokens}),
        pass_at=_pass_at(plain),
    )


def _pass_at(items: Sequence[EvaluatedItem]) -> dict[int, float]:
    """At 1, 2, 4, ... and at the number of samples, over all problems."""
    counts: dict[str, list[int]] = {}
    for item in items:
        known = counts.setdefault(item.problem_id, [0, 0])
        known[0] += 1
        known[1] += item.credit >= RIGHT_FROM
    num = min(samples for samples, _ in counts.values())
    if num < 2:
        return {}
    ks = (*(2**e for e in range(num.bit_length()) if 2**e < num), num)
    return {k: sum(pass_at_k(n, c, k) for n, c in counts.values()) / len(counts) for k in ks}


def averages(figures: Sequence[Figures]) -> list[dict[str, Any]]:
    """Per decoding the mean over suites, each weighing the same, whatever its size; empty for a single suite."""
    whole = [one for one in figures if one.window is None and one.task is None]
    found = []
    for decoding in _distinct(whole, lambda one: one.decoding):
        own = [one for one in whole if one.decoding == decoding]
        if len(own) > 1:
            strict, lenient = (
                sum(values) / len(own) for values in zip(*((o.strict.mean, o.lenient.mean) for o in own), strict=True)
            )
            found.append({"decoding": decoding, "num_suites": len(own), "accuracy": strict, "lenient": lenient})
    return found


def grids(items: Sequence[SuiteItem]) -> list[GridCell]:
    """The cells of every length x depth grid among the items, told by their problems' ids."""
    cells: dict[tuple[str, Decoding, str, int, float], list[EvaluatedItem]] = {}
    for item in items:
        labels = cell_of_id(item.item.problem_id)
        if labels is None or labels.depth is None:
            continue
        key = (item.suite, item.item.decoding, grid_kind(labels), labels.length, labels.depth)
        cells.setdefault(key, []).append(item.item)
    return [
        GridCell(suite=suite, decoding=decoding, task=task, length=length, depth=depth, strict=summarize(own))
        for (suite, decoding, task, length, depth), own in sorted(cells.items())
    ]


def grid_kind(labels: CellLabels) -> str:
    """What a grid is of: the task, and what sets it apart from others of the task."""
    hops = f", {labels.num_hops} hops" if labels.task == "chain" else ""
    similar = ", similar distractors" if labels.distractors == "similar" else ""
    return f"{labels.task}{hops}{similar}"


def table(figures: Sequence[Figures]) -> str:
    """The figures as aligned text."""
    lines = [
        f"{'decoding':9} {'window':>12} {'problems':>8} {'accuracy':>8} {'95 % interval':>15} {'lenient':>7} "
        f"{'invalid':>7} {'cut off':>7} {'tokens':>7}"
    ]
    several = len({one.suite for one in figures}) > 1
    windows = Counter((one.suite, one.decoding) for one in figures if one.window is not None)
    suite = None
    for one in figures:
        if one.window is not None and windows[one.suite, one.decoding] == 1:
            continue  # a single window is what `all` says too
        if several and one.suite != suite:
            suite = one.suite
            lines.append(f"{suite}:")
        lines.append(_row(one))
    lines += [
        f"{mean['decoding']}, mean of {mean['num_suites']} suites: accuracy {mean['accuracy']:.3f}, lenient {mean['lenient']:.3f}"
        for mean in averages(figures)
    ]
    return "\n".join(lines + list(_pass_lines(figures, several)))


def _row(one: Figures) -> str:
    label = one.task[:12] if one.task is not None else "all" if one.window is None else f"<= {one.window}"
    a = one.strict
    interval = f"{a.low:.3f} .. {a.high:.3f}"
    tokens = "-" if a.mean_response_tokens is None else f"{a.mean_response_tokens:.0f}"
    return (
        f"{one.decoding:9} {label:>12} {a.num_problems:8} {a.mean:8.3f} {interval:>15} {one.lenient.mean:7.3f} "
        f"{a.num_invalid:7} {a.num_truncated:7} {tokens:>7}"
    )


def _pass_lines(figures: Sequence[Figures], several: bool) -> Iterator[str]:
    for one in figures:
        if one.pass_at and one.window is None and one.task is None:
            name = f"{one.suite}, " if several else ""
            shown = ", ".join(f"pass@{k} {value:.3f}" for k, value in one.pass_at.items())
            yield f"{name}{one.decoding}, all windows: {shown}"


def grid_table(cells: Sequence[GridCell]) -> str:
    """Every grid as aligned text: a row a length, a column a depth; `-` where nothing was asked."""
    lines: list[str] = []
    for suite, decoding, task in _distinct(cells, lambda cell: (cell.suite, cell.decoding, cell.task)):
        own = [cell for cell in cells if (cell.suite, cell.decoding, cell.task) == (suite, decoding, task)]
        depths = sorted({cell.depth for cell in own})
        known = {(cell.length, cell.depth): f"{cell.strict.mean:.2f}" for cell in own}
        lines.append(f"{task}, {decoding}: accuracy by length (tokens) and depth of the needed facts")
        lines.append(f"{'length':>9} " + " ".join(f"{depth:>6g}" for depth in depths))
        for length in sorted({cell.length for cell in own}):
            lines.append(f"{length:>9} " + " ".join(f"{known.get((length, depth), '-'):>6}" for depth in depths))
    return "\n".join(lines)


def _distinct(items: Sequence[Any], key: Callable[[Any], Any]) -> list[Any]:
    return list(dict.fromkeys(map(key, items)))
