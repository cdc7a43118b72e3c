import json
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data.columns import columns_of
from data.prepare import prepare
from data.prepared import load_prepared
from data.problem import DataError, Problem, SourceProblem
from data.prompts import CUT_MARK, Cut
from data.stored_problems import CutProblems, SelectedProblems
from tests.data.tokenizers import byte_tokenizer

TASKS = ["lookup", "ordre ő", "chain"]


def source(i: int) -> SourceProblem:
    return SourceProblem(
        problem_id=f"p{i}-é" if i % 3 else f"{i}",
        task=TASKS[i % 3],
        context=f"Document {i} 長い\n" * (i % 7 + 1),
        question="Which?",
        answers=("x", "y\u2028z"),
        answer_type="text",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "set"
    prepare(map(source, range(40)), byte_tokenizer(), folder)
    return folder


@pytest.fixture
def problems(folder):
    return load_prepared(folder).problems


def test_problems_are_a_sequence_like_any_other(problems):
    everything = list(problems)
    assert len(problems) == len(everything) == 40
    assert [p.problem_id for p in everything] == [source(i).problem_id for i in range(40)]
    assert all(type(p) is Problem for p in everything)
    assert problems[7] == everything[7] and problems[-1] == everything[-1] and problems[np.int32(3)] == everything[3]
    for cut in (slice(2, 9), slice(None, None, -3), slice(50, 60), slice(-5, None)):
        assert list(problems[cut]) == everything[cut]
    assert everything[5] in problems
    assert list(reversed(problems)) == everything[::-1]
    for beyond in (40, -41):
        with pytest.raises(IndexError):
            problems[beyond]


def test_the_columns_are_those_of_the_problems_themselves(problems):
    for lazy in (problems, problems[5:20:2], SelectedProblems(problems, np.array([9, 3, 30])), problems[:0]):
        own, counted = columns_of(lazy), columns_of(list(lazy))
        assert own is lazy.columns
        assert list(own.problem_ids) == list(counted.problem_ids)
        assert own.num_prompt_tokens.tolist() == counted.num_prompt_tokens.tolist()
        assert own.tasks == counted.tasks
        assert own.task_codes.tolist() == counted.task_codes.tolist()


def test_ids_are_taken_right_across_the_blocks_they_are_copied_in(monkeypatch):
    monkeypatch.setattr("data.columns._ROWS_AT_A_TIME", 3)
    from data.columns import PackedStrings

    strings = ["", "a", "bcd", "é" * 4, "", "長い", "x"]
    positions = [5, 0, 0, 3, 6, 2, 4, 1, 5]
    assert list(PackedStrings.pack(strings).take(np.array(positions))) == [strings[i] for i in positions]


def test_a_cut_problem_is_cut_each_time_it_is_read(problems):
    cuts = {6: Cut(head=3, tail=90, num_prompt_tokens=50)}
    lazy = CutProblems(problems, cuts)
    whole = problems[6]
    assert lazy[6].context == whole.context[:3] + CUT_MARK + whole.context[90:]
    assert (lazy[6].question, lazy[6].num_prompt_tokens) == (whole.question, 50)
    assert lazy.columns.num_prompt_tokens[6] == 50 and problems.columns.num_prompt_tokens[6] != 50
    assert [p for i, p in enumerate(lazy) if i != 6] == [p for i, p in enumerate(problems) if i != 6]


def read_ids(problems) -> list[str]:
    return [p.problem_id for p in problems]


def test_threads_and_processes_read_side_by_side(problems):
    expected = read_ids(problems)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_ids, [problems] * 8)) == [expected] * 8
    copy = pickle.loads(pickle.dumps(problems[3:]))  # noqa: S301 -- our own bytes
    assert read_ids(copy) == expected[3:]
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        assert processes.apply(read_ids, (problems,)) == expected


def test_a_forked_reader_does_not_move_its_parents_place(problems):
    reading = iter(problems)
    first = next(reading)
    child = os.fork()
    if child == 0:
        os._exit(0 if read_ids(reading) == [source(i).problem_id for i in range(1, 40)] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [first.problem_id, *read_ids(reading)] == [source(i).problem_id for i in range(40)]


def test_a_set_that_is_replaced_stays_readable_for_who_has_it_open(tmp_path):
    prepare([source(1)], byte_tokenizer(), tmp_path / "s")
    old = load_prepared(tmp_path / "s").problems
    prepare([source(2)], byte_tokenizer(), tmp_path / "s")
    assert old[0].problem_id == source(1).problem_id
    assert load_prepared(tmp_path / "s").problems[0].problem_id == source(2).problem_id


@pytest.fixture
def copy(tmp_path):
    prepare(map(source, range(3)), byte_tokenizer(), tmp_path / "s")
    return tmp_path / "s"


def test_a_row_damaged_after_the_set_was_opened_is_named(copy):
    problems = load_prepared(copy).problems
    file = copy / "problems.jsonl"
    content = file.read_bytes()
    start = content.index(b"\n") + 1
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(b"xx")
    assert problems[0].problem_id == "0"
    with pytest.raises(DataError, match=r"problems.jsonl:2: line: Invalid JSON.*; run python -m data.prepare again"):
        problems[1]
    with file.open("r+b") as stream:
        stream.truncate(len(content) - 5)
    with pytest.raises(DataError, match=r"problems.jsonl:3: line: Invalid JSON"):
        problems[2]


def test_a_changed_or_missing_column_file_is_refused(copy):
    file = copy / "columns.npz"
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"columns.npz: sha256 .* the file was changed, run python -m data.prepare"):
        load_prepared(copy)
    file.unlink()
    with pytest.raises(DataError, match=r"columns.npz: missing from the prepared set"):
        load_prepared(copy)


def test_a_column_file_that_lies_is_refused(copy):
    import hashlib

    file, manifest = copy / "columns.npz", copy / "manifest.json"
    said, arrays = json.loads(manifest.read_text()), dict(np.load(file))

    def refusal(**changed) -> str:
        with file.open("wb") as stream:
            np.savez(stream, **{name: a for name, a in (arrays | changed).items() if a is not None})
        manifest.write_text(json.dumps(said | {"columns_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}))
        with pytest.raises(DataError) as caught:
            load_prepared(copy)
        assert "\n" not in str(caught.value) and str(caught.value).endswith("run python -m data.prepare again")
        return str(caught.value)

    assert "columns.npz: no column file" in refusal(ids=None)
    assert "columns.npz: no column file" in refusal(ids=np.array([{}], dtype=object))
    assert "num_prompt_tokens: seen float64 [3]" in refusal(num_prompt_tokens=np.zeros(3))
    assert "task_codes: 2 values, line_ends has 3" in refusal(task_codes=arrays["task_codes"][:2])
    assert "task_codes: must be positions" in refusal(task_codes=arrays["task_codes"] + np.int32(1))
    assert "id_ends: must rise" in refusal(id_ends=arrays["id_ends"][::-1].copy())
    assert "line_ends: must rise" in refusal(line_ends=arrays["line_ends"] - arrays["line_ends"][0] - 1)
    assert "problems.jsonl: 3 problems in" in refusal(line_ends=arrays["line_ends"] + 1)
    file.write_bytes(b"PK")
    manifest.write_text(json.dumps(said | {"columns_sha256": hashlib.sha256(b"PK").hexdigest()}))
    with pytest.raises(DataError, match=r"columns.npz: no column file"):
        load_prepared(copy)


def test_a_set_of_an_older_form_is_refused_by_that_name(copy):
    manifest = copy / "manifest.json"
    said = json.loads(manifest.read_text())
    del said["columns_sha256"], said["num_filtered"]
    manifest.write_text(json.dumps(said | {"format": "longreach-prepared-1"}))
    with pytest.raises(DataError, match=r"format: seen 'longreach-prepared-1', read is .*; run python -m data.prepare"):
        load_prepared(copy)


def test_equal_sets_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        prepare(map(source, range(9)), byte_tokenizer(), tmp_path / name)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
