"""What a run would do, told before it does it: problems per stage, token histogram, memory."""

from __future__ import annotations

from dataclasses import dataclass

from curricula.index import ProblemIndex
from curricula.stage import StagePlan, num_outside_windows, plan_stages
from rl.config import RunConfig
from rl.inputs import Inputs

GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes one learner needs at its peak; a formula, not a measurement."""

    num_parameters: int
    state_bytes: int
    """Parameters, gradients and AdamW's two moments, all in the parameters' type."""
    prompt_kv_bytes: int
    """Keys, values and their gradients of the longest prompt, held while its responses learn."""
    activation_bytes: int
    """Layer inputs kept for the backward pass (one vector a layer and token under checkpointing)."""
    logit_bytes: int
    """One head chunk in float32, with its gradient."""

    @property
    def total_bytes(self) -> int:
        return self.state_bytes + self.prompt_kv_bytes + self.activation_bytes + self.logit_bytes


def estimate_memory(inputs: Inputs, config: RunConfig) -> MemoryEstimate:
    """Peak of the learner for the longest prompt and a full micro-batch."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(inputs.model_config, trust_remote_code=False)
    shape = inputs.model_config
    num_parameters = sum(p.numel() for p in model.parameters())
    size = 2 if config.model.dtype == "bfloat16" else 4
    head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    kv_heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    prompt = inputs.stages[-1].high
    tokens = prompt + config.learner.micro_batch_tokens
    vectors_per_layer = 1 if config.learner.gradient_checkpointing else 16
    return MemoryEstimate(
        num_parameters=num_parameters,
        state_bytes=4 * size * num_parameters,
        prompt_kv_bytes=4 * size * prompt * kv_heads * head_dim * shape.num_hidden_layers,
        activation_bytes=vectors_per_layer * size * tokens * shape.hidden_size * shape.num_hidden_layers,
        logit_bytes=2 * 4 * config.learner.head_chunk_tokens * shape.vocab_size,
    )


def describe_plan(inputs: Inputs, config: RunConfig) -> str:
    """The stage plan as lines of text."""
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
            f"lr {stage.lr:g}, replay {stage.replay_frac:.0%}",
            *(f"  {line}" for line in histogram_lines(plan)),
        ]
    if outside := num_outside_windows(index, inputs.stages):
        lines.append(f"in no stage's window: {outside} problems")
    if inputs.num_dropped or inputs.num_cut:
        lines.append(f"longer than the last window: {inputs.num_dropped} dropped, {inputs.num_cut} cut in the middle")
    for high, problems in inputs.test.items():
        lines.append(
            f"evaluation window <= {high}: {min(len(problems), config.evaluation.problems_per_window)} problems"
        )
    memory = estimate_memory(inputs, config)
    lines.append(
        f"learner memory, estimated: {memory.total_bytes / GIB:.2f} GiB = state {memory.state_bytes / GIB:.2f} + prompt K/V "
        f"{memory.prompt_kv_bytes / GIB:.2f} + activations {memory.activation_bytes / GIB:.2f} + logits {memory.logit_bytes / GIB:.2f} "
        f"({memory.num_parameters:,} parameters)"
    )
    return "\n".join(lines)


def histogram_lines(plan: StagePlan) -> list[str]:
    """The stage's prompt lengths as bars."""
    top = max(count for _, count in plan.histogram)
    lows = [plan.stage.low, *(upper for upper, _ in plan.histogram)]
    return [
        f"{low + 1:>7}-{upper:<7} {count:>7} {'#' * round(30 * count / top)}"
        for low, (upper, count) in zip(lows, plan.histogram, strict=False)
    ]
