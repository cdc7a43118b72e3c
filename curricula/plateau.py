"""When a stage has taught what it can: its window's reward has stopped rising."""

from __future__ import annotations

from typing import Any


class Plateau:
    """Counts steps without improvement of a stage's smoothed reward.

    m_t is the mean, over the groups observed in step t that were drawn from the stage's own window, of a group's mean
    outcome. s_t = s_{t-1} + smoothing (m_t - s_{t-1}), from s_1 = m_1. A step improves when s_t > best + delta, and s_t is
    then the best. Steps in which no such group was observed say nothing and are not counted.

    patience: steps without improvement that make a plateau; 0: never one. delta: >= 0. smoothing: in (0, 1].
    min_steps: a stage is not on a plateau before it has done this many.
    """

    def __init__(self, *, patience: int, delta: float, smoothing: float, min_steps: int) -> None:
        if patience < 0 or not delta >= 0.0 or not 0.0 < smoothing <= 1.0 or min_steps < 0:
            raise ValueError(
                f"advance_on_plateau={patience}, plateau_delta={delta} and plateau_min_steps={min_steps} must be at least 0, "
                f"plateau_smoothing={smoothing} in (0, 1]"
            )
        self._patience = patience
        self._delta = delta
        self._smoothing = smoothing
        self._min_steps = min_steps
        self.open_stage()

    def open_stage(self) -> None:
        """Forget the stage before."""
        self._smoothed: float | None = None
        self._best = 0.0
        self.num_steps = 0
        """Steps since the last improvement."""

    def end_step(self, mean: float) -> None:
        """Enter a step's m_t."""
        if self._smoothed is None:
            self._smoothed = self._best = mean
            return
        self._smoothed += self._smoothing * (mean - self._smoothed)
        self.num_steps += 1
        if self._smoothed > self._best + self._delta:
            self._best, self.num_steps = self._smoothed, 0

    def is_reached(self, steps_in_stage: int) -> bool:
        """Whether the stage, after this many steps, has nothing more to give."""
        return 0 < self._patience <= self.num_steps and steps_in_stage >= self._min_steps

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {"smoothed": self._smoothed, "best": self._best, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken."""
        self._smoothed, self._best, self.num_steps = state["smoothed"], state["best"], state["num_steps"]
