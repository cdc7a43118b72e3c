"""What the dry run says of memory: by hand, against a real vLLM, and what it refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2Config

from rl import inputs as inputs_module
from rl.config import RunConfig
from rl.inputs import MAX_VLLM_LORA_RANK, InputError, Inputs, load_inputs, stages_of
from rl.learner.budget import ModelShape
from rl.plan import CONTEXT_GIB, engine_lines, estimate_engine, estimate_memory, gpu_lines
from rl.rollout.budget import GIB, EngineMemory
from rl.rollout.environment import engine_environment
from tests.rl.tiny_run import TEMPLATE, tokenizer, write_inputs

SHAPE = ModelShape(
    num_layers=28, hidden_size=3584, intermediate_size=18944, num_heads=28, num_kv_heads=4, head_dim=128,
    vocab_size=152064, element_bytes=2,
)  # fmt: skip
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def engine(**changes: Any) -> EngineMemory:
    given = {"tensor_parallel": 1, "num_adapter": 0, "max_num_seqs": 256, "batch_tokens": 8192, **changes}
    return EngineMemory(shape=SHAPE, num_parameters=7_000_000_000, **given)


def test_an_engines_memory_by_hand() -> None:
    one = engine()
    assert one.weight_bytes == 14_000_000_000
    assert one.token_bytes == 28 * 2 * 4 * 128 * 2
    assert one.working_bytes == 8192 * 2 * (4 * 3584 + 3 * 18944) + 12 * 152064 * 256
    assert one.cache_tokens(40e9) == int((40e9 - one.weight_bytes - one.working_bytes) // 57_344)
    assert one.cache_tokens(14e9) == 0


def test_gpus_share_weights_and_key_heads_down_to_one_head_each() -> None:
    assert engine(tensor_parallel=4).weight_bytes == 3_500_000_000
    assert [engine(tensor_parallel=t).token_bytes * t for t in (1, 2, 4, 8)] == [57_344, 57_344, 57_344, 114_688]
    assert engine(num_adapter=1000).weight_bytes == engine().weight_bytes + 2000


def planned(**changes: Any) -> tuple[Inputs, RunConfig]:
    """A run over a tiny model, of one stage of 100 + 20 tokens where nothing else is said; changes: settings by section."""
    stage = {"max_prompt_tokens": 100, "steps": 1, "max_response_tokens": 20}
    given = {"model": {"path": "m"}, "data": {"train": "d"}, "stages": [stage], "curriculum": {"group_size": 4}}
    config = RunConfig.model_validate(given | changes)
    inputs = Inputs(
        tokenizer=tokenizer(),
        model_config=Qwen2Config(vocab_size=256, num_key_value_heads=2, **SIZES),
        template=TEMPLATE,
        stages=stages_of(config),
        train=(), train_fingerprint="", test={}, num_dropped=0, num_cut=0,
    )  # fmt: skip
    return inputs, config


def test_the_plan_says_how_many_sequences_and_groups_a_gpu_holds() -> None:
    inputs, config = planned(rollout={"gpu_memory_frac": 0.5})
    memory = estimate_memory(inputs, config)
    assert (
        "; --gpu-gib says how many fit"
        in engine_lines(estimate_engine(memory, config), inputs, config, gpu_gib=None)[0]
    )
    tiny = estimate_engine(memory, config)
    size = (tiny.weight_bytes + tiny.working_bytes + 300.5 * tiny.token_bytes) / GIB * 2
    [line] = engine_lines(tiny, inputs, config, gpu_gib=size)
    assert line.endswith(" holds 300 tokens: 2 longest sequences (120 tokens), 1 groups")  # 100 + 4 x 20 a group
    [line, warning] = engine_lines(tiny, inputs, config, gpu_gib=size * 0.9)
    assert line.endswith(" 0 longest sequences (120 tokens), 0 groups")
    assert warning.startswith(
        "warning: no sequence of 120 tokens fits the rollout engine; raise rollout.gpu_memory_frac"
    )


def test_the_memory_is_that_of_the_dearest_stage_wherever_it_stands() -> None:
    stages = [
        {"max_prompt_tokens": 50, "steps": 1, "max_response_tokens": 20},
        {"max_prompt_tokens": 100, "steps": 1, "max_response_tokens": 10},
        {"min_prompt_tokens": 0, "max_prompt_tokens": 50, "steps": 1, "max_response_tokens": 20},
    ]
    inputs, config = planned(stages=stages)
    memory = estimate_memory(inputs, config)
    assert memory.group.prompt_tokens == 100
    engine = estimate_engine(memory, config)
    size = (engine.weight_bytes + engine.working_bytes + 360.5 * engine.token_bytes) / GIB / 0.5
    [line] = engine_lines(engine, inputs, config, gpu_gib=size)
    # The last stage may replay the second one's prompts under its own limit: 100 + 4 x 20 a group.
    assert line.endswith(" holds 360 tokens: 3 longest sequences (120 tokens), 2 groups")


def test_what_shares_a_gpu_is_added_and_what_does_not_stands_alone() -> None:
    reward = {"judge_path": "j", "judge_gpu_memory_frac": 0.1}
    inputs, config = planned(reward=reward, rollout={"gpu_memory_frac": 0.5})
    memory = estimate_memory(inputs, config)
    learner = memory.total_bytes / GIB
    [line] = gpu_lines(memory, config, gpu_gib=20.0)
    assert line == (
        f"a GPU of 20 GiB: learner {learner:.1f} + rollout engine 10.0 + judge 2.0 + processes {3 * CONTEXT_GIB:.1f} = "
        f"{learner + 12.0 + 3 * CONTEXT_GIB:.1f} GiB"
    )
    [line] = gpu_lines(memory, config, gpu_gib=4.0)
    assert line.startswith("warning: a GPU of 4 GiB: ") and "more than it has; lower rollout.gpu_memory_frac" in line
    inputs, config = planned(reward=reward, learner={"colocate": False})
    assert [line.count("learner") for line in gpu_lines(memory, config, gpu_gib=20.0)] == [1, 0]


@pytest.mark.vllm
def test_a_real_engine_has_the_cache_that_the_plan_says_and_the_largest_rank_that_is_checked(tmp_path: Path) -> None:
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here: make setup installs it")
    # In a process of its own: importing vLLM changes torch.
    script = """
import sys
from typing import get_args
from rl.config import RolloutSection
from rl.rollout.vllm_engine import MaxLoRARanks, VllmEngine
section = RolloutSection(kv_cache_gib=0.02, max_num_seqs=8)
engine = VllmEngine(sys.argv[1], dtype="float32", section=section, max_model_len=58, threads=1, seed=0)
cache = engine._llm.llm_engine.vllm_config.cache_config
print("SEEN", cache.num_gpu_blocks, cache.block_size, max(get_args(MaxLoRARanks)))
engine.close()
"""
    given = write_inputs(tmp_path)
    config = RunConfig.model_validate(given | {"rollout": {"kv_cache_gib": 0.02, "max_num_seqs": 8}})
    ran = subprocess.run(
        [sys.executable, "-c", script, config.model.path],
        env=os.environ | engine_environment(1, cuda=False), capture_output=True, text=True, timeout=160, check=True,
    )  # fmt: skip
    [seen] = re.findall(r"^SEEN (\d+) (\d+) (\d+)$", ran.stdout, re.MULTILINE)
    num_blocks, block, rank = map(int, seen)
    inputs = load_inputs(config)
    [line] = engine_lines(estimate_engine(estimate_memory(inputs, config), config), inputs, config, gpu_gib=None)
    tokens = int(line.split("keys and values of ")[1].split()[0])
    assert tokens - 2 * block < num_blocks * block <= tokens
    assert rank == MAX_VLLM_LORA_RANK


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"learner": {"lora_rank": 513}},
            "learner.lora_rank: 513 > 512, the largest rank that vLLM samples with; lower it",
        ),
        (
            {"learner": {"lora_rank": 8}, "model": {"path": "m", "dtype": "float32"}},
            "model.dtype: vLLM's LoRA kernels on CUDA do not take 'float32'; set 'bfloat16'",
        ),
    ],
)
def test_adapters_that_vllm_would_refuse_at_its_start_are_refused_before(
    changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "is_cpu_build", lambda: False)
    monkeypatch.setattr(inputs_module, "engine_name", lambda section: "vllm")
    _, config = planned(**changes)
    with pytest.raises(InputError, match=words):
        load_inputs(config)


def test_under_a_ray_job_a_relative_run_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    _, config = planned()
    with pytest.raises(InputError, match=r"run.dir: 'runs/run' is relative, and a Ray job's current folder goes with"):
        load_inputs(config)
