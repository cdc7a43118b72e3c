"""What a user types, and what comes back: values, one-line errors, exit codes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from data.problem import DataError
from launch.cli import CommandLine, ConfigError, EnvironmentFault, Flag, exit_code, load_config
from launch.keys import known_keys, nearest
from rl.config import RunConfig
from rl.run_folder import write_config

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    Flag(name="dry-run", doc="Start nothing."),
    Flag(name="resume", doc="Go on.", choices=("auto", "never")),
    Flag(name="gpus", doc="How many.", choices=("any",), numbers=range(1, 65)),
)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=1, ge=1)
    """How many."""
    lr: float | None = None
    """How fast."""


class Config(BaseModel):
    """A small command."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = "n"
    """What it is called."""
    engine: Literal["auto", "vllm"] = "auto"
    """What samples."""
    on: bool = False
    """Whether."""
    inner: Inner = Inner()
    stages: list[Inner] = []
    betas: tuple[float, float] = (0.9, 0.95)
    """Two rates."""
    windows: list[int] = []
    """Bounds."""
    models: dict[str, str] = {}
    """Folders by name."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text('name = "from file"\n[inner]\nsteps = 3\n[[stages]]\nsteps = 10\n[[stages]]\nsteps = 20\n')
    return path


def load(*argv: str | Path) -> CommandLine[Config]:
    return load_config(Config, [str(word) for word in argv], prog="python -m launch.x", flags=FLAGS)


def complaint(*argv: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*argv)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_file_fills_what_it_names_and_defaults_the_rest(file: Path) -> None:
    command = load(file)
    assert (command.config.name, command.config.inner.steps, command.config.engine) == ("from file", 3, "auto")
    assert command.path == file


def test_the_config_toml_of_a_run_is_a_configuration_again(tmp_path: Path) -> None:
    first = Config(inner=Inner(steps=7), models={"base": "runs/base"})
    path = write_config(tmp_path, first.model_dump(), {"commit": "abc", "versions": {"python": "3.11"}})
    assert load(path).config == first
    path.write_text("meta = 1")
    assert "meta: unknown key" in complaint(path)
    path.write_text("[metas]\ncommit = 'abc'")
    assert "metas: unknown key" in complaint(path)


@pytest.mark.parametrize("words", [["--inner.steps", "5"], ["--inner.steps=5"], ["inner.steps=5"]])
def test_an_override_has_three_spellings(file: Path, words: list[str]) -> None:
    assert load(file, *words).config.inner.steps == 5


def test_overrides_may_stand_before_the_file_and_the_last_one_wins(file: Path) -> None:
    assert load("--inner.steps", "5", file, "inner.steps=6").config.inner.steps == 6


def test_a_list_element_is_named_by_its_index_and_the_others_stay(file: Path) -> None:
    assert [s.steps for s in load(file, "--stages.1.steps", "7").config.stages] == [10, 7]


def test_the_index_after_the_last_appends(file: Path) -> None:
    assert [s.steps for s in load(file, "--stages.2.steps", "7").config.stages] == [10, 20, 7]
    assert "index 3, allowed 0 to 2" in complaint(file, "--stages.3.steps", "7")


def test_one_element_of_a_default_tuple_can_be_changed(file: Path) -> None:
    assert load(file, "--betas.1", "0.99").config.betas == (0.9, 0.99)


def test_values_are_toml_literals() -> None:
    config = load("--windows", "[1, 2]", "--inner.lr", "1e-6", "--on", "true", "--betas", "[0.5, 0.5]").config
    assert (config.windows, config.inner.lr, config.on, config.betas) == ([1, 2], 1e-6, True, (0.5, 0.5))


@pytest.mark.parametrize(("text", "windows"), [("7", [7]), ("7,8", [7, 8]), ("[7, 8]", [7, 8]), ("", []), ("[]", [])])
def test_a_list_may_be_given_without_brackets(text: str, windows: list[int]) -> None:
    assert load(f"--windows={text}").config.windows == windows


@pytest.mark.parametrize("text", ["5", "true", "[1]", "a b", "", "1979-05-27", '"quoted"'])
def test_a_text_key_takes_any_text_as_it_is(text: str) -> None:
    assert load(f"--name={text}").config.name == text


def test_a_negative_number_is_a_value_and_no_flag() -> None:
    assert load("--inner.lr", "-1").config.inner.lr == -1.0


def test_none_resets_an_optional_value(file: Path) -> None:
    assert load(file, "--inner.lr", "1.0", "--inner.lr", "none").config.inner.lr is None


def test_the_name_of_a_table_entry_may_hold_dots() -> None:
    assert load("--models.qwen-2.5", "runs/q").config.models == {"qwen-2.5": "runs/q"}


def test_flags_are_read_apart_from_the_configuration(file: Path) -> None:
    assert not load(file).is_on("dry-run")
    assert load(file).values["resume"] == "auto"
    assert load(file).values["gpus"] == "any"
    command = load("--dry-run", file, "--resume", "never", "--gpus=48")
    assert command.is_on("dry-run")
    assert command.values["resume"] == "never"
    assert command.values["gpus"] == "48"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--inner.stesp", "5"], "inner.stesp: unknown key; did you mean inner.steps?"),
        (["--lr", "5"], "lr: unknown key; did you mean inner.lr?"),
        (["--stage.0.steps", "5"], "did you mean stages.N.steps?"),
        (["--dryrun"], "dryrun: unknown key; did you mean dry-run?"),
        (["--xyzzy", "5"], "xyzzy: unknown key; --help lists every key"),
        (["--betas.2", "5"], "betas.2: unknown key"),
        (["--inner.steps"], "--inner.steps needs a value"),
        (["--inner.steps", "--on"], "--inner.steps needs a value"),
        (["--inner.steps", "many"], "inner.steps: seen 'many', allowed: int >= 1"),
        (["--inner.steps", "true"], "inner.steps: seen true, allowed: int >= 1"),
        (["--inner.steps", "1.5"], "inner.steps: seen 1.5, allowed: int >= 1"),
        (["--inner.steps", "0"], "inner.steps: seen 0, allowed: int >= 1"),
        (["--on", "yes"], "on: seen 'yes', allowed: true | false"),
        (["--engine", "vlm"], "engine: seen 'vlm', allowed: auto | vllm"),
        (["--betas", "[1.0]"], "betas.1: missing, needed: float"),
        (["--inner", "5"], "inner: seen 5, allowed: a table"),
        (["--resume", "maybe"], "--resume: seen 'maybe', allowed auto | never"),
        (["--gpus", "0"], "--gpus: seen '0', allowed any | 1 to 64"),
        (["--gpus", "65"], "--gpus: seen '65', allowed any | 1 to 64"),
        (["--gpus", "none"], "--gpus: seen 'none', allowed any | 1 to 64"),
        (["--gpus", "1.0"], "--gpus: seen '1.0', allowed any | 1 to 64"),
        (["--dry-run=yes"], "--dry-run takes no value"),
        (["-x"], "'-x' is no key and no flag"),
        (["other.toml"], "two files"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(file: Path, words: list[str], told: str) -> None:
    text = complaint(file, *words)
    assert text.startswith("command line: ")
    assert told in text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[inner]\nstesp = 5", "inner.stesp: unknown key; did you mean inner.steps?"),
        ("[iner]\nsteps = 5", "iner: unknown key; did you mean inner?"),
        ("[inner]\nsteps = '5'", "inner.steps: seen '5', allowed: int >= 1"),
        ("inner = 5", "inner: seen 5, allowed: a table"),
        ("windows = [1, 'x']", "windows.1: seen 'x', allowed: int"),
        ("name = 1\non = 1", "name: seen 1, allowed: str (and 1 more)"),
        ("name = \non = true", "not TOML: Invalid value (at line 1, column 8)"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_the_files_name(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    text = complaint(path)
    assert text.startswith(f"{path}: ")
    assert told in text


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "absent.toml")
    assert "cannot be read" in complaint(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    assert "byte 8 is not UTF-8" in complaint(tmp_path / "latin.toml")


def test_an_override_does_not_hide_a_mistake_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("inner = 5")
    assert "inner.steps: the file holds 5 where a table is needed" in complaint(path, "--inner.steps", "2")


def test_a_run_without_its_needed_parts_says_how_it_is_called() -> None:
    with pytest.raises(ConfigError, match=r"stages: .* usage: python -m launch.rl CONFIG.toml"):
        load_config(RunConfig, [], prog="python -m launch.rl")


def test_help_names_every_key_with_type_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(RunConfig, ["run.toml", "--help"], prog="python -m launch.rl", flags=FLAGS)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m launch.rl [CONFIG.toml]")
    assert text.splitlines()[0].endswith("[--dry-run] [--resume auto | never] [--gpus any | 1 to 64]")
    assert "  --dry-run\n" in text and "  --resume auto | never (default auto)\n" in text
    assert "  --gpus any | 1 to 64 (default any)\n" in text
    keys = list(known_keys(RunConfig))
    assert "stages.N.steps" in {key.name for key in keys}
    for key in keys:
        assert f"  {key.name}  {key.allowed}" in text
        assert key.doc, f"{key.name} has no docstring"


def test_the_nearest_key_keeps_a_right_last_part_before_a_similar_spelling() -> None:
    assert nearest("learner.temperature", RunConfig) == "rollout.temperature"
    assert nearest("stages.3.step", RunConfig) == "stages.N.steps"


class Unavailable(RuntimeError):
    exit_code = 4


class WrappedByRay(RuntimeError):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a long remote traceback")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("x: wrong"), 2, "error: x: wrong\n"),
        (DataError("row 3:\n wrong"), 2, "error: row 3: wrong\n"),
        (EnvironmentFault("no CUDA"), 3, "error: no CUDA\n"),
        (ModuleNotFoundError("No module named 'vllm'", name="vllm"), 3, "error: No module named 'vllm'\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 3, None),
        (Unavailable("judge away"), 4, "error: judge away\n"),
        (WrappedByRay(Unavailable("judge away")), 4, "error: judge away\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_expected_end_is_a_code_and_one_line(
    error: BaseException, code: int, told: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(argv: Sequence[str]) -> None:
        raise error

    assert exit_code(run, []) == code
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert told is None or printed == told


@pytest.mark.parametrize(
    "error", [ValueError("a defect"), ModuleNotFoundError("No module named 'rl.x'", name="rl.x"), KeyError("k")]
)
def test_a_defect_keeps_its_traceback(error: Exception) -> None:
    def run(argv: Sequence[str]) -> None:
        raise error

    with pytest.raises(type(error)):
        exit_code(run, [])


def test_a_commands_own_code_is_passed_on() -> None:
    assert exit_code(lambda argv: 75, []) == 75
    assert exit_code(lambda argv: None, []) == 0


def test_the_process_exits_with_the_code_and_prints_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launch.rl", str(tmp_path / "absent.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: {tmp_path / 'absent.toml'}: no such file; give the path of a TOML file, see launch/configs\n"
    )


def test_a_reader_that_closes_the_pipe_gets_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-u", "-m", "launch.rl", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
