"""The evaluation command on a two-layer model with random weights: what it writes, prints and refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

from data.filters import AnswerableFilter
from data.prepare import prepare
from data.prepared import load_prepared
from data.problem import DataError, SourceProblem
from launch.cli import exit_code
from launch.eval import EvalConfig, by_window, run, table, unreliable
from rewards.types import Score
from rl.evaluate import EvaluatedItem, EvaluationResult

TEMPLATE = "{% for m in messages %}<user>{{ m['content'] }}<end>{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A byte-level tokenizer and a two-layer Llama of width 64."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<end>", "<user>", "<assistant>"]
    alphabet = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytewise = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="<end>", chat_template=TEMPLATE)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(alphabet), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def suite(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two short problems, and one whose prompt is beyond the set's last window."""
    from transformers import AutoTokenizer

    problems = [
        SourceProblem(
            problem_id=f"p{i}", task="t", context=context, question="Who?", answers=("Ada",), answer_type="text"
        )
        for i, context in enumerate(["Ada.", "It was Ada.", "Ada. " * 40])
    ]
    folder = tmp_path_factory.mktemp("sets") / "suite"
    prepare(problems, AutoTokenizer.from_pretrained(model), folder, windows=(300,))
    return str(folder)


def evaluate_to(out: Path, model: str, suite: str, *words: str) -> int:
    few = ["--max_response_tokens", "8", "--engine", "transformers", "--threads", "1"]
    return exit_code(run, ["--model", model, "--suite", suite, "--out", str(out), *few, *words])


def test_every_problem_is_answered_greedily_and_sampled_and_written(
    model: str, suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_to(tmp_path / "new" / "first.json", model, suite) == 0
    first = orjson.loads((tmp_path / "new" / "first.json").read_bytes())
    longest = max(p.num_prompt_tokens for p in load_prepared(suite).problems)
    assert longest > 300
    asked = [(item["problem_id"], item["decoding"], item["window"]) for item in first["items"]]
    assert sorted(asked) == [
        (name, decoding, longest if name == "p2" else 300)
        for name in ("p0", "p1", "p2")
        for decoding in ("greedy", "sampled")
    ]
    assert first["metrics"]["eval/greedy/all/accuracy"] == 0.0  # random weights know nobody
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 3  # a heading; per decoding two windows and all

    assert evaluate_to(tmp_path / "second.json", model, suite) == 0
    assert orjson.loads((tmp_path / "second.json").read_bytes())["items"] == first["items"]


def test_without_the_document_the_model_sees_none_and_the_file_names_what_it_answers(
    model: str, suite: str, tmp_path: Path
) -> None:
    for without_document, seen in ((True, {""}), (False, {"Ada.", "It was Ada.", "Ada. " * 40})):
        config = EvalConfig(model=model, suite=suite, without_document=without_document)
        windows = by_window(load_prepared(suite), config)
        assert {p.context for problems in windows.values() for p in problems} == seen
        assert len(windows) == 2  # by the length with the document, either way

    out = tmp_path / "out.json"
    assert evaluate_to(out, model, suite, "--without_document", "true") == 0
    result = orjson.loads(out.read_bytes())
    greedy = {item["response"] for item in result["items"] if item["decoding"] == "greedy"}
    assert len(greedy) == 1  # one question, and no document to tell the three problems apart

    result["items"][0] |= {"problem_id": "p1", "value": 1.0, "status": "ok"}
    out.write_bytes(orjson.dumps({**result, "items": result["items"][:1]}))
    problems = load_prepared(suite).problems
    assert [p.problem_id for p in problems if AnswerableFilter(out).reason(p)] == ["p1"]


def test_a_file_of_answers_with_the_document_is_no_list_of_what_needs_none(
    model: str, suite: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    assert evaluate_to(out, model, suite) == 0
    assert (
        len({item["response"] for item in orjson.loads(out.read_bytes())["items"] if item["decoding"] == "greedy"}) > 1
    )
    with pytest.raises(DataError, match="the model was shown the document there"):
        AnswerableFilter(out)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--windows", "10,300"], "holds no problem in the windows ending at [10]"),
        (["--windows", "300,200"], "must be positive token counts, each above the one before"),
        (["--suite", "absent"], "absent: no prepared set there"),
        (["--model", "absent"], "no tokenizer at 'absent'"),
        (["--max_response_tokens", "1000"], "max_position_embeddings 1024 <"),
        (["--judge_model", "m"], "judge_url, judge_model: judge model 'm' has no judge url"),
        (["--out", "."], "out: . is a folder; name a file"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(
    words: list[str], told: str, model: str, suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_to(tmp_path / "out.json", model, suite, *words) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert told in errors
    assert not (tmp_path / "out.json").exists()


def test_vllm_that_is_not_installed_is_the_machines_lack(
    model: str, suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own mark for a package that cannot be imported
    assert evaluate_to(tmp_path / "out.json", model, suite, "--engine", "vllm") == 3
    assert capsys.readouterr().err.startswith("error: engine: 'vllm' is not installed here; install longreach[gpu]")


def test_the_windows_of_the_suite_gain_one_for_what_lies_beyond(suite: str) -> None:
    prepared = load_prepared(suite)
    windows = by_window(prepared, EvalConfig(model="m", suite=suite))
    assert {high: len(problems) for high, problems in windows.items()} == {
        300: 2,
        max(p.num_prompt_tokens for p in prepared.problems): 1,
    }
    assert list(by_window(prepared, EvalConfig(model="m", suite=suite, windows=[300]))) == [300]


def item(value: float | None, task: str = "a") -> EvaluatedItem:
    status = "ok" if value is not None else "infra_error"
    return EvaluatedItem(
        problem_id="p", task=task, window=100, decoding="greedy", num_prompt_tokens=90, num_response_tokens=10,
        finish_reason="stop", response="r", score=Score(value=value, status=status, source="judge", answer="r"),
    )  # fmt: skip


def test_figures_without_enough_valid_scores_are_called_unreliable() -> None:
    config = EvalConfig(model="m", suite="s", max_invalid_frac=0.25, judge_url="http://judge")
    three_of_four = EvaluationResult(items=(item(1.0), item(0.0), item(1.0), item(None)))
    assert unreliable(three_of_four, config) == ""
    two_of_four = EvaluationResult(items=(item(1.0), item(0.0), item(None), item(None)))
    assert unreliable(two_of_four, config).startswith("2 of 4 answers have no valid score, over max_invalid_frac 0.25")


def test_the_table_shows_tasks_where_there_are_several() -> None:
    lines = table(EvaluationResult(items=(item(1.0), item(0.0, task="b")))).splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["all", "a", "b"]
    assert lines[2].split()[2:4] == ["2", "0.500"]
