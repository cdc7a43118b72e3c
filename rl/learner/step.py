"""The learner: groups in, one or more optimizer updates, metrics out.

In one process or several: torch.distributed is then initialized, and every method is called on every rank, with the same
arguments in the same order; results are the same on all ranks, files are written by rank 0.

M trained tokens of a micro-batch, H hidden size.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from transformers import PreTrainedModel

from rl.learner import lora
from rl.learner.budget import GroupMemory, ModelShape, free_bytes, head_chunk_tokens
from rl.learner.cost import prompt_once
from rl.learner.export import save_model, write_weights
from rl.learner.kernel_choice import HeadShape, choose_kernel
from rl.learner.logprobs import token_logprobs
from rl.learner.loss import TokenSums, policy_loss
from rl.learner.offload import activation_offload
from rl.learner.optimizer import Optimizer
from rl.learner.packing import Response, micro_batches, own_sources
from rl.learner.policy import load_policy, max_shared_tokens
from rl.learner.ranks import Ranks
from rl.learner.schedule import ReadyGroup, Schedule, ready_group
from rl.learner.sharding import ShardedPolicy
from rl.learner.step_metrics import loss_metrics
from rl.learner.turns import TrainedGroup, Turn, own_turns, trained_group
from rl.types import MicroBatch, RolloutGroup

if TYPE_CHECKING:
    from rl.config import LearnerSection

_COUNTERS = "learner.json"
Sums = list[tuple[bool, TokenSums]]
"""Per micro-batch of this rank: whether its group is stale, and its sums."""


class Learner:
    """A policy and its optimizer, on one device or sharded over several."""

    def __init__(
        self,
        model_path: str,
        *,
        section: LearnerSection,
        dtype: Literal["float32", "bfloat16"],
        device: Literal["auto", "cpu", "cuda"],
        temperature: float,
    ) -> None:
        """Load the start model; also the frozen reference when section.kl_coef > 0 and the model itself is trained.

        Args:
            model_path: folder or hub id in Hugging Face form.
            temperature: the sampling temperature; every log-probability in the loss is at this temperature.

        Raises:
            ValueError: nothing loadable at model_path, a kind of model the learner refuses, or settings it cannot meet here.
        """
        self._section, self._temperature, self._path = section, temperature, model_path
        self.ranks = Ranks.here(section.sequence_parallel)
        name = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(name)
        if self._device.type == "cpu":
            torch.set_num_threads(section.threads or max(1, len(os.sched_getaffinity(0)) // self.ranks.world_size))
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._schedule = self._build_policy()
        self.model = self._schedule.policy.model
        self._max_tokens = max_shared_tokens(self.model.config)
        self._shape = ModelShape.of(self.model.config, element_bytes=self._dtype.itemsize)
        self._head_chunk_tokens = section.head_chunk_tokens or head_chunk_tokens(self._shape.vocab_size)
        self._free_bytes: int | None = None
        self._reference: Schedule | None = None
        if section.kl_coef > 0.0 and not section.lora_rank:
            frozen = load_policy(model_path, dtype=self._dtype).eval().requires_grad_(False)
            policy = ShardedPolicy(frozen, self.ranks, device=self._device)
            self._reference = replace(self._schedule, policy=policy)
        self._optimizer = Optimizer(
            self.model,
            betas=section.betas,
            weight_decay=section.weight_decay,
            max_grad_norm=section.max_grad_norm,
            offload=section.offload_optimizer,
        )
        self.num_updates = 0
        """Optimizer updates made so far."""
        self.num_skipped_updates = 0
        """Updates left out so far because the gradient was not finite."""

    def _build_policy(self) -> Schedule:
        section = self._section
        model = load_policy(self._path, dtype=self._dtype).train()
        config = model.config
        if section.lora_rank:
            lora.add_adapters(
                model, rank=section.lora_rank, alpha=section.lora_alpha, targets=section.lora_targets, seed=0
            )
        if section.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        kernel, line = choose_kernel(
            section.attention, device=self._device, dtype=self._dtype, shape=HeadShape.of(config)
        )
        processes = f"{self.ranks.world_size} processes, {self.ranks.num_sequence} to a sequence"
        self.description = f"{self._device.type}, {str(self._dtype).removeprefix('torch.')}, {processes}; {line}"
        """Where and how it computes, in a line for the log."""
        policy = ShardedPolicy(
            model, self.ranks, device=self._device, reduce_in_every_backward=section.grad_accumulation == "sharded"
        )
        offload = partial(activation_offload, self._device) if section.offload_activations else nullcontext
        return Schedule(policy=policy, kernel=kernel, ranks=self.ranks, offload=offload)

    def step(
        self,
        groups: Sequence[RolloutGroup],
        advantages: Sequence[Sequence[float]],
        *,
        lr: float,
        policy_version: int | None = None,
    ) -> dict[str, float]:
        """Learn from the groups in section.updates_per_step updates; each update's denominator is its own tokens.

        Args:
            groups: rollouts without a valid score are in neither the loss nor its denominator.
            advantages: advantages[i][j] belongs to groups[i].valid_rollouts[j].
            lr: learning rate of every update of this step.
            policy_version: of the weights being trained; groups that older weights sampled count in policy/kl_stale
                instead of policy/kl_sampler, which compares two engines with the same weights. None: no group is stale.

        Returns:
            Metrics, means over the step's trained tokens. With no trained token nothing is updated and only
            loss/num_tokens (0) and health/skipped_updates are there.

        Raises:
            ValueError: advantages do not match the groups' valid rollouts, or a sequence is too long for the model.
        """
        ready = self._trained(groups, advantages, policy_version)
        num_updates = min(self._section.updates_per_step, len(ready))
        # Every n-th group, so that neighbours in the draw do not share an update.
        parts = [ready[i::num_updates] for i in range(num_updates)]
        turns = [self._turns(part) for part in parts]
        skipped_before = self.num_skipped_updates
        norms: list[float] = []
        sums: Sums = []
        for part, mine in zip(parts, turns, strict=True):
            sums += self._accumulate(mine, sum(group.num_loss_tokens for group in part))
            norms.append(self._update(lr))
        num_skipped = self.num_skipped_updates - skipped_before
        metrics = self._metrics(ready, sums, len(norms)) | {"health/skipped_updates": float(num_skipped)}
        if norms:
            metrics |= {"optim/grad_norm": sum(norms) / len(norms), "optim/lr": lr}
        return metrics

    def gather_gradient(
        self, groups: Sequence[RolloutGroup], advantages: Sequence[Sequence[float]]
    ) -> dict[str, float]:
        """The first half of a step with one update: adds its gradient to `gradients`; returns the loss's metrics.

        Raises:
            ValueError: as `step`.
        """
        ready = self._trained(groups, advantages, None)
        sums = self._accumulate(self._turns(ready), sum(group.num_loss_tokens for group in ready)) if ready else []
        return self._metrics(ready, sums, 1)

    def gradients(self) -> dict[str, torch.Tensor]:
        """What has been gathered since the last update, by parameter: whole, float32, for tests and comparisons."""
        return self._optimizer.gradients()

    def clear_gradients(self) -> None:
        """Forget what has been gathered."""
        self._optimizer.clear()

    def _trained(
        self, groups: Sequence[RolloutGroup], advantages: Sequence[Sequence[float]], policy_version: int | None
    ) -> list[TrainedGroup]:
        if len(advantages) != len(groups):
            raise ValueError(f"{len(advantages)} lists of advantages for {len(groups)} groups; give one per group")
        made = [
            trained_group(g, a, policy_version=policy_version, max_tokens=self._max_tokens)
            for g, a in zip(groups, advantages, strict=True)
        ]
        return [group for group in made if group.num_loss_tokens]

    def _turns(self, groups: Sequence[TrainedGroup]) -> list[Turn]:
        """This rank's share of an update, with the log-probabilities that the loss compares with."""
        self._measure_free_memory()
        turns = own_turns(
            groups,
            self.ranks,
            self._device,
            cost=lambda g: prompt_once(self.model.config, len(g.prompt_token_ids), g.lengths).total,
            max_tokens=self._micro_batch_tokens,
        )
        # With several updates the ratio needs the policy as it was before the first of them.
        off_policy = self._section.updates_per_step > 1
        return [
            replace(
                turn,
                old_logprobs=self._score(self._schedule, turn.group) if off_policy else None,
                ref_logprobs=self._reference_logprobs(turn.group) if self._section.kl_coef > 0.0 else None,
            )
            for turn in turns
        ]

    def _micro_batch_tokens(self, num_prompt_tokens: int) -> int:
        """Response tokens that a rank takes at one time; the same on all ranks."""
        given = self._section.micro_batch_tokens
        return given or self.memory_of(num_prompt_tokens).micro_batch_tokens(free_bytes=self._free_bytes)

    def memory_of(self, num_prompt_tokens: int) -> GroupMemory:
        """What a group with such a prompt takes by the formulas."""
        section = self._section
        return GroupMemory(
            shape=self._shape,
            prompt_tokens=num_prompt_tokens,
            gradient_checkpointing=section.gradient_checkpointing,
            head_chunk_tokens=self._head_chunk_tokens,
            offload_activations=section.offload_activations,
            sequence_parallel=section.sequence_parallel,
        )

    def _measure_free_memory(self) -> None:
        """What the rank with the least has left once all gradients are there."""
        free = free_bytes(self._device, num_processes=self.ranks.world_size)
        if free is not None:
            sharers = self.ranks.world_size if self._section.grad_accumulation == "sharded" else 1
            gradients = 4 * sum(p.numel() for p in self.model.parameters() if p.requires_grad) // sharers
            free = int(-self.ranks.max_all(torch.tensor(float(gradients - free), device=self._device)).item())
        self._free_bytes = free

    def _reference_logprobs(self, group: ReadyGroup) -> tuple[torch.Tensor, ...]:
        if self._reference is not None:
            return self._score(self._reference, group)
        with lora.adapters_off(self.model):
            return self._score(self._schedule, group)

    def _score(
        self, schedule: Schedule, group: ReadyGroup, temperature: float | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Per micro-batch the log-probabilities [M] of its trained tokens, at the sampling temperature by default."""

        def score(model: PreTrainedModel, i: int, states: torch.Tensor) -> torch.Tensor:
            return self._head(model, states, group.batches[i], temperature or self._temperature)[0]

        return tuple(schedule.score(group, score))

    def _head(
        self, model: PreTrainedModel, states: torch.Tensor, batch: MicroBatch, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities [M], entropies [M]) of the micro-batch's trained tokens from their states [M, H]."""
        return token_logprobs(
            states,
            model.get_output_embeddings().weight,
            batch.targets,
            temperature=temperature,
            chunk_tokens=self._head_chunk_tokens,
            entropy_has_gradient=self._section.entropy_coef > 0.0,
        )

    def _accumulate(self, turns: Sequence[Turn], num_loss_tokens: int) -> Sums:
        """Gather the gradient of one update."""
        sums: Sums = []
        for i, turn in enumerate(turns):
            loss = partial(self._loss, turn, num_loss_tokens, sums)
            self._schedule.backward(turn.group, loss, is_last=i == len(turns) - 1)
        return sums

    def _loss(
        self, turn: Turn, num_loss_tokens: int, sums: Sums, model: PreTrainedModel, i: int, states: torch.Tensor
    ) -> torch.Tensor:
        batch = turn.group.batches[i]
        # Also of no tokens, 0: every rank has a gradient for what others have one for.
        logprobs, entropies = self._head(model, states, batch, self._temperature)
        value, token_sums = policy_loss(
            logprobs,
            advantages=batch.advantages,
            sampling_logprobs=batch.sampling_logprobs,
            entropies=entropies,
            num_loss_tokens=num_loss_tokens,
            clip_low=self._section.clip_low,
            clip_high=self._section.clip_high,
            tis_max=self._section.tis_max,
            kl_coef=self._section.kl_coef,
            entropy_coef=self._section.entropy_coef,
            old_logprobs=turn.old_logprobs[i] if turn.old_logprobs else None,
            ref_logprobs=turn.ref_logprobs[i] if turn.ref_logprobs else None,
        )
        sums.append((turn.is_stale, token_sums))
        return value

    def _update(self, lr: float) -> float:
        norm = self._optimizer.update(lr)
        if math.isfinite(norm):
            self.num_updates += 1
        else:
            self.num_skipped_updates += 1
        return norm

    def _metrics(self, groups: Sequence[TrainedGroup], sums: Sums, num_updates: int) -> dict[str, float]:
        has_reference = self._section.kl_coef > 0.0
        return loss_metrics(
            groups, sums, self.ranks, self._device, num_updates=num_updates, has_reference=has_reference
        )

    def logprobs(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[float]:
        """Log-probability (temperature 1, nats) of each response token; for the probe after a weight sync."""
        response = Response(response_ids, [0.0] * len(response_ids), 0.0)
        (batch,) = micro_batches([response], 1, num_prompt_tokens=len(prompt_ids), min_rows=self.ranks.min_rows)
        group = ready_group(prompt_ids, [batch], self.ranks, self._device)
        (own,) = self._score(self._schedule, group, temperature=1.0)
        scored = torch.zeros(len(response_ids), device=self._device)
        scored[own_sources(batch, group.batch_layouts[0], self.ranks) >= 0] = own
        return self.ranks.sum_sequence(scored).tolist()  # type: ignore[no-any-return]

    def write_weights(self, path: str) -> None:
        """Write every weight to one safetensors file under its Hugging Face name, a tied one once; the adapters alone where
        there are some. It appears whole or not at all."""
        write_weights(
            self.model, path, dtype=self._dtype, adapter_config=self._adapter_config(), writes=self.ranks.rank == 0
        )

    def save_model(self, folder: str) -> None:
        """Write the policy in Hugging Face form, adapters merged (weights and configuration; the tokenizer is the caller's)."""
        section = self._section
        save_model(
            self.model,
            folder,
            dtype=self._dtype,
            scaling=section.lora_alpha / section.lora_rank if section.lora_rank else None,
            adapter_config=self._adapter_config(),
            writes=self.ranks.rank == 0,
        )

    def _adapter_config(self) -> str | None:
        section = self._section
        if not section.lora_rank:
            return None
        return lora.adapter_config(
            rank=section.lora_rank, alpha=section.lora_alpha, targets=section.lora_targets, base=self._path
        )

    def save(self, folder: str) -> None:
        """Write all that `load` needs for the next step to be bitwise the one that would have followed."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._optimizer.save(Path(folder))
        counters = {"num_updates": self.num_updates, "num_skipped_updates": self.num_skipped_updates}
        if self.ranks.rank == 0:
            (Path(folder) / _COUNTERS).write_text(json.dumps(counters), encoding="utf-8")

    def load(self, folder: str) -> None:
        """Take back what `save` wrote.

        Raises:
            ValueError: it was written for a model with other parameters.
        """
        self._optimizer.load(Path(folder))
        counters = json.loads((Path(folder) / _COUNTERS).read_text(encoding="utf-8"))
        self.num_updates, self.num_skipped_updates = counters["num_updates"], counters["num_skipped_updates"]
