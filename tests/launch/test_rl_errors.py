"""What cannot be run is refused in one line, with exit code 2 or 3, before Ray, an engine or a model is started."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w

import data.prepare
from data.prepare import prepare
from launch.cli import exit_code, load_config
from launch.rl import FLAGS, run, stage_count
from rl.checkpoint import save_checkpoint
from rl.config import RunConfig
from rl.rollout.weight_files import SIZE_VARIABLE
from tests.rl.tiny_run import TEMPLATE, problems, tokenizer, write_inputs

ROOT = Path(__file__).resolve().parents[2]
Config = dict[str, Any]
Change = Callable[[Config, Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The configuration of a run that would start."""
    return write_inputs(tmp_path_factory.mktemp("good"))


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs launch.rl; returns the one line on stderr."""

    def tell(*argv: str | Path, code: int = 2) -> str:
        assert exit_code(run, [str(word) for word in argv]) == code
        assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1, printed.err
        assert printed.out == ""
        assert "Traceback" not in printed.err
        return printed.err

    return tell


def written(config: Config, folder: Path) -> Path:
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(config))
    return path


def setting(section: str, key: str, value: object) -> Change:
    return lambda config, _: config.setdefault(section, {}).update({key: value})


def copied(config: Config, section: str, key: str, folder: Path) -> Path:
    """A copy of what the key names, which the configuration then names."""
    target = folder / f"{section}-{key}"
    shutil.copytree(config[section][key], target)
    config[section][key] = str(target)
    return target


def test_the_undisturbed_configuration_is_accepted(
    good: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(run, [str(written(good, tmp_path)), "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "stage 1: 0 < prompt tokens <= 24, 60 problems (door 60)" in plan
    assert "lr 0.003, replay 25%" in plan
    assert "learner memory, estimated: " in plan
    assert "tokens, or fewer where memory is short; head_chunk_tokens 4096" in plan


def test_a_later_stage_with_a_shorter_or_the_same_window_takes_nothing_from_an_earlier_one(
    good: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [
        {"min_prompt_tokens": 0, "max_prompt_tokens": high, "steps": 1, "max_response_tokens": 10} for high in (48, 24)
    ]
    config = good | {"stages": [*good["stages"], *again]}
    assert exit_code(run, [str(written(config, tmp_path)), "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "stage 2: 24 < prompt tokens <= 48, 60 problems (door 60)" in plan
    assert "stage 3: 0 < prompt tokens <= 48, 120 problems (door 120)" in plan
    assert "stage 4: 0 < prompt tokens <= 24, 60 problems (door 60)" in plan
    assert "dropped" not in plan and "longest sequence 58 tokens" in plan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting("learner", "learning_rate", 1.0), ["learner.learning_rate: unknown key; did you mean learner.lr"]),
        (setting("curriculum", "group_sizes", 4), ["did you mean curriculum.group_size?"]),
        (setting("curriculum", "group_size", "four"), ["curriculum.group_size: seen 'four', allowed: int"]),
        (setting("curriculum", "group_size", 1), ["curriculum.group_size: seen 1, allowed: int", ">= 2"]),
        (setting("rollout", "engine", "sglang"), ["rollout.engine: seen 'sglang', allowed:", "transformers"]),
        (lambda c, _: c.pop("stages"), ["stages: at least one [[stages]] table is needed"]),
        (
            lambda c, _: c["stages"][1].update(max_prompt_tokens=24),
            ["stages.1.max_prompt_tokens: 24 is not above", "24"],
        ),
        (lambda c, _: c["data"].pop("train"), ["data.train: name a prepared set (python -m data.prepare makes one)"]),
        (lambda c, _: c["model"].pop("path"), ["model.path: name the model's folder or hub id"]),
    ],
)
def test_a_bad_configuration_file_is_told_by_file_key_and_way_out(
    change: Change, words: list[str], good: Config, tmp_path: Path, told: Callable[..., str]
) -> None:
    config = copy.deepcopy(good)
    change(config, tmp_path)
    line = told(written(config, tmp_path))
    assert line.startswith(f"error: {tmp_path / 'run.toml'}: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--learner.lrr", "1"], ["command line: --learner.lrr: unknown key; did you mean learner.lr?"]),
        (["learner.lrr=1"], ["command line: --learner.lrr: unknown key; did you mean learner.lr?"]),
        (["--dryrun"], ["command line: --dryrun: unknown key; did you mean dry-run?"]),
        (["--learner.lr", "fast"], ["command line: learner.lr: seen 'fast', allowed: float"]),
        (["--resume", "always"], ["command line: --resume: seen 'always', allowed auto | never"]),
        (["--stage", "0"], ["command line: --stage: seen '0', allowed all | 1 to "]),
        (["--stage", "7"], ["command line: --stage: seen '7', allowed all | 1 to 2, the run's stages"]),
        (["--gpu-gib", "none"], ["command line: --gpu-gib: seen 'none', allowed unknown | 1 to 1024"]),
        (["--gpu-gib", "81559"], ["command line: --gpu-gib: seen '81559', allowed unknown | 1 to 1024"]),
    ],
)
def test_a_bad_command_line_is_told_by_key_and_way_out(
    argv: list[str], words: list[str], good: Config, tmp_path: Path, told: Callable[..., str]
) -> None:
    line = told(written(good, tmp_path), *argv)
    for word in words:
        assert word in line


def test_every_stage_of_a_run_and_any_size_of_gpu_can_be_named(good: Config, tmp_path: Path) -> None:
    stages = [{"max_prompt_tokens": 10 * k, "steps": 1, "max_response_tokens": 4} for k in range(1, 13)]
    path = written(good | {"stages": stages}, tmp_path)
    command = load_config(RunConfig, [str(path), "--stage", "12", "--gpu-gib", "47"], prog="launch.rl", flags=FLAGS)
    assert stage_count(command.values["stage"], command.config) == 12
    assert command.values["gpu-gib"] == "47"


def test_a_missing_configuration_file_is_named(told: Callable[..., str]) -> None:
    assert "absent.toml: no such file; give the path of a TOML file, see launch/configs" in told("absent.toml")


def change_problem_without_the_manifest(config: Config, folder: Path) -> None:
    file = copied(config, "data", "train", folder) / "problems.jsonl"
    file.write_bytes(file.read_bytes().replace(b"red", b"blu", 1))


def rewrite(config: Config, folder: Path, lines: Callable[[list[bytes]], list[bytes]]) -> None:
    """Other lines in problems.jsonl, and a manifest that says so."""
    target = copied(config, "data", "train", folder)
    kept = lines((target / "problems.jsonl").read_bytes().splitlines(keepends=True))
    (target / "problems.jsonl").write_bytes(b"".join(kept))
    manifest = json.loads((target / "manifest.json").read_bytes())
    manifest |= {"problems_sha256": hashlib.sha256(b"".join(kept)).hexdigest(), "num_problems": len(kept)}
    (target / "manifest.json").write_text(json.dumps(manifest))


def other_tokenizer(config: Config, folder: Path) -> None:
    words = tokenizer()
    words.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    prepare(problems(5, 10, 1), words, folder / "other", template=TEMPLATE)
    config["data"]["train"] = str(folder / "other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (setting("data", "train", "absent"), ["data.train: no prepared set at 'absent'", "python -m data.prepare"]),
        (setting("data", "test", "absent"), ["data.test: no prepared set at 'absent'", "python -m data.prepare"]),
        (setting("data", "train", str(ROOT / "data")), ["manifest.json is missing", "make one with data.prepare"]),
        (
            lambda c, f: (copied(c, "data", "train", f) / "manifest.json").write_text("{}"),
            ["manifest.json: num_problems: Field required", "run python -m data.prepare again"],
        ),
        (
            lambda c, f: (copied(c, "data", "train", f) / "problems.jsonl").unlink(),
            ["problems.jsonl: missing from the prepared set", "run python -m data.prepare again"],
        ),
        (change_problem_without_the_manifest, ["problems.jsonl: sha256", "changed, run python -m data.prepare again"]),
        (
            lambda c, f: rewrite(c, f, lambda rows: [rows[0], rows[1], rows[0]]),
            ["problems.jsonl: ", "columns.npz has", "run python -m data.prepare again"],
        ),
        (
            lambda c, f: rewrite(c, f, lambda rows: [rows[0], b"{\n"]),
            ["problems.jsonl: ", "columns.npz has", "data.prepare again"],
        ),
        (lambda c, f: rewrite(c, f, lambda rows: []), ["problems.jsonl", "no problem", "data.prepare"]),
        (other_tokenizer, ["data.train", "another tokenizer or chat template", "run python -m data.prepare again"]),
        (
            setting("data", "overlong", "error"),
            ["problem 'p1-30-0': 37 prompt tokens > 30", "raise it, filter the data or set data.overlong = 'drop'"],
        ),
        (
            lambda c, _: c["stages"][0].update(max_prompt_tokens=10),
            ["data.train", "stages.0: no problem in its window (0, 10]", "prompts of 17 to", "move the window"],
        ),
        (
            setting("evaluation", "windows", [5, 48]),
            ["evaluation.windows: data.test", "no problem in the windows ending at [5]", "drop them or add data"],
        ),
    ],
)
def test_data_that_cannot_be_used_is_told_by_file_or_key_and_way_out(
    change: Change, words: list[str], good: Config, tmp_path: Path, told: Callable[..., str]
) -> None:
    config = copy.deepcopy(good)
    change(config, tmp_path)
    if config["data"].get("overlong") == "error":
        config["stages"][1]["max_prompt_tokens"] = 30
    line = told(written(config, tmp_path))
    for word in words:
        assert word in line


def without(pattern: str) -> Change:
    def remove(config: Config, folder: Path) -> None:
        for file in copied(config, "model", "path", folder).glob(pattern):
            file.unlink()

    return remove


def model_config(**changes: object) -> Change:
    def change(config: Config, folder: Path) -> None:
        file = copied(config, "model", "path", folder) / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            setting("model", "path", "/absent/model"),
            ["model.path: no folder at '/absent/model'; name a model folder or hub id"],
        ),
        (setting("model", "path", "nobody/no-model"), ["model.path", "'nobody/no-model'", "name a model folder"]),
        (without("*.safetensors"), ["model.path", "holds no *.safetensors file", "save_pretrained"]),
        (without("config.json"), ["model.path", "name a model folder or hub id"]),
        (without("*.jinja"), ["model.path", "has no chat template; add chat_template.jinja"]),
        (
            model_config(max_position_embeddings=57),
            ["model.path", "max_position_embeddings 57 < 58", "shorten the windows or configure rope scaling"],
        ),
        (
            model_config(attention_dropout=0.1),
            ["model.path: model type 'llama' has attention_dropout=0.1", "choose such a model"],
        ),
        (
            model_config(model_type="mistral", sliding_window=32),
            ["model.path: model type 'mistral' has sliding_window=32", "choose such a model"],
        ),
        (
            setting("evaluation", "checkpoints", {"base": "absent"}),
            ["evaluation.checkpoints.base: no folder at 'absent'"],
        ),
        (setting("evaluation", "checkpoints", {"final": "absent"}), ["evaluation.checkpoints.final", "rename it"]),
    ],
)
def test_a_model_that_cannot_be_trained_is_told_by_key_and_way_out(
    change: Change, words: list[str], good: Config, tmp_path: Path, told: Callable[..., str]
) -> None:
    config = copy.deepcopy(good)
    change(config, tmp_path)
    line = told(written(config, tmp_path))
    for word in words:
        assert word in line


def test_a_judge_that_is_half_configured_is_refused(good: Config, tmp_path: Path, told: Callable[..., str]) -> None:
    line = told(written(good, tmp_path), "--reward.judge_model", "m")
    assert "reward.judge_url, reward.judge_model: judge model 'm' has no judge url; give the endpoint's" in line


def test_a_run_folder_that_cannot_be_one_is_refused(good: Config, tmp_path: Path, told: Callable[..., str]) -> None:
    path = written(good, tmp_path)
    line = told(path, "--run.dir", path / "run")
    assert f"run.dir: '{path / 'run'}' cannot be a folder, because {path} is a file; name another folder" in line


def test_weights_that_no_folder_has_room_for_are_the_machines_lack(
    good: Config, tmp_path: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, "0")  # set by the run, and put back
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    line = told(written(good, tmp_path), code=3)
    assert "no room for the weights on their way to the engines: 0 MiB and a tenth more are needed, free are " in line
    assert "TMPDIR" in line and not Path(good["run"]["dir"]).exists()


def test_vllm_that_is_not_installed_is_the_machines_lack(
    good: Config, tmp_path: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own mark for a package that cannot be imported
    line = told(written(good, tmp_path), "--rollout.engine", "vllm", code=3)
    assert "rollout.engine: 'vllm' is not installed here; install longreach[gpu]" in line
    assert "or say 'transformers' or 'auto'" in line
    assert not Path(good["run"]["dir"]).exists()


def test_a_refusal_has_imported_neither_ray_nor_an_engine_nor_a_model(good: Config, tmp_path: Path) -> None:
    config = copy.deepcopy(good)
    config["stages"][0]["max_prompt_tokens"] = 10
    program = (
        "import sys\nfrom launch.cli import exit_code\nfrom launch.rl import run\n"
        "assert exit_code(run, sys.argv[1:]) == 2\n"
        "print(*[m for m in sys.modules if m in ('ray', 'vllm') or 'modeling_llama' in m or m.startswith('rl.cluster')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(written(config, tmp_path))],
        cwd=ROOT, env=os.environ | {"RAY_ADDRESS": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["train.jsonl: no rows; it must hold at least one problem"]),
        (b"{not json\n", ["train.jsonl:1: "]),
        (b"\xff\xfe\n", ["train.jsonl: seen UTF-16", "UTF-8"]),
        (b'{"problem_id": "a"}\n', ["train.jsonl:1: "]),
        (2 * b'{"problem_id": "a", "task": "t", "context": "c", "question": "q", "answers": ["x"], "answer_type": "text"}\n', ["train.jsonl:2: ", "'a'"]),
    ],
)  # fmt: skip
def test_preparing_a_malformed_file_ends_with_one_line_and_nothing_written(
    content: bytes, words: list[str], good: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)
    source, out = str(tmp_path / "train.jsonl"), tmp_path / "out"
    assert data.prepare.main([source, "--tokenizer", good["model"]["path"], "--out", str(out)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    for word in words:
        assert word in line
    assert not out.exists()


def test_a_checkpoint_whose_state_lacks_something_is_refused_by_its_name(
    good: Config, tmp_path: Path, told: Callable[..., str]
) -> None:
    config = copy.deepcopy(good)
    config["run"]["dir"] = str(tmp_path / "run")
    save_checkpoint(tmp_path / "run", 1, lambda _: None, {"step": 1, "surplus": [], "wall_s": 1.0}, keep=1)
    assert (
        f"{tmp_path / 'run'}/checkpoints/step-000001/state.json: no curriculum, negatives_masked, failed_rounds, "
        "tracker_run_id in it, so the run cannot go on from here; go on with the version that wrote it, or start a new run"
    ) in told(written(config, tmp_path))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--reward.scorer", "nowhere:build"], "reward.scorer: scorer 'nowhere:build': no such module"),
        (
            ["--reward.scorer", "json"],
            "reward.scorer: scorer 'json': no such module; name a function as module:function",
        ),
        (
            ["--reward.judge_path", "m", "--reward.judge_url", "http://127.0.0.1:9/v1"],
            "reward.judge_path: the run serves this judge itself; take out judge_url and judge_model",
        ),
        (["--reward.canaries_per_batch", "-1"], "reward.canaries_per_batch: seen -1, allowed: int >= 0"),
    ],
)
def test_a_scorer_or_a_judge_that_cannot_be_is_told_by_its_key(
    argv: list[str], words: str, good: Config, tmp_path: Path, told: Callable[..., str]
) -> None:
    assert words in told(written(good, tmp_path), *argv)


def test_a_judge_of_the_runs_own_needs_a_folder(good: Config, tmp_path: Path, told: Callable[..., str]) -> None:
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here: make setup installs it")
    for scorer in ([], ["--reward.scorer", "json:loads"]):
        line = told(written(good, tmp_path), "--reward.judge_path", str(tmp_path / "none"), *scorer)
        assert "judge: there is no folder" in line
