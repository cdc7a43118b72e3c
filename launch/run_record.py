"""What a run's folder tells so far: read for the report, whole or half-done, and what it lacks said in words."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from rl.metrics import read_metrics
from rl.rollout_log import read_rollouts, rollout_files
from rl.run_folder import Evaluation, WindowAccuracy, read_config, read_evaluations

MAX_ROLLOUTS_A_STEP = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One run, as its folder has it."""

    name: str
    config: Mapping[str, Any]
    """The resolved configuration; empty when config.toml is missing."""
    meta: Mapping[str, Any]
    """Versions and commit."""
    config_text: str
    """config.toml as it stands."""
    rows: tuple[Mapping[str, Any], ...]
    """metrics.jsonl by step."""
    evaluations: tuple[Evaluation, ...]
    """By step; a window's `num` is 0 where only summary.json knows the accuracy."""
    summary: Mapping[str, Any]
    """Empty for a run that has not ended."""
    rollouts: tuple[Mapping[str, Any], ...]
    """A few rows of a few steps."""
    missing: tuple[str, ...]
    """What the folder lacks and what that means, one sentence each."""

    @property
    def stages(self) -> list[Mapping[str, Any]]:
        """The configuration's stages."""
        stages: list[Mapping[str, Any]] = self.config.get("stages", [])
        return stages

    @property
    def last_step(self) -> int:
        """The last step with metrics; 0 before the first."""
        return int(self.rows[-1]["step"]) if self.rows else 0


def read_run(run_dir: Path) -> RunRecord:
    """Read whatever is there. A file that cannot be read counts as missing and is named.

    Raises:
        FileNotFoundError: no such folder, or nothing in it that a run writes.
    """
    missing: list[str] = []
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir}: no such folder; give a run's folder, for instance runs/demo")
    config, meta = _config(run_dir, missing)
    rows = read_metrics(run_dir / "metrics.jsonl")
    summary = _summary(run_dir, missing)
    evaluations = _evaluations(run_dir, summary, missing)
    rollouts = _rollouts(run_dir, missing)
    if not (config or rows or summary or evaluations or rollouts):
        raise FileNotFoundError(f"{run_dir}: holds no run (no config.toml, no metrics.jsonl); give a run's folder")
    if not rows:
        missing.append("metrics.jsonl has no rows: no step has ended, so there are no curves.")
    name = config.get("run", {}).get("name") or run_dir.resolve().name
    return RunRecord(
        name=str(name),
        config=config,
        meta=meta,
        config_text=(run_dir / "config.toml").read_text(encoding="utf-8", errors="replace") if config else "",
        rows=tuple(rows),
        evaluations=tuple(evaluations),
        summary=summary,
        rollouts=tuple(rollouts),
        missing=tuple(missing),
    )


def _config(run_dir: Path, missing: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        return read_config(run_dir)
    except FileNotFoundError:
        missing.append("config.toml is missing: planned steps and stages are unknown.")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        missing.append(f"config.toml cannot be read ({error}): planned steps and stages are unknown.")
    return {}, {}


def _summary(run_dir: Path, missing: list[str]) -> dict[str, Any]:
    path = run_dir / "summary.json"
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        missing.append("summary.json is missing: the run is still going, or it was stopped before its end.")
        return {}
    except orjson.JSONDecodeError as error:
        missing.append(f"summary.json cannot be read ({error}).")
        return {}
    return content if isinstance(content, dict) else {}


def _evaluations(run_dir: Path, summary: Mapping[str, Any], missing: list[str]) -> list[Evaluation]:
    """The evaluations' own files; a checkpoint that only the summary has comes from there, its counts unknown."""
    try:
        found = read_evaluations(run_dir)
    except ValueError as error:
        missing.append(f"{error}.")
        found = []
    known = {evaluation.checkpoint for evaluation in found}
    sampled = summary.get("accuracy_sampled", {})
    for checkpoint, shares in summary.get("accuracy", {}).items():
        if checkpoint not in known:
            windows = {
                str(bound): WindowAccuracy(num=0, greedy=share, sampled=sampled.get(checkpoint, {}).get(bound))
                for bound, share in shares.items()
            }
            found.append(Evaluation(checkpoint=checkpoint, step=0, windows=windows))
    final = next((e for e in found if e.checkpoint == "final"), None)
    if final is not None:  # the end of the last stage under its other name
        found = [e for e in found if e is final or (e.step, e.windows) != (final.step, final.windows)]
    if not found:
        missing.append("There are no evaluations: accuracy on held-out problems is unknown.")
    return found


def _rollouts(run_dir: Path, missing: list[str]) -> list[dict[str, Any]]:
    files = rollout_files(run_dir)
    if not files:
        missing.append("rollouts/ is missing or empty: no responses can be shown.")
    chosen = sorted({0, len(files) // 2, len(files) - 1}) if files else []
    rows: list[dict[str, Any]] = []
    for index in chosen:
        try:
            rows += _telling(read_rollouts(files[index][1]))
        except ValueError as error:
            missing.append(f"{error}.")
    return rows


def _telling(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best and the worst answer to one problem that was answered both ways, one unknown, one cut off."""
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row["problem_id"])]
    picked: list[dict[str, Any]] = []
    for group in groups:
        scored = sorted((row for row in group if row["score"] is not None), key=lambda row: -row["score"])
        if scored and scored[0]["score"] > scored[-1]["score"]:
            picked = [scored[0], scored[-1]]
            break
    picked = picked or rows[:1]
    kinds = (lambda row: row["score_status"] != "ok", lambda row: row["finish_reason"] == "length")
    for is_kind in kinds:
        picked += [row for row in rows if is_kind(row) and row not in picked][:1]
    return picked[:MAX_ROLLOUTS_A_STEP]
