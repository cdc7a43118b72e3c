"""Which engine a machine gets."""

from __future__ import annotations

import sys

import pytest

from rl.config import RolloutSection
from rl.rollout.choose import EngineMissing, engine_name


def test_auto_takes_vllm_where_it_is_installed() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    assert engine_name(RolloutSection()) == "vllm"
    assert engine_name(RolloutSection(engine="transformers")) == "transformers"


def test_without_vllm_auto_is_transformers_and_asking_for_vllm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own mark for a package that cannot be imported
    assert engine_name(RolloutSection()) == "transformers"
    with pytest.raises(
        EngineMissing, match=r"^engine: 'vllm' is not installed here; install .*, or say 'transformers'"
    ) as told:
        engine_name(RolloutSection(engine="vllm"), key="engine")
    assert told.value.exit_code == 3
