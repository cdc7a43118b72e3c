"""The evaluation command on a two-layer model with random weights: what it writes, prints and refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from data.filters import AnswerableFilter
from data.prepare import prepare
from data.prepared import load_prepared
from data.problem import DataError, SourceProblem
from launch.cli import ConfigError, exit_code
from launch.eval import DECIDING_CODE, PROJECT, _result_path, code_fingerprint, run, unreliable
from launch.eval_config import EvalConfig
from launch.eval_figures import SuiteItem
from launch.eval_suites import Suite, fitted, load_suites
from rewards.types import Score
from rl.config import RewardSection
from rl.evaluate import EvaluatedItem
from rl.run_folder import VERSIONED_PACKAGES

TEMPLATE = "{% for m in messages %}<user>{{ m['content'] }}<end>{% endfor %}<assistant>"


def write_model(folder: Path) -> str:
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
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def problem(number: int, context: str, answer: str = "Ada") -> SourceProblem:
    return SourceProblem(
        problem_id=f"p{number}", task="t", context=context, question="Who?", answers=(answer,), answer_type="text"
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def suite(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two short problems, and one whose prompt is beyond the set's last window."""
    from transformers import AutoTokenizer

    problems = [problem(i, context) for i, context in enumerate(["Ada.", "It was Ada.", "Ada. " * 40])]
    folder = tmp_path_factory.mktemp("sets") / "suite"
    prepare(problems, AutoTokenizer.from_pretrained(model), folder, windows=(300,))
    return str(folder)


def evaluate_to(out: Path, model: str, suite: str, *words: str) -> int:
    few = ["--max_response_tokens", "8", "--engine", "transformers", "--threads", "1"]
    return exit_code(run, ["--model", model, "--suite", suite, "--out", str(out), *few, *words])


def read(path: Path) -> Any:
    return orjson.loads(path.read_bytes())


def test_every_problem_is_answered_greedily_and_sampled_and_written(
    model: str, suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_to(tmp_path / "new" / "first.json", model, suite) == 0
    first = read(tmp_path / "new" / "first.json")
    longest = max(p.num_prompt_tokens for p in load_prepared(suite).problems)
    assert longest > 300
    asked = [(item["problem_id"], item["decoding"], item["window"]) for item in first["items"]]
    assert sorted(asked) == [
        (name, decoding, longest if name == "p2" else 300)
        for name in ("p0", "p1", "p2")
        for decoding in ("greedy", "sampled")
    ]
    [whole] = [one for one in first["figures"] if one["decoding"] == "greedy" and one["window"] is None]
    assert (whole["accuracy"], whole["num_problems"], whole["num_invalid"]) == (0.0, 3, 0)  # random weights know nobody
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 3  # a heading; per decoding two windows and all

    assert evaluate_to(tmp_path / "second.json", model, suite) == 0
    assert read(tmp_path / "second.json")["items"] == first["items"]


def test_without_the_document_the_model_sees_none_and_the_file_names_what_it_answers(
    model: str, suite: str, tmp_path: Path
) -> None:
    [loaded] = load(suite)
    whole = [p for problems in loaded.chosen(None, seed=0).values() for p in problems]
    asked = fitted(loaded, whole, None, max_prompt_tokens=None, without_document=True)
    assert ({p.context for p in whole}, {fit.problem.context for fit in asked}) == (
        {"Ada.", "It was Ada.", "Ada. " * 40},
        {""},
    )

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
        (
            ["--suite", "hotpot"],
            "hotpot: no such file; give the path of a data file or folder, or a Hub id as owner/name; did you mean 'hotpotqa'?",
        ),
        (
            ["--suite", "hotpotqa", "--suite_dir", "."],
            "holds no hotpotqa.jsonl, hotpotqa.parquet or folder hotpotqa; put it there",
        ),
        (["--model", "absent"], "no tokenizer at 'absent'"),
        (["--max_response_tokens", "1000"], "max_position_embeddings 1024 <"),
        (["--judge_model", "m"], "judge_url, judge_model: judge model 'm' has no judge url"),
        (["--model_name", "m"], "model_name: seen 'm' with model"),
        (["--greedy", "false", "--sampled", "false"], "both are off; leave one on"),
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


def test_out_is_a_file_only_where_it_ends_in_json_and_a_place_that_cannot_be_is_told_in_a_line(tmp_path: Path) -> None:
    for out, result in (
        ("qwen2.5-7b", "qwen2.5-7b/result.json"),
        ("new/1.json", "new/1.json"),
        ("new", "new/result.json"),
    ):
        assert _result_path(str(tmp_path / out)) == tmp_path / result
    (tmp_path / "file").write_text("mine")
    for out in ("file", "file/x", "file/x/y.json"):
        with pytest.raises(ConfigError, match="cannot be made") as caught:
            _result_path(str(tmp_path / out))
        assert "\n" not in str(caught.value)


def test_changed_scoring_code_has_another_fingerprint_and_other_files_do_not(tmp_path: Path) -> None:
    scorer, notes = tmp_path / "rewards" / "rules" / "text.py", tmp_path / "rewards" / "notes.md"
    scorer.parent.mkdir(parents=True)
    scorer.write_text("1")
    before = code_fingerprint(tmp_path)
    notes.write_text("1")
    assert code_fingerprint(tmp_path) == before
    scorer.write_text("2")
    changed = code_fingerprint(tmp_path)
    scorer.rename(scorer.with_name("number.py"))
    assert len({before, changed, code_fingerprint(tmp_path)}) == 3
    assert {"sympy", "tokenizers", "peft"} <= set(VERSIONED_PACKAGES)
    own = {path for pattern in DECIDING_CODE for path in PROJECT.glob(pattern)}
    for name in ("data/prompts.py", "rewards/hybrid.py", "rewards/rules/number.py", "rl/rollout/vllm_engine.py"):
        assert PROJECT / name in own


def test_credentials_in_a_url_are_refused_in_a_runs_configuration_too_and_not_repeated() -> None:
    for url in ("http://ada:SECRET@host/v1", "https://SECRET@host:8000/v1", "http://ada:SEC[RET@host/v1"):
        with pytest.raises(ValidationError, match="give the key in LONGREACH_JUDGE_KEY") as caught:
            RewardSection(judge_url=url)
        assert "SEC" not in caught.value.errors()[0]["msg"]
    for url in ("", "http://127.0.0.1:8000/v1", "http://host/v1/@team"):
        assert RewardSection(judge_url=url).judge_url == url


def test_vllm_that_is_not_installed_is_the_machines_lack(
    model: str, suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own mark for a package that cannot be imported
    assert evaluate_to(tmp_path / "out.json", model, suite, "--engine", "vllm") == 3
    assert capsys.readouterr().err.startswith("error: engine: 'vllm' is not installed here; install longreach[gpu]")


def load(suite: str, windows: tuple[int, ...] = ()) -> list[Suite]:
    def no_tokenizer() -> Any:
        raise AssertionError("a prepared set's prompts are counted already")

    return load_suites([suite], suite_dir="", windows=windows, tokenizer=no_tokenizer, max_prompt_tokens=None)


def test_the_windows_of_a_prepared_set_gain_one_for_what_lies_beyond(suite: str) -> None:
    [loaded] = load(suite)
    longest = max(p.num_prompt_tokens for p in load_prepared(suite).problems)
    assert {high: len(problems) for high, problems in loaded.windows.items()} == {300: 2, longest: 1}
    assert list(load(suite, windows=(300,))[0].windows) == [300]


def item(value: float | None, failed: bool = False) -> SuiteItem:
    status = "ok" if value is not None else "infra_error"
    evaluated = EvaluatedItem(
        problem_id="p", task="a", window=100, decoding="greedy", sample=0, num_prompt_tokens=90,
        num_response_tokens=10, finish_reason=None if failed else "stop", response="r",
        score=Score(value=value, status=status, source="judge", answer="r"),
    )  # fmt: skip
    return SuiteItem(suite="s", num_cut_tokens=0, lenient=value, item=evaluated)


def test_figures_without_enough_valid_scores_are_called_unreliable() -> None:
    config = EvalConfig(model="m", suite=["s"], max_invalid_frac=0.25, judge_url="http://judge")
    assert unreliable([item(1.0), item(0.0), item(1.0), item(None)], config) == ""
    half = [item(1.0), item(0.0), item(None), item(None)]
    assert unreliable(half, config).startswith("2 of 4 answers have no valid score, over max_invalid_frac 0.25")
    assert "check the judge at http://judge" in unreliable(half, config)
    assert "check the model at m" in unreliable([item(None, failed=True)], config)


def test_the_runs_own_evaluation_and_the_command_tell_the_same_accuracies(tmp_path: Path) -> None:
    from rewards.hybrid import RuleScorer
    from rl.config import RunConfig
    from rl.held_out import evaluate_windows
    from rl.inputs import load_inputs
    from rl.rollout.transformers_engine import TransformersEngine
    from tests.rl.tiny_run import write_inputs

    config = RunConfig.model_validate(write_inputs(tmp_path))
    inputs = load_inputs(config)
    engine = TransformersEngine(config.model.path, dtype="float32", max_model_len=inputs.max_model_len, threads=1)
    scorer = RuleScorer(require_closed_think=True)
    evaluate_windows(engine, scorer, config, inputs, folder=tmp_path, name="sft", step=0)
    told = read(tmp_path / "evaluations" / "sft.json")["windows"]
    assert {told["24"]["num"], told["48"]["num"]} == {10}

    decoding = ["--temperature", str(config.rollout.temperature), "--top_p", str(config.rollout.top_p)]
    out, words = tmp_path / "eval.json", ["--windows", "24,48", "--problems_per_window", "10", *decoding]
    assert evaluate_to(out, config.model.path, config.data.test, *words, "--max_response_tokens", "10") == 0
    figures = {(one["decoding"], one["window"]): one["accuracy"] for one in read(out)["figures"]}
    assert {key: value for key, value in figures.items() if key[1]} == {
        (decoding, int(window)): told[window][decoding] for decoding in ("greedy", "sampled") for window in told
    }
    assert 0 < figures["greedy", None] < 1
