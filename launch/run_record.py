"""What a run's folder tells so far: read for the report, whole or half-done, and what it lacks said in words."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from launch.report_items import ResultFile, read_result_files
from launch.report_rollouts import MAX_ROLLOUTS, Rollouts, read_run_rollouts
from rl.metrics import read_metrics
from rl.run_folder import Evaluation, WindowAccuracy, read_config, read_evaluations


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """Something that the run complained about."""

    step: int | None
    """None: unknown."""
    name: str
    message: str
    raised: bool
    """False: cleared."""


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
    alarms: tuple[Alarm, ...]
    """In the order they came."""
    rollouts: Rollouts
    results: tuple[ResultFile, ...]
    """Results of launch.eval that lie in the folder."""
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


def read_run(run_dir: Path, max_rollouts: int = MAX_ROLLOUTS) -> RunRecord:
    """Read whatever is there, of the rollouts at most so many. A file that cannot be read counts as missing and is named.

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
    rollouts = read_run_rollouts(run_dir, max_rollouts, missing)
    if not (config or rows or summary or evaluations or rollouts.rows):
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
        alarms=tuple(_alarms(run_dir, summary, missing)),
        rollouts=rollouts,
        results=tuple(read_result_files(run_dir, missing)),
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
    unreadable: list[str] = []
    found = read_evaluations(run_dir, unreadable)
    missing.extend(f"{told}." for told in unreadable)
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


def _alarms(run_dir: Path, summary: Mapping[str, Any], missing: list[str]) -> list[Alarm]:
    """alarms.jsonl, else the summary's list; a line that is not a whole object is counted and named."""
    path = run_dir / "alarms.jsonl"
    told: list[Any] = []
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                told.append(orjson.loads(line))
            except orjson.JSONDecodeError:
                told.append(None)
    elif isinstance(listed := summary.get("alarms"), list):
        told = listed
    alarms = [
        Alarm(
            step=step if isinstance(step := one.get("step"), int) else None,
            name=str(one.get("name", "alarm")),
            message=str(one.get("message", "")),
            raised=one.get("raised") is not False,
        )
        for one in told
        if isinstance(one, dict)
    ]
    if lost := len(told) - len(alarms):
        missing.append(f"alarms.jsonl: {lost} of {len(told)} lines cannot be read.")
    return alarms
