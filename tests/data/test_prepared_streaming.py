import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest

from data.in_order import chunked, in_order
from data.prepare import main, prepare
from data.prepared import load_prepared
from data.problem import DataError, SourceProblem
from data.progress import Progress
from data.prompts import PromptTemplate
from tests.data.test_readers_jsonl import OURS, write
from tests.data.tokenizers import byte_tokenizer, word_tokenizer

ROOT = Path(__file__).parents[2]
BARE = PromptTemplate("{context}|{question}")


def problem(i: int, num_characters: int = 5) -> SourceProblem:
    """With BARE and the byte tokenizer its prompt has num_characters + 5 tokens."""
    context = f"{i:0{num_characters}}"
    return SourceProblem(
        problem_id=f"p{i}", task="t", context=context, question="?", answers=("x",), answer_type="text"
    )


class Every:
    """Leaves out every n-th problem."""

    def __init__(self, name: str, n: int) -> None:
        self.name = name
        self.asked: list[str] = []
        self._n = n

    def reason(self, problem: SourceProblem) -> str | None:
        self.asked.append(problem.problem_id)
        number = int(problem.problem_id[1:])
        return f"{number} is {self._n} times something" if number % self._n == 0 else None


def test_what_filters_leave_out_is_written_down_and_counted(tmp_path):
    third, fifth, never = Every("third", 3), Every("fifth", 5), Every("never", 1000)
    manifest = prepare(
        [problem(i, 30 if i == 7 else 5) for i in range(1, 16)],
        byte_tokenizer(),
        tmp_path / "s",
        template=BARE,
        max_prompt_tokens=20,
        filters=[third, fifth, never],
    )
    assert manifest.num_filtered == {"third": 5, "fifth": 2, "never": 0}
    assert (manifest.num_dropped, manifest.num_problems) == (1, 7)
    dropped = [orjson.loads(line) for line in (tmp_path / "s" / "dropped.jsonl").read_bytes().splitlines()]
    assert [(d["problem_id"], d["filter"]) for d in dropped] == [
        ("p3", "third"), ("p5", "fifth"), ("p6", "third"), ("p7", "overlong"),
        ("p9", "third"), ("p10", "fifth"), ("p12", "third"), ("p15", "third"),
    ]  # fmt: skip
    assert dropped[1]["reason"] == "5 is 5 times something"
    # A filter is asked once, in order, and not about what one before it left out.
    assert third.asked == [f"p{i}" for i in range(1, 16)]
    assert fifth.asked == [f"p{i}" for i in range(1, 16) if i % 3]


def test_filters_that_leave_nothing_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no problems to write; all left out 2, 1 are longer than max_prompt_tokens=8"):
        prepare(
            [problem(0), problem(2), problem(1)],
            byte_tokenizer(),
            tmp_path / "s",
            template=BARE,
            max_prompt_tokens=8,
            filters=[Every("all", 2)],
        )


def test_the_command_tells_what_it_left_out(tmp_path, capsys):
    word_tokenizer().save_pretrained(tmp_path / "tokenizer")
    rows = [{**OURS, "problem_id": f"p{i}"} for i in range(3)]
    source = write(tmp_path / "one.jsonl", *rows, {**OURS, "problem_id": "q", "context": "Another."})
    out = tmp_path / "set"
    args = [str(source), "--tokenizer", str(tmp_path / "tokenizer"), "--out", str(out), "--drop-duplicates"]
    assert main(args) == 0
    told = capsys.readouterr().out
    assert "left out: duplicate 2" in told and f"which and why: {out}/dropped.jsonl" in told
    assert [p.problem_id for p in load_prepared(out).problems] == ["p0", "q"]


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    sizes = [3 + (i * 7919) % 400 for i in range(500)]
    for workers in (1, 2, 5):
        prepare(
            (problem(i, size) for i, size in enumerate(sizes)),
            byte_tokenizer(),
            tmp_path / str(workers),
            template=BARE,
            max_prompt_tokens=250,
            overlong="cut_middle" if workers else "drop",
            filters=[Every("fourth", 4)],
            workers=workers,
        )
    for file in sorted((tmp_path / "1").iterdir()):
        for workers in ("2", "5"):
            assert file.read_bytes() == (tmp_path / workers / file.name).read_bytes(), file.name
    manifest = load_prepared(tmp_path / "2").manifest
    longer = [size + 5 - 250 for i, size in enumerate(sizes) if i % 4 and size + 5 > 250]
    assert (manifest.num_cut, manifest.num_cut_tokens) == (len(longer), sum(longer))


def test_results_come_in_order_from_a_bounded_number_of_items():
    taken, given = [], []

    def items():
        for i in range(50):
            taken.append(i)
            yield i

    for result in in_order(lambda i: (time.sleep(0.002 * (i % 3)), i * i)[1], items(), workers=3):
        given.append(result)
        assert len(taken) - len(given) < 6
    assert given == [i * i for i in range(50)]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_passes_through_and_leaves_no_thread(workers):
    def work(i: int) -> int:
        if i == 9:
            raise DataError("nine")
        return i

    given = []
    with pytest.raises(DataError, match="nine"):
        for result in in_order(work, range(100), workers=workers):
            given.append(result)
    assert given == list(range(9))
    abandoned = in_order(work, range(5), workers=workers)
    next(abandoned)
    abandoned.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("in_order")]


def test_chunks_are_bounded_by_items_and_by_size():
    chunks = list(chunked([1, 1, 1, 1, 9, 2, 30, 1], lambda size: size, max_items=3, max_size=10))
    assert chunks == [[1, 1, 1], [1, 9], [2, 30], [1]]


def test_a_long_stream_is_prepared_in_the_memory_of_a_short_one(tmp_path):
    # 64 documents of 64 KiB, then 1024 of them: 64 MiB, which must not be held. No pre-tokenizer: a document is a token.
    program = """
import resource, sys
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from data.prepare import prepare
from data.readers import read_problems
backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
tokenizer.chat_template = "{{ messages[0]['content'] }}"
peaks = []
for path in sys.argv[1:]:
    manifest = prepare(read_problems(path), tokenizer, path + ".set", workers=2, cache_dir=None)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(manifest.num_problems, (peaks[1] - peaks[0]) / 1024)
"""
    paths = []
    for name, count in (("short", 64), ("long", 1024)):
        paths.append(tmp_path / name)
        with paths[-1].open("w") as file:
            for i in range(count):
                file.write(json.dumps({**OURS, "problem_id": f"p{i}", "context": f"{i} " + "word " * 13_107}) + "\n")
    done = subprocess.run([sys.executable, "-c", program, *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    num_problems, grown_mib = done.stdout.split()
    assert num_problems == "1024"
    assert float(grown_mib) < 24


STOPPED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal; in the background a shell lets it be ignored
import data.prepare
from tests.data.tokenizers import word_tokenizer
class Slow:
    name = "slow"
    def reason(self, problem):
        print(problem.problem_id, flush=True)
        time.sleep(0.05)
data.prepare.filters_from = lambda args: [Slow()]
sys.exit(data.prepare.main(sys.argv[1:]))
"""


def slow_command(folder: Path) -> tuple[list[str], Path]:
    """A command that takes its time over 2,000 problems, and the set it writes."""
    word_tokenizer().save_pretrained(folder / "tokenizer")
    source = write(folder / "one.jsonl", *({**OURS, "problem_id": f"p{i}"} for i in range(2000)))
    out = folder / "out" / "set"
    arguments = [str(source), "--tokenizer", str(folder / "tokenizer"), "--out", str(out)]
    return [sys.executable, "-c", STOPPED, *arguments], out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_leaves_neither_files_nor_processes(tmp_path, number, code):
    command, out = slow_command(tmp_path)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "p0\n"
        assert [p.name.split("-")[0] for p in out.parent.iterdir() if p.name != ".token_counts"] == [".set.unfinished"]
        running.send_signal(number)
        _, told = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in told
    assert [p.name for p in out.parent.iterdir()] == [".token_counts"]


def test_what_a_killed_writer_left_goes_with_the_next_one_and_a_living_ones_stays(tmp_path):
    command, out = slow_command(tmp_path)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "p0\n"
        left = [p.name for p in out.parent.iterdir() if "unfinished" in p.name]
        prepare([problem(1)], byte_tokenizer(), out)
        assert (
            [p.name for p in out.parent.iterdir() if "unfinished" in p.name]
            == left
            == [f".set.unfinished-{running.pid}"]
        )
        running.kill()
    assert os.path.exists(out.parent / left[0])
    prepare([problem(2)], byte_tokenizer(), out)
    assert sorted(p.name for p in out.parent.iterdir()) == [".token_counts", "set"]
    assert [p.problem_id for p in load_prepared(out).problems] == ["p2"]


class HalfRead:
    total_bytes: int | None = 20_000_000
    done_bytes = 5_000_000


def test_a_log_gets_a_line_now_and_then_and_nothing_in_between(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("data.progress.time.monotonic", lambda: now[0])
    with Progress([HalfRead(), HalfRead()]) as progress:
        for now[0], num_done in ((110.0, 50), (129.0, 80), (130.0, 120), (140.0, 130), (165.0, 200)):
            progress.update(num_done, 7)
    # 10 of 40 MB in 30 s: 90 s are left; in 65 s: 195 s.
    assert capsys.readouterr().err.splitlines() == [
        "10 of 40 MB read (25%), 1:30 left, 120 problems, 4/s, 7 from the cache",
        "10 of 40 MB read (25%), 3:15 left, 200 problems, 3/s, 7 from the cache",
    ]


def test_a_source_of_unknown_size_is_told_by_what_was_read(capsys):
    unknown = HalfRead()
    unknown.total_bytes = None
    with Progress([HalfRead(), unknown], line_every_s=0.0) as progress:
        progress.update(3, 0)
    assert capsys.readouterr().err.startswith("10 MB read, 3 problems, ")
