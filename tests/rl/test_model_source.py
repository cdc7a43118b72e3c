"""Models and datasets by `modelscope:owner/name`, with a client of our own in place of ModelScope's."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from data.problem import DataError
from data.read_modelscope import ModelScopeMissing, downloaded
from data.read_source import opened
from launch.cli import exit_code
from launch.judge import run as run_judge
from launch.rl import run as run_rl
from launch.sft import run as run_sft
from rl.config import RunConfig
from rl.model_source import local_model, with_local_models
from rl.rollout.weight_files import SIZE_VARIABLE
from rl.run_folder import read_config, write_config
from tests.rl.tiny_run import write_inputs

CLIENT = '''
"""Holds the repositories in the folder beside it; what was asked for is written to asked.jsonl."""
import json
from pathlib import Path

from modelscope_hub.errors import NotExistError

HERE = Path(__file__).parents[2]


def _found(kind, name, revision):
    with (HERE / "asked.jsonl").open("a") as log:
        log.write(json.dumps([kind, name, revision]) + "\\n")
    if name.endswith("offline"):
        raise ConnectionError("no route\\nto the hub")
    folder = HERE / kind / name
    if not folder.is_dir():
        raise NotExistError(f"[E1010] {name} does not exist")
    return str(folder)


def snapshot_download(model_id=None, revision=None, cache_dir=None):
    return _found("model", model_id, revision)


def dataset_snapshot_download(dataset_id=None, revision=None, cache_dir=None):
    return _found("dataset", dataset_id, revision)
'''
ERRORS = "class HubError(Exception): ...\nclass NotExistError(HubError): ...\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of repositories, and the client's two packages on the path; their names are forgotten afterwards."""
    files = {
        "modelscope/__init__.py": "",
        "modelscope/hub/__init__.py": "",
        "modelscope/hub/snapshot_download.py": CLIENT,
    }
    for name, text in (files | {"modelscope_hub/__init__.py": "", "modelscope_hub/errors.py": ERRORS}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    forget_client()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget_client()


def forget_client() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("modelscope", "modelscope_hub")]:
        del sys.modules[name]


def asked(hub: Path) -> list[list[str | None]]:
    return [json.loads(line) for line in (hub / "asked.jsonl").read_text().splitlines()]


@pytest.fixture
def no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_client()
    for name in ("modelscope", "modelscope_hub"):
        monkeypatch.setitem(sys.modules, name, None)  # Python's own mark for a package that cannot be imported


def test_a_models_id_is_its_folder_and_a_revision_is_passed_on(hub: Path) -> None:
    (hub / "model" / "iic" / "QwenLong-L1-32B").mkdir(parents=True)
    folder = str(hub / "model" / "iic" / "QwenLong-L1-32B")
    assert local_model("modelscope:iic/QwenLong-L1-32B") == folder
    assert local_model("modelscope:iic/QwenLong-L1-32B@v1.0") == folder
    assert asked(hub) == [["model", "iic/QwenLong-L1-32B", None], ["model", "iic/QwenLong-L1-32B", "v1.0"]]


def test_folders_and_hugging_face_ids_stay_as_they_are_and_need_no_client(no_client: None) -> None:
    for path in ("", "runs/demo/sft", "/models/base", "Qwen/Qwen2.5-7B-Instruct"):
        assert local_model(path) == path


def test_a_runs_policy_judge_and_checkpoints_are_found_and_the_rest_is_untouched(hub: Path) -> None:
    for name in ("me/policy", "me/judge", "me/base"):
        (hub / "model" / name).mkdir(parents=True)
    config = RunConfig.model_validate(
        {
            "model": {"path": "modelscope:me/policy", "dtype": "float32"},
            "data": {"train": "data/train"},
            "stages": [{"max_prompt_tokens": 10, "steps": 1}],
            "reward": {"judge_path": "modelscope:me/judge"},
            "evaluation": {"checkpoints": {"base": "modelscope:me/base", "other": "runs/other"}},
        }
    )
    found = with_local_models(config)
    assert found.model.path == str(hub / "model" / "me" / "policy") and found.model.dtype == "float32"
    assert found.reward.judge_path == str(hub / "model" / "me" / "judge")
    assert found.evaluation.checkpoints == {"base": str(hub / "model" / "me" / "base"), "other": "runs/other"}
    assert with_local_models(found) == found


def test_a_run_is_written_down_as_it_was_asked_for(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_inputs(tmp_path / "tiny")
    shutil.copytree(config["model"]["path"], hub / "model" / "me" / "policy")
    config["model"]["path"] = "modelscope:me/policy"
    path = write_config(tmp_path, config, {})

    def no_cluster(config: RunConfig, *, model_path: str, **_: object) -> NoReturn:
        raise RuntimeError(model_path)

    monkeypatch.setattr("rl.run.Cluster", no_cluster)
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    with pytest.raises(RuntimeError, match=str(hub / "model" / "me" / "policy")):
        run_rl([str(path)])
    written, _ = read_config(tmp_path / "tiny" / "run")
    assert written["model"]["path"] == "modelscope:me/policy"


def test_a_dataset_is_read_as_a_folder_with_its_splits(hub: Path) -> None:
    folder = hub / "dataset" / "iic" / "DocQA"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"question": split}) + "\n")
    [(place, row)] = opened("modelscope:iic/DocQA@test").rows(["question"])
    assert row["question"] == "test" and place.path == folder / "test.jsonl"
    with pytest.raises(DataError, match=r"seen splits .*; name one, as in"):
        opened("modelscope:iic/DocQA")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("modelscope:me/none", r"modelscope:me/none: the model cannot be downloaded .*does not exist\); check the id"),
        ("modelscope:me/offline", r"cannot be downloaded from ModelScope \(no route to the hub\)"),
        ("modelscope:nothing", r"'modelscope:nothing': no ModelScope id; write modelscope:owner/name"),
        ("modelscope:a/b/c", "no ModelScope id"),
    ],
)
def test_what_cannot_be_had_is_one_line(hub: Path, text: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as raised:
        downloaded(text, "model")
    assert "\n" not in str(raised.value) and not isinstance(raised.value, ModelScopeMissing)


def test_without_the_client_the_commands_end_with_exit_code_3_and_say_what_to_install(
    no_client: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    sft = ["--model.path", "modelscope:me/base", "--model.out", str(tmp_path / "out"), "--data.train", str(rows)]
    for run, argv in ((run_sft, sft), (run_judge, ["--model", "modelscope:me/judge"])):
        assert exit_code(run, argv) == 3
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "pip install 'modelscope>=1.38'" in told and "modelscope:me/" in told
    with pytest.raises(ModelScopeMissing, match="which is not installed"):
        opened("modelscope:iic/DocQA")
