"""Real data through the real command: every row as it went in, and the same bytes from its parquet twin."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.prepare
from data.fields import TYPE_NAMES
from data.prepared import PROBLEMS_FILE
from data.prompts import L1_TEMPLATE
from data.readers import read_problems
from tests.data.docqa import docqa
from tests.data.tokenizers import word_tokenizer

NUM_ROWS = {"docqa_train": 703, "docqa_dev": 55}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("docqa")
    word_tokenizer().save_pretrained(made / "tokenizer")
    return made


@pytest.fixture(scope="module", params=NUM_ROWS)
def rows_and_bytes(request, folder) -> tuple[list[dict], bytes]:
    """The raw rows, and what `data.prepare` makes of their file."""
    path = docqa(request.param)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert len(rows) == NUM_ROWS[request.param]
    return rows, prepared(path, folder, request.param)


def prepared(source: Path, folder: Path, name: str) -> bytes:
    out = folder / name
    # One cache for all: the twins' prompts are the originals', and are not counted again.
    arguments = ["--tokenizer", str(folder / "tokenizer"), "--out", str(out), "--cache", str(folder / "cache")]
    assert data.prepare.main([str(source), *arguments]) == 0
    return (out / PROBLEMS_FILE).read_bytes()


def verl_row(row: dict) -> dict:
    """The row in verl's columns. Its choices' options stand in its question, where both readers look."""
    content = L1_TEMPLATE.replace("{question}", row["question"]).replace("{context}", row["context"], 1)
    return {
        "data_source": row["source"],
        "prompt": [{"role": "user", "content": content}],
        "ability": "doc-qa",
        "reward_model": {"style": "rule", "ground_truth": row["answer"]},
        "extra_info": {"id": row["id"], "answer_type": row["answer_type"]},
    }


def trl_row(row: dict) -> dict:
    return {
        "prompt": verl_row(row)["prompt"],
        "solution": row["answer"],
        "answer_type": row["answer_type"],
        "task": row["source"],
        "id": row["id"],
    }


def test_every_row_keeps_its_gold_type_and_text(rows_and_bytes):
    rows, content = rows_and_bytes
    problems = [json.loads(line) for line in content.decode().split("\n") if line]
    assert len(problems) == len(rows)
    for row, problem in zip(rows, problems, strict=True):
        assert problem["problem_id"] == row["id"]
        assert problem["task"] == row["source"]
        assert problem["context"] == row["context"]
        assert problem["question"] == row["question"]
        assert problem["answers"] == row["answer"]
        assert problem["answer_type"] == TYPE_NAMES[row["answer_type"]]
        assert problem["num_prompt_tokens"] > 0
        if row["answer_type"] == "choice":
            assert problem["options"][ord(row["answer"][0]) - ord("A")] == row["meta"]["option_text"]
        else:
            assert problem["options"] == []


@pytest.mark.parametrize("twin_row", [verl_row, trl_row])
def test_the_parquet_twin_gives_the_same_bytes(rows_and_bytes, folder, twin_row):
    rows, content = rows_and_bytes
    twin = folder / f"{twin_row.__name__}-{len(rows)}.parquet"
    pq.write_table(pa.Table.from_pylist([twin_row(row) for row in rows]), twin)
    assert prepared(twin, folder, twin.stem) == content


def test_plain_parquet_gives_the_same_bytes(rows_and_bytes, folder):
    rows, content = rows_and_bytes
    twin = folder / f"plain-{len(rows)}.parquet"
    columns = ("id", "source", "context", "question", "answer", "answer_type")
    pq.write_table(pa.Table.from_pylist([{name: row[name] for name in columns} for row in rows]), twin)
    assert prepared(twin, folder, twin.stem) == content


def test_verl_rows_without_id_and_type_keep_document_question_and_gold(rows_and_bytes, tmp_path):
    rows, _ = rows_and_bytes
    bare = [
        verl_row(row)
        | {
            "reward_model": {"style": "rule", "ground_truth": f"the answer is {row['answer'][0]}"},
            "extra_info": {"index": i},
        }
        for i, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(bare), tmp_path / "bare.parquet")
    for row, problem in zip(rows, read_problems(tmp_path / "bare.parquet"), strict=True):
        assert (problem.context, problem.question) == (row["context"], row["question"])
        assert problem.answers == (row["answer"][0],)
