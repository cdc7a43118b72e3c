"""`python -m launch.bench [rewards|curriculum|learner|all] [--json] [...]`: what this machine makes of the three hot paths.

Figures, not verdicts: nothing here passes or fails. The tests hold what must be right; this tells how fast it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

from curricula.orders import OrderName
from data.problem import Question
from launch.bench_curriculum import DRAWN_PER_STEP, GROUP_SIZE, CurriculumCase, bench_curriculum
from launch.cli import ConfigError
from launch.cli import main as run_command
from rewards.hybrid import RuleScorer

BATCH_ROLLOUTS = DRAWN_PER_STEP * GROUP_SIZE
Figures = dict[str, Any]

_WHO = Question(question="Who wrote it?", answers=("Ada Lovelace", "Countess of Lovelace"), answer_type="text")
_HOW_MUCH = Question(question="How much, in dollars?", answers=("1,250.5",), answer_type="number")
_WHICH = Question(
    question="Which city?", answers=("C",), answer_type="choice", options=("London", "Paris", "Rome", "Oslo")
)
_WHETHER = Question(question="Is it so?", answers=("yes",), answer_type="yesno")
_THOUGHT = (
    "<think>" + "The text says several things about this, and none of them settles it at once. " * 50 + "</think>\n"
)
PANEL: tuple[tuple[Question, str], ...] = tuple(
    (question, f"{_THOUGHT}{said}")
    for question, said in (
        (_WHO, "Therefore, the answer is Ada Lovelace."),
        (_WHO, "Therefore, the answer is **the countess of Lovelace**"),
        (_WHO, "Therefore, the answer is Charles Babbage, who built the engine and is often named beside her."),
        (_HOW_MUCH, "Therefore, the answer is $1,250.50."),
        (_HOW_MUCH, "Therefore, the answer is \\boxed{1.2505 \\times 10^3}"),
        (_HOW_MUCH, "Therefore, the answer is about 1.3 thousand"),
        (_WHICH, "Therefore, the answer is (C) Rome."),
        (_WHICH, "Therefore, the answer is Paris"),
        (_WHETHER, "Therefore, the answer is Yes, it is."),
        (_WHETHER, "Therefore, the answer is no."),
        (_WHO, "I could not find out who wrote it."),
        (_HOW_MUCH, ""),
    )
)
"""Right, wrong and missing answers of every type, each after 4000 characters of thought."""


def bench_rewards(seconds: float) -> Figures:
    """Rule verdicts a second on one core, over about this many seconds, in batches of a step's size."""
    scorer, items = RuleScorer(), ([*PANEL] * (BATCH_ROLLOUTS // len(PANEL) + 1))[:BATCH_ROLLOUTS]
    scorer.score(items)
    times: list[float] = []
    started = time.perf_counter()
    while not times or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        scorer.score(items)
        times.append(time.perf_counter() - before)
    rate = len(items) / statistics.median(times)
    batch = {"batch_rollouts": len(items), "batch_s": statistics.median(times), "batch_max_s": max(times)}
    return {"verdicts_per_s": rate, "us_per_verdict": 1e6 / rate, "response_chars": len(_THOUGHT), **batch}


def _curriculum(arguments: argparse.Namespace) -> Figures:
    num_problems, visited = arguments.problems, arguments.visited
    case = CurriculumCase(
        problems=num_problems,
        visited=num_problems // 50 if visited is None else visited,
        steps=arguments.steps,
        order=arguments.order,
    )
    return bench_curriculum(case)


def _learner(arguments: argparse.Namespace) -> Figures:
    import torch

    from launch.bench_case import LearnerCase
    from launch.bench_learner import bench_learner

    cuda = torch.cuda.is_available() if arguments.device == "auto" else arguments.device == "cuda"
    checkpointing = arguments.gradient_checkpointing
    case = LearnerCase(
        model=arguments.model,
        vocab_size=arguments.vocab_size,
        prompt_tokens=arguments.prompt_tokens,
        response_tokens=arguments.response_tokens,
        group_size=arguments.group_size,
        against=arguments.against,
        sides=arguments.sides,
        device="cuda" if cuda else "cpu",
        dtype="bfloat16" if cuda else "float32",
        gradient_checkpointing=cuda if checkpointing is None else checkpointing,
        lora_rank=arguments.lora_rank,
        micro_batch_tokens=arguments.micro_batch_tokens,
        trl_micro_batch=arguments.trl_micro_batch,
        repeats=arguments.repeats,
        profile=arguments.profile,
        threads=arguments.threads,
    )
    return bench_learner(case)


BENCHMARKS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "rewards": lambda arguments: bench_rewards(arguments.seconds),
    "curriculum": _curriculum,
    "learner": _learner,
}


LEAST = {
    **dict.fromkeys(("problems", "steps", "prompt_tokens", "response_tokens", "repeats"), 1),
    **dict.fromkeys(("micro_batch_tokens", "trl_micro_batch"), 1),
    **dict.fromkeys(("group_size", "vocab_size"), 2),
    **dict.fromkeys(("lora_rank", "threads", "visited"), 0),
}
"""The smallest value of every whole number that can be given."""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    for key, least in LEAST.items():
        value = getattr(arguments, key)
        if value is not None and value < least:
            raise ConfigError(f"--{key.replace('_', '-')}: seen {value}, allowed: {least} or more")
    results: dict[str, Figures] = {}
    for name, bench in BENCHMARKS.items():
        if arguments.what in (name, "all"):
            results[name] = bench(arguments)
            if not arguments.json:
                print("\n".join(_lines(name, results[name])), flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))
    return 0


def _lines(name: str, figures: Figures) -> list[str]:
    return [name, *(f"  {key:22} {_shown(value)}" for key, value in figures.items())]


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.bench", description="Measure rewards, curriculum and learner on this machine."
    )
    parser.add_argument("what", nargs="?", default="all", choices=(*BENCHMARKS, "all"))
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of lines")
    parser.add_argument("--seconds", type=float, default=5.0, help="rewards: how long to measure (%(default)s)")
    parser.add_argument("--problems", type=int, default=10_000_000, help="curriculum: problems (%(default)s)")
    parser.add_argument("--visited", type=int, help="curriculum: problems visited before; default: a fiftieth of them")
    parser.add_argument("--steps", type=int, default=50, help="curriculum: steps a stage (%(default)s)")
    parser.add_argument("--order", choices=get_args(OrderName), default="random", help="curriculum: (%(default)s)")
    _add_learner_arguments(parser)
    return parser


def _add_learner_arguments(parser: argparse.ArgumentParser) -> None:
    learner = parser.add_argument_group("learner")
    add = learner.add_argument
    add("--prompt-tokens", type=int, default=2048, metavar="P", help="(%(default)s)")
    add("--response-tokens", type=int, default=128, metavar="R", help="(%(default)s)")
    add("--group-size", type=int, default=8, metavar="G", help="(%(default)s)")
    add(
        "--model",
        default="small",
        help="tiny, small, qwen2.5-0.5b, qwen2.5-1.5b or qwen2.5-7b with random weights, or a folder (%(default)s)",
    )
    add("--vocab-size", type=int, metavar="V", help="in place of the shape's own")
    add("--against", choices=("separate", "trl"), default="separate", help="what ours is compared with (%(default)s)")
    add("--sides", choices=("both", "ours"), default="both", help="ours: run ours alone (%(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    add("--gradient-checkpointing", action=argparse.BooleanOptionalAction, help="both sides; default: on CUDA only")
    add("--lora-rank", type=int, default=0, help="both sides train adapters of this rank; 0: the model (%(default)s)")
    add("--micro-batch-tokens", type=int, help="response tokens at a time, ours; default: the learner's choice")
    add("--trl-micro-batch", type=int, help="sequences at a time, TRL; default: all or one, whichever is faster here")
    add("--repeats", type=int, default=3, help="timed turns of each side (%(default)s)")
    add("--profile", action="store_true", help="also where ours spends its time, by kind of operation")
    add("--threads", type=int, default=0, help="on CPU: compute threads; 0: all cores")


if __name__ == "__main__":
    run_command(main)
