import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from data.problem import DataError, SourceProblem
from data.prompts import PromptTemplate, render_prompt_ids
from launch.base import BaseConfig, make_base
from launch.cli import ConfigError, exit_code, load_config
from launch.sft import run, train_sft
from launch.sft_config import SftConfig
from launch.sft_rows import read_sft_rows
from launch.sft_trainer import ResponseHeadTrainer

TEMPLATE = "{context} {question}"
ROW = {
    "context": "Kelora visited Oslo.",
    "question": "Which city did Kelora visit?",
    "chain_of_thought": "Since Kelora visited Oslo",
    "final_answer": "Therefore, the answer is Oslo",
}
CONFIGS = Path(__file__).parents[2] / "launch" / "configs"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    small = {"hidden_size": 32, "layers": 2, "heads": 2, "steps": 1, "threads": 1, "train_keys": 8, "held_out_keys": 8}
    return str(make_base(BaseConfig(out=str(tmp_path_factory.mktemp("sft") / "base"), **small))[0])


def _write(folder: Path, *rows: object) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _config(base: str, folder: Path, file: str, **sections: Mapping[str, Any]) -> SftConfig:
    return SftConfig.model_validate(
        {
            "model": {"path": base, "out": str(folder / "out"), "dtype": "float32", "device": "cpu"},
            "data": {"train": file, "template": TEMPLATE} | dict(sections.get("data", {})),
            "train": {
                "max_steps": 3,
                "batch_size": 4,
                "micro_batch_size": 2,
                "lr": 1e-2,
                "log_every": 1,
                "threads": 1,
                "gradient_checkpointing": False,
            }
            | dict(sections.get("train", {})),
            "lora": dict(sections.get("lora", {})),
        }
    )


def _rows(base: str, folder: Path, *rows: object, **data: Any) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(base)
    return tokenizer, read_sft_rows(tokenizer, _config(base, folder, _write(folder, *rows), data=data).data)


def test_the_prompt_is_the_rollouts_and_the_response_goes_on_after_the_opened_think_tag(base, tmp_path) -> None:
    tokenizer, rows = _rows(base, tmp_path, ROW)
    problem = SourceProblem(
        problem_id="", task="", context=ROW["context"], question=ROW["question"], answers=("-",), answer_type="text"
    )
    assert list(rows.prompts[0]) == render_prompt_ids(tokenizer, problem, PromptTemplate(TEMPLATE))
    assert tokenizer.decode(rows.prompts[0]).endswith("assistant\n<think>")
    expected = "\nSince Kelora visited Oslo\n</think>\n\nTherefore, the answer is Oslo<|im_end|>"
    assert tokenizer.decode(rows.responses[0]) == expected


def test_three_forms_of_the_same_row_give_the_same_tokens(base, tmp_path) -> None:
    question = f"{ROW['context']} {ROW['question']}"
    answer = f"<think>\n{ROW['chain_of_thought']}\n</think>\n\n{ROW['final_answer']}"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    _, rows = _rows(
        base,
        tmp_path,
        ROW,
        {"messages": turns},
        {"prompt": turns[:1], "completion": turns[1:]},
        {"prompt": question, "completion": answer},
    )
    assert len(set(rows.prompts)) == len(set(rows.responses)) == 1


def test_a_document_that_holds_placeholders_is_not_interpreted(base, tmp_path) -> None:
    row = ROW | {"chain_of_thought": "It says {final_answer}", "context": "See {question} and {chain_of_thought}."}
    tokenizer, rows = _rows(base, tmp_path, row)
    assert "See {question} and {chain_of_thought}. Which" in tokenizer.decode(rows.prompts[0])
    assert "It says {final_answer}\n" in tokenizer.decode(rows.responses[0])


def test_long_rows_are_dropped_whole_and_counted(base, tmp_path) -> None:
    long_prompt = ROW | {"context": "Oslo " * 100}
    long_response = ROW | {"chain_of_thought": "Oslo " * 100}
    _, rows = _rows(base, tmp_path, ROW, long_prompt, long_response, max_prompt_tokens=80, max_response_tokens=60)
    assert (len(rows.prompts), rows.num_long_prompts, rows.num_long_responses) == (1, 1, 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "hello"}, "rows.jsonl:1: seen columns text"),
        ([1], "rows.jsonl:1: seen list"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "end with the assistant's turn"),
        ({"messages": "hello"}, "messages"),
        ({"prompt": [{"role": "user"}], "completion": "x"}, "a turn has a role and a content"),
        (ROW | {"final_answer": " "}, "final_answer: seen ' '"),
    ],
)
def test_an_unusable_row_names_file_line_and_column(base, tmp_path, row, message) -> None:
    with pytest.raises(DataError, match=message):
        _rows(base, tmp_path, row)


def test_nothing_left_to_train_on_is_refused(base, tmp_path) -> None:
    with pytest.raises(DataError, match="none of 1 rows fits max_prompt_tokens=5"):
        _rows(base, tmp_path, ROW, max_prompt_tokens=5)


def _many(folder: Path) -> str:
    cities = ["Oslo", "Lima", "Rome", "Bern"] * 3
    return _write(folder, *({k: v.replace("Oslo", city) for k, v in ROW.items()} for city in cities))


def test_the_same_seed_trains_the_same_model_and_says_what_it_did(base, tmp_path, capsys) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        summary = train_sft(_config(base, tmp_path / name, _many(tmp_path), train={"seed": seed}))
        weights.append((tmp_path / name / "out" / "model.safetensors").read_bytes())
        assert [p.name for p in (tmp_path / name).iterdir()] == ["out"]
    assert weights[0] == weights[1] != weights[2]
    assert summary["num_rows"] == 12 and list(summary["loss"]) == ["1", "2", "3"]
    assert summary["loss"]["3"] < summary["loss"]["1"]
    assert json.loads((tmp_path / "c" / "out" / "sft.json").read_text(encoding="utf-8")) == summary
    assert "sft: 12 rows; dropped 0" in capsys.readouterr().out
    AutoTokenizer.from_pretrained(tmp_path / "c" / "out")


def test_lora_is_merged_into_the_saved_model(base, tmp_path) -> None:
    train_sft(_config(base, tmp_path, _many(tmp_path), lora={"rank": 4}))
    before = load_file(f"{base}/model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(".self_attn." in name or ".mlp." in name for name in changed)


def test_the_cheap_head_has_trls_own_loss_and_gradient(base, tmp_path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = torch.arange(20, 44).view(2, 12)
    labels = ids.clone()
    labels[0, :5], labels[1, :8], labels[1, 11:] = -100, -100, -100
    results = []
    for trainer_class in (SFTTrainer, ResponseHeadTrainer):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        arguments = SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            report_to="none",
            bf16=False,
            max_length=None,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})
        trainer = trainer_class(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        inputs = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
        loss = trainer.compute_loss(model, inputs, num_items_in_batch=torch.tensor(20))
        loss.backward()
        results.append((loss.detach(), model.model.layers[0].mlp.up_proj.weight.grad))
    (own, own_grad), (cheap, cheap_grad) = results
    torch.testing.assert_close(cheap, own)
    torch.testing.assert_close(cheap_grad, own_grad)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "model.path: empty; it is needed"),
        (
            ["--model.path", "/nowhere", "--model.out", "o", "--data.train", "t"],
            "model.path: '/nowhere' cannot be loaded",
        ),
        (["--train.micro_batch_size", "3"], "does not divide"),
        (["--train.warmup_step", "1"], "did you mean train.warmup_steps?"),
    ],
)
def test_a_bad_configuration_is_one_line_and_exit_2(capsys, words, message) -> None:
    if words and words[0].startswith("--train"):
        words = [*words, "--model.path", "m", "--model.out", "o", "--data.train", "t"]
    assert exit_code(run, words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_missing_data_file_is_named(base, tmp_path) -> None:
    with pytest.raises(DataError, match=r"data.train: there is no file '.*absent.jsonl'"):
        train_sft(_config(base, tmp_path, str(tmp_path / "absent.jsonl")))


def test_a_tokenizer_larger_than_the_embedding_is_refused(base, tmp_path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<one more>"])
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="name a model with its own tokenizer"):
        train_sft(_config(str(tmp_path / "model"), tmp_path, _many(tmp_path)))


@pytest.mark.parametrize("name", ["demo_sft", "sft_r1_distill_1_5b"])
def test_the_shipped_configurations_are_valid(name) -> None:
    config = load_config(SftConfig, [str(CONFIGS / f"{name}.toml")], prog="python -m launch.sft").config
    assert config.data.max_prompt_tokens in (160, 20_000)  # the first window of the RL configuration that follows


def test_a_folder_that_is_no_sft_model_is_not_replaced(tmp_path, capsys) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    words = ["--model.path", "m", "--model.out", str(out), "--data.train", "d.jsonl"]
    assert exit_code(run, words) == 2
    assert f"model.out: {out} exists" in capsys.readouterr().err
    assert out.is_dir()
