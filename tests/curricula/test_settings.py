from __future__ import annotations

from dataclasses import fields

from curricula.settings import CurriculumSettings
from rl.config import CurriculumSection


def test_every_setting_is_a_key_of_the_configuration_with_the_same_default() -> None:
    section = CurriculumSection()
    assert {f.name: f.default for f in fields(CurriculumSettings)} == {
        f.name: getattr(section, f.name) for f in fields(CurriculumSettings)
    }
