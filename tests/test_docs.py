"""What the documentation tells a reader to run does what it says.

A comment before every code block says how it is held. `run`, `fails`, `output`, `part of the output`, `stderr`, `file: F`,
`holds: F`, `python`: a test follows the page from top to bottom. `run by TESTS`: those run its commands, on less. `needs X`:
it cannot run here. `measured`: what a run of real size printed. Whatever the comment, every command is one that its parser takes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

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
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLLOWED = {"data.md", "evaluation.md", "report.md", "rewards.md", "serving.md"}
"""Pages whose blocks a test runs in their order: here and in tests/launch/test_run_docs.py."""
FOLLOWED_MARKS = ("run", "fails", "output", "part of the output", "stderr", "python")
SHOWN_MARKS = (
    "output", "part of the output", "stderr", "measured", "file: ", "holds: ", "python", "toml", "loop", "tree",
)  # fmt: skip
"""Of blocks that hold no commands."""
OTHERS = {("README.md", "loop"), ("README.md", "tree"), ("curricula.md", "toml")}
"""Held by tests/test_layout.py, and below."""
_BLOCK = re.compile(r"<!-- (?P<mark>[^>]+) -->\n```\w*\n(?P<text>.*?)```\n", re.DOTALL)
DEMO = "launch/configs/demo.toml"
"""Stands for a file that the reader names."""
REWARDS = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(text: str, mark: str) -> list[str]:
    return [block["text"] for block in _BLOCK.finditer(text) if block["mark"] == mark]


def run(command: list[str], folder: Path) -> str:
    path = Path(sys.executable).parent
    environment = {"PATH": f"{path}:/usr/bin:/bin", "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Module and arguments of every command of ours, in brackets or a job as well, with something where the reader names it."""
    text = re.sub(r"sbatch launch/cluster/slurm.sbatch (\S+)", r"python -m launch.job \1 --", text.replace("\\\n", " "))
    for module, rest in re.findall(r"python -m ((?:data|rewards|launch)\.[\w.]+)(.*)", text):
        words = shlex.split(re.sub(r"\[(\D.*?)\]", r"\1", rest), comments=True)
        words = words[: next((i for i, word in enumerate(words) if word in ("<", ">", "|")), None)]
        words = ["1" if re.fullmatch("[A-Z]", word) else word for word in words]
        yield module, [DEMO if re.fullmatch(r"CONFIG|\w+\.toml", word) else word for word in words]


class Parsed(Exception):
    """The command line was read, and nothing else done."""


def parse(module: str, words: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """Start the command and stop it where it has read its arguments."""
    command = importlib.import_module(f"{module}.__main__" if module == "data.synthesis" else module)

    def and_stop(read: Callable[..., Any]) -> Callable[..., NoReturn]:
        def stopped(*arguments: Any, **options: Any) -> NoReturn:
            read(*arguments, **options)
            raise Parsed

        return stopped

    # launch.job has both, and hands on to load_config what comes after --.
    owner, name = (
        (command, "load_config") if hasattr(command, "load_config") else (argparse.ArgumentParser, "parse_args")
    )
    with patch.context() as patched:
        patched.setattr(owner, name, and_stop(getattr(owner, name)))
        with pytest.raises((Parsed, SystemExit)) as ended:
            getattr(command, "run", getattr(command, "main", None))(words)
    assert not isinstance(ended.value, SystemExit) or ended.value.code == 0, (module, words)  # 0: --help


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_how_it_is_held(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    assert len(found) == len(re.findall("^```", text, re.MULTILINE)) / 2
    for block in found:
        mark, is_followed = block["mark"], page.name in FOLLOWED
        if mark.startswith("run by "):
            tests = "".join((ROOT / name).read_text(encoding="utf-8") for name in mark[7:].split(", "))
            for module, _ in commands(block["text"]):
                package, _, name = module.rpartition(".")
                assert module in tests or f"from {package} import {name}" in tests, (mark, module)
        elif mark in FOLLOWED_MARKS or mark.startswith(("file: ", "holds: ")):
            assert is_followed, mark
        else:
            assert mark == "measured" or mark.startswith("needs ") or (page.name, mark) in OTHERS, mark


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_one_that_its_parser_takes(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    in_blocks = [block["text"] for block in _BLOCK.finditer(text) if not block["mark"].startswith(SHOWN_MARKS)]
    prose = re.findall(r"`(python -m [^`]+ [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for one in in_blocks + [" ".join(inline.split()) for inline in prose]:
        for module, words in commands(one):
            parse(module, words, monkeypatch)


def test_a_command_with_an_unknown_option_is_none() -> None:
    """Of either kind of parser, in a job and after --: the test above would pass if it read nothing."""
    told = "ray job submit -- python -m launch.rl run.toml --learner.lrr 1 \\\n --stage 1  # why\npython -m launch.report RUN [MORE RUNS]"
    assert list(commands(told)) == [
        ("launch.rl", [DEMO, "--learner.lrr", "1", "--stage", "1"]),
        ("launch.report", ["RUN", "MORE", "RUNS"]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for module, words in ("launch.rl", [DEMO, "--lr", "1"]), ("launch.job", [DEMO, "--", "--lr", "1"]):
            with pytest.raises(ValueError, match="--lr: unknown key"):
                parse(module, words, patch)
        with pytest.raises(AssertionError):
            parse("launch.report", ["runs/demo", "--output", "x"], patch)


def test_rays_commands_are_known_to_rays_own_parser() -> None:
    ray = pytest.importorskip("ray.scripts.scripts", reason="Ray is not installed")
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES).replace("\\\n", " ")
    given = [shlex.split(line, comments=True) for line in re.findall(r"^ray (.*)$", text, re.MULTILINE)]
    for words in [*given, unknown := ["job", "stop", "--now", "id"]]:
        command, rest = ray.cli.commands[words[0]], words[1:]
        if words[0] == "job":
            command, rest = command.commands[rest[0]], rest[1:]
        if words is unknown:
            with pytest.raises(ray.click.UsageError, match="--now"):
                command.make_context("ray", rest)
        else:
            command.make_context("ray", rest)
    assert {words[0] for words in given} == {"start", "job"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_page_and_target_of_make_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(
        re.findall(
            r"\b(?:tests|docs|launch|rl|rewards|curricula|data)/[\w/]+\.(?:py|toml|md|ipynb|yaml|sbatch)\b", text
        )
    )
    assert [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()] == []
    assert [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (page.parent / link).exists()] == []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= targets


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_settings_and_metrics_that_are_named_exist(page: Path) -> None:
    prose = re.sub(
        r"```.*?```", "", page.read_text(encoding="utf-8").split("### The same elsewhere")[0], flags=re.DOTALL
    )
    sections = {name: field.annotation for name, field in RunConfig.model_fields.items() if name != "stages"}
    for section, key in re.findall(rf"`(?:--)?({'|'.join(sections)})\.(\w+)(?=[`\s=])", prose):
        is_module = section == "data" and key in ("check", "prepare", "synthesis")
        assert is_module or key in sections[section].model_fields, f"{section}.{key}"  # type: ignore[union-attr]
    areas = "|".join({name.partition("/")[0] for name in GLOSSARY})
    named = set(re.findall(rf"`((?:{areas})/[\w/<>]+)`", prose))
    assert named <= set(GLOSSARY), named - set(GLOSSARY)


DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def answered(words: Sequence[str]) -> int:
    """Writes what launch.eval would, had a model answered bridge-2 by heart, greedily and sampled."""
    config = load_config(EvalConfig, words, prog="python -m launch.eval").config
    items = [{"problem_id": "bridge-2", "status": "ok", "value": 1.0}] * 2
    Path(config.out).write_text(json.dumps({"config": config.model_dump(), "items": items}))
    return 0


Commands = Mapping[str, Callable[[list[str]], int]]
DATA_COMMANDS: Commands = {"data.check": check.main, "data.prepare": prepare.main, "data.synthesis": synthesis.main}


def follow(text: str, known: Commands, capsys: pytest.CaptureFixture[str], *, runs: Sequence[str] = ("run",)) -> None:
    """A page's blocks in their order, in the current folder; the commands in this process, by module."""
    printed: tuple[str, ...] = ("", "")
    for block in _BLOCK.finditer(text):
        mark, text = block["mark"], block["text"]
        if mark.startswith("file: "):
            Path(mark.removeprefix("file: ")).write_text(text, encoding="utf-8")
        elif mark.startswith("holds: "):
            assert Path(mark.removeprefix("holds: ")).read_text(encoding="utf-8") == text
        elif mark in ("output", "stderr"):
            assert printed[mark == "stderr"] == text
        elif mark == "part of the output":
            assert text in printed[0]
        elif mark == "python":
            printed = (run([sys.executable, "-c", text], Path.cwd()), "")
        elif mark in (*runs, "fails"):
            capsys.readouterr()
            for module, words in commands(text.replace("$MODEL", "model")):
                assert known[module](words) == (2 if mark == "fails" else 0), (module, words)
            out, err = capsys.readouterr()
            printed = (out.replace(f"{Path.cwd()}/", ""), err)


def ids_in(file: Path) -> list[str]:
    return [json.loads(line)["problem_id"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_data_page_prints_what_it_shows_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    word_tokenizer().save_pretrained("model")
    follow(DATA, {**DATA_COMMANDS, "launch.eval": answered}, capsys, runs=("run", "needs a model"))
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
