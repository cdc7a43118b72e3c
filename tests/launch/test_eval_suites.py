"""Which problems a name or path means, how they are measured and cut, and the same sets as tasks of lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.problem import DataError
from data.prompts import CUT_MARK
from data.read_hub import parsed_hub_id
from launch.eval_suites import SUITES, SuiteFile, fitted, load_suites, named_problems
from launch.suites.lm_eval import scoring
from tests.data.tokenizers import word_tokenizer

PAPER = ["docmath", "frames", "2wikimqa", "hotpotqa", "musique", "narrativeqa", "qasper"]
LONGBENCH = {
    "input": "Who?",
    "context": "It was Ada.",
    "answers": ["Ada", "Lovelace"],
    "dataset": "hotpotqa",
    "_id": "1",
}
DOCMATH = {"question_id": "7", "question": "How many?", "paragraphs": ["Two and", "two."], "ground_truth": 4.0}
FRAMES = {
    "Prompt": "Who?",
    "Answer": "Ada",
    "wiki_items": [{"title": "Ada", "text": "A countess."}, {"title": "B", "text": ""}],
}


def write(folder: Path, name: str, *rows: dict[str, Any]) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def load(*names: str, suite_dir: str = "", windows: tuple[int, ...] = (), limit: int | None = None) -> Any:
    return load_suites(names, suite_dir=suite_dir, windows=windows, tokenizer=word_tokenizer, max_prompt_tokens=limit)


def test_every_suite_file_is_one_and_says_where_its_rows_are() -> None:
    paths = list(SUITES.glob("*.toml"))
    suites = {path.stem: SuiteFile.model_validate(tomllib.loads(path.read_text())) for path in paths}
    assert suites["longdocqa"].members == PAPER
    for suite in suites.values():
        assert set(suite.members) <= suites.keys()
        assert suite.members or parsed_hub_id(suite.hub)
        # The paper's: input cut at 120K, 10K output, temperature 0.7, top-p 0.95.
        assert (suite.max_prompt_tokens, suite.max_response_tokens) == (120_000, 10_000)
        assert (suite.temperature, suite.top_p) == (0.7, 0.95)


def test_the_published_rows_of_each_form_are_read(tmp_path: Path) -> None:
    write(tmp_path, "hotpotqa", LONGBENCH)
    write(tmp_path, "docmath", DOCMATH)
    write(tmp_path, "frames", FRAMES)
    read = {name: next(iter(named_problems(name, str(tmp_path)))) for name in ("hotpotqa", "docmath", "frames")}
    told = {n: (p.context, p.question, p.answers, p.answer_type, p.task) for n, p in read.items()}
    assert told == {
        "hotpotqa": ("It was Ada.", "Who?", ("Ada", "Lovelace"), "text", "hotpotqa"),
        "docmath": ("Two and\ntwo.", "How many?", ("4.0",), "number", "docmath"),
        "frames": ("Ada\nA countess.\nB", "Who?", ("Ada",), "text", "frames"),
    }


def test_a_file_of_ones_own_may_stand_for_a_named_suite(tmp_path: Path) -> None:
    own = {"problem_id": "a", "task": "t", "context": "c", "question": "q", "answers": ["4"], "answer_type": "number"}
    write(tmp_path, "docmath", own)
    [problem] = named_problems("docmath", str(tmp_path))
    assert (problem.problem_id, problem.context, problem.answer_type) == ("a", "c", "number")


def test_several_suites_are_loaded_in_order_with_their_own_windows(tmp_path: Path) -> None:
    plain = {
        "problem_id": "a",
        "task": "t",
        "context": "w " * 50,
        "question": "q",
        "answers": ["x"],
        "answer_type": "text",
    }
    path = write(tmp_path, "mine", plain, plain | {"problem_id": "b", "context": "w"})
    write(tmp_path, "hotpotqa", LONGBENCH)
    mine, hotpotqa = load(path, "hotpotqa", suite_dir=str(tmp_path))
    assert (mine.name, hotpotqa.name, hotpotqa.source) == (path, "hotpotqa", str(tmp_path / "hotpotqa.jsonl"))
    assert {high: len(problems) for high, problems in mine.windows.items()} == {20_000: 2}
    assert sum(map(len, mine.chosen(None, seed=0).values())) == 2
    [split] = load(path, windows=(60, 400))
    assert {high: len(problems) for high, problems in split.windows.items()} == {60: 1, 400: 1}
    with pytest.raises(DataError, match="holds no problem in the windows ending at \\[9\\]"):
        load(path, windows=(9, 400))


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    [one] = load(write(tmp_path, "one", LONGBENCH))
    [same] = load(write(tmp_path, "same", LONGBENCH))
    [other] = load(write(tmp_path, "other", LONGBENCH | {"context": "It was Bob."}))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_a_prompt_over_the_limit_is_cut_in_the_middle_and_the_cut_is_counted(tmp_path: Path) -> None:
    long = LONGBENCH | {"context": " ".join(f"w{i}" for i in range(300))}
    [suite] = load(write(tmp_path, "long", long, LONGBENCH | {"_id": "2"}), limit=100)
    assert list(suite.windows) == [100]
    tokenizer = word_tokenizer()
    problems = suite.windows[100]
    cut, whole = fitted(suite, problems, tokenizer, max_prompt_tokens=100, without_document=False)
    assert cut.problem.num_prompt_tokens <= 100 < problems[0].num_prompt_tokens
    assert cut.num_cut_tokens == problems[0].num_prompt_tokens - cut.problem.num_prompt_tokens
    assert CUT_MARK in cut.problem.context
    assert cut.problem.context.startswith("w0 ") and cut.problem.context.endswith(" w299")
    assert (whole.num_cut_tokens, whole.problem.context) == (0, "It was Ada.")


def test_a_suite_file_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    rows = write(tmp_path, "rows", FRAMES)
    path = tmp_path / "mine.toml"
    columns = 'columns = {context = "wiki_items", question = "Prompt", answers = "Answer"}'
    path.write_text(f'about = "mine"\nhub = "{rows}"\nformat = "trl"\n{columns}\ntemperature = 0.3\n')
    [suite] = load(str(path))
    assert (suite.name, suite.defaults.temperature) == ("mine", 0.3)
    assert suite.windows[20_000][0].context.startswith("Ada\n")
    path.write_text('about = "mine"\nhubb = "x"\n')
    with pytest.raises(DataError, match=r"mine.toml: hubb: .*; see launch/suites"):
        load(str(path))
    path.write_text("about =")
    with pytest.raises(DataError, match=r"mine\.toml: not TOML"):
        load(str(path))


def test_a_suite_asked_for_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="suite: hotpotqa is asked for twice"):
        load("hotpotqa", "longdocqa", suite_dir=str(tmp_path))


def test_without_a_network_a_named_suite_says_where_to_put_its_rows() -> None:
    with pytest.raises(DataError, match=r"cannot be loaded from the Hub .* --suite_dir DIR") as caught:
        load("qasper")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told_to_be_put_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match="invalid JSON") as caught:
        load(str(tmp_path / "x.jsonl"))
    assert "--suite_dir" not in str(caught.value)


class Loader(yaml.SafeLoader):
    """The harness's: a `!function` names a function of a file beside the YAML."""


Loader.add_constructor("!function", lambda loader, node: ("function", node.value))
TASKS = SUITES / "lm_eval"


def tasks() -> dict[str, dict[str, Any]]:
    return {path.name: yaml.load(path.read_text(), Loader=Loader) for path in TASKS.glob("*.yaml")}  # noqa: S506


def test_the_paper_suites_are_tasks_and_a_group_of_lm_evaluation_harness() -> None:
    files = tasks()
    shared, group = files.pop("_longreach.yaml"), files.pop("longdocqa.yaml")
    for name, task in files.items():
        stem = name.removesuffix(".yaml")
        assert task == {"include": "_longreach.yaml", "task": f"longreach_{stem}", "dataset_kwargs": {"suite": stem}}
        assert not SuiteFile.model_validate(tomllib.loads((SUITES / f"{stem}.toml").read_text())).members
    assert group["task"] == [f"longreach_{name}" for name in PAPER]
    assert {f"{name}.yaml" for name in PAPER} <= files.keys()
    defaults = SuiteFile(about="")
    assert shared["generation_kwargs"] == {
        "until": [], "do_sample": True, "temperature": defaults.temperature, "top_p": defaults.top_p,
        "max_gen_toks": defaults.max_response_tokens,
    }  # fmt: skip
    assert [metric["metric"] for metric in shared["metric_list"]] == ["strict", "lenient"]


def test_the_functions_that_the_tasks_name_give_problems_prompts_and_both_scores(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the harness brings datasets; it is not installed here")
    shared = tasks()["_longreach.yaml"]
    names = [value[1] for value in shared.values() if isinstance(value, tuple)]
    spec = importlib.util.spec_from_file_location("scoring", TASKS / "scoring.py")  # as the harness loads it
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert all(name.startswith("scoring.") and callable(getattr(module, name[8:])) for name in names)

    write(tmp_path, "hotpotqa", LONGBENCH)
    [doc] = module.problems("hotpotqa", suite_dir=str(tmp_path), version=1.0)["test"]
    assert "It was Ada." in module.prompt(doc) and module.gold(doc) == "Ada"
    right, contained = "Therefore, the answer is Ada.", "Therefore, the answer is not Ada."
    assert module.score(doc, [right]) == {"strict": 1.0, "lenient": 1.0}
    assert module.score(doc, [contained]) == {"strict": 0.0, "lenient": 1.0}
    assert module.score(doc, ["Therefore, the answer is Bob."]) == {"strict": 0.0, "lenient": 0.0}


def test_a_task_cuts_too_long_prompts_with_the_models_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the harness brings datasets; it is not installed here")
    word_tokenizer().save_pretrained(tmp_path / "model")
    write(tmp_path, "hotpotqa", LONGBENCH | {"context": " ".join(f"w{i}" for i in range(300))})
    given = {"suite_dir": str(tmp_path), "pretrained": str(tmp_path / "model"), "max_prompt_tokens": 100}
    [doc] = scoring.problems("hotpotqa", **given)["test"]
    assert CUT_MARK in doc["context"] and set(doc) == set(scoring._FIELDS)
