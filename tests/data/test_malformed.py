"""Sources that are wrong in one way each, and the one line that `data.prepare` must say about each."""

import gzip
import io
import json
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data.prepare
from data import read_jsonl
from data.problem import DataError
from data.readers import read_problems
from tests.data.test_readers_jsonl import OURS
from tests.data.test_readers_longbench import V1, V2
from tests.data.test_readers_trl import TRL
from tests.data.test_readers_verl import row
from tests.data.tokenizers import word_tokenizer

NAN, INFINITY = float("nan"), float("inf")
MILLION = 1_000_000


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in rows).encode()


def without(name: str, base: dict = OURS, **more: object) -> dict:
    return {**{key: value for key, value in base.items() if key != name}, **more}


def parquet(*rows: dict) -> bytes:
    return table_bytes(pa.Table.from_pylist(list(rows)))


def table_bytes(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def not_utf8_table() -> bytes:
    table = pa.Table.from_pylist([row()])
    broken = pa.array([b"\xff\xfe"]).view(pa.string())
    return table_bytes(table.set_column(table.schema.get_field_index("data_source"), "data_source", broken))


def damaged_page() -> bytes:
    """A parquet file with one bit of its document flipped; the page's checksum tells."""
    content = bytearray(
        table_bytes(
            pa.Table.from_pylist([{**OURS, "context": "needle" * 50}]),
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
    )
    content[content.index(b"needleneedle")] ^= 1
    return bytes(content)


def wrong_checksum() -> bytes:
    return gzip.compress(lines(OURS))[:-8] + b"12345678"


PLAIN = {
    "missing column": (lines(OURS, without("answers")), ["a:2: answers: missing, the row has problem_id, task", "--columns answers=NAME"]),
    "renamed column": (lines(without("answers", anwsers=["x"])), ["a:1: answers: missing", "did you mean 'anwsers'? rename it"]),
    "column named with a line break": (lines(without("answers", **{"an\nswers": "x"})), ["a:1: answers: missing", r"'an\nswers'", "rename it"]),
    "no id": (lines(without("problem_id")), ["a:1: problem_id: missing", "--columns problem_id=NAME"]),
    "wrongly typed context": (lines({**OURS, "context": ["p1", "p2"]}), ["a:1: context: seen list ['p1', 'p2']", "it must be a string"]),
    "wrongly typed question": (lines({**OURS, "question": 7}), ["a:1: question: seen int 7", "it must be a string"]),
    "wrongly typed task": (lines({**OURS, "task": {"name": "t"}}), ["a:1: task: seen dict", "it must be a string"]),
    "wrongly typed id": (lines({**OURS, "problem_id": 1.5}), ["a:1: problem_id: seen float 1.5", "it must be a string"]),
    "null context": (lines({**OURS, "context": None}), ["a:1: context: seen NoneType None", "it must be a string"]),
    "empty context": (lines({**OURS, "context": " \n"}), ["a:1: context: seen ' \\n', which is blank", "fill it or remove the row"]),
    "empty question": (lines({**OURS, "question": ""}), ["a:1: question: seen '', which is blank", "fill it or remove the row"]),
    "empty id": (lines({**OURS, "problem_id": " "}), ["a:1: problem_id: seen ' ', which is blank", "fill it"]),
    "no golds": (lines({**OURS, "answers": []}), ["a:1: answers: seen an empty list", "give at least one accepted answer"]),
    "blank gold": (lines({**OURS, "answers": ["x", " "]}), ["a:1: answers: seen str ' '", "must be a non-blank string or a number"]),
    "null golds": (lines({**OURS, "answers": None}), ["a:1: answers: seen NoneType None", "must be a non-blank string or a number"]),
    "null among golds": (lines({**OURS, "answers": ["x", None]}), ["a:1: answers: seen NoneType None", "must be a non-blank string or a number"]),
    "nested golds": (lines({**OURS, "answers": [["x"]]}), ["a:1: answers: seen list ['x']", "must be a non-blank string or a number"]),
    "golds in an object": (lines({**OURS, "answers": {"text": ["x"]}}), ["a:1: answers: seen dict", "must be a non-blank string or a number"]),
    "boolean gold": (lines({**OURS, "answers": True}), ["a:1: answers: seen bool True", "must be a non-blank string or a number"]),
    "NaN gold": (lines({**OURS, "answers": NAN}), ["a:1: answers: seen nan", "a gold must be a finite number"]),
    "infinite gold": (lines({**OURS, "answers": [-INFINITY]}), ["a:1: answers: seen -inf", "a gold must be a finite number"]),
    "gold beyond all floats": (lines({**OURS, "answers": 0}).replace(b": 0,", b": 1e999,"), ["a:1: answers: seen inf", "a gold must be a finite number"]),
    "gold that lost digits": (lines({**OURS, "answers": 3 * 10**30}), ["a:1: answers: seen 3e+30, which lost digits", "write it as a string"]),
    "unknown answer type": (lines({**OURS, "answer_type": "numbr"}), ["a:1: answer_type: seen 'numbr'", "did you mean 'number'? allowed: text"]),
    "wrongly typed answer type": (lines({**OURS, "answer_type": 3}), ["a:1: answer_type: seen int 3", "it must be a string"]),
    "options as text": (lines({**OURS, "options": "A, B"}), ["a:1: options: seen str 'A, B'", "give a list of strings, A first"]),
    "gap in options": (lines({**OURS, "options": {"A": "u", "C": "v"}}), ["a:1: options: seen keys ['A', 'C']", "without a gap"]),
    "blank option": (lines({**OURS, "options": ["u", ""]}), ["a:1: options[1]: seen '', which is blank", "fill it"]),
    "duplicate id": (lines(OURS, {**OURS, "context": "other"}), ["a:2: problem_id: seen 'p1' again, first in row 1", "rename or remove one"]),
    "duplicate id under an alias": (lines(without("problem_id", id=7), without("problem_id", id="7")), ["a:2: id: seen '7' again, first in row 1", "rename or remove one"]),
    "mixed formats": (lines(OURS, row()), ["a:2: columns: seen data_source, prompt, ability", "a row of format verl in a source read as plain", "write one format a source"]),
    "two formats at once": (lines({**OURS, **row()}), ["a:1: columns: seen problem_id, task", "fits the formats verl and plain", "pass --format"]),
    "no known format": (lines({"text": "t", "label": 1}), ["a:1: columns: seen text, label, which fits no format", "allowed: plain (context, question"]),
    "no columns": (lines({}), ["a:1: columns: seen nothing, which fits no format", "pass --format"]),
    "a hundred thousand columns": (lines(dict.fromkeys(map(str, range(100_000)))), ["a:1: columns: seen 0, 1, 2", "11, ..., which fits no format"]),
}  # fmt: skip

BYTES = {
    "invalid UTF-8": (lines(OURS) + b'{"id": "\xe9"}\n', ["a:2: line: seen byte 0xe9 at byte 8, which is not UTF-8", "re-encode the file as UTF-8"]),
    "Latin-1": (json.dumps({**OURS, "context": "né"}, ensure_ascii=False).encode("latin-1"), ["a:1: line: seen byte 0xe9", "re-encode"]),
    "UTF-16": (lines(OURS).decode().encode("utf-16"), ["a: seen UTF-16", "convert it to JSON Lines (UTF-8"]),
    "lone surrogate in JSON": (lines(OURS, {**OURS, "context": "\ud800"}), ["a:2: line: invalid JSON (", "one whole JSON object"]),
    "lone surrogate in bytes": (lines(OURS).replace(b"A doc.", b"\xed\xa0\x80"), ["a:1: line: seen byte 0xed", "re-encode the file as UTF-8"]),
    "lone surrogate beside NaN": (lines({**OURS, "context": "\ud800", "score": NAN}), ["a:1: context: seen '\\ud800' at character 0", "re-encode"]),
    "byte order mark and garbage": (b"\xef\xbb\xbf\xef\xbb\xbfgarbage\n", ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "byte order mark in the middle": (lines(OURS) + b"\xef\xbb\xbf" + lines(OURS), ["a:2: line: invalid JSON (", "one whole JSON object"]),
    "NUL bytes": (b"\0" * 4096, ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "half a row": (lines(OURS) + b'{"id": ', ["a:2: line: invalid JSON (", "one whole JSON object"]),
    "a comma after a row": (lines(OURS).strip() + b",\n", ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "Python instead of JSON": (repr(OURS).encode(), ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "CSV": (b"id,context,question\n1,c,q\n", ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "one object over many lines": (json.dumps(OURS, indent=1).encode(), ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "a JSON array over many lines": (json.dumps([OURS], indent=1).encode(), ["a:1: line: invalid JSON (", "write a JSON array's items one a line"]),
    "a JSON array on a line": (lines([OURS]), ["a:1: line: seen list [{", "must be one JSON object, not an array"]),
    "a bare value": (lines(OURS, 5), ["a:2: line: seen int 5", "must be one JSON object"]),
    "a million characters that are no JSON": (b"x" * MILLION, ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "a million characters of open string": (b'{"id": "' + b"x" * MILLION, ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "a million characters of brackets": (b"[" * MILLION, ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "a million brackets beside NaN": (b"[NaN," + b"[" * MILLION, ["a:1: line: invalid JSON (", "one whole JSON object"]),
    "a million characters where a list should be": (lines({**OURS, "options": "x" * MILLION}), ["a:1: options: seen str 'xxx", "(1000000 characters)", "give a list"]),
    "a list of a million items for a gold": (lines({**OURS, "answers": ["x", ["y"] * MILLION]}), ["a:1: answers: seen list ['y', 'y'", "non-blank string"]),
    "blank lines only": (b"\n \n\t\n", ["a: no rows", "at least one problem"]),
    "empty file": (b"", ["a: no rows", "at least one problem"]),
    "a byte order mark only": (b"\xef\xbb\xbf", ["a: no rows", "at least one problem"]),
}  # fmt: skip

GZIP = {
    "truncated gzip": (gzip.compress(lines(OURS))[:-12], ["a:1: broken gzip (", "fetch or write the file again"]),
    "gzip cut in its header": (gzip.compress(lines(OURS))[:5], ["a:1: broken gzip (", "fetch or write the file again"]),
    "gzip with a wrong checksum": (wrong_checksum(), ["a:2: broken gzip (", "fetch or write the file again"]),
    "gzip damaged inside": (gzip.compress(lines(OURS))[:12] + b"\xff" * 80, ["a:1: broken gzip (", "fetch or write the file again"]),
    "gzip of no rows": (gzip.compress(b""), ["a: no rows", "at least one problem"]),
    "gzip with a bad row": (gzip.compress(lines(OURS, without("question"))), ["a:2: question: missing", "rename it"]),
    "zlib without gzip": (zlib.compress(lines(OURS)), ["a:1: line: ", "UTF-8"]),
    "a zip archive": (b"PK\x03\x04rest", ["a: seen a zip archive", "unpack or convert it"]),
    "zstd": (b"\x28\xb5\x2f\xfdrest", ["a: seen zstd", "unpack or convert it"]),
}  # fmt: skip

PARQUET = {
    "missing column": (parquet(without("data_source", row())), ["a:1: data_source: missing, the row has prompt", "--columns data_source=NAME"]),
    "renamed column": (parquet(without("prompt", row(), promt=row()["prompt"])), ["a:1: prompt: missing", "did you mean 'promt'? rename it"]),
    "prompt as text": (parquet({**row(), "prompt": "<text>d</text>q"}), ["a:1: prompt: seen str", "list of {role, content}"]),
    "prompt without roles": (parquet({**row(), "prompt": [{"content": "<text>d</text>q"}]}), ["a:1: prompt: seen list", "list of {role, content}"]),
    "two user turns": (parquet({**row(), "prompt": row()["prompt"] * 2}), ["a:1: prompt: seen turns: user, user", "it must hold one user turn"]),
    "empty prompt": (parquet({**row(), "prompt": [{"role": "user", "content": ""}]}), ["a:1: prompt.content: seen '', which is blank", "fill it"]),
    "no turns": (parquet(row(), {**row(), "prompt": []}), ["a:2: prompt: seen turns: no turns", "it must hold one user turn"]),
    "null prompt": (parquet(row(), {**row(), "prompt": None}), ["a:2: prompt: seen NoneType None", "list of {role, content}"]),
    "no tags": (parquet({**row(), "prompt": [{"role": "user", "content": "What?"}]}), ["a:1: prompt.content: seen no <text>", "write '<text> document </text> question'"]),
    "empty document": (parquet(row(), row("")), ["a:2: prompt.content (between <text> and </text>): seen ''", "fill it"]),
    "no question": (parquet(row(question=" ")), ["a:1: prompt.content: seen no question", "put the question after </text>"]),
    "wrong struct": (parquet({**row(), "reward_model": {"groundtruth": "x"}}), ["a:1: reward_model.ground_truth: missing, the struct has groundtruth", "did you mean 'groundtruth'?"]),
    "no struct": (parquet({**row(), "reward_model": "x"}), ["a:1: reward_model: seen str 'x'", "it must be a struct with ground_truth"]),
    "null gold": (parquet(row(), row(gold=None)), ["a:2: reward_model.ground_truth: seen NoneType None", "non-blank string or a number"]),
    "NaN gold": (parquet(row(gold=NAN)), ["a:1: reward_model.ground_truth: seen nan", "finite number"]),
    "infinite gold": (parquet(row(gold=INFINITY)), ["a:1: reward_model.ground_truth: seen inf", "finite number"]),
    "boolean gold": (parquet(row(gold=False)), ["a:1: reward_model.ground_truth: seen bool False", "non-blank string or a number"]),
    "nested golds": (parquet(row(gold=[["x"]])), ["a:1: reward_model.ground_truth: seen list ['x']", "non-blank string or a number"]),
    "nothing after the answer is": (parquet(row(gold="the answer is ")), ["a:1: reward_model.ground_truth: seen str ''", "non-blank string"]),
    "unknown answer type": (parquet(row(extra={"answer_type": "choise"})), ["a:1: extra_info.answer_type: seen 'choise'", "did you mean 'choice'?"]),
    "gap in options": (parquet(row(extra={"options": {"A": "u", "B": None, "C": "v"}})), ["a:1: extra_info.options: seen keys ['A', 'C']", "without a gap"]),
    "duplicate id": (parquet(row(extra={"id": "u"}), row("b", extra={"id": "u"})), ["a:2: extra_info.id: seen 'u' again, first in row 1", "rename or remove one"]),
    "extra_info as text": (parquet({**row(), "extra_info": "x"}), ["a:1: extra_info: seen str 'x'", "it must be a struct or null"]),
    "own columns, missing one": (parquet(without("question")), ["a:1: question: missing, the row has problem_id", "--columns question=NAME"]),
    "own columns, wrong type": (parquet({**OURS, "context": 5}), ["a:1: context: seen int 5", "it must be a string"]),
    "own columns, null golds": (parquet(OURS, {**OURS, "problem_id": "p2", "answers": None}), ["a:2: answers: seen NoneType None", "non-blank string"]),
    "own columns, duplicate id": (parquet(OURS, OURS), ["a:2: problem_id: seen 'p1' again, first in row 1", "rename or remove one"]),
    "no known format": (parquet({"tokens": [1, 2]}), ["a:1: columns: seen tokens, which fits no format", "allowed: plain ("]),
    "zero rows": (table_bytes(pa.Table.from_pylist([row()]).slice(0, 0)), ["a: no rows", "at least one problem"]),
    "text that is not UTF-8": (not_utf8_table(), ["a:1: data_source: seen bytes that are not UTF-8", "write the file again"]),
    "truncated parquet": (parquet(row())[:-20], ["a: unreadable parquet (", "write the file again"]),
    "parquet cut in the middle": (parquet(row())[:200], ["a: unreadable parquet (", "write the file again"]),
    "damaged page": (damaged_page(), ["a: unreadable parquet (", "write the file again"]),
    "no parquet": (lines(OURS), ["a: unreadable parquet (", "write the file again"]),
    "empty file": (b"", ["a: unreadable parquet (", "write the file again"]),
}  # fmt: skip

TRAINER = {
    "trl without a gold": (lines(without("answer", TRL)), ["a:1: answers: missing, the row has prompt", "--columns answers=NAME"]),
    "trl with a misspelt gold": (lines(without("answer", TRL, refrence="x")), ["a:1: answers: missing", "rename it or pass --columns answers=NAME"]),
    "trl with a null gold": (lines({**TRL, "answer": None}), ["a:1: answer: seen NoneType None", "non-blank string"]),
    "trl without a document": (lines({**TRL, "prompt": "Who?"}), ["a:1: prompt: seen no <text> ... </text> in 'Who?'", "give columns context and question"]),
    "trl with an empty prompt": (lines({**TRL, "prompt": " "}), ["a:1: prompt: seen ' ', which is blank", "fill it"]),
    "trl with a number for a prompt": (lines({**TRL, "prompt": 5}), ["a:1: prompt: seen int 5", "a string or a list of {role, content}"]),
    "trl with turns of text": (lines({**TRL, "prompt": ["Who?"]}), ["a:1: prompt: seen list ['Who?']", "list of {role, content}"]),
    "trl with an answer turn": (lines({**TRL, "prompt": [*row()["prompt"], {"role": "assistant", "content": "x"}]}), ["a:1: prompt: seen turns: user, assistant", "one user turn"]),
    "trl with an unknown answer type": (lines({**TRL, "answer_type": "?"}), ["a:1: answer_type: seen '?'", "allowed: text, number, choice, yesno"]),
    "trl with a duplicate id": (lines({**TRL, "id": 1}, {**TRL, "id": 1}), ["a:2: id: seen '1' again, first in row 1", "rename or remove one"]),
    "trl or LongBench": (lines({**V1, "prompt": "p"}), ["a:1: columns: seen input, context", "fits the formats trl and longbench", "pass --format"]),
    "LongBench without answers": (lines(without("answers", V1)), ["a:1: answers: missing, the row has input", "--columns answers=NAME"]),
    "LongBench with a renamed question": (lines(without("input", V1, inputs="q")), ["a:1: input: missing", "did you mean 'inputs'?"]),
    "LongBench that asks nothing": (lines({**V1, "dataset": "gov_report", "input": ""}), ["a:1: input: seen '', which is blank", "remove the row"]),
    "LongBench without a dataset": (lines(without("dataset", V1)), ["a:1: dataset: missing", "--columns task=NAME"]),
    "LongBench v2 with a choice too few": (lines(without("choice_C", V2)), ["a:1: choice_C: missing", "rename it"]),
    "LongBench v2 with a gold that is no letter": (lines({**V2, "answer": "E"}), ["a:1: answer: seen 'E'", "one of the letters A, B, C and D"]),
    "LongBench v2 with a duplicate id": (lines(V2, V2), ["a:2: _id: seen 'v2' again, first in row 1", "rename or remove one"]),
}  # fmt: skip


FOLDER = {
    "no such file": (None, ["a: no such file", "give the path of a data file"]),
    "folder without data": ({"README.md": b"# none"}, ["a: a folder without data", "*.jsonl"]),
    "shard with a bad row": ({"x1.jsonl": lines(OURS), "x2.jsonl": lines(without("question"))}, ["a/x2.jsonl:1: question: missing", "rename it"]),
    "shards that share an id": ({"x1.jsonl": lines(OURS), "x2.jsonl": b"\n" + lines(OURS)}, ["a/x2.jsonl:2: problem_id: seen 'p1' again, first in", "a/x1.jsonl:1; ids must be unique"]),
    "shards of two formats": ({"x1.jsonl": lines(OURS), "x2.parquet": parquet(row())}, ["a/x2.parquet:1: columns: seen data_source", "format verl in a source read as plain", "write one format"]),
    "shards of two splits": ({"train.jsonl": lines(OURS), "test.jsonl": lines(OURS)}, ["a: seen splits test, train", "name one, as in a@test"]),
    "empty shards": ({"x1.jsonl": b"", "x2.jsonl": b"\n"}, ["a: no rows", "at least one problem"]),
    "saved dataset without its files": ({"state.json": b'{"_data_files": [{"filename": "d.arrow"}]}', "dataset_info.json": b"{}"}, ["a/d.arrow: missing", "save the dataset again"]),
    "saved dataset with a broken list": ({"state.json": b'{"_data_files": 3}', "dataset_info.json": b"{}"}, ["a/state.json: _data_files: cannot be read (", "save the dataset again"]),
    "saved dataset with a damaged file": ({"state.json": b'{"_data_files": [{"filename": "d.arrow"}]}', "dataset_info.json": b"{}", "d.arrow": b"x" * 99}, ["a/d.arrow: unreadable Arrow file (", "write the file again"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def refused(tmp_path, capsys, tokenizer_dir):
    """Runs the command on a source that must be refused; its line, with the source called `a`."""

    def run(source: Path, *options: str) -> str:
        beside = tmp_path / "beside"
        beside.mkdir()
        out, cache = str(beside / "out"), str(tmp_path / "cache")
        arguments = [str(source), "--tokenizer", tokenizer_dir, "--out", out, "--cache", cache, *options]
        assert data.prepare.main(arguments) == 2
        assert list(beside.iterdir()) == []
        printed = capsys.readouterr()
        assert printed.out == ""
        line = printed.err.removesuffix("\n")
        assert "\n" not in line and line.isprintable()
        assert line.startswith("error: ")
        line = line.removeprefix("error: ").replace(str(source), "a")
        assert len(line) < 600
        return line

    return run


def check(line: str, expected: list[str]) -> None:
    assert line.startswith(expected[0])
    for part in expected[1:]:
        assert part in line


FILES = {
    f"{kind}: {name}": (file, content, expected)
    for kind, file, cases in (
        ("plain", "a.jsonl", PLAIN),
        ("bytes", "a.jsonl", BYTES),
        ("gzip", "a.jsonl.gz", GZIP),
        ("parquet", "a.parquet", PARQUET),
        ("trl or longbench", "a.jsonl", TRAINER),
    )
    for name, (content, expected) in cases.items()
}


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file_is_refused_in_one_line(tmp_path, refused, name):
    file, content, expected = FILES[name]
    (tmp_path / file).write_bytes(content)
    check(refused(tmp_path / file), expected)


@pytest.mark.parametrize("name", FOLDER)
def test_folders_that_are_wrong_are_refused(tmp_path, refused, name):
    files, expected = FOLDER[name]
    if files is not None:
        (tmp_path / "a").mkdir()
        for file, content in files.items():
            (tmp_path / "a" / file).write_bytes(content)
    check(refused(tmp_path / "a"), expected)


def test_a_line_over_the_limit_is_refused_before_it_fills_the_memory(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(read_jsonl, "MAX_LINE_BYTES", 1000)
    long = {**OURS, "problem_id": "p2", "context": "x" * 1000}
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(OURS, long)))
    check(refused(tmp_path / "a.jsonl.gz"), ["a:2: line: longer than 1000 bytes", "write one JSON object a line"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--columns", "answrs=gold"], "a: --columns answrs=...: plain has no such field; did you mean 'answers'?"),
        (["--columns", "answers=gold"], "a:1: gold: missing, the row has problem_id"),
        (["--columns", "options=chioces"], "a:1: chioces: missing, the row has problem_id"),
        (["--columns", "answers"], "--columns: seen 'answers'; write FIELD=NAME"),
        (["--format", "verl"], "a:1: columns: seen problem_id, task"),
    ],
)
def test_a_column_map_or_format_that_does_not_fit_is_refused(tmp_path, refused, options, expected):
    (tmp_path / "a.jsonl").write_bytes(lines(OURS))
    check(refused(tmp_path / "a.jsonl", *options), [expected])


def test_what_does_not_exist_is_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(lines(OURS))
    with pytest.raises(DataError, match=r"no such file; did you mean 'train.jsonl'"):
        read_problems(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="format 'plian' is not known; did you mean 'plain'"):
        read_problems(path, source_format="plian")
    with pytest.raises(DataError, match="plain has no such field; did you mean 'answers'"):
        read_problems(path, columns={"answrs": "gold"})
