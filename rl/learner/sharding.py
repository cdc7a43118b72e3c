"""Parameters over several processes (FSDP2), and groups dealt to them so that none waits long for another.

All ranks make the same calls in the same order, because each layer's parameters are gathered by all of them together:
the data-parallel ranks learn from one group each at a time, in the same number of micro-batches, some of which may be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from rl.learner.ranks import Ranks

T = TypeVar("T")


class ShardedPolicy(torch.nn.Module):
    """The model behind one call, in which all that it computes must happen: FSDP gathers its parameters around it."""

    def __init__(
        self, model: PreTrainedModel, ranks: Ranks, *, device: torch.device, reduce_in_every_backward: bool = False
    ) -> None:
        """Shard the model over all ranks, in place; with one rank it only moves to the device.

        Trained parameters become float32 shards, which the optimizer updates; they are gathered in the type the model
        had, and gradients are summed over the ranks in float32.

        Args:
            model: in host memory where there are several ranks.
            reduce_in_every_backward: see `reduce_gradients`.
        """
        super().__init__()
        self.model = model
        self._reduce_always = reduce_in_every_backward
        if ranks.world_size == 1:
            model.to(device)
        else:
            self._shard(ranks, device)

    def _shard(self, ranks: Ranks, device: torch.device) -> None:
        mesh = init_device_mesh(device.type, (ranks.world_size,))
        precision = MixedPrecisionPolicy(
            param_dtype=self.model.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        layers = decoder_layers(self.model)
        for module in (*layers, self):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            fully_shard(module, mesh=mesh, mp_policy=precision)
            assert isinstance(module, FSDPModule)
            # The loss has one denominator for all ranks, so their gradients add up.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        # FSDP's own order of prefetching is the last forward pass's, and the prompt's backward pass is not its reverse.
        for before, after in pairwise(layers):
            before.set_modules_to_forward_prefetch([after])
            after.set_modules_to_backward_prefetch([before])

    def forward(self, work: Callable[[PreTrainedModel], T]) -> T:
        """work(model), with the parameters outside its decoder layers gathered; returns tensors or containers of them."""
        return work(self.model)

    def reduce_gradients(self, now: bool) -> None:
        """Whether the next backward pass sums gradients over the ranks, or keeps this rank's own for a later one."""
        if isinstance(self, FSDPModule):
            self.set_requires_gradient_sync(now or self._reduce_always)


def decoder_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The model's decoder layers, in order.

    Raises:
        ValueError: there is no list of as many modules as the configuration names layers.
    """
    for module in model.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return list(module)
    raise ValueError(
        f"{type(model).__name__}: no list of {model.config.num_hidden_layers} decoder layers to shard; set learner.processes to 1"
    )


def rounds(costs: Sequence[float], num_data: int) -> list[list[int | None]]:
    """Groups by data-parallel rank, round by round: those of about equal cost together, the dearest first.

    Args:
        costs: one per group.
        num_data: D, ranks that each take one group a round.

    Returns:
        Per round D indices into costs; None where a rank has nothing left to do.
    """
    order = sorted(range(len(costs)), key=lambda i: (-costs[i], i))
    dealt = [order[i : i + num_data] for i in range(0, len(order), num_data)]
    return [[*row, *[None] * (num_data - len(row))] for row in dealt]
