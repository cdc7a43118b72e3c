from __future__ import annotations

import json

import pytest

from curricula.plateau import Plateau


def plateau_of(**changes: float) -> Plateau:
    settings = {"patience": 3, "delta": 0.05, "smoothing": 0.5, "min_steps": 0} | changes
    return Plateau(**settings)  # type: ignore[arg-type]


def test_steps_count_until_the_smoothed_reward_beats_the_best_by_more_than_delta() -> None:
    plateau = plateau_of()
    counted = []
    # Smoothed: 0.2, 0.22, 0.24, 0.27, 0.285, 0.4425. Best: 0.2 until 0.27 > 0.25, then 0.27 until 0.4425 > 0.32.
    for mean in (0.2, 0.24, 0.26, 0.3, 0.3, 0.6):
        plateau.end_step(mean)
        counted.append(plateau.num_steps)
    assert counted == [0, 1, 2, 0, 1, 0]


def test_plateau_is_reached_after_patience_and_not_before_min_steps() -> None:
    plateau, early, never = plateau_of(), plateau_of(min_steps=6), plateau_of(patience=0)
    reached = []
    for step in range(1, 7):
        for one in (plateau, early, never):
            one.end_step(0.5)
        reached.append((plateau.is_reached(step), early.is_reached(step), never.is_reached(step)))
    assert [r[0] for r in reached] == [False, False, False, True, True, True]
    assert [r[1] for r in reached] == [False] * 5 + [True]
    assert not any(r[2] for r in reached)


def test_falling_reward_is_no_improvement_and_a_new_stage_starts_afresh() -> None:
    plateau = plateau_of()
    for mean in (0.9, 0.5, 0.1, 0.0):
        plateau.end_step(mean)
    assert plateau.is_reached(4)
    plateau.open_stage()
    plateau.end_step(0.1)
    assert plateau.num_steps == 0


def test_saved_plateau_goes_on() -> None:
    plateau, loaded = plateau_of(), plateau_of()
    for mean in (0.3, 0.31, 0.7):
        plateau.end_step(mean)
    loaded.load_state_dict(json.loads(json.dumps(plateau.state_dict())))
    for one in (plateau, loaded):
        one.end_step(0.2)
    assert loaded.state_dict() == plateau.state_dict()


@pytest.mark.parametrize("changes", [{"patience": -1}, {"delta": -0.1}, {"smoothing": 0.0}, {"min_steps": -1}])
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="advance_on_plateau"):
        plateau_of(**changes)
