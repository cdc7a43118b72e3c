import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from transformers import AutoTokenizer

import data.prepare
from data.prepare import load_prepared, prepare, tokenizer_fingerprint
from data.problem import DataError, SourceProblem
from data.prompts import PromptTemplate, render_prompt_ids
from data.readers import read_problems
from data.token_counts import TokenCounter
from tests.data.docqa import docqa
from tests.data.test_readers_jsonl import OURS, write
from tests.data.tokenizers import byte_tokenizer, word_tokenizer

BARE = PromptTemplate("{context}|{question}")
ROOT = Path(__file__).parents[2]


def problem(problem_id: str, num_characters: int) -> SourceProblem:
    """With BARE and the byte tokenizer its prompt has num_characters + 5 tokens."""
    return SourceProblem(
        problem_id=problem_id, task="t", context="c" * num_characters, question="?", answers=("x",), answer_type="text"
    )


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def test_every_docqa_row_comes_back_as_it_went_in(tmp_path):
    source = docqa("docqa_train")
    manifest = prepare(read_problems(source), word_tokenizer(), tmp_path / "set", windows=[2_000, 8_000])
    prepared = load_prepared(tmp_path / "set")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").split("\n") if line]
    types = {"extractive": "text", "free": "text"}
    assert len(prepared.problems) == len(rows) == manifest.num_problems == 703
    assert sum(manifest.window_counts) + manifest.num_beyond == 703
    assert manifest.num_dropped == manifest.num_cut == 0
    for row, p in zip(rows, prepared.problems, strict=True):
        assert (p.problem_id, p.task, p.context, p.question) == (
            row["id"],
            row["source"],
            row["context"],
            row["question"],
        )
        assert list(p.answers) == row["answer"]
        assert p.answer_type == types.get(row["answer_type"], row["answer_type"])
    for p in prepared.problems[::50]:
        assert p.num_prompt_tokens == len(render_prompt_ids(word_tokenizer(), p, prepared.template))


def test_prompts_over_the_limit_are_dropped_and_counted(tmp_path):
    problems = [problem("short", 15), problem("exact", 25), problem("long", 26)]
    manifest = prepare(
        problems, byte_tokenizer(), tmp_path / "s", template=BARE, windows=[20, 30], max_prompt_tokens=30
    )
    prepared = load_prepared(tmp_path / "s")
    assert [(p.problem_id, p.num_prompt_tokens) for p in prepared.problems] == [("short", 20), ("exact", 30)]
    assert (manifest.num_dropped, manifest.num_cut, manifest.window_counts) == (1, 0, (1, 1))
    assert orjson.loads((tmp_path / "s" / "dropped.jsonl").read_bytes()) == {
        "problem_id": "long",
        "filter": "overlong",
        "reason": "31 tokens > max_prompt_tokens=30",
    }


def test_prompts_over_the_limit_are_cut_in_the_middle_and_counted(tmp_path):
    manifest = prepare(
        [problem("short", 15), problem("long", 95)],
        byte_tokenizer(),
        tmp_path / "s",
        template=BARE,
        max_prompt_tokens=40,
        overlong="cut_middle",
    )
    cut = load_prepared(tmp_path / "s").problems[1]
    assert cut.context == "c" * 14 + "\n[...]\n" + "c" * 14
    assert (cut.num_prompt_tokens, manifest.num_cut, manifest.num_cut_tokens) == (40, 1, 60)


def test_a_prompt_over_the_limit_is_an_error_on_request_and_leaves_the_old_set(tmp_path):
    prepare([problem("old", 5)], byte_tokenizer(), tmp_path / "s", template=BARE)
    with pytest.raises(DataError, match=r"problem 'long': 55 tokens > max_prompt_tokens=40; raise it"):
        prepare(
            [problem("short", 5), problem("long", 50)],
            byte_tokenizer(),
            tmp_path / "s",
            template=BARE,
            max_prompt_tokens=40,
            overlong="error",
        )
    assert [p.problem_id for p in load_prepared(tmp_path / "s").problems] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_new_set_replaces_the_old_one_but_nothing_else(tmp_path):
    for name in ("one", "two"):
        prepare([problem(name, 5)], byte_tokenizer(), tmp_path / "s", template=BARE)
    assert [p.problem_id for p in load_prepared(tmp_path / "s").problems] == ["two"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="exists and is not a prepared set"):
        prepare([problem("p", 5)], byte_tokenizer(), tmp_path / "notes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "s"]


def test_ids_used_twice_and_sets_without_problems_are_refused(tmp_path):
    with pytest.raises(DataError, match="problem 'p': comes twice"):
        prepare([problem("p", 5), problem("p", 6)], byte_tokenizer(), tmp_path / "s")
    with pytest.raises(DataError, match="all 1 are longer than max_prompt_tokens=8"):
        prepare([problem("p", 5)], byte_tokenizer(), tmp_path / "s", template=BARE, max_prompt_tokens=8)
    with pytest.raises(DataError, match="give at least one"):
        prepare([], byte_tokenizer(), tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_equal_sets_have_equal_fingerprints_and_others_do_not(tmp_path):
    def fingerprint(name: str, problems, tokenizer, template) -> str:
        prepare(problems, tokenizer, tmp_path / name, template=template)
        return load_prepared(tmp_path / name).fingerprint

    base = fingerprint("a", [problem("p", 5)], byte_tokenizer(), BARE)
    assert base == fingerprint("b", [problem("p", 5)], byte_tokenizer(), BARE)
    other_template = PromptTemplate("{question}|{context}")
    others = {
        fingerprint("c", [problem("p", 6)], byte_tokenizer(), BARE),
        fingerprint("d", [problem("p", 5)], word_tokenizer(), BARE),
        fingerprint("e", [problem("p", 5)], byte_tokenizer(), other_template),
    }
    assert len(others | {base}) == 4


def test_a_tokenizer_keeps_its_fingerprint_when_saved_and_loses_it_with_its_chat_template(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    fingerprint = tokenizer_fingerprint(byte_tokenizer())
    assert tokenizer_fingerprint(loaded) == fingerprint
    loaded(["a", "bb"], padding=True, truncation=True, max_length=1)
    assert tokenizer_fingerprint(loaded) == fingerprint
    loaded.chat_template = "{{ messages[0]['content'] }}"
    assert tokenizer_fingerprint(loaded) != fingerprint


def test_counts_are_taken_from_the_cache_and_a_torn_line_is_counted_again(tmp_path):
    problems = [problem("a", 5), problem("b", 6), problem("same as a", 5)]

    def num_cached() -> int:
        counter = TokenCounter(byte_tokenizer(), BARE, fingerprint="f", cache_dir=tmp_path)
        assert [p.num_prompt_tokens for p in counter.measure(problems)] == [10, 11, 10]
        return counter.num_cached

    assert num_cached() == 0
    assert num_cached() == 3
    (cache,) = tmp_path.iterdir()
    cache.write_bytes(cache.read_bytes()[:-3])  # "... 11;" loses its last digit, semicolon and newline
    assert num_cached() == 2
    assert num_cached() == 3


def test_the_cache_keeps_tokenizers_and_templates_apart(tmp_path):
    for fingerprint, template in (("f", BARE), ("g", BARE), ("f", PromptTemplate("{question}|{context}"))):
        counter = TokenCounter(byte_tokenizer(), template, fingerprint=fingerprint, cache_dir=tmp_path)
        list(counter.measure([problem("a", 5)]))
        assert counter.num_cached == 0
    assert len(list(tmp_path.iterdir())) == 3


def test_a_set_that_was_changed_since_is_refused(tmp_path):
    folder = tmp_path / "s"
    with pytest.raises(DataError, match="no prepared set there"):
        load_prepared(folder)
    prepare([problem("p", 5), problem("q", 5)], byte_tokenizer(), folder)
    problems, manifest = folder / "problems.jsonl", folder / "manifest.json"
    content, said = problems.read_bytes(), json.loads(manifest.read_text())

    problems.write_bytes(content.replace(b"ccccc", b"ccccd", 1))
    with pytest.raises(DataError, match="the file was changed"):
        load_prepared(folder)

    doubled = content.replace(b'"q"', b'"p"')
    problems.write_bytes(doubled)
    manifest.write_text(json.dumps({**said, "problems_sha256": hashlib.sha256(doubled).hexdigest()}))
    with pytest.raises(DataError, match=r"problems.jsonl:2: problem_id: seen 'p', the set's columns have 'q'; run"):
        list(load_prepared(folder).problems)

    manifest.write_text(json.dumps({k: v for k, v in said.items() if k != "template"}))
    with pytest.raises(DataError, match=r"manifest.json: template: Field required; run"):
        load_prepared(folder)
    manifest.write_text("{")
    with pytest.raises(DataError, match=r"manifest.json: line: Invalid JSON"):
        load_prepared(folder)
    problems.unlink()
    manifest.write_text(json.dumps(said))
    with pytest.raises(DataError, match="missing from the prepared set"):
        load_prepared(folder)


def test_a_line_of_the_set_is_the_whole_problem(tmp_path):
    prepare([problem("p", 5)], byte_tokenizer(), tmp_path / "s", template=BARE)
    row = orjson.loads((tmp_path / "s" / "problems.jsonl").read_bytes())
    (loaded,) = load_prepared(tmp_path / "s").problems
    assert row == {**dataclasses.asdict(loaded), "answers": ["x"], "options": []}
    assert row["num_prompt_tokens"] == 10


def test_the_command_prepares_several_sources_and_counts_from_its_cache_the_second_time(
    tmp_path, tokenizer_dir, capsys
):
    one = write(tmp_path / "one.jsonl", OURS)
    two = write(tmp_path / "two.jsonl", {**OURS, "problem_id": "p2", "context": "Another doc."})
    template = tmp_path / "template.txt"
    template.write_text("{question}\n{context}")
    args = [str(one), str(two), "--tokenizer", tokenizer_dir, "--out", str(tmp_path / "set")]
    args += ["--template", str(template), "--windows", "5,10,50"]
    assert data.prepare.main(args) == 0
    assert "0 counts came from the cache" in capsys.readouterr().out
    assert data.prepare.main(args) == 0
    assert "2 counts came from the cache" in capsys.readouterr().out
    prepared = load_prepared(tmp_path / "set")
    assert [p.problem_id for p in prepared.problems] == ["p1", "p2"]
    assert prepared.template.text == "{question}\n{context}"
    assert prepared.manifest.windows == (5, 10, 50)
    assert prepared.manifest.sources == (str(one), str(two))


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--windows", "5,x"], "--windows: seen '5,x'"),
        (["--windows", "9,5"], "each above the one before"),
        (["--columns", "answers"], "--columns: seen 'answers'"),
        (["--columns", "answers=gold"], "gold: missing"),
        (["--template", "/nowhere"], "--template /nowhere"),
        (["--max-prompt-tokens", "3"], "all 1 are longer"),
        (["--max-prompt-tokens", "0"], "max_prompt_tokens: seen 0; it must be at least 1"),
        (["--workers", "0"], "workers: seen 0; it must be at least 1"),
        (["--cache", "/dev/null/counts"], "--cache /dev/null/counts: no file can be written there"),
        (["--out", "/dev/null/set"], "/dev/null/set: cannot be written"),
        (["--tokenizer", "./nowhere"], "--tokenizer ./nowhere: no tokenizer there"),
    ],
)
def test_the_command_refuses_in_one_line_and_writes_nothing(tmp_path, tokenizer_dir, capsys, extra, expected):
    source = write(tmp_path / "one.jsonl", OURS)
    out = tmp_path / "out" / "set"
    assert data.prepare.main([str(source), "--tokenizer", tokenizer_dir, "--out", str(out), *extra]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.startswith("error: ") and message.count("\n") == 1
    assert not out.exists()
    assert not out.parent.exists() or {p.name for p in out.parent.iterdir()} <= {".token_counts"}


def test_a_bad_row_late_in_a_file_leaves_nothing_half_written(tmp_path, tokenizer_dir, capsys):
    good = [{**OURS, "problem_id": f"p{i}"} for i in range(200)]
    source = write(tmp_path / "one.jsonl", *good, {**OURS, "problem_id": "p7"})
    out = tmp_path / "set"
    assert data.prepare.main([str(source), "--tokenizer", tokenizer_dir, "--out", str(out)]) == 2
    assert f"{source}:201: problem_id: seen 'p7' again, first in row 8" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".token_counts", "one.jsonl"]


def test_data_imports_neither_torch_nor_transformers_nor_pyarrow():
    modules = ["prepare", "check", "readers", "prompts", "windows", "prepared", "token_counts", "golds", "source_args"]
    modules += ["stored_problems", "column_file", "columns", "count_cache", "in_order", "progress"]
    imports = "; ".join(f"import data.{name}" for name in modules)
    heavy = ["torch", "transformers", "vllm", "ray", "pyarrow", "rich", "rewards"]
    code = f"{imports}; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_commands_run_as_modules_and_bad_input_exits_with_2(tmp_path):
    for module in ("data.prepare", "data.check"):
        done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "--windows" in done.stdout and done.stderr == ""
    bad = write(tmp_path / "bad.jsonl", {"problem_id": "p"})
    done = subprocess.run([sys.executable, "-m", "data.check", str(bad)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_a_writer_killed_halfway_leaves_the_old_set(tmp_path):
    prepare([problem("old", 5)], byte_tokenizer(), tmp_path / "s", template=BARE)
    code = """
import os, sys
from pathlib import Path
from data.prepared import load_prepared, write_prepared
def problems(path):
    yield from load_prepared(path).problems
    os._exit(9)
write_prepared(Path(sys.argv[1]), problems(sys.argv[1]), None)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], cwd=ROOT)
    assert done.returncode == 9
    assert [p.problem_id for p in load_prepared(tmp_path / "s").problems] == ["old"]
