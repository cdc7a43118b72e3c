"""Which stage took which steps: from the metrics where they say so, from the configuration for what is still to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launch.charts import Band
from launch.run_record import RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpan:
    """One stage over the run's steps, counted from 1."""

    index: int
    low: int
    """The window's lower bound in prompt tokens, exclusive."""
    high: int
    """The window's upper bound, inclusive; 0: unknown, the configuration is missing."""
    first: int
    """Its first step; where it has not begun, the one it would have with the stages before at full length."""
    last: int
    """Its last step so far; `first - 1` where it has not begun."""
    num_planned: int
    """Steps in the configuration; 0: unknown."""
    replay_frac: float
    """Share of each draw that the configuration asks of earlier stages."""
    state: Literal["ahead", "going", "full", "early"]
    """`early`: another stage or the run's end came before the planned steps were done, as on a plateau."""

    @property
    def num_steps(self) -> int:
        """Steps done."""
        return self.last - self.first + 1

    @property
    def end(self) -> int:
        """The last step: done or, while it is ahead or going, planned."""
        return self.last if self.state in ("full", "early") else max(self.last, self.first + self.num_planned - 1)

    @property
    def window(self) -> str:
        """The window's bounds, for people."""
        if not self.high:
            return f"stage {self.index + 1}"
        return f"{self.low:,} to {self.high:,}" if self.low else f"up to {self.high:,}"


def stage_spans(record: RunRecord) -> tuple[StageSpan, ...]:
    """The run's stages in order; empty when neither its configuration nor its metrics know of any."""
    seen = _seen(record.rows)
    spans: list[StageSpan] = []
    next_step, low = 1, 0
    for index in range(max([len(record.stages), *(index + 1 for index in seen)])):
        stage = record.stages[index] if index < len(record.stages) else {}
        planned, high = int(stage.get("steps", 0)), int(stage.get("max_prompt_tokens", 0))
        first, last = next_step, next_step - 1
        if index in seen:
            first, last = seen[index]
        elif not seen:  # a run that did not log its stage took them as planned
            last = min(next_step + planned - 1, max(record.last_step, next_step - 1))
        span = StageSpan(
            index=index,
            low=int(stage.get("min_prompt_tokens", low)),
            high=high,
            first=first,
            last=last,
            num_planned=planned,
            replay_frac=float(stage.get("replay_frac", 0.0)),
            state=_state(last - first + 1, planned, is_over=bool(record.summary) or any(k > index for k in seen)),
        )
        spans.append(span)
        next_step, low = span.end + 1, high
    return tuple(spans)


def stage_bands(spans: Sequence[StageSpan]) -> list[Band]:
    """The stages as shades behind a chart."""
    return [
        Band(first=s.first, last=s.end, label=f"≤{s.high:,}" if s.high else s.window) for s in spans if s.end >= s.first
    ]


def trained_up_to(record: RunRecord) -> int:
    """The longest prompt that the last evaluated checkpoint can have trained on, by the stages' windows; 0: unknown."""
    evaluated_at = record.evaluations[-1].step if record.evaluations else 0
    until = max(1, evaluated_at or record.last_step)
    return max((span.high for span in stage_spans(record) if span.first <= until), default=0)


def num_planned_steps(record: RunRecord) -> int:
    """Optimizer steps of the whole run: a stage that is over counts with what it took; 0: unknown."""
    return max((span.end for span in stage_spans(record)), default=0)


def _seen(rows: Sequence[Mapping[str, Any]]) -> dict[int, tuple[int, int]]:
    """First and last step by stage."""
    seen: dict[int, tuple[int, int]] = {}
    for row in rows:
        if isinstance(stage := row.get("curriculum/stage"), (int, float)):
            step = int(row["step"])
            seen[int(stage)] = (seen.get(int(stage), (step, step))[0], step)
    return seen


def _state(num_steps: int, planned: int, *, is_over: bool) -> Literal["ahead", "going", "full", "early"]:
    if num_steps >= planned > 0:
        return "full"
    if is_over and num_steps:
        return "early" if planned else "full"
    return "going" if num_steps else "ahead"
