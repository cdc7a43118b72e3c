"""What python -m launch.export writes, prints and refuses, on a tiny run's checkpoint."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import launch.export
from data.prompts import PromptTemplate
from launch.cli import ConfigError, exit_code, load_config
from launch.export import ExportConfig, run
from launch.export_card import cell, is_hub_id, origins
from launch.export_check import ExportFailed, compared
from launch.serve_command import ask_program, rope_overrides
from rl.checkpoint import save_checkpoint
from rl.config import LearnerSection
from rl.learner.lora import adapters_off, add_adapters, load_adapter
from rl.learner.step import Learner
from rl.run_folder import read_config, write_config
from tests.launch.exported_run import STEP, YARN, tokenizer, write_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def exported(tiny: Path) -> Path:
    assert exit_code(run, [str(tiny)]) == 0
    return tiny / "export"


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert exit_code(run, [str(word) for word in words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("error: ")
    return told


def test_weights_are_the_checkpoints_to_the_bit_and_nothing_else_is_in_the_folder(tiny: Path, exported: Path) -> None:
    theirs = load_file(tiny / "checkpoints" / "latest" / "model" / "model.safetensors")
    ours = load_file(exported / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "export.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    check = orjson.loads((exported / "export.json").read_bytes())["check"]
    assert (check["max_logit_diff"], check["bound"], check["num_prompts"]) == (0.0, 0.0, 4)
    assert (exported / "model.safetensors").stat().st_mode == (exported / "config.json").stat().st_mode


def test_rope_stays_as_it_was_trained_and_sampling_is_the_runs_own(exported: Path) -> None:
    config = AutoConfig.from_pretrained(exported)
    assert config.rope_parameters == YARN and config.use_cache
    words = AutoTokenizer.from_pretrained(exported)
    generation = GenerationConfig.from_pretrained(exported)
    assert (generation.temperature, generation.top_p, generation.top_k) == (0.7, 0.95, 0)
    assert generation.do_sample and generation.max_new_tokens == 12
    assert generation.eos_token_id == [words.eos_token_id]
    assert generation.repetition_penalty in (None, 1.0)  # the start model's own 1.5 was never used by the run


def test_the_card_tells_this_checkpoints_figures_and_no_later_ones(exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert (card.data.license, card.data.library_name) == ("unknown", "transformers")
    assert card.data.base_model is None  # the start model is a folder, which the Hub would not know
    assert r"# tiny \| run" in card.text
    assert "| 24 | 100 | 0.250 | **0.500** | 0.404 to 0.596 | 0.125 | 0.250 |" in card.text
    assert "0.750" not in card.text  # stage 2's, which these weights have not seen
    assert "| 1 | 0 to 24 | 3 of 3 | 10 | 2e-06 | 0 % |" in card.text
    assert "| 2 | 24 to 48 | 0 of 4 | 12 | 2e-06 | 25 % |" in card.text
    assert "0.100 in the first 1 of 3 steps, 0.300 in the last 1" in card.text
    assert "| seed | 7 |" in card.text and "f" * 64 in card.text and "0" * 40 in card.text and "torch 2" in card.text
    assert "the rule alone" in card.text and str(exported.parent.parent) not in card.text


def test_the_base_model_is_what_sft_began_from(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "sft.json").write_text('{"config": {"model": {"path": "Qwen/Qwen2.5-7B"}}}')
    assert origins(str(tmp_path / "sft")) == [str(tmp_path / "sft"), "Qwen/Qwen2.5-7B"]
    assert is_hub_id("Qwen/Qwen2.5-7B") and not is_hub_id(str(tmp_path / "sft")) and not is_hub_id("tests/launch")


def test_another_type_is_bounded_by_its_rounding_and_given_licence_and_name_are_told(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "half"
    words = ["--dtype", "bfloat16", "--out", str(out), "--license", "apache-2.0", "--name", "half"]
    assert exit_code(run, [str(tiny / "checkpoints" / f"step-{STEP:06d}" / "model"), *words]) == 0
    printed = capsys.readouterr().out
    check = orjson.loads((out / "export.json").read_bytes())["check"]
    assert 0 < check["max_logit_diff"] <= check["bound"] < 16 * 0.0079 * check["max_logit"]
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(out / "model.safetensors").values())
    assert AutoConfig.from_pretrained(out).dtype == torch.bfloat16
    assert "--served-model-name half --dtype bfloat16 --max-model-len 60 " in printed  # 48 + 12 tokens
    assert ModelCard.load(out / "README.md").data.license == "apache-2.0"


def test_a_run_of_adapters_is_exported_without_them_and_computes_base_plus_adapters(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    base, section = tiny / "checkpoints" / "latest" / "model", LearnerSection(lora_rank=4, lora_alpha=8.0, threads=1)
    learner = Learner(str(base), section=section, dtype="float32", device="cpu", temperature=1.0)
    torch.manual_seed(0)
    for name, parameter in learner.model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)

    def write(place: Path) -> None:
        learner.save_model(str(place / "model"))
        tokenizer().save_pretrained(place / "model")

    write_config(tmp_path, read_config(tiny)[0] | {"learner": section.model_dump()}, {})
    save_checkpoint(tmp_path, 1, write, {}, keep=1)
    adapter = load_file(tmp_path / "checkpoints" / "latest" / "model" / "adapter" / "adapter_model.safetensors")
    assert exit_code(run, [str(tmp_path)]) == 0
    out = tmp_path / "export"
    assert load_file(out / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    assert not [path for path in out.rglob("*") if "adapter" in path.name]
    assert "safetensors, adapters merged |" in (out / "README.md").read_text()

    exported, plus = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (out, base))
    add_adapters(plus, rank=4, alpha=8.0, targets=section.lora_targets, seed=0)
    load_adapter(plus, adapter.items())
    ids = torch.arange(4, 60).view(2, 28)
    with torch.no_grad():
        logits = exported(ids).logits
        torch.testing.assert_close(logits, plus(ids).logits, rtol=1e-4, atol=1e-4)
        with adapters_off(plus):
            assert float((logits - plus(ids).logits).abs().max()) > 1.0


def test_an_export_is_replaced_whole_and_anything_else_is_left_alone(
    tiny: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "thesis.txt").write_text("mine")
    told = refused(capsys, tiny, "--out", others)
    assert "exists and is no earlier export" in told and (others / "thesis.txt").read_text() == "mine"

    before = {path.name: path.read_bytes() for path in exported.iterdir()}

    def differ(*_: object) -> None:
        raise ExportFailed("export: its logits differ")

    monkeypatch.setattr(launch.export, "compared", differ)
    assert exit_code(run, [str(tiny)]) == 3
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    monkeypatch.undo()
    (exported / "README.md").write_text("old")
    assert exit_code(run, [str(tiny)]) == 0
    assert (exported / "README.md").read_bytes() == before["README.md"]
    assert not list(tiny.glob(".tmp-*")) and not list(tiny.glob(".old-*"))


def test_a_checkpoint_that_was_changed_is_refused_and_a_run_falls_back_to_an_older_one(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny / "checkpoints", copy / "checkpoints", symlinks=True)
    weights = copy / "checkpoints" / f"step-{STEP:06d}" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "model/model.safetensors: sha256" in refused(capsys, weights.parent.parent)
    assert "no checkpoint to export (checkpoint: step-000003 skipped" in refused(capsys, copy)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b'{"checkpoint": "sft", "step": 0}', b'{"checkpoint": "sft", "step": "0", "windows": {}}'],
)
def test_an_evaluation_that_cannot_be_read_is_named_before_anything_is_written(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    shutil.copytree(tiny, tmp_path / "run", symlinks=True, ignore=shutil.ignore_patterns("export"))
    broken = tmp_path / "run" / "evaluations" / "sft.json"
    broken.write_bytes(content)
    told = refused(capsys, tmp_path / "run")
    assert told.startswith(f"error: {broken}: not an evaluation (")
    assert told.endswith("; remove it or evaluate again\n")
    assert not (tmp_path / "run" / "export").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "source: empty"),
        (["nowhere"], "nowhere: no such folder"),
        (["TINY", "--out", "OUT", "--max_model_len", "300"], "max_model_len: 300 tokens, the model reads at most 256"),
        (["TINY", "--out", "OUT", "--rope_factor", "1.5"], "rope_factor: 1.5 times the original 128 positions are 192"),
        (["TINY", "--push", "not an id"], "push: 'not an id' is no Hub id"),
        (["TINY", "--push", "noowner"], "push: 'noowner' is no Hub id; write owner/name"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    places = {"TINY": str(tiny), "OUT": str(tmp_path / "out")}
    assert told in refused(capsys, *[places.get(word, word) for word in words])
    assert not (tmp_path / "out").exists()


def test_a_card_that_serves_an_extended_rope_says_what_its_accuracy_is_of(
    tiny: Path, exported: Path, tmp_path: Path
) -> None:
    assert exit_code(run, [str(tiny), "--out", str(tmp_path / "out"), "--rope_factor", "4"]) == 0
    said = "the accuracy above was measured with the rope as trained"
    assert said in (tmp_path / "out" / "README.md").read_text() and said not in (exported / "README.md").read_text()


def test_a_checkpoint_without_its_run_is_exported_with_what_is_known(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = tmp_path / "lone"
    shutil.copytree(tiny / "checkpoints" / f"step-{STEP:06d}", lone)
    assert "out: empty" in refused(capsys, lone)
    assert exit_code(run, [str(lone), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "compared on built-in text" in printed and "ask it" not in printed and "--max-model-len 256 " in printed
    text = (tmp_path / "out" / "README.md").read_text()
    assert (
        "| start model | unknown |" in text
        and "accuracy is unknown" in text
        and "stages and settings are unknown" in text
    )


def test_logits_that_differ_or_are_no_numbers_are_refused() -> None:
    one, other = [torch.zeros(2, 3)], [torch.full((2, 3), 1e-7)]
    same = (torch.float32, torch.float32)
    assert compared(one, one, same).num_positions == 2
    with pytest.raises(ExportFailed, match="differ from the checkpoint's by 1e-07, allowed 0"):
        compared(one, other, same)
    with pytest.raises(ExportFailed, match="by nan"):
        compared(one, [torch.full((2, 3), torch.nan)], (torch.float32, torch.bfloat16))


def test_extended_rope_keeps_what_the_model_has_and_refuses_other_kinds(exported: Path) -> None:
    trained = AutoConfig.from_pretrained(exported)
    assert rope_overrides(trained, 4.0) == {"rope_parameters": YARN | {"factor": 4.0}, "max_position_embeddings": 512}
    trained.rope_parameters = {"rope_type": "default", "rope_theta": 1e6}
    assert rope_overrides(trained, 2.0)["rope_parameters"] == {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0, "original_max_position_embeddings": 256,
    }  # fmt: skip
    trained.rope_parameters = {"rope_type": "llama3", "rope_theta": 1e6, "factor": 8.0}
    with pytest.raises(ConfigError, match="of type 'llama3'"):
        rope_overrides(trained, 2.0)


def test_the_printed_program_is_python_whatever_stands_in_the_template() -> None:
    odd = PromptTemplate("\"'''\\ {context}{x}\n{question} ```")
    program = ask_program(odd, name="a 'b'", max_tokens=5, port=1)
    [prompt] = [
        node.value for node in ast.parse(program).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "prompt"
    ]  # fmt: skip
    texts = [node.value for node in ast.walk(prompt) if isinstance(node, ast.Constant)]
    assert sorted(texts) == sorted(["\"'''\\ ", "{x}\n", " ```"])


def test_text_in_the_cards_table_starts_no_markup() -> None:
    assert cell("a|b\n<script>`x` [y](z)") == r"a\|b \<script\>\`x\` \[y\](z)"


def test_the_page_names_files_and_options_that_there_are(exported: Path) -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m launch\.export (.*?)(?:  +#.*)?$", page, re.MULTILINE)
    assert len(commands) == 3
    for words in (command.split() for command in commands):
        load_config(ExportConfig, [f"--source={words[0]}", *words[1:]], prog="export")
    named = set(re.findall(r"`--(\w+)\b[^`]*`", page)) - {"api", "rope"}  # --api-key and --rope-scaling are vLLM's
    assert named == {"dtype", "max_model_len", "rope_factor", "push", "public"} <= set(ExportConfig.model_fields)
    assert all((exported / name).is_file() for name in re.findall(r"`(\w+\.\w+)`(?=.* \|)", page))


class Hub(ThreadingHTTPServer):
    """The four calls of the Hub that an upload makes; `files` is what was committed."""

    def __init__(self, refuses: bool) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.refuses = refuses
        self.files: dict[str, int] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()


class _HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._answer({"sha": "1" * 40, "id": "me/tiny", "siblings": []})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.server.tokens.add(self.headers["authorization"])
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self.server.created.append(orjson.loads(content))
            self._answer({"url": "http://127.0.0.1/me/tiny", "name": "me/tiny"})
        elif "/preupload/" in path:
            files = [file["path"] for file in orjson.loads(content)["files"]]
            self._answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in files]})
        elif "/commit/" in path:
            rows = [orjson.loads(line) for line in content.splitlines()]
            self.server.files |= {
                row["value"]["path"]: len(row["value"]["content"]) for row in rows if row["key"] == "file"
            }
            self._answer({"success": True, "commitOid": "2" * 40, "commitUrl": "http://127.0.0.1/me/tiny/commit/2"})
        else:
            self._answer({})

    def _answer(self, content: dict[str, Any]) -> None:
        body = orjson.dumps(content)
        self.send_response(403 if self.server.refuses else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def hub(*, refuses: bool = False) -> Iterator[Hub]:
    server = Hub(refuses)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pushed(server: Hub, folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: whether the Hub may be asked is decided when its library is imported."""
    program = (
        "from launch.cli import exit_code; from launch.export_push import push; from pathlib import Path; import sys\n"
    )
    program += f"sys.exit(exit_code(lambda _: print(push(Path({str(folder)!r}), 'me/tiny', public=False)), []))"
    (home / "token").write_text("hf_of_the_login")
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    environment.pop("HF_TOKEN", None)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120, check=False)


def test_push_uploads_the_folder_to_a_private_repository_with_the_logins_token(exported: Path, tmp_path: Path) -> None:
    with hub() as server:
        done = pushed(server, exported, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "http://127.0.0.1/me/tiny/commit/2\n"
    assert server.files.keys() == {path.name for path in exported.iterdir()}
    assert server.created[0]["name"] == "tiny" and server.created[0]["visibility"] == "private"
    assert server.tokens == {"Bearer hf_of_the_login"}


def test_a_hub_that_refuses_is_one_line_and_exit_code_3(exported: Path, tmp_path: Path) -> None:
    with hub(refuses=True) as server:
        done = pushed(server, exported, tmp_path)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert "push: me/tiny was not written (" in done.stderr and "is whole" in done.stderr
    assert server.files == {}


def test_without_a_login_nothing_is_exported(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    out = tmp_path / "out"
    assert exit_code(run, [str(tiny), "--out", str(out), "--push", "me/tiny"]) == 3
    assert "push: no login for me/tiny; run: hf auth login" in capsys.readouterr().err
    assert not out.exists()
