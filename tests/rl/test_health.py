"""A run ends on purpose only when scores stay unknown, step after step."""

from __future__ import annotations

import pytest

from rl.config import DataSection, ModelSection, RewardSection, RunConfig, RunSection, StageSection
from rl.health import Health, ScoringUnavailable, check_invalid_scores

CONFIG = RunConfig(
    run=RunSection(max_failed_rounds=2),
    model=ModelSection(path="m"),
    data=DataSection(train="d"),
    stages=[StageSection(max_prompt_tokens=10, steps=1)],
    reward=RewardSection(max_invalid_frac=0.5, judge_url="http://127.0.0.1:9/v1"),
)


def after(*fracs: float) -> Health:
    """The health of a run whose steps had these shares of invalid scores."""
    health = Health()
    for frac in fracs:
        health.observe(frac, max_invalid_frac=CONFIG.reward.max_invalid_frac, reason="timeout: no verdict")
    return health


def test_two_bad_steps_in_a_row_end_the_run_with_exit_code_4_and_name_the_judge() -> None:
    with pytest.raises(
        ScoringUnavailable,
        match=r"2 steps in a row \(for instance timeout: no verdict\); check the judge at http://127.0.0.1:9/v1",
    ) as error:
        check_invalid_scores(after(0.6, 0.6), CONFIG)
    assert error.value.exit_code == 4


def test_a_good_step_between_starts_the_count_again_and_the_bound_itself_is_allowed() -> None:
    check_invalid_scores(after(0.6, 0.5, 0.6), CONFIG)
    check_invalid_scores(after(0.5, 0.5, 0.5), CONFIG)
    assert after(0.6, 0.6, 0.0).failed_rounds == 0


def test_the_runs_own_judge_is_named_by_its_path() -> None:
    own = CONFIG.model_copy(update={"reward": RewardSection(max_invalid_frac=0.5, judge_path="models/judge")})
    with pytest.raises(ScoringUnavailable, match="check the judge at models/judge and go on"):
        check_invalid_scores(after(0.6, 0.6), own)
