"""What the documentation tells a reader to run does what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch import bench
from launch.cli import load_config
from launch.eval import EvalConfig
from rl.config import LearnerSection
from tests.data.tokenizers import word_tokenizer

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"<!-- (?P<mark>[^>]+) -->\n```(?P<language>\w+)\n(?P<text>.*?)```\n", re.DOTALL)
REWARDS = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(text: str, mark: str) -> list[str]:
    return [block["text"] for block in _BLOCK.finditer(text) if block["mark"] == mark]


def run(command: list[str], folder: Path) -> str:
    path = Path(sys.executable).parent
    environment = {"PATH": f"{path}:/usr/bin:/bin", "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_is_run_or_says_what_it_needs() -> None:
    assert len(_BLOCK.findall(REWARDS)) == REWARDS.count("\n```") // 2


def test_the_rewards_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    [command], [output] = blocks(REWARDS, "run"), blocks(REWARDS, "output")
    assert run(["bash", "-euc", command], tmp_path) == output


@pytest.mark.parametrize("module", ["my_rewards", "my_scorer"])
def test_a_scorer_of_the_page_is_used_by_the_command(tmp_path: Path, module: str) -> None:
    [code] = blocks(REWARDS, f"file: {module}.py")
    (tmp_path / f"{module}.py").write_text(code)
    row = (
        '{"id":1,"question":"In which year?","answers":["1914"],"answer_type":"text","response":"Answer: 28 July 1914"}'
    )
    output = run(["bash", "-euc", f"echo '{row}' | python -m rewards.score --scorer {module}:build"], tmp_path)
    assert '"value":1.0' in output


def test_the_library_example_runs(tmp_path: Path) -> None:
    [code] = blocks(REWARDS, "python")
    run([sys.executable, "-c", code], tmp_path)


LEARNER = (ROOT / "docs" / "learner.md").read_text(encoding="utf-8")


def test_the_commands_of_the_learner_page_are_known_to_their_parsers() -> None:
    commands = re.findall(r"^python -m (launch\.\w+) +(.*)$", LEARNER, re.MULTILINE)
    assert {module for module, _ in commands} == {"launch.bench", "launch.rl"}
    for module, arguments in commands:
        if module == "launch.bench":
            bench._parser().parse_args(arguments.split())
        else:
            settings = re.findall(r"--(learner\.(\w+)) ", arguments)
            assert settings and all(name in LearnerSection.model_fields for _, name in settings)


def test_the_settings_that_the_learner_page_names_exist() -> None:
    for name in re.findall(r"`learner\.(\w+)`", LEARNER):
        assert name in LearnerSection.model_fields, name


DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def run_data_block(mark: str, text: str, folder: Path, model: Path) -> tuple[str, str] | None:
    """What the block prints: (stdout, stderr); None for one that prints nothing."""
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "MODEL": str(model)}
    if mark.startswith("file: "):
        (folder / mark.removeprefix("file: ")).write_text(text, encoding="utf-8")
        return None
    if mark == "needs a model":
        for words in re.findall(r"^python -m launch.eval (.*)$", text, re.MULTILINE):
            load_config(EvalConfig, words.split(), prog="python -m launch.eval")
        return None
    if mark == "run after closed":
        item = {"problem_id": "bridge-2", "status": "ok", "value": 1.0}
        result = {"config": {"without_document": True}, "items": [item]}
        for name in ("closed-0.json", "closed-1.json"):
            (folder / name).write_text(json.dumps(result))
    call = [sys.executable, "-c", text] if mark == "python" else ["bash", "-uc", text]
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if mark == "fails" else 0), done.stderr
    return done.stdout, done.stderr


def test_the_data_page_prints_what_it_shows_from_top_to_bottom(tmp_path: Path) -> None:
    word_tokenizer().save_pretrained(tmp_path / "model")
    assert len(_BLOCK.findall(DATA)) == DATA.count("\n```") // 2
    printed: tuple[str, str] = "", ""
    for block in _BLOCK.finditer(DATA):
        mark, text = block["mark"], block["text"]
        if mark in ("output", "printed"):
            assert printed[0] == text
        elif mark == "stderr":
            assert printed[1] == text
        elif mark.startswith("holds: "):
            assert (tmp_path / mark.removeprefix("holds: ")).read_text(encoding="utf-8") == text
        else:
            printed = run_data_block(mark, text, tmp_path, tmp_path / "model") or printed
    left_out = (tmp_path / "data" / "reading" / "dropped.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["problem_id"] for line in left_out.splitlines()] == ["bridge-2"]
