"""A run's facts in one line each, and what happened in it in one sentence."""

from __future__ import annotations

from launch.report_accuracy import Change, accuracy_changes, baseline, window_bounds
from launch.report_page import duration, percent
from launch.report_stages import num_planned_steps, trained_up_to
from launch.run_record import RunRecord


def headline(record: RunRecord) -> str:
    """What happened, in one sentence with figures."""
    stages = f" over {len(record.stages)} stages" if _is_complete(record) and len(record.stages) > 1 else ""
    wall = record.summary.get("wall_s")
    took = f" in {duration(wall)}" if isinstance(wall, (int, float)) else ""
    start = f"{_steps(record)}{stages}{took}: "
    changes = accuracy_changes(record, window_bounds(record.evaluations))
    if not changes:
        return f"{start}{_told_reward(record)}"
    limit = trained_up_to(record)
    trained = [b for b in changes if int(b) <= limit] if limit else list(changes)
    beyond = [b for b in changes if limit and int(b) > limit]
    told = [_told(changes[b], f"up to {int(b):,} tokens") for b in trained[-1:]]
    told += [_told(changes[b], f"up to {int(b):,}, longer than any it trained on,") for b in beyond[-1:]]
    before, after = baseline(record.evaluations), record.evaluations[-1]
    return f"{start}from {before.checkpoint} to {after.checkpoint}, accuracy on prompts of {', and of '.join(told)}."


def run_facts(record: RunRecord) -> list[tuple[str, str]]:
    """(name, value) of what is known."""
    model, run = record.config.get("model", {}), record.config.get("run", {})
    speed = [r["perf/tokens_per_s"] for r in record.rows if r.get("perf/tokens_per_s")]
    step_s = [r["time/step_s"] for r in record.rows if r.get("time/step_s")]
    wall = record.summary.get("wall_s")
    raised = sum(alarm.raised for alarm in record.alarms)
    facts = {
        "folder": run.get("dir"),
        "steps": _steps(record) if record.rows else None,
        "wall time": duration(wall) if isinstance(wall, (int, float)) else None,
        "time in steps": duration(sum(step_s)) if step_s else None,
        "throughput": f"{sum(speed) / len(speed):,.0f} tokens/s" if speed else None,
        "model": model.get("path"),
        "windows": ", ".join(f"≤{int(s['max_prompt_tokens']):,}" for s in record.stages) + " tokens"
        if record.stages
        else None,
        "seed": record.summary.get("seed", run.get("seed")),
        "commit": str(record.summary.get("commit") or record.meta.get("commit") or "")[:12] or None,
        "alarms": raised or None,
        "non-finite metrics": sum(r.get("health/num_nonfinite") or 0 for r in record.rows) or None,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _is_complete(record: RunRecord) -> bool:
    return record.last_step >= num_planned_steps(record)


def _steps(record: RunRecord) -> str:
    if _is_complete(record):
        return f"{record.last_step} step{'' if record.last_step == 1 else 's'}"
    return f"{record.last_step} of {num_planned_steps(record)} steps"


def _told_reward(record: RunRecord) -> str:
    rewards = [row["reward/mean"] for row in record.rows if row.get("reward/mean") is not None]
    if not rewards:
        return "nothing has been measured yet."
    tenth = max(1, len(rewards) // 10)
    first, last = sum(rewards[:tenth]) / tenth, sum(rewards[-tenth:]) / tenth
    return f"mean reward in training went from {first:.2f} to {last:.2f}; not yet evaluated before and after."


def _told(change: Change, where: str) -> str:
    if change.before == change.after:
        return f"{where} stayed at {percent(change.before)}"
    verb = "rose" if change.points > 0 else "fell"
    doubt = "" if change.is_clear or change.half_width is None else ", which may be chance"
    return f"{where} {verb} from {percent(change.before)} to {percent(change.after)}{doubt}"
