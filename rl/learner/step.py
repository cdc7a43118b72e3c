"""The learner: groups in, one or more optimizer updates, metrics out.

Left out: sharding over processes and LoRA. B responses a micro-batch, R tokens of the longest, P prompt tokens.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from rl.learner.logprobs import token_logprobs
from rl.learner.loss import TokenSums, policy_loss
from rl.learner.optimizer import Optimizer
from rl.learner.packing import micro_batches
from rl.learner.policy import load_policy
from rl.learner.schedule import backward_group, score_group
from rl.types import MicroBatch, RolloutGroup

if TYPE_CHECKING:
    from rl.config import LearnerSection

_COUNTERS = "learner.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _LearnGroup:
    """One group on the device, ready to be learned from."""

    prompt_token_ids: torch.Tensor
    """[P] int64"""
    batches: list[MicroBatch]
    old_logprobs: list[torch.Tensor] | None
    """Per micro-batch [N]; None when strictly on-policy."""
    ref_logprobs: list[torch.Tensor] | None
    """Per micro-batch [N]; None without a reference model."""
    is_stale: bool
    """Sampled by older weights than those being trained: a surplus group of an earlier step."""
    num_loss_tokens: int
    num_forward_tokens: int
    """Token positions that go through the model, padding included."""


class Learner:
    """A policy and its optimizer on one device."""

    def __init__(
        self,
        model_path: str,
        *,
        section: LearnerSection,
        dtype: Literal["float32", "bfloat16"],
        device: Literal["auto", "cpu", "cuda"],
        temperature: float,
    ) -> None:
        """Load the start model; also the frozen reference when section.kl_coef > 0.

        Args:
            model_path: folder or hub id in Hugging Face form.
            temperature: the sampling temperature; every log-probability in the loss is at this temperature.

        Raises:
            ValueError: nothing loadable at model_path, or a kind of model the learner refuses.
        """
        name = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(name)
        if self._device.type == "cpu":
            torch.set_num_threads(section.threads or len(os.sched_getaffinity(0)))
        self._section = section
        self._temperature = temperature
        torch_dtype = getattr(torch, dtype)
        self.model = load_policy(model_path, dtype=torch_dtype, device=self._device).train()
        if section.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._reference: PreTrainedModel | None = None
        if section.kl_coef > 0.0:
            self._reference = (
                load_policy(model_path, dtype=torch_dtype, device=self._device).eval().requires_grad_(False)
            )
        self._optimizer = Optimizer(
            self.model, betas=section.betas, weight_decay=section.weight_decay, max_grad_norm=section.max_grad_norm
        )
        self.num_updates = 0
        """Optimizer updates made so far."""
        self.num_skipped_updates = 0
        """Updates left out so far because the gradient was not finite."""

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
            ValueError: advantages do not match the groups' valid rollouts.
        """
        if len(advantages) != len(groups):
            raise ValueError(f"{len(advantages)} lists of advantages for {len(groups)} groups; give one per group")
        ready = [self._learn_group(g, a, policy_version) for g, a in zip(groups, advantages, strict=True)]
        ready = [group for group in ready if group.num_loss_tokens]
        num_updates = min(self._section.updates_per_step, len(ready))
        # Every n-th group, so that neighbours in the draw do not share an update.
        parts = [ready[i::num_updates] for i in range(num_updates)]
        skipped_before = self.num_skipped_updates
        norms: list[float] = []
        sums: list[tuple[_LearnGroup, TokenSums]] = []
        for part in parts:
            sums += self._accumulate(part)
            norms.append(self._update(lr))
        return self._metrics(ready, sums, norms, lr, self.num_skipped_updates - skipped_before)

    def _learn_group(
        self, group: RolloutGroup, advantages: Sequence[float], policy_version: int | None = None
    ) -> _LearnGroup:
        try:
            batches = micro_batches(
                group.valid_rollouts, advantages, self._section.micro_batch_tokens, device=self._device
            )
        except ValueError as error:
            raise ValueError(f"problem {group.problem.problem_id!r}: {error}") from error
        prompt = torch.tensor(group.prompt_token_ids, device=self._device)
        # With several updates the ratio needs the policy as it was before the first of them.
        off_policy = self._section.updates_per_step > 1 and batches
        return _LearnGroup(
            prompt_token_ids=prompt,
            batches=batches,
            old_logprobs=self._score(self.model, prompt, batches) if off_policy else None,
            ref_logprobs=self._score(self._reference, prompt, batches) if self._reference and batches else None,
            is_stale=policy_version is not None and group.policy_version < policy_version,
            num_loss_tokens=sum(len(r.token_ids) for r in group.valid_rollouts),
            num_forward_tokens=len(prompt) + sum(b.token_ids.numel() - len(b.token_ids) for b in batches),
        )

    def _score(self, model: PreTrainedModel, prompt: torch.Tensor, batches: list[MicroBatch]) -> list[torch.Tensor]:
        """Per micro-batch the log-probabilities [N] of its trained tokens at the sampling temperature."""
        return score_group(
            model.base_model,
            prompt,
            batches,
            lambda i, hidden: self._head(model, hidden, batches[i], self._temperature)[0],
        )

    def _head(
        self, model: PreTrainedModel, hidden: torch.Tensor, batch: MicroBatch, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probabilities [N], entropies [N]) of the micro-batch's trained tokens, row by row."""
        trained = batch.loss_mask.flatten().nonzero()[:, 0]
        return token_logprobs(
            hidden.flatten(0, 1).index_select(0, trained),
            model.get_output_embeddings().weight,
            batch.token_ids.flatten()[trained],
            temperature=temperature,
            chunk_tokens=self._section.head_chunk_tokens,
        )

    def _accumulate(self, groups: Sequence[_LearnGroup]) -> list[tuple[_LearnGroup, TokenSums]]:
        """Gather the gradient of one update; one `TokenSums` per micro-batch, with its group."""
        num_loss_tokens = sum(group.num_loss_tokens for group in groups)
        sums: list[tuple[_LearnGroup, TokenSums]] = []
        for group in groups:
            loss = self._group_loss(group, num_loss_tokens, sums)
            backward_group(self.model.base_model, group.prompt_token_ids, group.batches, loss)
        return sums

    def _group_loss(
        self, group: _LearnGroup, num_loss_tokens: int, sums: list[tuple[_LearnGroup, TokenSums]]
    ) -> Callable[[int, torch.Tensor], torch.Tensor]:
        def loss(i: int, hidden: torch.Tensor) -> torch.Tensor:
            batch = group.batches[i]
            logprobs, entropies = self._head(self.model, hidden, batch, self._temperature)
            value, token_sums = policy_loss(
                logprobs,
                advantages=batch.advantages[:, None].expand_as(batch.loss_mask)[batch.loss_mask],
                sampling_logprobs=batch.sampling_logprobs[batch.loss_mask],
                entropies=entropies,
                num_loss_tokens=num_loss_tokens,
                clip_low=self._section.clip_low,
                clip_high=self._section.clip_high,
                tis_max=self._section.tis_max,
                kl_coef=self._section.kl_coef,
                old_logprobs=group.old_logprobs[i] if group.old_logprobs else None,
                ref_logprobs=group.ref_logprobs[i] if group.ref_logprobs else None,
            )
            sums.append((group, token_sums))
            return value

        return loss

    def _update(self, lr: float) -> float:
        norm = self._optimizer.update(lr)
        if math.isfinite(norm):
            self.num_updates += 1
        else:
            self.num_skipped_updates += 1
        return norm

    def _metrics(
        self,
        groups: Sequence[_LearnGroup],
        sums: list[tuple[_LearnGroup, TokenSums]],
        norms: list[float],
        lr: float,
        num_skipped: int,
    ) -> dict[str, float]:
        num_tokens = sum(group.num_loss_tokens for group in groups)
        metrics = {"loss/num_tokens": float(num_tokens), "health/skipped_updates": float(num_skipped)}
        if not sums:
            return metrics
        total = _total([token_sums for _, token_sums in sums])
        metrics |= {
            "loss/policy": total.policy.item() / len(norms),
            "loss/clip_frac": total.clipped.item() / num_tokens,
            "policy/entropy": total.entropy.item() / num_tokens,
            "optim/grad_norm": sum(norms) / len(norms),
            "optim/lr": lr,
            "perf/learn_tokens": float(sum(group.num_forward_tokens for group in groups)),
        }
        if self._reference is not None:
            metrics["policy/kl_ref"] = total.ref_k3.item() / num_tokens
        num_stale = sum(group.num_loss_tokens for group in groups if group.is_stale)
        if num_stale:
            stale = _total([token_sums for group, token_sums in sums if group.is_stale])
            metrics["policy/kl_stale"] = stale.sampler_k3.item() / num_stale
        if num_tokens > num_stale:
            fresh = _total([token_sums for group, token_sums in sums if not group.is_stale])
            metrics |= {
                "policy/kl_sampler": fresh.sampler_k3.item() / (num_tokens - num_stale),
                "policy/kl_sampler_k1": fresh.sampler_k1.item() / (num_tokens - num_stale),
                "policy/kl_sampler_max": fresh.sampler_max.item(),
            }
        return metrics

    def logprobs(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[float]:
        """Log-probability (temperature 1, nats) of each response token; for the probe after a weight sync."""
        tokens = torch.tensor([response_ids], device=self._device)
        batch = MicroBatch(
            token_ids=tokens,
            loss_mask=torch.ones_like(tokens, dtype=torch.bool),
            advantages=torch.zeros(1, device=self._device),
            sampling_logprobs=torch.zeros_like(tokens, dtype=torch.float32),
        )
        prompt = torch.tensor(prompt_ids, device=self._device)
        (scored,) = score_group(
            self.model.base_model, prompt, [batch], lambda _, hidden: self._head(self.model, hidden, batch, 1.0)[0]
        )
        return scored.tolist()  # type: ignore[no-any-return]

    def write_weights(self, path: str) -> None:
        """Write every weight to one safetensors file under its Hugging Face name, a tied one once; appears whole or not at all."""
        weights: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                weights[name] = tensor.detach().contiguous()
        partial = f"{path}.partial"
        save_file(weights, partial, metadata={"format": "pt"})
        os.replace(partial, path)

    def save_model(self, folder: str) -> None:
        """Write the policy in Hugging Face form (weights and configuration; the tokenizer is the caller's)."""
        self.model.save_pretrained(folder)

    def save(self, folder: str) -> None:
        """Write all that `load` needs for the next step to be bitwise the one that would have followed."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._optimizer.save(Path(folder))
        counters = {"num_updates": self.num_updates, "num_skipped_updates": self.num_skipped_updates}
        (Path(folder) / _COUNTERS).write_text(json.dumps(counters), encoding="utf-8")

    def load(self, folder: str) -> None:
        """Take back what `save` wrote.

        Raises:
            ValueError: it was written for a model with other parameters.
        """
        self._optimizer.load(Path(folder))
        counters = json.loads((Path(folder) / _COUNTERS).read_text(encoding="utf-8"))
        self.num_updates, self.num_skipped_updates = counters["num_updates"], counters["num_skipped_updates"]


def _total(sums: Sequence[TokenSums]) -> TokenSums:
    return functools.reduce(operator.add, sums)
