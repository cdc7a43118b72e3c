"""Which engine a machine gets."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from rl.config import RolloutSection
from rl.rollout.choose import EngineMissing, build_engine, engine_name


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


def test_the_rank_of_adapters_reaches_vllm_and_is_zero_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, fake_engine = ModuleType("vllm"), ModuleType("rl.rollout.vllm_engine")
    fake.__spec__ = ModuleSpec("vllm", None)
    fake_engine.VllmEngine = lambda model_path, **settings: settings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "rl.rollout.vllm_engine", fake_engine)
    assert build_engine("model", "float32", RolloutSection(), 128, 1)["lora_rank"] == 0
    assert build_engine("model", "float32", RolloutSection(), 128, 1, 16)["lora_rank"] == 16
