"""The curriculum: which problems the next step trains on.

A draw takes replay_frac of its problems from the pool of earlier stages' hard problems, the rest from a
random order of the stage's own window, and mixes the two. Everything is a function of the seed, of
counters and of the rewards observed, so its state is a JSON file and a restored run draws the same.

Left out: replay is not balanced over tasks, only the window's draws are; lengths within a window come
in random order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from curricula.difficulty import DifficultyTable
from curricula.epochs import EpochOrder
from curricula.index import ProblemIndex
from curricula.replay import ReplayPool
from curricula.resume import WindowIdentity, refuse_other_run
from curricula.rng import uniform
from curricula.stage import Stage, stage_window
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumSettings:
    """What holds for all stages; each field is described where it is used."""

    difficulty_smoothing: float = 0.5
    """See `DifficultyTable`."""
    difficulty_floor: float = 0.05
    """See `DifficultyTable`."""
    park_after_visits: int = 3
    """See `ReplayPool`."""
    unpark_after_steps: int = 50
    """See `ReplayPool`."""
    leave_pool_above: float = 0.9
    """See `ReplayPool`."""
    task_balanced: bool = False
    """Draw from the window's tasks in turn, so that all come up equally often whatever their sizes."""


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
        self._table = DifficultyTable(smoothing=settings.difficulty_smoothing, floor=settings.difficulty_floor)
        self._pool = ReplayPool(
            self._table,
            park_after_visits=settings.park_after_visits,
            unpark_after_steps=settings.unpark_after_steps,
            leave_pool_above=settings.leave_pool_above,
        )
        self._identities: dict[int, WindowIdentity] = {}
        self._num_steps = 0
        self._num_uniforms = 0
        self._replay_owed = 0.0
        self._drawn: dict[int, bool] = {}
        """This step's draws by position, in order; True for those that came from the pool."""
        self._observed: list[int] = []
        """This step's observed records, in order."""
        self._step_stage = 0
        self._open_window(0)

    @property
    def stage(self) -> Stage | None:
        """The stage of the next step, or of the one in progress; None when all steps are done."""
        stage = self._stages[self._stage_index]
        return stage if self._steps_in_stage < stage.steps else None

    @property
    def num_steps(self) -> int:
        """Steps ended, over all stages."""
        return self._num_steps

    def begin_step(self) -> None:
        """Make every problem drawable again, and release what was parked long enough.

        Raises: RuntimeError, when all steps are done.
        """
        self._require_stage()
        self._forget_step()
        self._step_stage = self._stage_index
        self._pool.begin_step(self._num_steps)

    def draw(self, n: int, exclude: Collection[str] = ()) -> list[Problem]:
        """Up to n problems, none of which was drawn since begin_step or is named in exclude (ids).

        replay_frac * n of them come from the pool; what is left of a problem after rounding down is owed to
        the next draw. Where the pool has too few, the window fills up; where the window has too few, fewer
        are returned.

        Raises: RuntimeError, when all steps are done; ValueError, when n < 0.
        """
        if n < 0:
            raise ValueError(f"draw: n={n} must be at least 0")
        self._replay_owed += n * self._require_stage().replay_frac
        num_replay = int(self._replay_owed)
        self._replay_owed -= num_replay
        held_out = [record for record in map(self._table.record_of, exclude) if record is not None]
        records = self._pool.draw(num_replay, self._uniform, held_out)
        replayed = [self.index.position_of(self._table.problem_id(record)) for record in records]
        self._drawn.update(dict.fromkeys(replayed, True))
        excluded = {position for position in map(self.index.find, exclude) if position is not None}
        fresh = self._draw_window(n - len(replayed), excluded)
        # Mixed, because whoever keeps the first informative groups would else always keep one kind.
        keyed = [(self._uniform(), position) for position in replayed + fresh]
        return [self.index[position] for _, position in sorted(keyed)]

    def observe(self, problem_id: str, outcomes: Sequence[float]) -> None:
        """Enter one group's valid outcomes, each in [0, 1]; none at all says nothing and changes nothing. O(log n).

        Raises: ValueError, for an outcome outside [0, 1] or a problem that the data does not hold.
        """
        if not outcomes:
            return
        self.index.position_of(problem_id)
        record = self._table.observe(problem_id, outcomes)
        self._pool.observe(record, self._num_steps)
        self._observed.append(record)

    def end_step(self) -> None:
        """Count the step; after a stage's last one the next stage opens, and the pool takes in what was visited.

        Raises: RuntimeError, when all steps are done.
        """
        self._require_stage()
        self._num_steps += 1
        self._steps_in_stage += 1
        self._advance()

    def metrics(self) -> dict[str, float]:
        """Of the step in progress or just ended: its stage, the pool, and what was drawn and observed.

        `curriculum/difficulty_mean` is over the problems observed in the step; it and
        `curriculum/max_prompt_tokens` are left out where there is nothing to report.
        """
        metrics: dict[str, float] = {
            "curriculum/stage": self._step_stage,
            "curriculum/replay_frac": sum(self._drawn.values()) / max(1, len(self._drawn)),
            "curriculum/pool_size": len(self._pool),
            "curriculum/parked": self._pool.num_parked,
        }
        if self._observed:
            total = sum(self._table.difficulty(record) for record in self._observed)
            metrics["curriculum/difficulty_mean"] = total / len(self._observed)
        if self._drawn:
            metrics["curriculum/max_prompt_tokens"] = max(int(self.index.num_tokens[p]) for p in self._drawn)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything that later draws depend on, JSON-serialisable; taken at any time, also within a step."""
        return {
            "seed": self._seed,
            "task_balanced": self._settings.task_balanced,
            "stages": [asdict(stage) for stage in self._stages[: self._stage_index + 1]],
            "windows": [asdict(self._window_identity(k)) for k in range(self._stage_index + 1)],
            "num_steps": self._num_steps,
            "steps_in_stage": self._steps_in_stage,
            "step_stage": self._step_stage,
            "turn": self._turn,
            "orders": {task: order.state_dict(self.index) for task, order in self._orders.items()},
            "num_uniforms": self._num_uniforms,
            "replay_owed": self._replay_owed,
            "drawn": [[self.index.id_of(p), replayed] for p, replayed in self._drawn.items()],
            "observed": list(self._observed),
            "difficulty": self._table.state_dict(),
            "pool": self._pool.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the state was taken.

        The seed, the stages that are over and the data of every stage begun must be the same. The stage in
        progress may get another number of steps, output limit, learning rate or replay share; stages after
        it, and their data, may be new.

        Raises: ValueError, when it does not fit, naming the difference; nothing is changed then.
        """
        begun = len(state["stages"])
        refuse_other_run(
            state,
            seed=self._seed,
            task_balanced=self._settings.task_balanced,
            stages=self._stages,
            windows=[self._window_identity(k) for k in range(min(begun, len(self._stages)))],
            index=self.index,
        )
        self._num_steps = state["num_steps"]
        self._num_uniforms = state["num_uniforms"]
        self._replay_owed = state["replay_owed"]
        self._table.load_state_dict(state["difficulty"])
        self._pool.load_state_dict(state["pool"])
        self._open_window(begun - 1)
        self._steps_in_stage = state["steps_in_stage"]
        self._turn = state["turn"]
        for task, order in self._orders.items():
            order.load_state_dict(state["orders"][task], self.index)
        self._step_stage = state["step_stage"]
        self._drawn = {self.index.position_of(problem_id): replayed for problem_id, replayed in state["drawn"]}
        self._observed = list(state["observed"])
        self._advance()

    def _require_stage(self) -> Stage:
        if (stage := self.stage) is None:
            raise RuntimeError(f"curriculum: all {self._num_steps} steps of {len(self._stages)} stages are done")
        return stage

    def _uniform(self) -> float:
        self._num_uniforms += 1
        return uniform(self._seed, "sampler", self._num_uniforms)

    def _forget_step(self) -> None:
        self._drawn = {}
        self._observed = []

    def _advance(self) -> None:
        if self.stage is None and self._stage_index + 1 < len(self._stages):
            self._pool.open_stage()
            self._open_window(self._stage_index + 1)

    def _open_window(self, stage_index: int) -> None:
        self._stage_index = stage_index
        self._steps_in_stage = 0
        self._turn = 0
        positions = stage_window(self.index, self._stages[stage_index])
        parts = {"": positions}
        if self._settings.task_balanced:
            codes = self.index.task_codes[positions]
            parts = {task: positions[codes == code] for code, task in enumerate(self.index.tasks)}
        self._orders = {
            task: EpochOrder(part, self._seed, "window", stage_index, task) for task, part in parts.items() if len(part)
        }

    def _draw_window(self, n: int, excluded: Collection[int]) -> list[int]:
        stage = self._stages[self._stage_index]
        forbidden = {*excluded, *self._drawn}
        room = {task: len(order) for task, order in self._orders.items()}
        for position in forbidden:
            if stage.low < self.index.num_tokens[position] <= stage.high:
                room[self.index.task_of(position) if self._settings.task_balanced else ""] -= 1
        tasks = list(self._orders)
        num_left = min(n, sum(room.values()))
        fresh: list[int] = []
        while len(fresh) < num_left:
            task = tasks[self._turn]
            self._turn = (self._turn + 1) % len(tasks)
            if room[task] == 0:
                continue
            position = self._orders[task].draw(forbidden)
            room[task] -= 1
            forbidden.add(position)
            fresh.append(position)
            self._drawn[position] = False
            # Windows may overlap: a problem of an earlier stage can come up here too, but not twice in a step.
            if (record := self._table.record_of(self.index.id_of(position))) is not None:
                self._pool.take(record)
        return fresh

    def _window_identity(self, stage_index: int) -> WindowIdentity:
        if stage_index not in self._identities:
            positions = self.index.window(self._stages[stage_index].low, self._stages[stage_index].high)
            self._identities[stage_index] = WindowIdentity(
                num_problems=len(positions), fingerprint=self.index.fingerprint(positions)
            )
        return self._identities[stage_index]
