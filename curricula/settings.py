"""The curriculum's settings: what holds for all stages. Every default leaves the option out."""

from __future__ import annotations

from dataclasses import dataclass

from curricula.orders import OrderName


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
    replay_power: float = 1.0
    """See `ReplayPool`."""
    task_balanced: bool = False
    """Draw from the tasks in turn, so that all come up equally often whatever their sizes: from the window's, from the
    shorter windows' and from the pool's, each with its own turns."""
    order: OrderName = "random"
    """How the window's problems follow one another; see `curricula.orders`."""
    variance_prior: float = 0.25
    """See `VarianceFirst`."""
    variance_floor: float = 0.01
    """See `VarianceFirst`."""
    advance_on_plateau: int = 0
    """Steps without improvement after which a stage is over, unless it is the last; 0: never. See `Plateau`."""
    plateau_delta: float = 0.01
    """See `Plateau`."""
    plateau_smoothing: float = 0.2
    """See `Plateau`."""
    plateau_min_steps: int = 0
    """See `Plateau`."""
