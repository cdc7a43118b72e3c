"""A model behind an endpoint: what is sent, what comes back, and what a failure leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.prepare import prepare
from data.problem import Problem
from data.prompts import L1_PROMPT
from launch.cli import exit_code
from launch.eval import run
from launch.eval_endpoint import Endpoint, reply_of
from rl.evaluate import Ask, Reply, SamplingLimits, asks_about, problem_seed
from tests.data.tokenizers import word_tokenizer
from tests.launch.test_eval import problem, read
from tests.rewards.judge_server import JudgeServer, judge_server

LIMITS = SamplingLimits(max_response_tokens=50, temperature=0.7, top_p=0.95)
ADA = "Therefore, the answer is Ada."


def asks(count: int, num_samples: int = 0) -> list[Ask]:
    return [ask for i in range(count) for ask in asks_about(measured(i), 100, num_samples=num_samples, seed=3)]


def measured(i: int) -> Problem:
    return Problem(
        problem_id=f"p{i}", task="t", context=f"It was Ada, said number {i}.", question="Who?", answers=("Ada",),
        answer_type="text", num_prompt_tokens=9,
    )  # fmt: skip


def replies(server: JudgeServer, asked: list[Ask], concurrency: int = 4) -> list[list[Reply]]:
    endpoint = Endpoint(url=server.url, model="m", concurrency=concurrency, timeout_s=5.0, wait_s=0.01)
    return endpoint.replies(asked, L1_PROMPT, LIMITS)


def test_each_sample_is_a_request_with_its_own_seed_and_the_decoding_that_was_asked() -> None:
    with judge_server(content=ADA) as server:
        greedy, sampled = replies(server, asks(1, num_samples=2))
    assert [reply.text for reply in greedy + sampled] == [ADA] * 3
    sent = sorted(server.requests, key=lambda request: (request["temperature"], request["seed"]))
    assert [(one["temperature"], one.get("top_p"), one["max_tokens"]) for one in sent] == [
        (0.0, None, 50), (0.7, 0.95, 50), (0.7, 0.95, 50),
    ]  # fmt: skip
    assert {one["seed"] for one in sent[1:]} == {problem_seed(3, "p0"), problem_seed(3, "p0", sample=1)}
    assert sent[0]["messages"] == [{"role": "user", "content": L1_PROMPT.render(measured(0))}]


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGREACH_MODEL_KEY", "secret")
    with judge_server(content=ADA) as server:
        replies(server, asks(1))
    assert server.keys == ["Bearer secret"]


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    with judge_server(content=ADA) as server:
        server.delay_s = 0.02
        replies(server, asks(12), concurrency=3)
    assert (len(server.requests), server.most_in_flight) == (12, 3)


def test_what_passes_by_itself_is_tried_again() -> None:
    with judge_server(content=ADA) as server:
        server.failures_first = 3
        [[reply]] = replies(server, asks(1))
    assert (reply.text, reply.failure, len(server.requests)) == (ADA, "", 4)


@pytest.mark.parametrize("mode", ["401", "500", "reset", "html", "cut json", "no choices", "null content"])
def test_a_request_that_fails_for_good_is_a_reply_that_says_why(mode: str) -> None:
    with judge_server(mode) as server:
        [[reply]] = replies(server, asks(1))
    assert (reply.text, reply.finish_reason, reply.num_response_tokens) == ("", None, None)
    assert reply.failure.startswith(server.url) and "\n" not in reply.failure
    assert len(server.requests) == (1 if mode == "401" else 5)


@contextmanager
def saying(body: str) -> Iterator[str]:
    """The URL of an endpoint that answers every request with this body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(content: str = ADA, **more: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}], **more})


@pytest.mark.parametrize(
    ("body", "text", "num_tokens"),
    [
        (completion("\ud800Ada"), "?Ada", None),
        (completion(usage={"completion_tokens": 12}), ADA, 12),
        (completion(usage={"completion_tokens": 0}), ADA, 0),
        (completion(usage={"completion_tokens": "12"}), ADA, None),
        (completion(usage={"completion_tokens": 10**30}), ADA, None),
        (completion(usage={"completion_tokens": -1}), ADA, None),
        (completion(usage={"completion_tokens": True}), ADA, None),
        (completion(usage=5), ADA, None),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_of_an_odd_completion_the_text_is_kept_and_a_length_that_can_be_none_is_unknown(
    body: str, text: str, num_tokens: int | None
) -> None:
    with saying(body) as url:
        [[reply]] = Endpoint(url=url, model="m", concurrency=1, timeout_s=5.0, wait_s=0.01).replies(
            asks(1), L1_PROMPT, LIMITS
        )
    assert (reply.text, reply.num_response_tokens, reply.failure) == (text, num_tokens, "")


@pytest.mark.parametrize(
    "body",
    ['{"choices": 5}', '{"choices": {"a": 1}}', '{"choices": [5]}', '"\\ud800"', "[" * 100_000 + "]" * 100_000],
    ids=lambda body: body[:20],
)
def test_json_that_is_no_completion_is_a_failed_request_whose_reason_can_be_written(body: str) -> None:
    with saying(body) as url:
        [[reply]] = Endpoint(url=url, model="m", concurrency=1, timeout_s=5.0, wait_s=0.01).replies(
            asks(1), L1_PROMPT, LIMITS
        )
    assert (reply.text, reply.finish_reason) == ("", None)
    assert reply.failure.startswith(url) and reply.failure.encode()


def test_a_thought_that_comes_apart_is_put_before_the_answer_and_an_unfinished_one_has_none() -> None:
    def told(**message: Any) -> Any:
        choice = SimpleNamespace(message=SimpleNamespace(**message), finish_reason="length")
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(completion_tokens=7))

    assert reply_of(told(content="Ada", reasoning="hm")) == Reply(
        text="<think>hm</think>Ada", num_response_tokens=7, finish_reason="length"
    )
    assert reply_of(told(content=None, reasoning_content="hm")).text == "<think>hm"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sets") / "set"
    prepare([problem(i, f"It was Ada, said {i}.") for i in range(4)], word_tokenizer(), folder, windows=(60, 400))
    return str(folder)


def test_failed_requests_stay_in_the_denominator_and_the_rerun_asks_them_alone(
    suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "eval.json"
    with judge_server(content=ADA) as server:
        words = ["--model", server.url, "--model_name", "m", "--suite", suite, "--out", str(out), "--sampled", "false"]
        server.decide = None
        refused = "said 2"
        server.mode_of_next = lambda: "401" if refused in json.dumps(server.requests[-1]) else "ok"  # type: ignore[method-assign]
        assert exit_code(run, [*words, "--concurrency", "1"]) == 4
        assert f"1 of 4 answers have no valid score, over max_invalid_frac 0.1; check the model at {server.url}" in (
            capsys.readouterr().err
        )
        items = {item["problem_id"]: item for item in read(out)["items"]}
        assert [(i, item["value"], item["status"]) for i, item in sorted(items.items())] == [
            ("p0", 1.0, "ok"), ("p1", 1.0, "ok"), ("p2", None, "infra_error"), ("p3", 1.0, "ok"),
        ]  # fmt: skip
        assert items["p2"]["failure"].startswith("no response: http://127.0.0.1")
        assert (items["p2"]["num_response_tokens"], items["p2"]["finish_reason"]) == (None, None)
        [whole] = [one for one in read(out)["figures"] if one["window"] is None]
        assert (whole["num_problems"], whole["accuracy"], whole["num_invalid"]) == (4, 0.75, 1)

        server.requests.clear()
        refused = "nothing"
        assert exit_code(run, [*words, "--concurrency", "1"]) == 0
        assert len(server.requests) == 1
    assert [item["value"] for item in read(out)["items"]] == [1.0] * 4
    assert read(out)["pinned"]["model"] == {"url": server.url, "name": "m", "tokenizer": ""}


def test_a_length_that_was_written_as_text_is_unknown_to_the_rerun_which_asks_nothing(
    suite: str, tmp_path: Path
) -> None:
    words = ["--model", "URL", "--model_name", "m", "--suite", suite, "--out", str(tmp_path), "--sampled", "false"]
    answers = tmp_path / "answers.jsonl"
    with judge_server(content=ADA) as server:
        words[1] = server.url
        assert exit_code(run, words) == 0
        answers.write_text(answers.read_text().replace('"num_response_tokens":null', '"num_response_tokens":"12"'))
        server.requests.clear()
        assert exit_code(run, words) == 0
        assert server.requests == []
    assert '"num_response_tokens":"12"' in answers.read_text()
    assert {item["num_response_tokens"] for item in read(tmp_path / "result.json")["items"]} == {None}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "http://ada:SECRET@host/v1"], "model: seen a URL with credentials"),
        (["--judge_url", "http://ada:SECRET@host/v1"], "judge_url: seen a URL with credentials"),
        ([], "model_name: seen '' with model"),
        (["--model_name", "m", "--max_prompt_tokens", "9"], "tokenizer: max_prompt_tokens needs one"),
        (["--model_name", "m", "--suite", "RAW"], "tokenizer: needed to count and cut the prompts"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused_before_anything_is_sent(
    words: list[str], told: str, suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"problem_id": "a", "task": "t", "context": "c", "question": "q", "answers": ["x"], "answer_type": "text"}
    raw = tmp_path / "raw.jsonl"
    raw.write_text(json.dumps(row))
    words = [word.replace("RAW", str(raw)) for word in words]
    assert exit_code(run, ["--model", "http://127.0.0.1:9/v1", "--suite", suite, *words]) == 2
    errors = capsys.readouterr().err
    assert told in errors and errors.count("\n") == 1 and "SECRET" not in errors
