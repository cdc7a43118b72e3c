"""A judge that is really a model: trained here by `python -m launch.sft`, served by vLLM, asked by the hybrid scorer."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.request import Request, urlopen

import orjson
import pytest

from data.problem import Question
from data.synthesis.words import keys_of
from launch.judge_data import KINDS, EquivalenceCase, draw_cases, is_held_out
from rewards.breaker import BreakerPolicy
from rewards.hybrid import HybridScorer, RuleScorer
from rewards.judge import Judge
from rewards.judge_client import JudgePolicy
from rewards.types import Score
from rl.cluster import Cluster
from rl.config import DataSection, ModelSection, RewardSection, RunConfig, RunSection, StageSection
from rl.judge_process import JudgeProcess, JudgeSettings
from rl.metrics import read_metrics
from rl.rollout_log import read_rollouts, rollout_files
from tests.rl.test_judge_process import comes_true, family_of, is_gone

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
GARBAGE = (
    "@@@@",
    "the person that",
    "correct",
    "see the text",
    "lorem ipsum dolor",
    "it depends",
    "Both are the same.",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder of the tiny judge, what its making printed)."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here: make setup installs it")
    out = tmp_path_factory.mktemp("judge") / "judge"
    command = [sys.executable, "-m", "launch.tiny_judge", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return out, done.stdout


@pytest.fixture(scope="module")
def server(made: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgeProcess]:
    log = tmp_path_factory.mktemp("server") / "judge.log"
    with JudgeProcess(JudgeSettings(model=str(made[0]), log=str(log))) as process:
        yield process


def held_out(count: int, seed: int = 1) -> list[EquivalenceCase]:
    return list(draw_cases("test", count, seed))


def item(case: EquivalenceCase) -> tuple[Question, str]:
    question = Question(question=case.question, answers=case.references, answer_type="text")
    return question, f"the answer is {case.candidate}"


def score(process: JudgeProcess, items: Sequence[tuple[Question, str]]) -> list[Score]:
    scorer = HybridScorer(RuleScorer(), Judge(url=process.url, model=process.model))
    try:
        return scorer.score(items)
    finally:
        scorer.close()


def num_served(process: JudgeProcess) -> int:
    """Replies that the server itself has counted."""
    with urlopen(process.url.replace("/v1", "/metrics"), timeout=20) as reply:
        text = reply.read().decode()
    counts = re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.MULTILINE)
    assert counts
    return int(sum(float(count) for count in counts))


def test_training_sees_no_pair_and_no_person_of_the_held_out_cases() -> None:
    known = {form: meaning for meanings in KINDS.values() for meaning in meanings for form in meaning}
    train, test = list(draw_cases("train", 4000, 0)), held_out(400)
    pairs = [
        {
            (r, c.candidate)
            for c in cases
            if c.kind in ("alias", "other")
            for r in c.references
            if len(c.references) == 1
        }
        for cases in (train, test)
    ]
    assert len(pairs[1]) > 50 and not pairs[0] & pairs[1]
    assert all(is_held_out(*pair) for pair in pairs[1])
    people = set(keys_of("test", 160))
    assert not any(people & set(re.findall(r"\w+", case.question)) for case in train)
    assert all(case.same == any(case.candidate in known[r] for r in case.references if r in known) for case in test
               if case.candidate in known)  # fmt: skip


def test_the_sft_command_trains_a_judge_that_decides_held_out_pairs(made: tuple[Path, str]) -> None:
    folder, told = made
    assert "sft step 1/" in told and (folder / "sft.json").exists()
    accuracy = re.search(r"held-out accuracy: all (\d\.\d+)", told)
    assert accuracy and float(accuracy[1]) >= 0.95


def test_the_server_holds_the_reply_to_the_verdicts_schema(server: JudgeProcess) -> None:
    from rewards.verdict import SCHEMA

    for question in ("Say something else.", "[[YES]]"):
        body = {
            "model": server.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0.0,
            "max_tokens": 64,
            "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}},
        }
        headers = {"content-type": "application/json"}
        with urlopen(Request(f"{server.url}/chat/completions", orjson.dumps(body), headers), timeout=60) as reply:
            content = orjson.loads(reply.read())["choices"][0]["message"]["content"]
        assert content in ('{"verdict":"YES"}', '{"verdict":"NO"}')


def test_held_out_pairs_get_the_right_verdict_and_what_the_rule_accepts_never_reaches_the_server(
    server: JudgeProcess,
) -> None:
    cases = held_out(300)
    before = num_served(server)
    scores = score(server, [item(case) for case in cases])
    assert {one.status for one in scores} == {"ok"}
    judged = [(case, one) for case, one in zip(cases, scores, strict=True) if one.source == "judge"]
    different = {(case.question, case.references, one.answer) for case, one in judged}
    assert num_served(server) - before == len(different) > 100
    assert sum(one.value == float(case.same) for case, one in judged) >= 0.9 * len(judged)
    assert sum(case.same for case, _ in judged) > 20  # a judge that always says NO would not do
    ruled = [one for one in scores if one.source == "rule"]
    assert sum(one.value == 1.0 for one in ruled) > 50


def test_garbage_is_no_whatever_is_asked(server: JudgeProcess) -> None:
    questions = [item(case)[0] for case in held_out(40, seed=2) if case.same]
    scores = score(server, [(question, f"the answer is {text}") for question in questions for text in GARBAGE])
    assert {one.status for one in scores} == {"ok"}
    judged = [one.value for one in scores if one.source == "judge"]
    # Every call has marks of its own, and this small a judge is wrong about garbage once in a thousand of them.
    assert len(judged) > 50 and sum(judged) <= 0.02 * len(judged)
    assert all(one.value == 0.0 for one in scores if one.source == "rule")


def test_the_score_command_asks_it(server: JudgeProcess) -> None:
    cases = [case for case in held_out(200, seed=3) if case.kind in ("alias", "other")][:60]
    rows = [
        {"id": i, "question": q.question, "answers": list(q.answers), "answer_type": "text", "response": response}
        for i, (q, response) in enumerate(map(item, cases))
    ]
    command = [sys.executable, "-m", "rewards.score", "--judge", server.url, "--judge-model", server.model]
    done = subprocess.run(command, input=b"\n".join(map(orjson.dumps, rows)), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    out = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in out] == list(range(60))
    assert sum(row["value"] == float(case.same) for row, case in zip(out, cases, strict=True)) >= 54
    assert sum(row["source"] == "judge" for row in out) > 30


def test_a_killed_server_leaves_scores_unknown_and_never_zero_and_its_return_is_noticed(server: JudgeProcess) -> None:
    aliases = [case for case in held_out(2000, seed=4) if case.kind == "alias"]
    unique = list({(c.question, c.references, c.candidate): c for c in aliases}.values())
    healthy = score(server, [item(case) for case in unique])
    items = [item(c) for c, one in zip(unique, healthy, strict=True) if one.source == "judge" and one.value == 1.0]
    policy = JudgePolicy(connect_s=1.0, read_s=5.0, total_s=10.0, max_attempts=2, wait_s=0.05)
    judge = Judge(
        url=server.url, model=server.model, concurrency=4, policy=policy, breaker=BreakerPolicy(cooldown_s=0.2)
    )
    scorer = HybridScorer(RuleScorer(), judge)
    served = num_served(server)
    pids = family_of(server)
    scored: list[Score] = []
    batch = threading.Thread(target=lambda: scored.extend(scorer.score(items)))
    batch.start()
    assert comes_true(lambda: num_served(server) > served)
    for pid in reversed(pids[1:]):
        os.kill(pid, signal.SIGKILL)
    batch.join(120)
    assert comes_true(lambda: all(is_gone(pid) for pid in pids[1:]))
    server.restart()
    time.sleep(0.2)  # the breaker's pause
    again = scorer.score(items)
    scorer.close()

    assert len(scored) == len(items) > 50
    assert {one.status for one in scored if one.value is None} <= {"infra_error", "timeout", "abstain"}
    assert {one.value for one in scored} >= {1.0, None}
    # Marks are drawn anew for every call, so now and then this small a judge takes back a YES; nothing else is a 0.
    assert all(one.reason.startswith("judge: NO") for one in scored + again if one.value == 0.0)
    assert {one.status for one in again} == {"ok"}
    assert sum(one.value == 1.0 for one in again) >= 0.9 * len(items)


def test_the_demo_serves_the_judge_and_asks_it(made: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(made[0], folder / "judge")
    command = [sys.executable, "-m", "launch.demo", "--small", "--judge", "--dir", str(folder)]
    command += ["--num_sft", "2000", "--num_train", "40", "--num_test", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "$ python -m launch.tiny_judge " in done.stdout and "made before with this recipe" in done.stdout
    rows = read_metrics(folder / "metrics.jsonl")
    assert max(row["reward/judged_frac"] for row in rows) > 0
    assert rows[-1]["judge/num_calls"] > 0
    assert {row["judge/canary_alarm"] for row in rows} == {0.0}
    assert {row["reward/invalid_frac"] for row in rows} == {0.0}
    scores = [row for _, path in rollout_files(folder) for row in read_rollouts(path)]
    assert {row["score_status"] for row in scores} == {"ok"}


def test_a_run_starts_its_own_judge_again_at_the_same_address(
    made: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig(
        run=RunSection(dir=str(tmp_path)),
        model=ModelSection(path="unused"),
        data=DataSection(train="unused"),
        stages=[StageSection(max_prompt_tokens=10, steps=1)],
        reward=RewardSection(judge_path=str(made[0])),
    )
    cluster = Cluster(config, model_path="unused", max_model_len=16)
    assert cluster._judge is not None
    with cluster._judge as process:
        url, pids = process.url, family_of(process)
        cluster.ensure_judge()
        assert family_of(process) == pids, "a judge that runs is left alone"
        for pid in reversed(pids[1:]):
            os.kill(pid, signal.SIGKILL)
        assert comes_true(lambda: all(is_gone(pid) for pid in pids))
        cluster.ensure_judge()
        assert (process.url, cluster._scorer_config.judge_url) == (url, url)
        case = next(case for case in held_out(50) if case.kind == "alias")
        assert score(process, [item(case)])[0].status == "ok"
    assert "signal 9" in capfd.readouterr().err
    assert (tmp_path / "judge.log").stat().st_size > 0
