"""What paying for the prompt once per group saves: the learner's own step against the usual one, in one process by turns.

Ours is `Learner.gather_gradient`, the product itself. The other side is one of two:
`separate`: what one writes with plain transformers, sdpa attention, one sequence prompt + response at a time, the head on
response positions only; `trl`: TRL's own trainer (launch/bench_trl.py), in one micro-batch or one sequence at a time,
whichever took less time here.

Both sides work on the same model object, so on the same weights, adapters, gradient checkpointing and gradient sums. They
compute the same gradient, which is compared, and neither steps an optimizer. Each has one turn that counts for nothing,
one in which memory is measured (gradients are there by then) and then, alternating, its timed turns. Gradients add up
over the turns, as they do over the groups of a step.

G responses a group, P prompt tokens, R tokens a response.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from launch.bench_case import LearnerCase, build_learner, device_name, random_group
from launch.bench_memory import GIB, UNKNOWN, Peak, freed_at_once, peak_memory, release_memory
from launch.bench_profile import time_shares
from launch.bench_trl import require_trl, trl_turns
from launch.cli import EnvironmentFault
from rl.config import LearnerSection
from rl.learner.attention import IMPLEMENTATION
from rl.learner.cost import SUSTAINED_FLOPS, ideal_speedup, prompt_once, useful_flops
from rl.learner.step import Learner
from rl.run_folder import git_commit
from rl.types import RolloutGroup

T = TypeVar("T")
PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    """One way to the gradient."""

    learner: Learner
    attention: str
    """What transformers calls its attention."""
    work: Callable[[], object]
    """Adds the gradient once."""

    def seconds(self) -> float:
        """A turn, timed."""
        self.learner.model.set_attn_implementation(self.attention)
        _wait_for_device()
        started = time.perf_counter()
        self.work()
        _wait_for_device()
        return time.perf_counter() - started

    def peak(self) -> Peak:
        """A turn, its memory measured."""
        self.learner.model.set_attn_implementation(self.attention)
        return peak_memory(self.work, self.learner.model.device.type)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Other:
    """The other side after its first turns."""

    side: _Side | None = None
    missing: str | None = None
    """Why there is no side."""
    micro_batch: int | None = None
    """Sequences that go through it together."""
    gradient_error: float | None = None
    peak: Peak = UNKNOWN


def bench_learner(case: LearnerCase) -> dict[str, Any]:
    """The case, and time, gradient and memory of both sides.

    Returns:
        Beside the case: `ours_s` and `separate_s` or `trl_s` (medians, seconds), `ratio` = other / ours, `ideal`
        (`ideal_speedup`: the head on response positions on both sides, also where the other side's is not),
        `fraction_of_ideal`, `max_rel_grad_err` (over the parameters, |ours - other| / |other|, 2-norms), of both sides
        `*_peak_gib` and `*_step_gib` (beyond parameters, gradients and all else that was there before the turn), `ours_step_estimate_gib` (the same
        by the formulas of rl/learner/budget.py, which `launch.rl --dry-run` tells),
        tokens a second of ours: logical G(P+R) and physical P+GR; `mfu` on CUDA: `useful_flops` of ours a second over
        790e12; `profile`, where asked for: `time_shares` of ours. The other side's figures are None where it was not run or did not fit, and `*_missing` says why.

    Raises:
        ConfigError, ModelRefused: no such shape or folder, or a model the learner is not exact for.
        EnvironmentFault: no CUDA, TRL is asked for and not there, or our own side does not fit.
    """
    if case.device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault("--device cuda: torch finds no CUDA device; use --device cpu")
    if case.against == "trl" and case.sides == "both":
        require_trl()
    # What the learner and TRL say as they start is no part of the result.
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        return _measure(case, Path(folder))


def _measure(case: LearnerCase, folder: Path) -> dict[str, Any]:
    with freed_at_once():
        learner = build_learner(case, folder)
        group = random_group(case, learner.model.config.vocab_size)
        advantages = [1.0 if i % 2 == 0 else -0.5 for i in range(case.group_size)]
        ours = _Side(
            learner=learner, attention=IMPLEMENTATION, work=lambda: learner.gather_gradient([group], [advantages])
        )
        peak = _unless_out_of_memory(learner, lambda: (ours.seconds(), ours.peak())[1])
        if peak is None:
            raise EnvironmentFault(
                f"our own side runs out of memory at P={case.prompt_tokens} R={case.response_tokens}; take fewer tokens, "
                "--gradient-checkpointing, --micro-batch-tokens or --lora-rank"
            )
        if case.sides == "ours":
            other = _Other(missing="not asked for (--sides ours)")
        else:
            two_turns = {name: gradient.to("cpu", copy=True) for name, gradient in learner.gradients().items()}
            other = _first_turns(learner, _others_turns(case, learner, group, advantages, folder), two_turns)
    ours_s, other_s, other = _timed_turns(case, learner, ours, other)
    figures = _case_figures(case, learner) | _figures(case, learner, ours_s, peak, other, other_s)
    if case.profile:
        ours.seconds()  # with its attention set
        figures["profile"] = time_shares(ours.work, on_cuda=case.device == "cuda")
    return figures


def _timed_turns(case: LearnerCase, learner: Learner, ours: _Side, other: _Other) -> tuple[float, float | None, _Other]:
    """Medians of both sides' alternating turns, and the other side as it then is."""
    ours_s, other_s = [], []
    for _ in range(case.repeats):
        ours_s.append(ours.seconds())
        if other.side is not None:
            seconds = _unless_out_of_memory(learner, other.side.seconds)
            if seconds is None:
                other = _Other(missing="out of memory")
            else:
                other_s.append(seconds)
    return statistics.median(ours_s), statistics.median(other_s) if other.side is not None else None, other


def _others_turns(
    case: LearnerCase, learner: Learner, group: RolloutGroup, advantages: Sequence[float], folder: Path
) -> dict[int, Callable[[], None]]:
    """By the number of sequences in a micro-batch."""
    if case.against == "separate":
        return {1: lambda: _separate(learner, group, advantages)}
    sizes = [case.trl_micro_batch] if case.trl_micro_batch else [case.group_size, 1]
    section = LearnerSection()
    threads = torch.get_num_threads()
    turns = trl_turns(
        learner.model,
        group,
        advantages,
        micro_batches=sizes,
        clips=(section.clip_low, section.clip_high),
        folder=folder,
    )
    torch.set_num_threads(threads)  # whatever was imported on the way
    return turns


def _separate(learner: Learner, group: RolloutGroup, advantages: Sequence[float]) -> None:
    num_tokens = sum(len(r.token_ids) for r in group.rollouts)
    for rollout, advantage in zip(group.rollouts, advantages, strict=True):
        tokens = torch.tensor(rollout.token_ids, device=learner.model.device)
        ids = torch.cat([torch.tensor(group.prompt_token_ids, device=tokens.device), tokens])[None]
        output = learner.model(input_ids=ids, use_cache=False, logits_to_keep=len(tokens) + 1)
        logprobs = output.logits[0, :-1].float().log_softmax(-1).gather(-1, tokens[:, None])
        (-(logprobs * advantage).sum() / num_tokens).backward()


def _first_turns(
    learner: Learner,
    turns: dict[int, Callable[[], None]],
    two_turns: dict[str, torch.Tensor],
) -> _Other:
    """Try each form of the other side, compare its gradient with half of our two turns', and measure the fastest."""
    found: dict[int, tuple[float, float]] = {}
    sides = {size: _Side(learner=learner, attention="sdpa", work=turn) for size, turn in turns.items()}
    for size, side in sides.items():
        learner.clear_gradients()
        seconds = _unless_out_of_memory(learner, side.seconds)
        if seconds is not None:
            found[size] = (seconds, _max_relative_error(two_turns, learner.gradients()))
    two_turns.clear()
    if not found:
        return _Other(missing="out of memory")
    best = min(found, key=lambda size: found[size][0])
    peak = _unless_out_of_memory(learner, sides[best].peak)
    if peak is None:
        return _Other(missing="out of memory")
    return _Other(side=sides[best], micro_batch=best, gradient_error=found[best][1], peak=peak)


def _case_figures(case: LearnerCase, learner: Learner) -> dict[str, Any]:
    on_cuda = case.device == "cuda"
    return {
        "model": case.model,
        "vocab_size": learner.model.config.vocab_size,
        "prompt_tokens": case.prompt_tokens,
        "response_tokens": case.response_tokens,
        "group_size": case.group_size,
        "lora_rank": case.lora_rank,
        "gradient_checkpointing": case.gradient_checkpointing,
        "micro_batch_tokens": case.micro_batch_tokens,
        "device": case.device,
        "device_name": device_name(case.device),
        "threads": None if on_cuda else torch.get_num_threads(),
        "dtype": case.dtype,
        "torch": torch.__version__,
        "commit": git_commit(PROJECT) or None,
        "against": case.against,
    }


def _figures(
    case: LearnerCase, learner: Learner, ours_s: float, peak: Peak, other: _Other, other_s: float | None
) -> dict[str, Any]:
    config, against = learner.model.config, case.against
    p, r, g = case.prompt_tokens, case.response_tokens, case.group_size
    ideal, ratio = ideal_speedup(config, p, r, g), other_s / ours_s if other_s is not None else None
    flops = useful_flops(prompt_once(config, p, [r] * g), frozen=case.lora_rank > 0)
    return {
        "ours_s": ours_s,
        f"{against}_s": other_s,
        "ratio": ratio,
        "ideal": ideal,
        "fraction_of_ideal": ratio / ideal if ratio is not None else None,
        "max_rel_grad_err": other.gradient_error,
        "ours_peak_gib": peak.total_gib,
        f"{against}_peak_gib": other.peak.total_gib,
        "ours_step_gib": peak.step_gib,
        "ours_step_estimate_gib": _estimated_step_gib(case, learner),
        f"{against}_step_gib": other.peak.step_gib,
        "logical_tokens_per_s": g * (p + r) / ours_s,
        "physical_tokens_per_s": (p + g * r) / ours_s,
        "mfu": flops / (ours_s * SUSTAINED_FLOPS) if case.device == "cuda" else None,
        f"{against}_micro_batch": other.micro_batch,
        f"{against}_missing": other.missing,
    }


def _estimated_step_gib(case: LearnerCase, learner: Learner) -> float:
    memory = learner.memory_of(case.prompt_tokens)
    tokens = case.micro_batch_tokens or memory.micro_batch_tokens()
    return memory.peak_bytes(min(max(tokens, case.response_tokens), case.group_size * case.response_tokens)) / GIB


def _unless_out_of_memory(learner: Learner, work: Callable[[], T]) -> T | None:
    """work(), or None after clearing up where memory did not suffice."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        # torch's CPU allocator has no error class of its own.
        told = str(error)
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in told:
            raise
    # Here the exception, and with it the tensors of the frames it went through, is gone.
    learner.clear_gradients()
    release_memory()
    return None


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _max_relative_error(two_turns: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]) -> float:
    """Over the parameters, |two_turns / 2 - gradient| / |gradient| (2-norms); 0 where both are 0."""
    if two_turns.keys() != gradients.keys():
        raise RuntimeError(f"gradients of one side only: {sorted(two_turns.keys() ^ gradients.keys())[:3]}")
    errors = [0.0]
    for name, gradient in gradients.items():
        expected = gradient.cpu()
        off = float((two_turns[name] / 2 - expected).norm())
        errors.append(off / float(expected.norm()) if off else 0.0)
    return max(errors)
