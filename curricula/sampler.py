"""The curriculum: which problems the next step trains on.

A draw takes replay_frac of its problems from the pool of earlier stages' hard problems, short_frac from all problems of
the earlier stages' windows, the rest from the stage's own window in the order that the settings name, and mixes the three.
Everything is a function of the seed, of counters and of the rewards observed, so its state is a JSON file and a restored
run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from math import fsum
from typing import Any, Protocol

import numpy as np

from curricula.difficulty import DifficultyTable
from curricula.identity import WindowIdentity, identify
from curricula.index import Positions, ProblemIndex
from curricula.mix import Share, Source
from curricula.orders import EasyFirst, EpochOrder, LengthSorted, Order, VarianceFirst
from curricula.plateau import Plateau
from curricula.replay import ReplayPool
from curricula.resume import FORMAT, Windows, refuse_other_run
from curricula.rng import uniform
from curricula.settings import CurriculumSettings
from curricula.stage import Stage, is_short, short_positions, stage_window
from curricula.step_record import Origin, StepRecord
from data.problem import Problem


class Curriculum(Protocol):
    """What the loop asks: begin_step, any number of draws and observations, end_step."""

    @property
    def stage(self) -> Stage | None:
        """The stage of the next step, or of the one in progress; None when all steps are done."""
        ...

    def begin_step(self) -> None:
        """Make every problem drawable again."""
        ...

    def draw(self, n: int, exclude: Collection[str] = ()) -> list[Problem]:
        """Up to n problems, none of which was drawn since begin_step or is named in exclude (ids)."""
        ...

    def observe(self, problem_id: str, outcomes: Sequence[float]) -> None:
        """The valid outcomes, each in [0, 1], of one group; none at all says nothing about the problem."""
        ...

    def end_step(self) -> None:
        """Count the step; after a stage's last one the next stage opens."""
        ...

    def metrics(self) -> dict[str, float]:
        """Of the step in progress or just ended."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable and complete."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the state was taken. Raises: ValueError, when it does not fit, saying where."""
        ...


class StagedCurriculum:
    """Stages of growing context with replay of the hard problems (QwenLong-L1, arXiv 2505.17667, eq. 9 and 10).

    Raises: ValueError, when there is no stage; DataError, when a stage's window holds no problem.
    """

    def __init__(
        self, problems: Sequence[Problem], stages: Sequence[Stage], *, settings: CurriculumSettings, seed: int
    ) -> None:
        if [stage.index for stage in stages] != list(range(len(stages))) or not stages:
            raise ValueError(f"stages: indices {[stage.index for stage in stages]} must be 0, 1, ... and at least one")
        self._stages = tuple(stages)
        self._settings = settings
        self._seed = seed
        self.index = ProblemIndex(problems)
        for stage in stages:
            stage_window(self.index, stage)
        self._table = DifficultyTable(
            self.index, smoothing=settings.difficulty_smoothing, floor=settings.difficulty_floor
        )
        self._pool = ReplayPool(
            self._table,
            park_after_visits=settings.park_after_visits,
            unpark_after_steps=settings.unpark_after_steps,
            leave_pool_above=settings.leave_pool_above,
            power=settings.replay_power,
            task_codes=self.index.task_codes if settings.task_balanced else None,
        )
        self._plateau = Plateau(
            patience=settings.advance_on_plateau,
            delta=settings.plateau_delta,
            smoothing=settings.plateau_smoothing,
            min_steps=settings.plateau_min_steps,
        )
        self._replay_share, self._short_share = Share(), Share()
        self._identities: dict[int, WindowIdentity] = {}
        self._num_steps = 0
        self._num_uniforms = 0
        self._plateau_steps = 0
        self._step = StepRecord(stage_index=0, stage_step=0)
        self._open_stage(0)

    @property
    def stage(self) -> Stage | None:
        """The stage of the next step, or of the one in progress; None when all steps are done."""
        stage = self._stages[self._stage_index]
        is_last = self._stage_index + 1 == len(self._stages)
        ended = self._steps_in_stage >= stage.steps or (not is_last and self._plateau.is_reached(self._steps_in_stage))
        return None if ended else stage

    @property
    def num_steps(self) -> int:
        """Steps ended, over all stages."""
        return self._num_steps

    def begin_step(self) -> None:
        """Make every problem drawable again, and release what was parked long enough.

        Raises: RuntimeError, when all steps are done.
        """
        self._require_stage()
        self._step = StepRecord(stage_index=self._stage_index, stage_step=self._steps_in_stage + 1)
        self._pool.begin_step(self._num_steps)
        self._window.begin_step()
        self._short.begin_step()

    def draw(self, n: int, exclude: Collection[str] = ()) -> list[Problem]:
        """Up to n problems, none of which was drawn since begin_step or is named in exclude (ids).

        replay_frac * n of them come from the pool and short_frac * n from the earlier windows; what is left of a problem
        after rounding down is owed to the next draw. Where these have too few, the window fills up; where the window has
        too few, fewer are returned.

        Raises: RuntimeError, when all steps are done; ValueError, when n < 0.
        """
        if n < 0:
            raise ValueError(f"draw: n={n} must be at least 0")
        stage = self._require_stage()
        num_replay = self._replay_share.take(n, stage.replay_frac, at_most=n)
        num_short = self._short_share.take(n, stage.short_frac, at_most=n - num_replay)
        excluded = [position for position in map(self.index.find, exclude) if position is not None]
        held_out = [record for record in map(self._table.record_of, excluded) if record is not None]
        records = self._pool.draw(num_replay, self._uniform, held_out)
        drawn = self._note([self._table.position(record) for record in records], "replay")
        drawn += self._note(self._short.draw(num_short, {*excluded, *self._step.drawn}), "short")
        drawn += self._note(self._window.draw(n - len(drawn), {*excluded, *self._step.drawn}), "window")
        # Mixed, because whoever keeps the first informative groups would else always keep one kind.
        keyed = [(self._uniform(), position) for position in drawn]
        return [self.index[position] for _, position in sorted(keyed)]

    def _note(self, positions: list[int], origin: Origin) -> list[int]:
        """Enter what was drawn, so that this step draws it nowhere again: windows may overlap, and the pool is in them."""
        for position in positions:
            self._step.drawn[position] = origin
            self._take(position)
        return positions

    def _take(self, position: int) -> None:
        self._window.took(position)
        self._short.took(position)
        if (record := self._table.record_of(position)) is not None:
            self._pool.take(record)

    def observe(self, problem_id: str, outcomes: Sequence[float]) -> None:
        """Enter one group's valid outcomes, each in [0, 1]; none at all says nothing and changes nothing. O(log n).

        Raises: ValueError, for an outcome outside [0, 1] or a problem that the data does not hold.
        """
        if not outcomes:
            return
        position = self.index.position_of(problem_id)
        known = self._table.record_of(position)
        before = None if known is None else self._table.mean(known)
        record = self._table.observe(position, outcomes)
        self._pool.observe(record, self._num_steps)
        self._window.observed(position)
        self._short.observed(position)
        self._step.observe(position, record, fsum(outcomes) / len(outcomes), before)

    def end_step(self) -> None:
        """Count the step; after a stage's last one the next stage opens, and the pool takes in what was visited.

        A stage is over after its steps, or before them on a plateau; the steps it did not take are not made up for.

        Raises: RuntimeError, when all steps are done.
        """
        self._require_stage()
        self._num_steps += 1
        self._steps_in_stage += 1
        if (mean := self._step.window_mean()) is not None:
            self._plateau.end_step(mean)
        self._plateau_steps = self._plateau.num_steps
        self._advance()

    def metrics(self) -> dict[str, float]:
        """Of the step in progress or just ended: its stage, the pool, and what was drawn and observed.

        `curriculum/difficulty_mean` is over the problems observed in the step; it, `curriculum/max_prompt_tokens` and
        the replayed problems' rewards are left out where there is nothing to report.
        """
        metrics = self._step.metrics(self.index, [stage.high for stage in self._stages])
        metrics |= {
            "curriculum/pool_size": len(self._pool),
            "curriculum/parked": self._pool.num_parked,
            "curriculum/num_left": self._pool.num_left,
            "curriculum/num_visited": len(self._table),
        }
        metrics |= {f"curriculum/visited_by_reward/{name}": n for name, n in self._table.num_by_reward().items()}
        if self._step.observed:
            total = sum(self._table.difficulty(record) for record in self._step.observed)
            metrics["curriculum/difficulty_mean"] = total / len(self._step.observed)
        if self._settings.advance_on_plateau:
            metrics["curriculum/plateau_steps"] = self._plateau_steps
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything that later draws depend on, JSON-serialisable; taken at any time, also within a step.

        A stage that has drawn nothing yet is not begun: its window may still get new data.
        """
        begun = self._steps_in_stage > 0 or (self._step.stage_index == self._stage_index and bool(self._step.drawn))
        num_begun = self._stage_index + begun
        return {
            "format": FORMAT,
            **self._fixed_settings(),
            "stages": [asdict(stage) for stage in self._stages[:num_begun]],
            "windows": [asdict(self._window_identity(k)) for k in range(num_begun)],
            "stage_index": self._stage_index,
            "num_steps": self._num_steps,
            "steps_in_stage": self._steps_in_stage,
            "num_uniforms": self._num_uniforms,
            "replay_owed": self._replay_share.owed,
            "short_owed": self._short_share.owed,
            "window": self._window.state_dict(),
            "short": self._short.state_dict(),
            "step": self._step.state_dict(self.index),
            "difficulty": self._table.state_dict(),
            "pool": self._pool.state_dict(),
            "plateau": self._plateau.state_dict(),
            "plateau_steps": self._plateau_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the state was taken.

        The seed, the stages that are over and the data of every stage begun must be the same. The stage in
        progress may get another number of steps, output limit, learning rate or shares; stages after
        it, and their data, may be new.

        Raises: ValueError, when it does not fit, naming the difference; nothing is changed then.
        """
        num_begun = len(state.get("stages", ()))
        known = range(min(num_begun, len(self._stages)))
        refuse_other_run(
            state,
            settings=self._fixed_settings(),
            stages=self._stages,
            windows=Windows(
                index=self.index,
                positions=[stage_window(self.index, self._stages[k]) for k in known],
                identities=[self._window_identity(k) for k in known],
            ),
        )
        self._table.load_state_dict(state["difficulty"])
        self._num_steps = state["num_steps"]
        self._num_uniforms = state["num_uniforms"]
        self._replay_share.owed, self._short_share.owed = state["replay_owed"], state["short_owed"]
        self._pool.load_state_dict(state["pool"])
        self._open_stage(state["stage_index"])
        self._steps_in_stage = state["steps_in_stage"]
        self._plateau.load_state_dict(state["plateau"])
        self._plateau_steps = state["plateau_steps"]
        if self._stage_index < num_begun:
            self._window.load_state_dict(state["window"])
            self._short.load_state_dict(state["short"])
        self._step = StepRecord.of(state["step"], self.index)
        for position in self._step.drawn:
            self._take(position)
        self._advance()

    def _fixed_settings(self) -> dict[str, Any]:
        settings = self._settings
        return {"seed": self._seed, "task_balanced": settings.task_balanced, "order": settings.order}

    def _require_stage(self) -> Stage:
        if (stage := self.stage) is None:
            raise RuntimeError(f"curriculum: all {self._num_steps} steps of {len(self._stages)} stages are done")
        return stage

    def _uniform(self) -> float:
        self._num_uniforms += 1
        return uniform(self._seed, "sampler", self._num_uniforms)

    def _advance(self) -> None:
        if self.stage is None and self._stage_index + 1 < len(self._stages):
            self._pool.open_stage()
            self._open_stage(self._stage_index + 1)
            for position in self._step.drawn:
                self._take(position)

    def _open_stage(self, stage_index: int) -> None:
        self._stage_index = stage_index
        self._steps_in_stage = 0
        self._plateau.open_stage()
        stage = self._stages[stage_index]
        self._window = self._source(
            stage_window(self.index, stage), self._ordered, lambda tokens: stage.low < tokens <= stage.high
        )
        short = short_positions(self.index, self._stages, stage) if stage.short_frac else np.zeros(0, dtype=np.int32)
        self._short = self._source(
            short, self._shuffled, lambda tokens: len(short) > 0 and is_short(tokens, self._stages, stage)
        )

    def _source(
        self, positions: Positions, order: Callable[[Positions, str], Order], holds: Callable[[int], bool]
    ) -> Source:
        parts = {"": positions}
        if self._settings.task_balanced:
            codes = self.index.task_codes[positions]
            parts = {task: positions[codes == code] for code, task in enumerate(self.index.tasks)}
        orders = {task: order(part, task) for task, part in parts.items() if len(part)}

        def part_of(position: int) -> str | None:
            if not holds(int(self.index.num_tokens[position])):
                return None
            return self.index.task_of(position) if self._settings.task_balanced else ""

        return Source(orders, part_of)

    def _ordered(self, part: Positions, task: str) -> Order:
        settings = self._settings
        if settings.order == "variance_first":
            prior, floor = settings.variance_prior, settings.variance_floor
            return VarianceFirst(part, self._table, prior=prior, floor=floor, uniform=self._uniform)
        by_length = LengthSorted(self.index) if settings.order == "length_sorted" else None
        arrangement = EasyFirst(self.index, self._table) if settings.order == "easy_first" else by_length
        return EpochOrder(self.index, part, self._seed, "window", self._stage_index, task, arrangement=arrangement)

    def _shuffled(self, part: Positions, task: str) -> Order:
        return EpochOrder(self.index, part, self._seed, "short", self._stage_index, task)

    def _window_identity(self, stage_index: int) -> WindowIdentity:
        if stage_index not in self._identities:
            self._identities[stage_index] = identify(self.index, stage_window(self.index, self._stages[stage_index]))
        return self._identities[stage_index]
