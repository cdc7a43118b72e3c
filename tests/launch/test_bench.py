"""The benchmarks at a size where they take a moment: what they measure is there, and both sides learn the same."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from launch import bench_learner
from launch.bench import BENCHMARKS, PANEL, main
from launch.bench_case import SHAPES
from launch.bench_memory import freed_at_once, peak_memory
from launch.cli import exit_code
from rewards.hybrid import RuleScorer
from rl.learner.cost import ForwardFlops, ideal_speedup, prompt_once, separate_sequences, useful_flops
from tests.rl.learner_cases import write_tiny_model

P, R, G = 40, 6, 3
LEARNER = [
    "--prompt-tokens", str(P), "--response-tokens", str(R), "--group-size", str(G), "--model", "tiny",
    "--repeats", "1", "--threads", "1", "--device", "cpu",
]  # fmt: skip
TINY = ["--problems", "300", "--steps", "2", "--seconds", "0.01", *LEARNER]
PROJECT = Path(__file__).resolve().parents[2]


def learner_figures(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["learner", "--json", *LEARNER, *words]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures) == ["learner"]
    return figures["learner"]  # type: ignore[no-any-return]


def assert_both_sides_measured(figures: dict[str, Any], against: str) -> None:
    ours_s, other_s = figures["ours_s"], figures[f"{against}_s"]
    assert figures["against"] == against
    assert figures[f"{against}_missing"] is None
    assert figures["max_rel_grad_err"] <= 1e-5
    assert figures["ratio"] == pytest.approx(other_s / ours_s)
    assert figures["fraction_of_ideal"] == pytest.approx(figures["ratio"] / figures["ideal"])
    for side in ("ours", against):
        assert 0 < figures[f"{side}_step_gib"] < figures[f"{side}_peak_gib"]


def test_every_benchmark_gives_its_figures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", *TINY]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures) == ["rewards", "curriculum", "learner"]
    assert figures["rewards"]["verdicts_per_s"] > 0
    assert figures["curriculum"]["problems"] == 300
    assert figures["curriculum"]["draw_ms"] > 0
    assert_both_sides_measured(figures["learner"], "separate")


@pytest.mark.parametrize("what", ["rewards", "curriculum"])
def test_one_benchmark_alone_prints_lines(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([what, *TINY]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in BENCHMARKS] == [what]


def test_the_panel_has_right_and_wrong_answers_of_every_type_and_missing_ones() -> None:
    scores = RuleScorer().score(PANEL)
    seen = {(question.answer_type, score.value) for (question, _), score in zip(PANEL, scores, strict=True)}
    assert seen == {(kind, value) for kind in ("text", "number", "choice", "yesno") for value in (0.0, 1.0)}
    assert any(score.answer is None for score in scores)


@pytest.mark.parametrize(
    "words",
    [["--gradient-checkpointing"], ["--micro-batch-tokens", "7", "--vocab-size", "33"], ["--lora-rank", "2"]],
    ids=" ".join,
)
def test_the_learner_and_separate_sequences_have_the_same_gradient(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    figures = learner_figures(capsys, *words)
    assert_both_sides_measured(figures, "separate")
    asked = dict(zip(words[::2], words[1::2], strict=False))
    for flag, value in asked.items():
        assert figures[flag.strip("-").replace("-", "_")] == int(value)
    # 3 (40 + 6) = 138 tokens go through separate sequences, 40 + 18 = 58 through ours.
    assert figures["logical_tokens_per_s"] == pytest.approx(138 / figures["ours_s"])
    assert figures["physical_tokens_per_s"] == pytest.approx(58 / figures["ours_s"])
    assert figures["mfu"] is None


@pytest.mark.parametrize(("words", "sizes"), [([], {1, G}), (["--trl-micro-batch", "2"], {2})])
def test_the_learner_and_trls_trainer_have_the_same_gradient(
    words: list[str], sizes: set[int], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl")
    figures = learner_figures(capsys, "--against", "trl", *words)
    assert_both_sides_measured(figures, "trl")
    assert figures["trl_micro_batch"] in sizes


def test_a_models_folder_is_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figures = learner_figures(capsys, "--model", write_tiny_model(tmp_path))
    assert_both_sides_measured(figures, "separate")


def test_ours_alone_leaves_the_comparison_empty(capsys: pytest.CaptureFixture[str]) -> None:
    figures = learner_figures(capsys, "--sides", "ours")
    assert figures["ours_s"] > 0
    assert figures["separate_missing"] == "not asked for (--sides ours)"
    for key in ("separate_s", "ratio", "fraction_of_ideal", "max_rel_grad_err", "separate_step_gib"):
        assert figures[key] is None


def test_the_estimated_memory_of_a_step_is_near_the_measured_peak() -> None:
    case = ["--model", "small", "--prompt-tokens", "1024", "--response-tokens", "128", "--gradient-checkpointing"]
    # In a process of its own, in which no other test has left holes in the heap.
    command = [sys.executable, "-m", "launch.bench", "learner", "--json", "--sides", "ours", *LEARNER, *case]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["learner"]
    assert 0.8 <= figures["ours_step_gib"] / figures["ours_step_estimate_gib"] <= 1.1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_another_side_that_does_not_fit_is_said_to_be_missing(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise error

    monkeypatch.setattr(bench_learner, "_separate", too_large)
    figures = learner_figures(capsys)
    assert figures["ours_s"] > 0
    assert figures["separate_missing"] == "out of memory"
    assert figures["separate_s"] is figures["ratio"] is figures["max_rel_grad_err"] is None


def test_a_defect_of_the_other_side_is_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(bench_learner, "_separate", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["learner", *LEARNER])


def test_the_arithmetic_of_a_group_by_hand() -> None:
    # 1 layer, hidden 4, 2 query and 1 key head of size 2, MLP 3, vocabulary 5; P = 3, R = 1, G = 2.
    # Weights: q and o 4 x 4, k and v 4 x 2, MLP 3 of 4 x 3: 16 + 16 + 8 + 8 + 36 = 84.
    config = Qwen2Config(
        vocab_size=5, hidden_size=4, intermediate_size=3, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    # Once: 3 + 2 tokens, 9/2 + 2 (3 + 1/2) = 11.5 pairs at 4 * 4 FLOPs, 2 predicted at 2 * 4 * 5.
    once = prompt_once(config, 3, [1, 1])
    assert once == ForwardFlops(linear=2 * 84 * 5, attention=16 * 11.5, head=80)
    # Separate: 8 tokens, 2 * 4^2 / 2 = 16 pairs.
    assert separate_sequences(config, 3, [1, 1]) == ForwardFlops(linear=2 * 84 * 8, attention=16 * 16, head=80)
    assert ideal_speedup(config, 3, 1, 2) == pytest.approx((1344 + 256 + 80) / (840 + 184 + 80))
    assert useful_flops(once, frozen=False) == 3 * (840 + 80) + 3.5 * 184
    assert useful_flops(once, frozen=True) == 2 * (840 + 80) + 3.5 * 184


@pytest.mark.parametrize(
    ("prompt", "response", "ideal"), [(20_000, 1000, 5.6), (60_000, 1000, 6.8), (60_000, 10_000, 3.2)]
)
def test_the_ideal_of_a_7b_model_at_eight_responses(prompt: int, response: int, ideal: float) -> None:
    # Linear layers alone at 20K/1K: 8 * 21 / 28 = 6.0; attention alone: 8 * 21^2 / (20^2 + 8 * (1 + 40)) = 4.85.
    config = Qwen2Config(**SHAPES["qwen2.5-7b"])
    assert ideal_speedup(config, prompt, response, 8) == pytest.approx(ideal, abs=0.05)


def test_peak_memory_is_that_of_live_tensors_each_time() -> None:
    # In a process of its own, as the benchmark is one: this one's heap has the holes of every test before.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        steps = fresh.submit(peaks_of_holes_and_blocks).result()
    assert len(steps) == 3
    for step in steps:
        # What the rest of the process does meanwhile is a few MiB. In glibc's usual state the holes stay, and it is 223.
        assert step * 1024 == pytest.approx(192, abs=10)


def peaks_of_holes_and_blocks() -> list[float]:
    with freed_at_once():
        _holes_and_blocks()
        steps = [peak_memory(_holes_and_blocks, "cpu").step_gib for _ in range(3)]
    return [step for step in steps if step is not None]


def _holes_and_blocks() -> None:
    kept = torch.ones(32, 2**20)  # 128 MiB
    for _ in range(3):
        # And 64 more at any time: of 64 small blocks every second is freed before 32 MiB of larger ones.
        small = [torch.ones(2**18) for _ in range(64)]
        small = small[::2]
        large = [torch.ones(2**19) for _ in range(16)]
        del small, large
    del kept


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["learner", "--model", "absent"], "--model: seen 'absent', allowed: tiny, small, "),
        (["learner", "--model", str(PROJECT), "--vocab-size", "9"], "--vocab-size: "),
        (["learner", "--model", str(PROJECT)], "cannot be loaded"),
        (["learner", "--group-size", "1"], "--group-size: seen 1, allowed: 2 or more"),
        (["learner", "--micro-batch-tokens", "0"], "--micro-batch-tokens: seen 0, allowed: 1 or more"),
        (["learner", "--lora-rank", "-1"], "--lora-rank: seen -1, allowed: 0 or more"),
        (["curriculum", "--problems", "0"], "--problems: seen 0, allowed: 1 or more"),
    ],
)
def test_sizes_and_models_that_cannot_be_measured_are_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(main, words) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert told in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_environment_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(main, ["learner", "--device", "cuda"]) == 3
    assert "--device cuda: torch finds no CUDA device" in capsys.readouterr().err


def without_packages(*words: str) -> subprocess.CompletedProcess[str]:
    """`python -m launch.bench learner` where neither ray, vllm, trl, datasets nor peft is installed."""
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['ray', 'vllm', 'trl', 'datasets', 'peft']))\n"
        "from launch.bench import main\n"
        "from launch.cli import exit_code\n"
        "sys.exit(exit_code(main, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "learner", "--json", *LEARNER, *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)


def test_separate_sequences_need_neither_ray_nor_vllm_nor_trl() -> None:
    done = without_packages()
    assert done.returncode == 0, done.stderr
    assert_both_sides_measured(json.loads(done.stdout)["learner"], "separate")


def test_trl_where_it_is_not_installed_is_one_line() -> None:
    done = without_packages("--against", "trl")
    assert done.returncode == 3
    assert done.stderr.startswith("error: --against trl: trl is not installed")
    assert done.stderr.count("\n") == 1
