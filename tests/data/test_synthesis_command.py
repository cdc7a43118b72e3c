import json

import pytest

from data.prompts import count_prompt_tokens
from data.readers import read_problems
from data.synthesis.__main__ import main
from tests.data.tokenizers import word_tokenizer


def _run(tmp_path, *words: str) -> int:
    return main([*words, "--out", str(tmp_path / "made.jsonl")])


def test_the_file_holds_count_rows_per_task_and_window_and_is_read_back(tmp_path, capsys) -> None:
    assert _run(tmp_path, "--task", "lookup,arithmetic", "--lengths", "100,150", "--count", "3") == 0
    problems = list(read_problems(tmp_path / "made.jsonl"))
    assert [p.task for p in problems] == ["lookup"] * 6 + ["arithmetic"] * 6
    assert len({p.problem_id for p in problems}) == 12
    assert [p.answer_type for p in problems] == ["text"] * 6 + ["number"] * 6
    assert "12 problems" in capsys.readouterr().out


def test_lengths_are_the_tokenizers_whole_prompt(tmp_path) -> None:
    word_tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert _run(tmp_path, "--tokenizer", str(tmp_path / "tokenizer"), "--lengths", "200", "--count", "4") == 0
    rows = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text(encoding="utf-8").splitlines()]
    problems = list(read_problems(tmp_path / "made.jsonl"))
    assert [row["num_prompt_tokens"] for row in rows] == count_prompt_tokens(word_tokenizer(), problems)
    assert all(len(p.context.split()) < row["num_prompt_tokens"] <= 200 for p, row in zip(problems, rows, strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lengths", "many"], "--lengths: seen 'many'"),
        (["--lengths", "200,100"], "windows: [200, 100]"),
        (["--lengths", "100", "--count", "0"], "--count: 0 is below 1"),
        (["--lengths", "100", "--task", "riddle"], "task: 'riddle' is not one of"),
        (["--lengths", "100", "--corpus", "/nowhere/at/all"], "--corpus /nowhere/at/all: not a folder"),
        (["--lengths", "100", "--tokenizer", "/nowhere/at/all"], "--tokenizer /nowhere/at/all: no tokenizer there"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(tmp_path, capsys, words, message) -> None:
    assert _run(tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
