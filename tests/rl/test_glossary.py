"""docs/metrics.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rl.alarms import NAMES
from rl.config import RunConfig
from rl.glossary import ALIASES, GLOSSARY, UNITS, tables, unit

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
AREAS = "|".join(sorted({name.partition("/")[0] for name in GLOSSARY}))


def test_the_page_ends_with_the_glossarys_tables() -> None:
    assert PAGE.split("<!-- glossary -->\n\n")[1] == tables(), (
        "docs/metrics.md: put `python -m rl.glossary` after the mark"
    )


def test_every_metric_has_a_unit_and_no_other_name_has_one_or_an_alias() -> None:
    assert {unit(name) for name in GLOSSARY} >= {"share", "seconds", "tokens", "count", "nats/token"}
    assert set(UNITS) | set(ALIASES) <= set(GLOSSARY)
    with pytest.raises(KeyError, match="loss/no_such_metric"):
        unit("loss/no_such_metric")


def test_the_metrics_that_the_page_names_exist() -> None:
    named = set(re.findall(rf"`((?:{AREAS})/[\w/<>]+)`", PAGE.split("### The same elsewhere")[0]))
    assert named == set(GLOSSARY)


def test_the_settings_that_the_page_names_exist_with_their_defaults_and_no_alarm_is_missing() -> None:
    prose = PAGE.split("<!-- glossary -->")[0]
    sections = {name: field.annotation for name, field in RunConfig.model_fields.items() if name != "stages"}
    named = re.findall(rf"`({'|'.join(sections)})\.(\w+)(?: =[^`]*)?`(?: \((\d[\d.]*)\))?", prose)
    assert len(named) > 25
    for section, key, default in named:
        field = sections[section].model_fields[key]  # type: ignore[union-attr]
        assert not default or float(default) == field.default, f"{section}.{key}"
    health = {key for section, key, _ in named if section == "health"}
    assert health == set(RunConfig.model_fields["health"].annotation.model_fields)  # type: ignore[union-attr]
    assert tuple(re.findall(r"^\| `(\w+)` \| ", prose.split("| alarm |")[1].split("\n\n")[0], re.MULTILINE)) == NAMES
