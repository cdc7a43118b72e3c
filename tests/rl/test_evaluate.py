"""Every chosen problem is asked, scored and counted, whatever becomes of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from data.problem import Problem, Question
from rewards.types import Score
from rl.evaluate import (
    EvaluationResult,
    Reply,
    asks_about,
    choose_problems,
    evaluate,
    pass_at_k,
    problem_seed,
    scored,
    summarize,
    wilson_interval,
)
from rl.rollout.engine import SampleRequest
from rl.types import Completion


def problem(index: int, answer: str = "yes", task: str = "a") -> Problem:
    return Problem(
        problem_id=f"p{index}", task=task, context="c", question="q?", answers=(answer,), answer_type="text",
        num_prompt_tokens=10 + index,
    )  # fmt: skip


@dataclass
class Parrot:
    """Answers with the text whose code points are the prompt; a sampled answer gets a question mark."""

    requests: list[SampleRequest] = field(default_factory=list)

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        self.requests += requests
        return [[self.answer(request)] for request in requests]

    def answer(self, request: SampleRequest) -> Completion:
        text = "".join(map(chr, request.prompt_token_ids)) + ("?" if request.temperature else "")
        reached = len(text) >= request.max_response_tokens
        return Completion(
            token_ids=tuple(map(ord, text)),
            logprobs=(0.0,) * len(text),
            text=text,
            finish_reason="length" if reached else "stop",
        )


class Exact:
    """1 for an accepted answer, 0 for another, no verdict on `down`."""

    def score(self, items: Sequence[tuple[Question, str]]) -> list[Score]:
        return [self.one(question, response) for question, response in items]

    def one(self, question: Question, response: str) -> Score:
        if response == "down":
            return Score(value=None, status="infra_error", source="judge", answer=response)
        return Score(value=float(response in question.answers), status="ok", source="rule", answer=response)


def run(
    windows: dict[int, list[Problem]], texts: dict[str, str], *, sampled: bool = False, engine: Parrot | None = None
) -> EvaluationResult:
    return evaluate(
        engine or Parrot(),
        windows,
        lambda p: [ord(c) for c in texts[p.problem_id]],
        Exact(),
        problems_per_window=100,
        max_response_tokens=5,
        sampled=sampled,
        temperature=0.7,
        top_p=0.9,
        seed=3,
    )


def test_an_item_without_a_verdict_is_not_correct_and_is_counted_as_invalid() -> None:
    result = run({100: [problem(i) for i in range(4)]}, {"p0": "yes", "p1": "no", "p2": "down", "p3": "yes"})
    figures = result.accuracy("greedy")
    assert (figures.num_problems, figures.num_invalid, figures.mean) == (4, 1, 0.5)  # 2 right of 4 asked, not of 3


def test_windows_and_tasks_are_reported_apart_and_together() -> None:
    windows = {100: [problem(0), problem(1)], 20: [problem(2, task="b")]}
    result = run(windows, {"p0": "yes", "p1": "no", "p2": "yes"})
    assert result.windows == (20, 100)
    assert result.accuracy("greedy", window=20).mean == 1.0
    assert result.accuracy("greedy", window=100).mean == 0.5
    assert result.accuracy("greedy", task="b").num_problems == 1
    metrics = result.metrics("eval")
    assert metrics["eval/greedy/100/accuracy"] == 0.5
    assert metrics["eval/greedy/all/accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no evaluated item is greedy in window 50"):
        result.accuracy("greedy", window=50)


def test_greedy_and_sampled_answers_share_the_prompt_and_nothing_else() -> None:
    engine = Parrot()
    result = run({100: [problem(0)]}, {"p0": "yes"}, sampled=True, engine=engine)
    greedy, sampled = engine.requests
    assert greedy.prompt_token_ids is sampled.prompt_token_ids
    assert (greedy.temperature, sampled.temperature, sampled.top_p) == (0.0, 0.7, 0.9)
    assert result.decodings == ("greedy", "sampled")
    assert result.accuracy("greedy").mean == 1.0
    assert result.accuracy("sampled").mean == 0.0


def test_answers_that_hit_the_output_limit_are_counted() -> None:
    figures = run({100: [problem(0), problem(1)]}, {"p0": "yes", "p1": "nonono"}).accuracy("greedy")
    assert (figures.num_truncated, figures.mean_response_tokens) == (1, 4.5)


def test_samples_are_averaged_within_a_problem_and_only_the_first_has_the_problems_seed() -> None:
    asks = [ask for i in range(2) for ask in asks_about(problem(i), 100, greedy=False, num_samples=3, seed=3)]
    assert [len(set(ask.seeds)) for ask in asks] == [3, 3]
    assert asks[0].seeds[0] == problem_seed(3, "p0")
    texts = [["yes", "yes", "no"], ["no", "down", "no"]]
    replies = [[Reply(text=t, num_response_tokens=2, finish_reason="stop") for t in own] for own in texts]
    items = scored(asks, replies, Exact())
    assert [item.sample for item in items] == [0, 1, 2, 0, 1, 2]
    figures = summarize(items)
    assert (figures.num_problems, figures.num_items, figures.num_invalid) == (2, 6, 1)
    assert figures.mean == pytest.approx((2 / 3 + 0) / 2)
    assert (figures.low, figures.high) == wilson_interval(figures.mean, 2)  # samples of one problem are no new trials


def test_a_request_that_failed_is_an_item_without_a_score_and_of_unknown_length() -> None:
    asks = [ask for i in range(2) for ask in asks_about(problem(i), 100, num_samples=0, seed=3)]
    down = Reply(text="", num_response_tokens=None, finish_reason=None, failure="refused")
    items = scored(asks, [[down], [Reply(text="yes", num_response_tokens=1, finish_reason="stop")]], Exact())
    assert [(item.score.status, item.score.value) for item in items] == [("infra_error", None), ("ok", 1.0)]
    assert items[0].score.reason == "no response: refused"
    assert (summarize(items).mean, summarize(items).mean_response_tokens) == (0.5, 1.0)
    assert summarize(items[:1]).mean_response_tokens is None


def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_answer() -> None:
    # 4 answers, 1 right: of the C(4, 2) = 6 pairs 3 hold it; of the single ones 1 in 4; all four do.
    assert [pass_at_k(4, 1, k) for k in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert (pass_at_k(4, 0, 2), pass_at_k(4, 3, 2)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="needs 1 <= k <= n"):
        pass_at_k(2, 1, 3)


def test_the_choice_of_problems_knows_no_order_and_grows_without_changing() -> None:
    problems = [problem(i) for i in range(50)]
    few = choose_problems(problems, 10, seed=0)
    assert choose_problems(problems[::-1], 10, seed=0) == few
    assert choose_problems(problems, 20, seed=0)[:10] == few
    assert choose_problems(problems, 10, seed=1) != few
    assert len(choose_problems(problems, 99, seed=0)) == 50


def test_an_engine_that_loses_an_answer_is_refused() -> None:
    class Loser(Parrot):
        def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
            return super().generate(requests)[1:]

    with pytest.raises(RuntimeError, match="2 samples in 2 requests were asked for, 1 in 1 came back"):
        run({100: [problem(0), problem(1)]}, {"p0": "yes", "p1": "yes"}, engine=Loser())


def test_the_interval_is_wilsons() -> None:
    # m = 1/2: 1/2 +- z / 2 sqrt(n + z^2) = 1.959964 / 2 sqrt(103.841459) = 0.096168
    assert wilson_interval(0.5, 100) == pytest.approx((0.403832, 0.596168), abs=1e-6)
    # m = 0: [0, z^2 / (n + z^2)] = 3.841459 / 103.841459; with z = 1.96 it would end at 0.036995
    assert wilson_interval(0.0, 100) == pytest.approx((0.0, 0.0369935), abs=1e-7)
    assert wilson_interval(1.0, 10)[1] == pytest.approx(1.0)
