"""What the documentation tells a reader to run does what it says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from curricula.difficulty import DifficultyTable
from curricula.index import ProblemIndex
from curricula.mix import Share
from curricula.settings import CurriculumSettings
from data import check, prepare
from data.prepared import Manifest
from data.read_hub import parsed_hub_id
from data.synthesis import __main__ as synthesis
from data.synthesis.cells import cell_of_id
from launch import bench
from launch.cli import load_config
from launch.eval import EvalConfig
from rl.advantage import group_advantages
from rl.config import CurriculumSection, DataSection, LearnerSection, RunConfig, RunSection, Section, StageSection
from rl.inputs import stages_of
from rl.metrics import GLOSSARY
from tests.data.tokenizers import word_tokenizer
from tests.rl.test_advantage import group

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


COMMANDS = {"data.check": check.main, "data.prepare": prepare.main, "data.synthesis": synthesis.main}


def run_commands(text: str, *, exit_code: int) -> None:
    """The block's commands as a shell would split them, in this process; of launch.eval only the file that it would write."""
    for line in text.replace("\\\n", " ").splitlines():
        python, flag, module, *words = shlex.split(line.replace("$MODEL", "model"))
        assert (python, flag) == ("python", "-m")
        if module in COMMANDS:
            assert COMMANDS[module](words) == exit_code
            continue
        # What a model would have answered: bridge-2 by heart, greedily and sampled.
        config = load_config(EvalConfig, words, prog=f"python -m {module}").config
        items = [{"problem_id": "bridge-2", "status": "ok", "value": 1.0}] * 2
        Path(config.out).write_text(json.dumps({"config": config.model_dump(), "items": items}))


def ids_in(file: Path) -> list[str]:
    return [json.loads(line)["problem_id"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_data_page_prints_what_it_shows_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    word_tokenizer().save_pretrained("model")
    assert len(_BLOCK.findall(DATA)) == DATA.count("\n```") // 2
    printed: tuple[str, ...] = ("", "")
    for block in _BLOCK.finditer(DATA):
        mark, text = block["mark"], block["text"]
        if mark.startswith("file: "):
            Path(mark.removeprefix("file: ")).write_text(text, encoding="utf-8")
        elif mark.startswith("holds: "):
            assert Path(mark.removeprefix("holds: ")).read_text(encoding="utf-8") == text
        elif mark in ("output", "stderr"):
            assert printed[mark == "stderr"] == text
        elif mark == "python":
            printed = (run([sys.executable, "-c", text], tmp_path), "")
        else:
            assert mark in ("run", "fails", "needs a model")
            capsys.readouterr()
            run_commands(text, exit_code=2 if mark == "fails" else 0)
            printed = tuple(capsys.readouterr())
    assert ids_in(tmp_path / "data" / "mine" / "problems.jsonl") == ["1", "2", "3"]
    assert ids_in(tmp_path / "data" / "reading" / "dropped.jsonl") == ["bridge-2"]
    [example] = re.findall(r"An id says its cell, also in rollouts and reports: `(.*?)`", DATA)
    assert example in ids_in(tmp_path / "hops.jsonl") and example in ids_in(
        tmp_path / "data" / "hops" / "problems.jsonl"
    )
    grid = {cell_of_id(name) for name in ids_in(tmp_path / "grid.jsonl")}
    assert {(cell.length, cell.depth) for cell in grid if cell} == {(n, k / 4) for n in (400, 800) for k in range(5)}


def test_the_options_fields_and_ids_that_the_data_page_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = ""
    for main in (check.main, prepare.main, synthesis.main):
        with pytest.raises(SystemExit):
            main(["--help"])
        known += capsys.readouterr().out
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*(?![\w-])", DATA)) - {"--model", "--suite"}
    assert len(options) > 20
    assert all(option in known for option in options), [option for option in options if option not in known]
    [named] = re.findall(r"The manifest holds (.*?) and\nthe sha256", DATA, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", named)) < {field.name for field in fields(Manifest)}
    hub_ids = re.findall(r"`(owner/name.*?)`", DATA)
    assert len(hub_ids) == 3 and all(parsed_hub_id(name) for name in hub_ids)


CURRICULA = (ROOT / "docs" / "curricula.md").read_text(encoding="utf-8")


def rows_after(mark: str) -> list[list[str]]:
    """The cells of the table that follows the mark, without its rule."""
    lines = CURRICULA.split(f"<!-- {mark} -->\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|---")]


def test_the_curricula_pages_example_is_a_run_and_its_stages_are_stages() -> None:
    [text] = blocks(CURRICULA, "toml")
    config = RunConfig.model_validate(tomllib.loads(text))
    stages = stages_of(config)
    assert [(stage.low, stage.high) for stage in stages] == [(0, 20000), (20000, 60000), (60000, 120000)]
    assert stages[2].replay_frac + stages[2].short_frac == pytest.approx(0.6)  # "40 % are as long as it gets"


def test_the_keys_that_the_curricula_page_names_exist_and_no_setting_is_missing() -> None:
    sections: dict[str, type[Section]] = {
        "stages.N": StageSection,
        "curriculum": CurriculumSection,
        "learner": LearnerSection,
        "data": DataSection,
        "run": RunSection,
    }
    named = set(re.findall(r"(stages\.N|curriculum|learner)\.([a-z_]+)", CURRICULA))
    named |= set(re.findall(r"`(data|run)\.([a-z_]+)`", CURRICULA))
    for section, key in named:
        assert key in sections[section].model_fields, f"{section}.{key}"
    wanted = {("curriculum", key) for key in CurriculumSection.model_fields}
    wanted |= {("stages.N", key) for key in StageSection.model_fields}
    wanted |= {("learner", key) for key in LearnerSection.model_fields if key.startswith(("advantage_", "aepo_"))}
    assert wanted <= named, wanted - named


def test_the_metrics_that_the_curricula_page_names_are_in_the_glossary_and_none_is_missing() -> None:
    named = set(re.findall(r"`((?:curriculum|rollout|policy|reward|loss)/[\w/<>]+)`", CURRICULA))
    assert named <= set(GLOSSARY), named - set(GLOSSARY)
    assert {name for name in GLOSSARY if name.startswith("curriculum/")} <= named


def test_the_difficulties_of_the_curricula_page_are_those_of_the_table() -> None:
    means, difficulties = rows_after("difficulty")
    defaults = CurriculumSettings()
    for mean, difficulty in zip(means[1:], difficulties[1:], strict=True):
        table = DifficultyTable(ProblemIndex([group([0.0]).problem]), smoothing=1.0, floor=defaults.difficulty_floor)
        assert f"{table.difficulty(table.observe(0, [float(mean)])):.2f}" == difficulty


def test_the_advantages_of_the_curricula_page_are_those_of_the_function() -> None:
    batch = [group([1.0] * right + [0.0] * (8 - right), task) for right, task in ((2, "qa"), (4, "qa"), (1, "math"))]
    header, *rows = rows_after("advantages")
    assert header[3:] == ["2 of 8", "4 of 8", "1 of 8, another task"] and len(rows) == 6
    for baseline, std, form, *shown in rows:
        advantages = group_advantages(batch, std=std, std_form=form, baseline=baseline)  # type: ignore[arg-type]
        assert shown == [f"{own[0]:.3f}, {own[-1]:.3f}" for own in advantages]


def test_the_draws_and_the_benchmark_of_the_curricula_page() -> None:
    share = Share()
    [example] = re.findall(r"of 0.25 x 10 a draw takes ([\d, ]+)\.", CURRICULA)
    assert example == ", ".join(str(share.take(10, 0.25, at_most=10)) for _ in range(4))
    assert bench._parser().parse_args(["curriculum"]).problems == 10_000_000
    assert [name.strip("`") for name in rows_after("bench")[0][1:]] == ["random", "easy_first", "variance_first"]
