"""The report by length: pass@k, reward by window, and what result files of launch.eval say of length and depth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson
import pytest

from data.prepare import prepare
from data.problem import SourceProblem
from launch.charts import BOTTOM, TOP
from launch.cli import exit_code
from launch.eval import run
from launch.report import write_report
from launch.report_items import ResultView, heat_maps, read_result_files, result_views
from launch.report_pass_at_k import ks_up_to, length_charts, mean_pass_at_k
from launch.report_rollouts import GroupCount
from rl.evaluate import pass_at_k
from tests.data.tokenizers import word_tokenizer
from tests.launch.test_report import text_of, write_run
from tests.rewards.judge_server import judge_server


def test_pass_at_k_is_the_share_of_all_choices_of_k_that_hold_a_right_answer() -> None:
    for num, num_right in ((4, 0), (4, 1), (5, 2), (6, 6)):
        answers = [i < num_right for i in range(num)]
        for k in range(1, num + 1):
            chosen = list(combinations(answers, k))
            assert pass_at_k(num, num_right, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))
    # 2 of 8 right, k = 4: 1 - C(6, 4) / C(8, 4) = 1 - 15 / 70
    assert pass_at_k(8, 2, 4) == pytest.approx(55 / 70)
    with pytest.raises(ValueError, match="pass@5: needs 1 <= k <= n"):
        pass_at_k(4, 1, 5)


def test_a_problem_with_fewer_answers_than_k_does_not_count_for_it() -> None:
    counts = [(4, 1), (2, 2)]
    assert mean_pass_at_k(counts, 1) == pytest.approx((0.25 + 1) / 2)
    assert mean_pass_at_k(counts, 4) == 1.0  # of the first problem alone
    assert mean_pass_at_k(counts, 5) is None


def test_k_doubles_up_to_the_groups_size() -> None:
    assert [ks_up_to(num) for num in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def count(step: int, tokens: int, num_right: int, num_valid: int = 4) -> GroupCount:
    mean = num_right / num_valid if num_valid else None
    return GroupCount(step=step, num_prompt_tokens=tokens, num_valid=num_valid, num_right=num_right, mean=mean)


def test_reward_and_pass_at_k_are_drawn_by_window_and_a_step_without_groups_is_a_gap() -> None:
    groups = [count(1, 300, 0), count(1, 500, 2), count(2, 400, 4), count(3, 320, 4), count(3, 999, 0, num_valid=0)]
    reward, short, middle = length_charts(groups, [320, 640], [])
    assert [line.label for line in reward.lines] == ["≤320", "≤640"]  # of the group beyond, nothing is known
    assert reward.lines[0].dots == ((46.0, float(BOTTOM)), (412.0, float(TOP)))  # steps 1 and 3: 0 and 1
    assert (short.title, middle.title) == ("pass@k, ≤320 tokens", "pass@k, ≤640 tokens")
    # Step 2 is the newest of the second window; in step 1 it has 2 of 4: pass@1 1/2, pass@2 1 - 1/6, pass@4 1.
    assert [(line.label, line.last) for line in middle.lines] == [
        ("pass@1", "100%"),
        ("pass@2", "100%"),
        ("pass@4", "100%"),
    ]
    assert [hover.text for hover in middle.hovers] == [
        "step 1: pass@1 50%, pass@2 83.3%, pass@4 100%",
        "step 2: pass@1 100%, pass@2 100%, pass@4 100%",
        "step 3: pass@1 none, pass@2 none, pass@4 none",
    ]
    assert length_charts([], [320], []) == []


def item(task: str, length: int, depth: float, number: int, **fields: Any) -> dict[str, Any]:
    problem_id = f"{task}-test-0-{length}-depth{depth:g}-{number}"
    return {"problem_id": problem_id, "task": task, "window": length, "decoding": "greedy", **fields}


def written(folder: Path, items: Sequence[Any], name: str = "eval/grid.json") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps({"config": {"model": "runs/a/model"}, "items": items}))
    return path


def views(folder: Path) -> list[ResultView]:
    missing: list[str] = []
    found = result_views(read_result_files(folder, missing))
    assert missing == []
    return found


def test_accuracy_over_length_and_depth_counts_what_has_no_score_as_wrong(tmp_path: Path) -> None:
    values = {(400, 0.0): [1, 1, 0, None], (400, 1.0): [1], (800, 0.0): [0]}
    items = [
        item("chain", length, depth, number, value=value)
        for (length, depth), cell in values.items()
        for number, value in enumerate(cell)
    ]
    written(tmp_path, [*items, {"problem_id": "named-otherwise", "value": 1.0}])
    [view] = views(tmp_path)
    [drawn] = view.maps
    assert (drawn.title, drawn.lengths) == ("chain, 2 hops", (400, 800))
    shares = [(depth, [cell and (cell.mean, cell.num, cell.shade) for cell in cells]) for depth, cells in drawn.rows]
    assert shares == [(0.0, [(0.5, 4, 2), (0.0, 1, 0)]), (1.0, [(1.0, 1, 5), None])]
    assert drawn.nums == "1 to 4"
    assert (view.accuracy.num, view.num_invalid, view.file.model) == (7, 1, "runs/a/model")


def test_several_tasks_have_a_map_each_and_one_of_all(tmp_path: Path) -> None:
    written(tmp_path, [item("chain", 400, 0.5, 0, value=1.0), item("lookup", 400, 0.5, 0, value=0.0)])
    [view] = views(tmp_path)
    assert [(one.title, one.rows[0][1][0].mean) for one in heat_maps(view.file.items) if one.rows[0][1][0]] == [
        ("all together", 0.5), ("chain, 2 hops", 1.0), ("lookup", 0.0),
    ]  # fmt: skip


def test_chains_of_other_hops_and_similar_distractors_have_the_maps_that_launch_eval_keeps_apart(
    tmp_path: Path,
) -> None:
    ids = ["chain-test-0-400-depth0.5-0", "chain-test-0-400-hops4-depth0.5-0", "chain-test-0-400-similar-depth0.5-0"]
    written(tmp_path, [{"problem_id": name, "value": value} for name, value in zip(ids, (1, 0, 1), strict=True)])
    [view] = views(tmp_path)
    assert [one.title for one in view.maps] == [
        "all together", "chain, 2 hops", "chain, 4 hops", "chain, 2 hops, similar distractors",
    ]  # fmt: skip


def test_a_score_outside_0_to_1_is_left_out_and_counted(tmp_path: Path) -> None:
    values = [1.0, 0, None, 1.5, -0.1, "1"]
    written(tmp_path, [{"problem_id": f"p{i}", "value": value} for i, value in enumerate(values)])
    missing: list[str] = []
    [view] = result_views(read_result_files(tmp_path, missing))
    assert missing == ["eval/grid.json: 3 of 6 items have no problem_id or a score outside [0, 1] and are left out."]
    assert (view.accuracy.num, view.num_invalid) == (3, 1)


def test_several_sampled_answers_give_pass_at_k_by_window(tmp_path: Path) -> None:
    answers = {400: [(1, 0, 0, 0), (0, 0, 0, 0)], 800: [(1, 1, 1, 1), (1, None, None, None)]}
    items = [
        item("chain", length, 0.5, number, decoding="sampled", sample=i, score=value)
        for length, problems in answers.items()
        for number, values in enumerate(problems)
        for i, value in enumerate(values)
    ]
    written(tmp_path, items)
    [view] = views(tmp_path)
    assert view.decoding == "sampled" and view.ks == (1, 2, 4)
    assert (view.accuracy.num, view.accuracy.mean) == (4, 0.375)  # problems, of means 1/4, 0, 1 and 1/4
    # ≤400: means of 1/4 and 0, of 1/2 and 0, of 1 and 0. ≤800: of 1 and 1/4, 1 and 1/2, 1 and 1: no score is not right.
    assert [(row.window, row.num_problems, row.shares) for row in view.pass_rows] == [
        ("≤400", 2, (0.125, 0.25, 0.5)),
        ("≤800", 2, (0.625, 0.75, 1.0)),
        ("all", 4, (0.375, 0.5, 0.75)),
    ]


def test_suites_of_one_file_are_told_apart(tmp_path: Path) -> None:
    items = [
        {"suite": suite, "problem_id": "a", "value": value} for suite, value in (("musique", 1.0), ("frames", 0.0))
    ]
    written(tmp_path, items, "eval/both/result.json")
    assert [(view.suite, view.accuracy.mean) for view in views(tmp_path)] == [("musique", 1.0), ("frames", 0.0)]


def test_a_result_of_launch_eval_in_a_runs_folder_is_on_its_page(tmp_path: Path) -> None:
    """A model that says Ada, which is right at depth 0 of 400 tokens and for one of two problems at depth 1; never at 800."""
    golds = {(400, 0): ("Ada", "Ada"), (400, 1): ("Ada", "Eve"), (800, 0): ("Eve", "Eve")}
    problems = [
        SourceProblem(
            problem_id=f"lookup-test-0-{length}-depth{depth}-{number}", task="lookup", context="It was one of two.",
            question="Who?", answers=(gold,), answer_type="text",
        )
        for (length, depth), cell in golds.items() for number, gold in enumerate(cell)
    ]  # fmt: skip
    prepare(problems, word_tokenizer(), tmp_path / "set", windows=(400,))
    write_run(tmp_path / "run", num_steps=2)
    with judge_server(content="Therefore, the answer is Ada.") as server:
        words = ["--model", server.url, "--model_name", "m", "--suite", str(tmp_path / "set"), "--num_samples", "2"]
        assert exit_code(run, [*words, "--out", str(tmp_path / "run" / "eval")]) == 0
    page = write_report(tmp_path / "run")
    assert f'title="{tmp_path / "set"}"' in page.read_text()
    told = text_of(page)
    for part in (
        "eval/result.json: set", f"Model {server.url}. 6 problems, greedy answers: 50.0% right",
        "Length and depth, lookup n 2 a cell facts at400800 0%100%±330%±33 100%50%±41-",
        "One of k sampled answers is right score 0.5 or more WindowProblemsk = 1k = 2 ≤400650.0%50.0%",
    ):  # fmt: skip
        assert part in told, part
    result = orjson.loads((tmp_path / "run" / "eval" / "result.json").read_bytes())
    [shown] = [one for view in views(tmp_path / "run") for one in view.maps]
    cells = {(n, depth): cell for depth, cells in shown.rows for n, cell in zip(shown.lengths, cells, strict=True)}
    greedy = [one for one in result["grid"] if one["decoding"] == "greedy"]
    assert {(one["length"], one["depth"]): one["strict"]["mean"] for one in greedy} == {
        place: cell.mean for place, cell in cells.items() if cell
    }


def test_result_files_are_found_and_what_is_none_is_left_alone_or_named(tmp_path: Path) -> None:
    written(
        tmp_path,
        [{"problem_id": "a", "score": {"value": 1.0}}, {"problem_id": "a", "value": 1}, 7],
        "results.json",
    )
    written(tmp_path, [], "eval/empty.json")
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "eval" / "torn.json").write_text("{")
    (tmp_path / "other.json").write_text("[1, 2]")
    missing: list[str] = []
    [file] = read_result_files(tmp_path, missing)
    assert (file.name, [one.value for one in file.items]) == ("results.json", [1.0, 1.0])
    assert len(missing) == 2
    assert missing[0].startswith("eval/torn.json cannot be read")
    assert missing[1] == "results.json: 1 of 3 items have no problem_id or a score outside [0, 1] and are left out."
