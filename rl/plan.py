"""What a run would do, told before it does it: problems per stage, token histogram, memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from curricula.index import ProblemIndex
from curricula.stage import StagePlan, num_outside_windows, plan_stages
from rl.config import RunConfig
from rl.inputs import Inputs
from rl.learner.budget import GroupMemory, ModelShape, StateMemory, head_chunk_tokens
from rl.rollout.budget import BATCH_TOKENS, GIB, LARGE_BATCH_TOKENS, LARGE_GPU_GIB, EngineMemory
from rl.rollout.choose import engine_name

CONTEXT_GIB = 0.6
"""Assumed for what CUDA and its libraries take in each process on a GPU."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """What one learner process needs at its peak; a formula (rl/learner/budget.py), not a measurement."""

    num_parameters: int
    """Of the model."""
    num_trained: int
    """Of the model, or of its adapters."""
    state: StateMemory
    group: GroupMemory
    """For the longest prompt."""
    micro_batch_tokens: int
    """Response tokens of one process in one forward and backward, before free memory is looked at."""
    num_fed: int
    """Of those, as many as the longest response or the whole group has."""

    @property
    def activation_bytes(self) -> int:
        """Beside what stays from step to step."""
        return self.group.peak_bytes(self.num_fed)

    @property
    def host_bytes(self) -> int:
        """What the offload settings keep in host memory."""
        optimizer = self.state.optimizer_bytes if self.state.offload_optimizer else 0
        return optimizer + (self.group.held_bytes if self.group.offload_activations else 0)

    @property
    def total_bytes(self) -> int:
        """On the device."""
        return self.state.device_bytes + self.activation_bytes


def estimate_memory(inputs: Inputs, config: RunConfig) -> MemoryEstimate:
    """Peak of a learner process for the longest prompt and a full micro-batch."""
    learner = config.learner
    element_bytes = 2 if config.model.dtype == "bfloat16" else 4
    counts = _count_parameters(inputs, config)
    shape = ModelShape.of(inputs.model_config, element_bytes=element_bytes)
    group = GroupMemory(
        shape=shape,
        prompt_tokens=inputs.max_prompt_tokens,
        gradient_checkpointing=learner.gradient_checkpointing,
        head_chunk_tokens=learner.head_chunk_tokens or head_chunk_tokens(shape.vocab_size),
        offload_activations=learner.offload_activations,
        sequence_parallel=learner.sequence_parallel,
    )
    has_reference = learner.kl_coef > 0.0 and not learner.lora_rank
    state = StateMemory(
        num_frozen=counts.model if learner.lora_rank or has_reference else 0,
        num_trained=counts.trained,
        num_largest=counts.largest,
        num_gathered=counts.gathered,
        element_bytes=element_bytes,
        has_masters=element_bytes < 4 and not learner.lora_rank and learner.processes == 1,
        processes=learner.processes,
        sharded_gradients=learner.processes > 1 and learner.grad_accumulation == "sharded",
        offload_optimizer=learner.offload_optimizer,
    )
    tokens = learner.micro_batch_tokens or group.micro_batch_tokens()
    longest = -(-max(stage.max_response_tokens for stage in inputs.stages) // learner.sequence_parallel)
    return MemoryEstimate(
        num_parameters=counts.model,
        num_trained=counts.trained,
        state=state,
        group=group,
        micro_batch_tokens=tokens,
        num_fed=min(max(tokens, longest), config.curriculum.group_size * longest),
    )


def travelling_bytes(inputs: Inputs, config: RunConfig) -> int:
    """Size of the file in which a weight sync brings the model to the engines, or its adapters alone (in float32)."""
    counts = _count_parameters(inputs, config)
    if config.learner.lora_rank:
        return 4 * counts.trained
    return (2 if config.model.dtype == "bfloat16" else 4) * counts.model


class _Counts(NamedTuple):
    """Numbers of parameters."""

    model: int
    trained: int
    largest: int
    """Of the largest trained one."""
    gathered: int
    """Of what is outside the decoder layers, and two of them."""


def _count_parameters(inputs: Inputs, config: RunConfig) -> _Counts:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(inputs.model_config, trust_remote_code=False)
    total = sum(p.numel() for p in model.parameters())
    sizes = [p.numel() for p in model.parameters()]
    in_layers = [(name, module) for name, module in model.named_modules() if re.search(r"\.\d+\.", name)]
    if rank := config.learner.lora_rank:
        targets = tuple(f".{target}" for target in config.learner.lora_targets)
        linear = [m for name, m in in_layers if isinstance(m, torch.nn.Linear) and name.endswith(targets)]
        sizes = [rank * size for m in linear for size in (m.in_features, m.out_features)]
    layers = sum(p.numel() for name, p in model.named_parameters() if re.search(r"\.\d+\.", name))
    return _Counts(
        model=total,
        trained=sum(sizes),
        largest=max(sizes, default=0),
        gathered=total - layers + 2 * layers // inputs.model_config.num_hidden_layers,
    )


def memory_lines(memory: MemoryEstimate, config: RunConfig) -> list[str]:
    """The estimate as text, and the sizes of micro-batch and head chunk it comes to."""
    learner, state, group = config.learner, memory.state, memory.group
    optimizer = 0 if state.offload_optimizer else state.optimizer_bytes
    adapters = f", {memory.num_trained:,} trained in adapters" if learner.lora_rank else ""
    each = "" if learner.processes == 1 else f" in each of {learner.processes} processes"
    host = f"; {memory.host_bytes / GIB:.2f} GiB in host memory" if memory.host_bytes else ""
    given = "" if learner.micro_batch_tokens else ", or fewer where memory is short"
    return [
        f"learner memory{each}, estimated: {memory.total_bytes / GIB:.2f} GiB = weights {state.weight_bytes / GIB:.2f} + "
        f"gradients {state.gradient_bytes / GIB:.2f} + optimizer {optimizer / GIB:.2f} + prompt and micro-batch "
        f"{memory.activation_bytes / GIB:.2f}{host} ({memory.num_parameters:,} parameters{adapters})",
        f"  micro_batch_tokens {memory.micro_batch_tokens} at {group.prompt_tokens} prompt tokens{given}; "
        f"head_chunk_tokens {group.head_chunk_tokens}",
    ]


def estimate_engine(memory: MemoryEstimate, config: RunConfig, *, gpu_gib: float | None = None) -> EngineMemory:
    """Of a rollout engine, for the model that the learner's estimate is of."""
    rollout = config.rollout
    is_large = gpu_gib is not None and gpu_gib >= LARGE_GPU_GIB
    return EngineMemory(
        shape=memory.group.shape,
        num_parameters=memory.num_parameters,
        num_adapter=memory.num_trained if config.learner.lora_rank else 0,
        tensor_parallel=1 if config.model.device == "cpu" else rollout.tensor_parallel,
        max_num_seqs=rollout.max_num_seqs,
        batch_tokens=LARGE_BATCH_TOKENS if is_large else BATCH_TOKENS,
    )


def engine_lines(engine: EngineMemory, inputs: Inputs, config: RunConfig, *, gpu_gib: float | None) -> list[str]:
    """The engine's memory as text: how many of the longest sequences it holds, and a warning where it holds none."""
    rollout, longest = config.rollout, inputs.max_model_len
    prompts = accumulate((stage.high for stage in inputs.stages), max)  # a stage may replay what came before it
    group_tokens = max(
        prompt + config.curriculum.group_size * stage.max_response_tokens
        for prompt, stage in zip(prompts, inputs.stages, strict=True)
    )
    if config.model.device == "cpu":
        tokens = int(rollout.kv_cache_gib * GIB) // engine.token_bytes
        told = f"rollout engine, estimated: kv_cache_gib {rollout.kv_cache_gib:g} holds the keys and values of {tokens} tokens"
        way_out = "raise rollout.kv_cache_gib"
    else:
        each = f" on each of its {engine.tensor_parallel} GPUs" if engine.tensor_parallel > 1 else ""
        told = (
            f"rollout engine{each}, estimated: weights {engine.weight_bytes / GIB:.2f} GiB + working memory "
            f"{engine.working_bytes / GIB:.2f} GiB + keys and values {engine.token_bytes * longest / GIB:.2f} GiB for the longest "
            f"sequence, {engine.token_bytes * group_tokens / GIB:.2f} GiB for a group of {config.curriculum.group_size}"
        )
        if gpu_gib is None:
            return [f"{told}; --gpu-gib says how many fit"]
        share = rollout.gpu_memory_frac * gpu_gib
        tokens = engine.cache_tokens(share * GIB)
        told += f"; gpu_memory_frac {rollout.gpu_memory_frac:g} of {gpu_gib:g} GiB holds {tokens} tokens"
        way_out = "raise rollout.gpu_memory_frac or rollout.tensor_parallel"
    lines = [f"{told}: {tokens // longest} longest sequences ({longest} tokens), {tokens // group_tokens} groups"]
    if tokens < longest:
        lines.append(
            f"warning: no sequence of {longest} tokens fits the rollout engine; {way_out}, or shorten the stages"
        )
    return lines


def gpu_lines(memory: MemoryEstimate, config: RunConfig, *, gpu_gib: float) -> list[str]:
    """What the processes of one GPU take together, the learner's with the engine's where they share it; a warning where it is too much."""
    learner, rollout, reward = config.learner, config.rollout, config.reward
    shares = {"rollout engine": rollout.gpu_memory_frac * gpu_gib}
    if reward.judge_path:
        shares["judge"] = reward.judge_gpu_memory_frac * gpu_gib
    of_learner = {"learner": memory.total_bytes / GIB}
    gpus = [of_learner | shares] if learner.colocate else [of_learner, shares]
    lines = []
    for parts in gpus:
        total = sum(parts.values()) + CONTEXT_GIB * len(parts)
        told = " + ".join(f"{name} {gib:.1f}" for name, gib in parts.items())
        line = f"a GPU of {gpu_gib:g} GiB: {told} + processes {CONTEXT_GIB * len(parts):.1f} = {total:.1f} GiB"
        if total > gpu_gib:
            line = (
                f"warning: {line}, more than it has; lower rollout.gpu_memory_frac, raise learner.processes and "
                'learner.sequence_parallel, set learner.grad_accumulation="sharded" or learner.offload_optimizer=true, or train '
                "adapters (learner.lora_rank)"
            )
        lines.append(line)
    return lines


def describe_plan(inputs: Inputs, config: RunConfig, *, gpu_gib: float | None = None) -> str:
    """The stage plan as lines of text.

    Args:
        gpu_gib: memory of each GPU; None: not known, so nothing is said about what fits.
    """
    per_step = config.curriculum.problems_per_step
    lines = [
        f"model {config.model.path}: {inputs.model_config.model_type}, longest sequence {inputs.max_model_len} tokens"
    ]
    index = ProblemIndex(inputs.train)
    for plan in plan_stages(index, inputs.stages, num_bins=5):
        stage = plan.stage
        tasks = ", ".join(f"{task} {count}" for task, count in plan.num_by_task.items())
        lines += [
            f"stage {stage.index + 1}: {stage.low} < prompt tokens <= {stage.high}, {plan.num_problems} problems ({tasks}), "
            f"{plan.mean_prompt_tokens:.0f} tokens on average",
            f"  {stage.steps} steps x {per_step} problems x {config.curriculum.group_size} answers of <= "
            f"{stage.max_response_tokens} tokens: {plan.num_epochs(per_step):.2g} times through the window, "
            f"lr {stage.lr:g}, replay {stage.replay_frac:.0%}, shorter {stage.short_frac:.0%}",
            *(f"  {line}" for line in histogram_lines(plan)),
        ]
    if outside := num_outside_windows(index, inputs.stages):
        lines.append(f"in no stage's window: {outside} problems")
    if inputs.num_dropped or inputs.num_cut:
        lines.append(
            f"longer than every stage's window: {inputs.num_dropped} dropped, {inputs.num_cut} cut in the middle"
        )
    for high, problems in inputs.test.items():
        lines.append(
            f"evaluation window <= {high}: {min(len(problems), config.evaluation.problems_per_window)} problems"
        )
    memory = estimate_memory(inputs, config)
    lines += memory_lines(memory, config)
    if engine_name(config.rollout) == "vllm":
        engine = estimate_engine(memory, config, gpu_gib=gpu_gib)
        lines += engine_lines(engine, inputs, config, gpu_gib=gpu_gib)
    if gpu_gib is not None and config.model.device != "cpu":
        lines += gpu_lines(memory, config, gpu_gib=gpu_gib)
    return "\n".join(lines)


def histogram_lines(plan: StagePlan) -> list[str]:
    """The stage's prompt lengths as bars."""
    top = max(count for _, count in plan.histogram)
    lows = [plan.stage.low, *(upper for upper, _ in plan.histogram)]
    return [
        f"{low + 1:>7}-{upper:<7} {count:>7} {'#' * round(30 * count / top)}"
        for low, (upper, count) in zip(lows, plan.histogram, strict=False)
    ]
