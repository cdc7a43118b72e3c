"""AdamW over float32 parameters, whatever type the model computes in and however many processes share them.

At a learning rate of 2e-6 an update is far below bfloat16's spacing and would vanish, and so would the last of a hundred
gradients added up in bfloat16. A bfloat16 model in one process therefore gets float32 master parameters and float32
gradient sums; a float32 model is its own master, and so are FSDP's shards, which are float32 whatever it gathers them in.
Everything here is on a rank's own rows; what is saved is whole, and any number of processes can take it back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, Shard

MAX_FILE_BYTES = 4 * 1024**3
"""Of a saved file, unless one tensor alone is larger: as much as rank 0 holds of the whole state at one time."""
_PARAMETERS, _MOMENTS = "parameters", "moments"
_STATE = ("step", "exp_avg", "exp_avg_sq")


class OtherModel(ValueError):
    """A saved state that belongs to a model with other parameters."""

    exit_code = 2


class _Trained:
    """This rank's rows of one parameter, their float32 master and the gradient gathered for it."""

    def __init__(self, name: str, parameter: torch.nn.Parameter, *, in_host_memory: bool) -> None:
        self.parameter = parameter
        self.is_sharded = isinstance(parameter, DTensor)
        with torch.no_grad():
            self.rows: torch.Tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            if self.is_sharded and self.rows.dtype != torch.float32:
                raise ValueError(
                    f"parameter {name!r} is sharded in {self.rows.dtype}; shard it in float32 and let FSDP's mp_policy choose "
                    "what the model computes in"
                )
            if in_host_memory:
                self.master = torch.nn.Parameter(self.rows.detach().to("cpu", torch.float32, copy=True))
            elif self.rows.dtype != torch.float32:
                self.master = torch.nn.Parameter(self.rows.detach().float())
            else:
                self.master = torch.nn.Parameter(self.rows) if self.is_sharded else parameter
        self._wide_grad: torch.Tensor | None = None
        if self.rows.dtype != torch.float32:
            parameter.register_post_accumulate_grad_hook(self._gather)

    def _gather(self, source: torch.Tensor) -> None:
        assert source.grad is not None
        if self._wide_grad is None:
            self._wide_grad = source.grad.float()
        else:
            self._wide_grad.add_(source.grad)
        source.grad = None

    @property
    def has_master(self) -> bool:
        """Whether the master is memory of its own, which is copied to the model after an update."""
        return self.master.data_ptr() != self.rows.data_ptr()

    @property
    def grad(self) -> torch.Tensor | None:
        """float32, this rank's rows; None: nothing gathered."""
        if self.rows.dtype != torch.float32:
            return self._wide_grad
        grad = self.parameter.grad
        return grad.to_local() if isinstance(grad, DTensor) else grad

    def clear(self) -> None:
        self._wide_grad = self.parameter.grad = self.master.grad = None

    def whole(self, rows: torch.Tensor) -> torch.Tensor:
        """The whole tensor of which every rank gives its rows, on the model's device; collective."""
        if not isinstance(self.parameter, DTensor):
            return rows.detach()
        mesh, placements = self.parameter.device_mesh, self.parameter.placements
        sharded = DTensor.from_local(
            rows.detach().to(self.rows.device), mesh, placements, run_check=False,
            shape=self.parameter.shape, stride=self.parameter.stride(),
        )  # fmt: skip
        return sharded.full_tensor()

    def own_rows(self, file: Any, name: str) -> torch.Tensor:
        """This rank's rows of a whole tensor in an open safetensors file; no others are read."""
        if not isinstance(self.parameter, DTensor):
            return file.get_tensor(name)  # type: ignore[no-any-return]
        assert self.parameter.placements == (Shard(0),)
        if not len(self.rows):
            return torch.empty(self.rows.shape)
        # As torch.chunk cuts, and so FSDP: all ranks have as many rows, but for the last ones.
        per_rank = -(-self.parameter.shape[0] // self.parameter.device_mesh.size())
        start = per_rank * self.parameter.device_mesh.get_local_rank()
        return file.get_slice(name)[start : start + len(self.rows)]  # type: ignore[no-any-return]


class Optimizer:
    """One update from gathered gradients, clipped by global norm; a non-finite norm changes nothing.

    Where parameters are sharded, `update`, `gradients`, `save` and `load` are called on every rank; update returns the
    same on all.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        betas: tuple[float, float],
        weight_decay: float,
        max_grad_norm: float,
        offload: bool = False,
    ) -> None:
        """Norms and biases (fewer than two dimensions) do not decay; frozen parameters are left out, a tied one counts once.

        Args:
            model: in one process, or under FSDP2 over all ranks, resharded.
            offload: float32 masters and moments live in host memory and the update is made there, one parameter after
                another; gradients are gathered on the device. 12 bytes a trained parameter in host memory.

        Raises:
            ValueError: a trained parameter is sharded in another type than float32.
        """
        self._trained = {
            name: _Trained(name, p, in_host_memory=offload) for name, p in model.named_parameters() if p.requires_grad
        }
        self._offload, self._max_grad_norm = offload, max_grad_norm
        groups = [
            {"params": [t.master for t in self._trained.values() if t.parameter.ndim >= 2], "weight_decay": weight_decay},
            {"params": [t.master for t in self._trained.values() if t.parameter.ndim < 2], "weight_decay": 0.0},
        ]  # fmt: skip
        self._adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, fused=True)
        # Moments from the start, not from the first update: what is free afterwards is free for good, and every rank has
        # them, also one that holds no row of a parameter.
        for trained in self._trained.values():
            self._adamw.state[trained.master] = {
                "step": torch.zeros((), device=trained.master.device),
                "exp_avg": torch.zeros_like(trained.master, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(trained.master, requires_grad=False),
            }
        meshes = {t.parameter.device_mesh for t in self._trained.values() if isinstance(t.parameter, DTensor)}
        assert len(meshes) <= 1
        self._group = next(iter(meshes)).get_group() if meshes else None
        self._writes = self._group is None or dist.get_rank(self._group) == 0
        # Pageable masters go over the bus several times slower. Pinning all of them would cost up to twice their size, as
        # pinned memory comes in powers of two; one buffer that each passes through does not.
        on_device = [t.rows.numel() for t in self._trained.values() if offload and t.rows.is_cuda]
        self._pinned = torch.empty(max(on_device), pin_memory=True) if on_device else None

    def update(self, lr: float) -> float:
        """Clip, step and clear the gradients.

        Returns:
            The global gradient norm before clipping; if it is not finite, nothing but the gradients was touched.
        """
        grads = {name: t.grad for name, t in self._trained.items() if t.grad is not None and t.rows.numel()}
        norm = self._norm([(self._trained[name].is_sharded, grad) for name, grad in grads.items()])
        if math.isfinite(norm):
            for grad in grads.values():
                grad.mul_(min(1.0, self._max_grad_norm / (norm + 1e-6)))
            for group in self._adamw.param_groups:
                group["lr"] = lr
            if self._offload:
                self._step_in_host_memory(grads)
            else:
                self._step(grads)
        self.clear()
        return norm

    def _norm(self, grads: list[tuple[bool, torch.Tensor]]) -> float:
        """sqrt(sum of squares), over all ranks for the sharded ones."""
        if self._group is None:
            return torch.nn.utils.get_total_norm([grad for _, grad in grads]).item()  # type: ignore[no-any-return]
        device = next(t.rows.device for t in self._trained.values() if t.is_sharded)
        squares = [
            torch.nn.utils.get_total_norm([g for is_sharded, g in grads if is_sharded is kind]).to(device).double() ** 2
            for kind in (True, False)
        ]
        dist.all_reduce(squares[0], group=self._group)
        return (squares[0] + squares[1]).sqrt().item()  # type: ignore[no-any-return]

    def _step(self, grads: dict[str, torch.Tensor]) -> None:
        for name, grad in grads.items():
            self._trained[name].master.grad = grad
        self._adamw.step()
        self._publish()

    def _step_in_host_memory(self, grads: dict[str, torch.Tensor]) -> None:
        """One parameter at a time, so that no second set of gradients exists in host memory."""
        for name, grad in grads.items():
            trained = self._trained[name]
            trained.master.grad = grad if self._pinned is None else self._staged(grad)
            self._adamw.step()
            trained.master.grad = None
            updated = trained.master.detach()
            trained.rows.detach().copy_(updated if self._pinned is None else self._staged(updated, trained.rows.dtype))

    def _staged(self, tensor: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """A copy in the pinned buffer, in a type of at most four bytes; complete on return."""
        assert self._pinned is not None
        return self._pinned.view(dtype)[: tensor.numel()].view(tensor.shape).copy_(tensor)

    @torch.no_grad()
    def _publish(self) -> None:
        for trained in self._trained.values():
            if trained.has_master:
                trained.rows.copy_(trained.master)

    def clear(self) -> None:
        """Forget the gathered gradients."""
        for trained in self._trained.values():
            trained.clear()

    def gradients(self) -> dict[str, torch.Tensor]:
        """The gradients gathered so far by parameter: whole, float32, on the model's device; what has none is left out.

        In one process these are the sums themselves, which the next backward pass adds to.
        """
        return {name: t.whole(grad) for name, t in self._trained.items() if (grad := t.grad) is not None}

    def save(self, folder: Path) -> None:
        """Write the float32 parameters and both moments, exactly and whole; on return the files are there.

        parameters-00001.safetensors, moments-00001.safetensors and so on, of at most MAX_FILE_BYTES, by rank 0: a tensor
        is gathered by all ranks, one after another.
        """
        parameters = ((name, t.whole(t.master)) for name, t in self._trained.items())
        moments = (
            (f"{kind}/{name}", value if kind == "step" else t.whole(value))
            for name, t in self._trained.items()
            for kind, value in self._adamw.state[t.master].items()
        )
        for stem, tensors in ((_PARAMETERS, parameters), (_MOMENTS, moments)):
            _write(folder, stem, tensors, writes=self._writes)
        if self._group is not None:
            written = torch.zeros(1, device=next(t.rows.device for t in self._trained.values() if t.is_sharded))
            dist.all_reduce(written, group=self._group)

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote on any number of processes, bit for bit.

        Raises:
            OtherModel: the files' parameters are not this model's, by name or shape.
        """
        with ExitStack() as stack, torch.no_grad():
            parameters, moments = (_open(folder, stem, stack) for stem in (_PARAMETERS, _MOMENTS))
            self._refuse_other_model(folder, parameters, moments)
            for name, trained in self._trained.items():
                trained.master.copy_(trained.own_rows(parameters[name], name))
                state = self._adamw.state[trained.master]
                for kind in _STATE:
                    key = f"{kind}/{name}"
                    file = moments[key]
                    state[kind].copy_(file.get_tensor(key) if kind == "step" else trained.own_rows(file, key))
        self.clear()
        self._publish()

    def _refuse_other_model(self, folder: Path, parameters: dict[str, Any], moments: dict[str, Any]) -> None:
        ours = {name: tuple(t.parameter.shape) for name, t in self._trained.items()}
        theirs = {name: tuple(file.get_slice(name).get_shape()) for name, file in parameters.items()}
        if ours != theirs:
            name = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))[0]
            raise OtherModel(
                f"{folder / _PARAMETERS}-*.safetensors: parameter {name!r} has shape {theirs.get(name)}, the model needs "
                f"{ours.get(name)}; resume with the model.path and learner.lora_* that the checkpoint was made with"
            )
        missing = sorted({f"{kind}/{name}" for name in ours for kind in _STATE} - moments.keys())
        if missing:
            raise OtherModel(
                f"{folder / _MOMENTS}-*.safetensors: no {missing[0]!r}, nor {len(missing) - 1} others; the checkpoint is not "
                "whole, resume from another"
            )


def _write(folder: Path, stem: str, tensors: Iterator[tuple[str, torch.Tensor]], *, writes: bool) -> None:
    """Runs through all tensors; where it writes, into as few files as MAX_FILE_BYTES allows."""
    if writes:
        for file in folder.glob(f"{stem}-*.safetensors"):
            file.unlink()
    held: dict[str, torch.Tensor] = {}
    num_files = 0
    for name, tensor in tensors:
        if not writes:
            continue
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > MAX_FILE_BYTES:
            num_files += 1
            save_file(held, folder / f"{stem}-{num_files:05d}.safetensors")
            held = {}
        held[name] = tensor.cpu().contiguous()
    if writes:
        save_file(held, folder / f"{stem}-{num_files + 1:05d}.safetensors")


def _open(folder: Path, stem: str, stack: ExitStack) -> dict[str, Any]:
    """Every tensor's name in the files to its file, open."""
    files = [stack.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob(f"{stem}-*.safetensors"))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118
