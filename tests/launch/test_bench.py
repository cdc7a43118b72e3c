"""The benchmarks at a size where they take a moment: what they measure is there, and both sides learn the same."""

from __future__ import annotations

import json

import pytest
from transformers import Qwen2Config

from launch.bench import BENCHMARKS, PANEL, main
from launch.bench_learner import SHAPES, ideal_speedup
from launch.cli import exit_code
from rewards.hybrid import RuleScorer

TINY = [
    "--problems", "300", "--steps", "2", "--seconds", "0.01", "--prompt-tokens", "40", "--response-tokens", "6",
    "--group-size", "3", "--model", "tiny", "--repeats", "1", "--threads", "1", "--device", "cpu",
]  # fmt: skip


def test_every_benchmark_gives_its_figures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", *TINY]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures) == ["rewards", "curriculum", "learner"]
    assert figures["rewards"]["verdicts_per_s"] > 0
    assert figures["curriculum"]["problems"] == 300
    assert figures["curriculum"]["draw_ms"] > 0
    learner = figures["learner"]
    assert learner["max_rel_grad_err"] < 1e-5
    assert learner["ratio"] == pytest.approx(learner["separate_s"] / learner["ours_s"])
    assert learner["fraction_of_ideal"] == pytest.approx(learner["ratio"] / learner["ideal"])


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
    ("prompt", "response", "ideal"), [(20_000, 1000, 5.6), (60_000, 1000, 6.8), (60_000, 10_000, 3.2)]
)
def test_the_ideal_of_a_7b_model_at_eight_responses(prompt: int, response: int, ideal: float) -> None:
    # Linear layers alone at 20K/1K: 8 * 21 / 28 = 6.0; attention alone: 8 * 21^2 / (20^2 + 8 * (1 + 40)) = 4.85.
    config = Qwen2Config(**SHAPES["qwen2.5-7b"])
    assert ideal_speedup(config, prompt, response, 8) == pytest.approx(ideal, abs=0.05)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["learner", "--model", "absent"], "--model: seen 'absent', allowed: tiny, small, "),
        (["learner", "--group-size", "1"], "--group-size: seen 1, allowed: 2 or more"),
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
