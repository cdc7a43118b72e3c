"""Where rows come from: files, folders of shards, saved datasets, the Hub; how much memory, how far along."""

import gzip
import json
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.fields import Place, SeenIds
from data.problem import DataError
from data.read_hub import HubId, HubRows, parsed_hub_id
from data.readers import SourceReader, read_problems
from tests.data.test_readers_jsonl import OURS
from tests.data.test_readers_verl import row

ROOT = Path(__file__).parents[2]


def rows(*names: str) -> list[dict]:
    return [{**OURS, "problem_id": name} for name in names]


def write(path: Path, *written: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(r) + "\n" for r in written).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(written)), path)
    else:
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def ids(source: Path | str, **options) -> list[str]:
    return [problem.problem_id for problem in read_problems(source, **options)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.parquet", "a", "a.parquet.gz"])
def test_a_file_is_told_by_content_whatever_its_name(tmp_path, name):
    assert ids(write(tmp_path / name, *rows("p1", "p2"))) == ["p1", "p2"]


def test_parquet_under_another_name_is_read_as_parquet(tmp_path):
    write(tmp_path / "a.parquet", row()).rename(tmp_path / "a.bin")
    assert ids(tmp_path / "a.bin") == ["musique_v1-0"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_every_format_is_read_from_every_kind_of_file(tmp_path, name):
    trl = {"prompt": row()["prompt"], "solution": "x"}
    formats = [read_problems(write(tmp_path / name, one)) for one in (OURS, row(), trl)]
    assert [reader.source_format for reader in formats] == ["plain", "verl", "trl"]


def test_options_of_rows_with_fewer_choices_survive_parquet(tmp_path):
    two = {**OURS, "answer_type": "choice", "answers": ["B"], "options": {"A": "u", "B": "v"}}
    three = {**two, "problem_id": "p2", "options": {"A": "u", "B": "v", "C": "w"}}
    assert [p.options for p in read_problems(write(tmp_path / "a.parquet", two, three))] == [
        ("u", "v"),
        ("u", "v", "w"),
    ]


def test_a_folder_is_its_shards_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "f/b.jsonl.gz", *rows("p3"))
    write(tmp_path / "f/a-2.jsonl", *rows("p2"))
    write(tmp_path / "f/a-1.parquet", *rows("p1"))
    write(tmp_path / "f/README.md", *rows("no"))
    write(tmp_path / "f/_meta.jsonl", *rows("no"))
    write(tmp_path / "f/deeper/c.jsonl", *rows("no"))
    assert ids(tmp_path / "f") == ["p1", "p2", "p3"]


def test_a_split_of_a_folder_is_named_after_an_at_sign(tmp_path):
    for name, split in [("p1", "train-00000-of-00002"), ("p2", "train-00001-of-00002"), ("p3", "docqa_test")]:
        write(tmp_path / f"f/{split}.parquet", *rows(name))
    assert ids(f"{tmp_path}/f@train") == ["p1", "p2"]
    assert ids(f"{tmp_path}/f@test") == ["p3"]
    with pytest.raises(DataError, match=r"f: seen splits test, train; name one, as in .*f@test"):
        read_problems(tmp_path / "f")
    with pytest.raises(DataError, match=r"f@tset: seen splits test, train; did you mean 'test'"):
        read_problems(f"{tmp_path}/f@tset")


def test_a_folder_whose_own_name_holds_an_at_sign_is_read(tmp_path):
    write(tmp_path / "f@train/a.jsonl", *rows("p1"))
    assert ids(tmp_path / "f@train") == ["p1"]


@pytest.fixture
def saved(tmp_path):
    """Saves a dataset or a dict of them as `datasets` does, and names its folder."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.disable_progress_bars()

    def save(source: dict[str, list[dict]] | list[dict], **options) -> Path:
        if isinstance(source, dict):
            made = datasets.DatasetDict({name: datasets.Dataset.from_list(r) for name, r in source.items()})
        else:
            made = datasets.Dataset.from_list(source)
        made.save_to_disk(str(tmp_path / "saved"), **options)
        return tmp_path / "saved"

    return save


def test_a_saved_dataset_is_read_shard_by_shard_without_the_library(saved):
    folder = saved(rows("p3", "p1", "p2"), num_shards=2)
    reader = read_problems(folder)
    assert [p.problem_id for p in reader] == ["p3", "p1", "p2"]
    assert reader.done_bytes == reader.total_bytes == sum(f.stat().st_size for f in folder.glob("*.arrow"))


def test_a_saved_dataset_takes_a_column_map_and_any_format(saved):
    folder = saved([{"messages": row()["prompt"], **{k: v for k, v in row().items() if k != "prompt"}}])
    reader = read_problems(folder, columns={"prompt": "messages"})
    assert reader.source_format == "verl"
    assert [p.question for p in reader] == ["Which?"]


def test_a_saved_dataset_of_splits_wants_one_of_them(saved):
    folder = saved({"train": rows("p1"), "dev": rows("p2")})
    assert ids(f"{folder}@dev") == ["p2"]
    with pytest.raises(DataError, match=r"seen splits train, dev; name one, as in .*saved@train"):
        read_problems(folder)
    with pytest.raises(DataError, match="seen splits train, dev; did you mean 'dev'"):
        read_problems(f"{folder}@de")


def test_a_saved_dataset_names_the_row_of_an_error_in_its_file(saved):
    folder = saved([*rows("p1"), {**OURS, "problem_id": "p2", "question": " "}])
    with pytest.raises(DataError, match=r"data-00000-of-00001.arrow:2: question: seen ' ', which is blank"):
        ids(folder)


def test_a_saved_dataset_without_rows_is_refused(saved):
    folder = saved({"train": rows("p1")})
    with (folder / "train/data-00000-of-00001.arrow").open("wb") as file:
        table = pa.Table.from_pylist(rows("p1")).slice(0, 0)
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    with pytest.raises(DataError, match="no rows"):
        ids(f"{folder}@train")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Tongyi-Zhiwen/DocQA-RL-1.6K", ("Tongyi-Zhiwen/DocQA-RL-1.6K", None, None)),
        ("THUDM/LongBench:hotpotqa_e@test", ("THUDM/LongBench", "hotpotqa_e", "test")),
        ("o/n:2.0", ("o/n", "2.0", None)),
        ("o/n@train", ("o/n", None, "train")),
        ("name", None),
        ("a/b/c", None),
        ("/a/b", None),
        ("../b", None),
        ("o/n:", None),
        ("o/n@", None),
        ("o/n@train:config", None),
    ],
)
def test_a_hub_id_has_an_owner_a_name_and_maybe_a_config_and_a_split(text, parts):
    expected = None if parts is None else HubId(name=parts[0], config=parts[1], split=parts[2])
    assert parsed_hub_id(text) == expected
    assert expected is None or str(expected) == text


def test_a_hub_dataset_that_cannot_be_loaded_is_one_line_with_the_way_out(tmp_path):
    pytest.importorskip("datasets", reason="datasets is not installed")
    out = tmp_path / "out"
    out.mkdir()
    command = [
        sys.executable,
        "-m",
        "data.prepare",
        "nobody/nothing:a@train",
        "--tokenizer",
        "x",
        "--out",
        str(out / "set"),
    ]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: nobody/nothing:a@train: cannot be loaded from the Hub (")
    assert line.endswith("check the id, :config, @split and the network, or download the dataset and name its folder")
    assert list(out.iterdir()) == []


def test_a_path_that_is_misspelt_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    write(tmp_path / "data/train", *rows("p1"))
    monkeypatch.chdir(tmp_path)
    for wrong in ("data/trian", "dta/train.jsonl"):
        with pytest.raises(DataError, match="no such file"):
            read_problems(wrong)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_progress_rises_with_every_row_to_the_size_of_the_file(tmp_path, name):
    noise = random.Random(0)
    many = [{**r, "context": noise.randbytes(20_000).hex()} for r in rows(*map(str, range(9)))]
    path = write(tmp_path / name, *many)
    reader = read_problems(path)
    assert isinstance(reader, SourceReader)
    assert (reader.total_bytes, reader.done_bytes) == (path.stat().st_size, 0)
    done = [reader.done_bytes for _ in reader]
    assert done == sorted(set(done))
    assert 0 < done[0] < reader.total_bytes / 2
    assert reader.done_bytes == reader.total_bytes


def test_progress_in_a_folder_counts_all_its_files(tmp_path):
    paths = [write(tmp_path / f"f/{name}.jsonl", *rows(name)) for name in ("p1", "p2")]
    reader = read_problems(tmp_path / "f")
    next(reader)
    assert (reader.done_bytes, reader.total_bytes) == (paths[0].stat().st_size, 2 * paths[0].stat().st_size)


def test_json_lines_take_the_memory_of_a_few_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(100):
            file.write(json.dumps({**OURS, "problem_id": i, "context": "x" * 500_000}) + "\n")
    tracemalloc.start()
    assert sum(len(p.context) for p in read_problems(path)) == 50_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The parser asks for 16 times a line and touches little of it.
    assert peak < 20 * 500_000


def test_parquet_of_one_row_group_takes_the_memory_of_a_batch_and_a_few_pages(tmp_path):
    noise = random.Random(0)
    many = [{**OURS, "problem_id": str(i), "context": noise.randbytes(100_000).hex()} for i in range(300)]
    # How many rows a page has is the writer's choice.
    options = {"use_dictionary": False, "compression": "none", "write_batch_size": 8}
    pq.write_table(pa.Table.from_pylist(many), tmp_path / "a.parquet", **options)
    del many
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in read_problems(tmp_path / "a.parquet"))
    assert (tmp_path / "a.parquet").stat().st_size > 60_000_000
    assert most < 40_000_000


def test_columns_that_are_no_field_are_not_read_from_parquet(tmp_path):
    broken = pa.array([b"\xff\xfe"]).view(pa.string())
    table = pa.Table.from_pylist([OURS]).append_column("embedding", broken)
    pq.write_table(table, tmp_path / "a.parquet")
    assert ids(tmp_path / "a.parquet") == ["p1"]


def test_a_second_use_of_an_id_is_found_among_many_and_names_both_rows():
    seen = SeenIds()
    for number in range(1, 100_001):
        seen.add(f"problem-{number}", Place("a.jsonl" if number <= 50_000 else "b.jsonl", number), "id")
    assert "problem-77" in seen and "problem-0" not in seen
    with pytest.raises(
        DataError, match=r"b.jsonl:100001: id: seen 'problem-99999' again, first in row 99999; ids must"
    ):
        seen.add("problem-99999", Place("b.jsonl", 100_001), "id")
    with pytest.raises(DataError, match=r"b.jsonl:100001: id: seen 'problem-77' again, first in a.jsonl:77; ids must"):
        seen.add("problem-77", Place("b.jsonl", 100_001), "id")


def test_seen_ids_take_a_bounded_number_of_bytes():
    tracemalloc.start()
    seen = SeenIds()
    for number in range(1, 50_001):
        seen.add(f"a-rather-long-identifier-of-a-problem-{number}", Place("a.jsonl", number), "id")
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # 65,536 buckets of some 60 bytes and 8 for their place, 16 bytes an id and the slack of growing arrays.
    assert kept < 65_536 * 80 + 50_000 * 24


def test_further_copies_of_a_name_are_numbered():
    seen = SeenIds()
    names = []
    for number in range(1, 5):
        names.append(seen.unused("t-0" if number != 3 else "t-0#2"))
        seen.add(names[-1], Place("a", number), "id")
    assert names == ["t-0", "t-0#2", "t-0#2#2", "t-0#3"]


@pytest.fixture
def streamed(tmp_path):
    """Streams a local folder through the library's own loader, as it streams a dataset on the Hub."""
    pytest.importorskip("datasets", reason="datasets is not installed")

    def stream(split: str | None = None, **splits: list[dict]) -> HubRows:
        for name, written in splits.items():
            write(tmp_path / f"dataset/{name}.jsonl", *written)
        return HubRows(HubId(name=str(tmp_path / "dataset"), config=None, split=split))

    return stream


def test_a_streamed_dataset_gives_every_row_once_with_its_number(streamed):
    stream = streamed("test", train=rows("p1"), test=rows("p2", "p3", "p4"))
    assert stream.column_names() == tuple(OURS)
    reader = SourceReader(stream, "plain", {})
    assert (reader.total_bytes, reader.done_bytes) == (None, 0)
    assert [problem.problem_id for problem in reader] == ["p2", "p3", "p4"]
    assert reader.done_bytes == 3 * sum(len(value) for value in rows("p2")[0].values() if isinstance(value, str))


def test_a_streamed_dataset_of_one_split_needs_no_name_and_of_several_needs_one(streamed):
    assert [p.problem_id for p in SourceReader(streamed(train=rows("p1")), "plain", {})] == ["p1"]
    with pytest.raises(DataError, match=r"seen splits train, test; name one, as in .*dataset@train"):
        streamed(test=rows("p2"))
    with pytest.raises(DataError, match=r"dataset@dev: cannot be loaded from the Hub \(.*dev"):
        streamed("dev")


def test_a_streamed_row_that_is_wrong_is_named_by_the_dataset_and_its_number(streamed):
    stream = streamed(train=[*rows("p1"), {**OURS, "problem_id": "p2", "question": ""}])
    with pytest.raises(DataError, match=r"dataset:2: question: seen '', which is blank"):
        list(SourceReader(stream, "plain", {}))
