"""What one step drew and observed, and what it comes to in metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum
from typing import Any, Literal

from curricula.index import ProblemIndex

Origin = Literal["window", "replay", "short"]


class StepRecord:
    """One step, from begin_step to the next one's.

    stage_index: the step's stage. stage_step: the step's number in it, from 1; 0 before the first step.
    """

    def __init__(self, *, stage_index: int, stage_step: int) -> None:
        self.stage_index = stage_index
        self.stage_step = stage_step
        self.drawn: dict[int, Origin] = {}
        """Positions, in the order they were drawn."""
        self.observed: list[int] = []
        """Records of the difficulty table, in order."""
        self._window_means: list[float] = []
        """Mean outcome of each group that was drawn from the window."""
        self._replayed: list[tuple[float, float]] = []
        """(mean outcome, smoothed mean before it) of each group that was drawn from the pool."""

    def observe(self, position: int, record: int, newest: float, before: float | None) -> None:
        """One group: where its problem is, its mean outcome, and the smoothed mean before it (None: never visited)."""
        self.observed.append(record)
        origin = self.drawn.get(position)
        if origin == "window":
            self._window_means.append(newest)
        elif origin == "replay" and before is not None:
            self._replayed.append((newest, before))

    def window_mean(self) -> float | None:
        """Mean over the window's groups of their mean outcome; None where none was observed."""
        return fsum(self._window_means) / len(self._window_means) if self._window_means else None

    def frac(self, origin: Origin) -> float:
        """Share of the step's problems that came from there; 0 where nothing was drawn."""
        return sum(o == origin for o in self.drawn.values()) / max(1, len(self.drawn))

    def metrics(self, index: ProblemIndex, windows: Iterable[int]) -> dict[str, float]:
        """Of the draws and the replay; what there is nothing to say about is left out.

        windows: the stages' upper bounds in prompt tokens.
        """
        metrics: dict[str, float] = {
            "curriculum/stage": self.stage_index,
            "curriculum/stage_step": self.stage_step,
            "curriculum/replay_frac": self.frac("replay"),
            "curriculum/short_frac": self.frac("short"),
        }
        tokens = [int(index.num_tokens[position]) for position in self.drawn]
        if tokens:
            metrics["curriculum/max_prompt_tokens"] = max(tokens)
        low = 0
        for high in sorted(set(windows)):
            metrics[f"curriculum/prompt_tokens/{high}"] = sum(n for n in tokens if low < n <= high)
            low = high
        if self._replayed:
            metrics["curriculum/replay_reward_mean"] = _mean([newest for newest, _ in self._replayed])
            metrics["curriculum/replay_gain"] = _mean([newest - before for newest, before in self._replayed])
        return metrics

    def state_dict(self, index: ProblemIndex) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "stage_index": self.stage_index,
            "stage_step": self.stage_step,
            "drawn": [[index.id_of(position), origin] for position, origin in self.drawn.items()],
            "observed": list(self.observed),
            "window_means": list(self._window_means),
            "replayed": [list(pair) for pair in self._replayed],
        }

    @classmethod
    def of(cls, state: dict[str, Any], index: ProblemIndex) -> StepRecord:
        """The step whose state this is."""
        step = cls(stage_index=state["stage_index"], stage_step=state["stage_step"])
        step.drawn = {index.position_of(problem_id): origin for problem_id, origin in state["drawn"]}
        step.observed = list(state["observed"])
        step._window_means = list(state["window_means"])
        step._replayed = [(newest, before) for newest, before in state["replayed"]]
        return step


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)
