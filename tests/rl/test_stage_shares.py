from __future__ import annotations

import pytest

from rl.config import RunConfig
from rl.inputs import stages_of


def config_of(*stages: dict[str, object], **curriculum: object) -> RunConfig:
    common = {"max_prompt_tokens": 20, "steps": 1, "max_response_tokens": 8}
    tables = [common | {"max_prompt_tokens": 20 * (i + 1)} | stage for i, stage in enumerate(stages)]
    return RunConfig.model_validate(
        {"model": {"path": "m"}, "data": {"train": "d"}, "stages": tables, "curriculum": curriculum}
    )


def test_stages_take_the_curriculums_replay_share_unless_they_name_their_own() -> None:
    stages = stages_of(config_of({}, {"replay_frac": 0.0}, {"replay_frac": 0.5, "short_frac": 0.25}, replay_frac=0.3))
    assert [(stage.replay_frac, stage.short_frac) for stage in stages] == [(0.3, 0.0), (0.0, 0.0), (0.5, 0.25)]


def test_shares_that_leave_nothing_to_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match=r"stages.1: replay_frac=0.3 and short_frac=0.7"):
        stages_of(config_of({}, {"short_frac": 0.7}, replay_frac=0.3))
