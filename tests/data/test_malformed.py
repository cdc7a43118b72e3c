"""Files that are wrong in one way each, with the line that must come out."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.problem import DataError
from data.readers import read_problems
from tests.data.test_readers_jsonl import OURS
from tests.data.test_readers_verl import row

NAN = float("nan")


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


def without(name: str, **more: object) -> dict:
    return {**{key: value for key, value in OURS.items() if key != name}, **more}


BAD_JSONL = {
    "missing column": (lines(OURS, without("answers")), ["a:2: answers: missing", "--columns answers=NAME"]),
    "renamed column": (lines(without("answers", anwsers=["x"])), ["a:1: answers: missing", "did you mean 'anwsers'"]),
    "wrong type": (lines({**OURS, "context": ["p1", "p2"]}), ["a:1: context: seen list", "must be a string"]),
    "empty context": (lines({**OURS, "context": " \n"}), ["a:1: context: seen ' \\n', which is blank"]),
    "empty question": (lines({**OURS, "question": ""}), ["a:1: question: seen '', which is blank"]),
    "no golds": (lines({**OURS, "answers": []}), ["a:1: answers: seen an empty list"]),
    "blank gold": (lines({**OURS, "answers": ["x", " "]}), ["a:1: answers: seen str ' '"]),
    "null gold": (lines({**OURS, "answers": [None]}), ["a:1: answers: seen NoneType None"]),
    "boolean gold": (lines({**OURS, "answers": True}), ["a:1: answers: seen bool True"]),
    "NaN gold": (lines({**OURS, "answers": NAN}), ["a:1: answers: seen nan", "finite number"]),
    "unknown type": (lines({**OURS, "answer_type": "numbr"}), ["a:1: answer_type: seen 'numbr'", "mean 'number'"]),
    "gap in options": (lines({**OURS, "options": {"A": "u", "C": "v"}}), ["a:1: options: seen keys", "without a gap"]),
    "duplicate id": (lines(OURS, {**OURS, "context": "other"}), ["a:2: problem_id: seen 'p1' again, first in row 1"]),
    "invalid UTF-8": (lines(OURS) + b'{"id": "\xe9"}\n', ["a:2: line: seen byte 0xe9 at byte 8", "UTF-8"]),
    "lone surrogate": (b'{"id": "\\ud800"}\n', ["a:1: line: invalid JSON"]),
    "invalid JSON": (lines(OURS) + b'{"id": ', ["a:2: line: invalid JSON", "one whole JSON object"]),
    "an array": (b"[1, 2]\n", ["a:1: line: seen list [1, 2]", "one JSON object"]),
    "zero rows": (b"\n\n", ["a: no rows"]),
    "empty file": (b"", ["a: no rows"]),
    "truncated gzip": (gzip.compress(lines(OURS))[:-12], ["broken gzip", "write the file again"]),
    "broken gzip": (gzip.compress(lines(OURS))[:-8] + b"12345678", ["a:2: broken gzip"]),
}

BAD_VERL = {
    "no ground_truth": ([{**row(), "reward_model": {"groundtruth": "x"}}], ["a:1: reward_model.ground_truth: missing, the struct has groundtruth", "did you mean 'groundtruth'"]),
    "missing column": ([{k: v for k, v in row().items() if k != "data_source"}], ["a: data_source: missing, the columns are prompt"]),
    "renamed column": ([{"promt" if k == "prompt" else k: v for k, v in row().items()}], ["a: prompt: missing", "did you mean 'promt'"]),
    "prompt as text": ([{**row(), "prompt": "<text>d</text>q"}], ["a:1: prompt: seen str", "list of {role, content}"]),
    "two user turns": ([{**row(), "prompt": row()["prompt"] * 2}], ["a:1: prompt: seen turns: user, user"]),
    "empty prompt": ([{**row(), "prompt": [{"role": "user", "content": ""}]}], ["a:1: prompt.content: seen ''"]),
    "no turns": ([row(), {**row(), "prompt": []}], ["a:2: prompt: seen turns: no turns"]),
    "no tags": ([{**row(), "prompt": [{"role": "user", "content": "What?"}]}], ["a:1: prompt.content: seen no <text>"]),
    "empty document": ([row(), row("")], ["a:2: prompt.content (between <text> and </text>): seen ''"]),
    "no question": ([row(question=" ")], ["a:1: prompt.content: seen no question"]),
    "null gold": ([row(), row(gold=None)], ["a:2: reward_model.ground_truth: seen NoneType None"]),
    "NaN gold": ([row(gold=NAN)], ["a:1: reward_model.ground_truth: seen nan"]),
    "nothing after the answer is": ([row(gold="the answer is ")], ["a:1: reward_model.ground_truth: seen str ''"]),
    "duplicate id": ([row(extra={"id": "u"}), row("b", extra={"id": "u"})], ["a:2: extra_info.id: seen 'u' again"]),
    "extra_info as text": ([{**row(), "extra_info": "x"}], ["a:1: extra_info: seen str 'x'"]),
}  # fmt: skip


def refusal(path: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        list(read_problems(path, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "a")


@pytest.mark.parametrize("name", BAD_JSONL)
def test_a_malformed_jsonl_file_is_refused_in_one_line(tmp_path, name):
    content, expected = BAD_JSONL[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    message = refusal(path)
    for part in expected:
        assert part in message


@pytest.mark.parametrize("name", BAD_VERL)
def test_a_malformed_parquet_file_is_refused_in_one_line(tmp_path, name):
    rows, expected = BAD_VERL[name]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    message = refusal(path)
    for part in expected:
        assert part in message


def test_parquet_without_rows_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([row()]).slice(0, 0), path)
    assert "a: no rows" in refusal(path)


def test_parquet_that_is_none_or_cut_short_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"not parquet at all")
    assert "a: unreadable parquet" in refusal(path)
    pq.write_table(pa.Table.from_pylist([row()]), path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "a: unreadable parquet" in refusal(path)


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.Table.from_pylist([row()])
    broken = pa.array([b"\xff\xfe"]).view(pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("data_source"), "data_source", broken), path)
    assert "a:1: data_source: seen bytes that are not UTF-8" in refusal(path)


def test_paths_formats_and_fields_that_do_not_exist_are_refused_before_reading(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(lines(OURS))
    with pytest.raises(DataError, match=r"no such file; did you mean 'train.jsonl'"):
        read_problems(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="is a directory"):
        read_problems(tmp_path)
    with pytest.raises(DataError, match="format 'jsnl' is not known; did you mean 'jsonl'"):
        read_problems(path, source_format="jsnl")
    with pytest.raises(DataError, match="jsonl has no such field; did you mean 'answers'"):
        read_problems(path, columns={"answrs": "gold"})
