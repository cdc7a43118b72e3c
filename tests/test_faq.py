"""The errors that the FAQ explains are errors that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
