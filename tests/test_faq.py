"""The errors that the FAQ explains are errors that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rl.config import RunConfig
from rl.metrics import GLOSSARY
from tests.test_docs import ROOT

FAQ = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.+)`$", FAQ, re.MULTILINE)


def sources() -> str:
    """Every message as it is printed: the pieces of a string that is broken over lines are put together."""
    packages = ("data", "rewards", "curricula", "rl", "launch")
    text = "\n".join(path.read_text(encoding="utf-8") for name in packages for path in Path(ROOT / name).rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pytest.mark.parametrize("heading", HEADINGS)
def test_an_explained_error_is_one_that_the_code_has(heading: str) -> None:
    assert heading in sources()


def test_the_keys_and_metrics_it_names_exist() -> None:
    metrics = set(re.findall(r"`((?:curriculum|reward|rollout|policy)/[a-z_]+)`", FAQ))
    assert metrics
    assert metrics <= set(GLOSSARY)
    sections = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    keys = set(
        re.findall(r"`(?:--)?((?:model|data|run|rollout|learner|reward|evaluation)\.[a-z_]+)(?: = [^`]+)?`", FAQ)
    )
    assert keys
    for key in keys:
        section, name = key.split(".")
        assert name in sections[section].model_fields, key  # type: ignore[union-attr]
