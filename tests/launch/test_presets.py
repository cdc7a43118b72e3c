"""Every configuration in launch/configs is one that its command takes, with a model of the real sizes and prompts of every window."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data.prepare import prepare
from launch.cli import exit_code, load_config
from launch.rl import run
from launch.sft_config import SftConfig
from rl.inputs import load_tokenizer
from tests.rl.tiny_run import TEMPLATE, problems, tokenizer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "launch" / "configs"
SCALING = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
QWEN2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131072,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
}
QWEN3 = QWEN2 | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 262144}
# (hidden, intermediate, layers, query heads, key heads, head size, vocabulary, parameters), as the models' own config.json has them.
MODELS = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (QWEN2, (1536, 8960, 28, 12, 2, 128, 151936), 1_777_088_000),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": (QWEN2, (5120, 13824, 48, 40, 8, 128, 152064), 14_770_033_664),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": (QWEN2, (5120, 27648, 64, 40, 8, 128, 152064), 32_763_876_352),
    "Qwen/Qwen3-4B-Thinking-2507": (
        QWEN3 | {"tie_word_embeddings": True},
        (2560, 9728, 36, 32, 8, 128, 151936),
        4_022_468_096,
    ),
}
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size",
)  # fmt: skip
GPU_GIB = {"one_gpu_1_5b_lora": 24}
"""Of the GPUs that a preset's comment names; 80 where it is not here."""
FIGURES = re.compile(r"a GPU of .*: learner ([\d.]+) \+ rollout engine ([\d.]+) .*= ([\d.]+) GiB")
LONGEST = re.compile(r"tokens: (\d+) longest sequences")
PRESETS = sorted(path.stem for path in CONFIGS.glob("*.toml") if path.stem.startswith(("one_gpu", "qwenlong")))


@dataclass(frozen=True, kw_only=True)
class Places:
    """What a dry run reads, by the model's name."""

    models: dict[str, Path]
    data: dict[str, Path]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Every model as a folder, and for each architecture, whose tokenizers load unlike, problems in every window of any preset."""
    folder = tmp_path_factory.mktemp("presets")
    models = {name: model_folder(name, folder / name) for name in MODELS}
    train = [p for num_words in (4_000, 15_000, 40_000, 90_000) for p in problems(2, num_words, 1)]
    sets = {}
    for name, path in models.items():
        kind = MODELS[name][0]["model_type"]
        if not (folder / kind).exists():
            prepare(train, load_tokenizer(str(path)), folder / kind, template=TEMPLATE)
        sets[name] = folder / kind
    return Places(models=models, data=sets)


def model_folder(name: str, folder: Path) -> Path:
    """A model's sizes, the tiny tokenizer, and a file of weights that is never opened."""
    architecture, sizes, _ = MODELS[name]
    tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(architecture | dict(zip(SIZES, sizes, strict=True))))
    (folder / "model.safetensors").touch()
    return folder


def dry_run(name: str, places: Places, folder: Path, *words: str) -> int:
    """Exit code of the preset's, with the model and data that are here."""
    model = preset(name)["model"]["path"]
    here = ["--model.path", str(places.models[model]), "--data.train", str(places.data[model])]
    return exit_code(run, [str(CONFIGS / f"{name}.toml"), *here, "--run.dir", str(folder / "run"), "--dry-run", *words])


def preset(name: str) -> dict[str, Any]:
    return tomllib.loads((CONFIGS / f"{name}.toml").read_text())


def num_gpus(name: str, size: int) -> str:
    rollout = preset(name)["rollout"]
    return f"{rollout.get('workers', 1) * rollout.get('tensor_parallel', 1)} x {size}"


def table_row(name: str) -> list[str]:
    """GPUs, GiB of learner, engine and all, and longest sequences, as docs/scaling.md has them."""
    [row] = re.findall(rf"^\| `{name}` \|(.*)\|$", SCALING, re.MULTILINE)
    gpus, _, *figures = (cell.strip() for cell in row.split("|"))
    return [gpus, *figures]


def test_the_scaling_pages_table_has_every_preset_and_no_other() -> None:
    assert re.findall(r"^\| `(\w+)` \| \d", SCALING, re.MULTILINE) == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_passes_the_dry_run_and_fits_the_gpus_it_names(
    name: str, places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = GPU_GIB.get(name, 80)
    assert dry_run(name, places, tmp_path, "--gpu-gib", str(size)) == 0
    plan = capsys.readouterr().out
    assert plan.count("\nstage ") == len(preset(name)["stages"])
    assert f"({MODELS[preset(name)['model']['path']][2]:,} parameters" in plan
    assert f"a GPU of {size} GiB: learner " in plan
    assert "warning" not in plan, plan[plan.index("learner memory") :]
    assert f"{size} GiB" in (CONFIGS / f"{name}.toml").read_text()
    assert table_row(name) == [num_gpus(name, size), *FIGURES.findall(plan)[0], LONGEST.findall(plan)[0]]
    assert not (tmp_path / "run").exists()


def test_one_gpu_is_too_little_for_the_14b_preset_and_the_plan_says_so(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rollout.workers=1", "--rollout.tensor_parallel=1", "--rollout.gpu_memory_frac=0.4"]
    words += ["--learner.processes=1", "--learner.sequence_parallel=1"]
    assert dry_run("qwenlong_l1_14b", places, tmp_path, *words, "--gpu-gib", "80") == 0
    plan = capsys.readouterr().out
    assert "warning: no sequence of 70000 tokens fits the rollout engine; raise rollout.gpu_memory_frac or" in plan
    assert "warning: a GPU of 80 GiB: learner " in plan


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("sft_*.toml")), ids=lambda path: path.stem)
def test_an_sft_preset_is_one_and_its_model_is_a_presets_start(path: Path) -> None:
    config = load_config(SftConfig, [str(path)], prog="python -m launch.sft").config
    assert config.model.path in {preset(name)["model"]["path"] for name in PRESETS}
    assert config.data.max_prompt_tokens == 20000
