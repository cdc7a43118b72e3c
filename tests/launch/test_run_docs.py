"""The commands of the pages on evaluation, reports and export, run in their order on a run that never learned."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama import LlamaForCausalLM

import launch.eval
import launch.export
import launch.report
from data.prepare import prepare
from data.prompts import PromptTemplate
from launch.cli import exit_code, load_config
from rl.checkpoint import save_checkpoint
from rl.config import RunConfig
from rl.run_folder import Evaluation, WindowAccuracy, write_config, write_evaluation
from tests.launch.exported_run import problems, tokenizer
from tests.test_docs import DATA_COMMANDS, DEMO, FOLLOWED, ROOT, blocks, commands, follow

FEW = ["--engine", "transformers", "--threads", "1", "--max_response_tokens", "8", "--problems_per_window", "2"]
"""What makes an evaluation one of a second; everything else is as the page has it."""


def command(run: Callable[[Sequence[str]], int | None], *added: str) -> Callable[[list[str]], int]:
    return lambda words: exit_code(run, [*words, *added])


COMMANDS = {
    **DATA_COMMANDS,
    "launch.eval": command(launch.eval.run, *FEW),
    "launch.export": command(launch.export.run),
    "launch.report": command(launch.report.main),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pages' commands are given: the demo's settings, its windows, a model of random weights; copies as other runs."""
    folder = tmp_path_factory.mktemp("docs")
    demo, words, template = (
        folder / "runs" / "demo",
        tokenizer(),
        PromptTemplate("<text>\n{context}\n</text>\n{question}"),
    )
    words.save_pretrained(demo / "sft")
    (folder / "demo.txt").write_text(template.text)
    config = load_config(RunConfig, [str(ROOT / DEMO)], prog="python -m launch.rl").config
    for name in ("train", "test"):
        made = [p for num_words in (100, 250, 400, 560, 720) for p in problems(2, num_words, len(name))]
        prepare(made, words, demo / "data" / name, template=template, windows=config.evaluation.windows)
    write_config(demo, config.model_dump(), {})
    (demo / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5, "curriculum/stage": 0}\n')
    write_evaluation(
        demo, Evaluation(checkpoint="sft", step=0, windows={"320": WindowAccuracy(num=9, greedy=0.5, sampled=0.5)})
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=4096, eos_token_id=words.eos_token_id, bos_token_id=None,
        )
    )  # fmt: skip

    def write(place: Path) -> None:
        model.save_pretrained(place / "model")
        words.save_pretrained(place / "model")

    for step in (26, 48):
        save_checkpoint(
            demo, step, write, {"step": step}, keep=2, dataset_fingerprint="f" * 64, versions={"torch": "2"}
        )
    for name in ("slower", "l1", "control", "variant"):
        shutil.copytree(demo, folder / "runs" / name, symlinks=True)
    shutil.copytree(demo / "data" / "test", folder / "data" / "grid")
    return folder


@pytest.mark.parametrize("page", sorted(FOLLOWED - {"data.md", "rewards.md"}))
def test_the_page_does_what_it_shows_from_top_to_bottom(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    follow((ROOT / "docs" / page).read_text(encoding="utf-8"), COMMANDS, capsys)


def test_what_the_readme_does_after_the_demo_and_a_second_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    mark = "run by tests/launch/test_demo.py, tests/launch/test_run_docs.py"
    [block] = blocks((ROOT / "README.md").read_text(encoding="utf-8"), mark)
    given = [(module, words) for module, words in commands(block) if module != "launch.rl"]
    assert [module for module, _ in given] == ["launch.report", "launch.eval", "launch.export"]
    assert [COMMANDS[module](words) for module, words in given] == [0, 0, 0]
    for written in ("demo/comparison.html", "slower/eval/result.json", "slower/export/model.safetensors"):
        assert (folder / "runs" / written).is_file(), written
