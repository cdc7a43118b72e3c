"""The real problems beside the project, for the tests that are about them."""

from __future__ import annotations

from pathlib import Path

import pytest


def docqa(name: str) -> Path:
    """`../shared/data/NAME.jsonl`; where it is absent the test is skipped, saying so."""
    path = Path(__file__).parents[2].parent / "shared" / "data" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"../shared/data/{path.name} is not there")
    return path
