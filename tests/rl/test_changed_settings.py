"""A resumed run says which settings are others than behind its checkpoint, and keeps the earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rl.changed_settings import changed_settings, config_behind, tell_changed_settings
from rl.config import DataSection, LearnerSection, ModelSection, RunConfig, RunSection, StageSection
from rl.run_folder import write_config


def config(**sections: Any) -> dict[str, Any]:
    made = {
        "model": ModelSection(path="m"),
        "data": DataSection(train="d"),
        "stages": [StageSection(max_prompt_tokens=10, steps=1)],
    }
    return RunConfig.model_validate(made | sections).model_dump()


FIRST, FASTER = config(), config(learner=LearnerSection(lr=5e-4))


def resumed(folder: Path, now: dict[str, Any], step: int) -> None:
    """What a resumed run does with its settings."""
    tell_changed_settings(folder, now, step)
    write_config(folder, now, {})


def test_every_changed_setting_is_one_line_and_the_earlier_file_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path, FIRST, {"commit": "a"})
    before = (tmp_path / "config.toml").read_bytes()
    stages = [StageSection(max_prompt_tokens=10, steps=3, lr=0.25)]
    resumed(tmp_path, config(learner=LearnerSection(lr=5e-4), stages=stages), 6)
    assert capsys.readouterr().out.splitlines() == [
        f"resume: learner.lr was {FIRST['learner']['lr']}, is 0.0005",
        "resume: stages.0.lr was unset, is 0.25",
        "resume: stages.0.steps was 1, is 3",
    ]
    assert (tmp_path / "config.step-000006.toml").read_bytes() == before


def test_the_same_settings_elsewhere_under_another_name_and_commit_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, FIRST, {"commit": "a"})
    moved = config(
        run=RunSection(dir="moved", name="other"),
        data=DataSection(train=str(tmp_path / "d")),
        tracking={"tensorboard": True},
    )
    resumed(tmp_path, moved, 6)
    assert capsys.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_settings_are_compared_with_those_behind_the_checkpoint_not_with_the_last_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path, FIRST, {})
    resumed(tmp_path, FASTER, 6)
    capsys.readouterr()
    resumed(tmp_path, FIRST, 6)  # killed before another checkpoint, and back
    assert capsys.readouterr().out == ""
    resumed(tmp_path, FASTER, 8)  # trained to 8 with the first ones
    assert capsys.readouterr().out.startswith("resume: learner.lr was ")
    resumed(tmp_path, FASTER, 4)  # the checkpoints of 6 and 8 were damaged
    assert capsys.readouterr().out.startswith("resume: learner.lr was ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.step-000004.toml", "config.toml"]
    assert config_behind(tmp_path, 5) == tmp_path / "config.toml"


def test_a_config_that_cannot_be_read_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("[run")
    tell_changed_settings(tmp_path, FIRST, 6)
    assert "config.toml cannot be read (" in capsys.readouterr().out


def test_a_setting_that_one_side_lacks_is_unset_there() -> None:
    assert changed_settings({"a": {"b": 1, "gone": 2}}, {"a": {"b": 1, "new": None}, "c": [1, 2]}) == [
        ("a.gone", 2, None),
        ("c", None, [1, 2]),
    ]
