"""AdamW over float32 parameters, whatever type the model computes in.

At a learning rate of 2e-6 an update is far below bfloat16's spacing and would vanish, and so would
the last of a hundred gradients added up in bfloat16. A bfloat16 model therefore gets float32 master
parameters and float32 gradient sums; a float32 model is its own master.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_PARAMETERS, _MOMENTS = "parameters.safetensors", "optimizer.safetensors"


class OtherModel(ValueError):
    """A saved state that belongs to a model with other parameters."""

    exit_code = 2


class Optimizer:
    """One update from gathered gradients, clipped by global norm; a non-finite norm changes nothing."""

    def __init__(
        self, model: torch.nn.Module, *, betas: tuple[float, float], weight_decay: float, max_grad_norm: float
    ) -> None:
        """Norms and biases (fewer than two dimensions) do not decay; a tied parameter is counted once."""
        self._model_parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._masters = {name: _master(p) for name, p in self._model_parameters.items()}
        self._max_grad_norm = max_grad_norm
        masters = self._masters.values()
        groups = [
            {"params": [p for p in masters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in masters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, fused=True)

    def update(self, lr: float) -> float:
        """Clip, step and clear the gradients.

        Returns:
            The global gradient norm before clipping; if it is not finite, nothing but the gradients was touched.
        """
        norm = torch.nn.utils.clip_grad_norm_(self._masters.values(), self._max_grad_norm).item()
        if math.isfinite(norm):
            for group in self._adamw.param_groups:
                group["lr"] = lr
            self._adamw.step()
            self._publish()
        self._adamw.zero_grad()
        return norm

    @torch.no_grad()
    def _publish(self) -> None:
        for name, master in self._masters.items():
            if master is not self._model_parameters[name]:
                self._model_parameters[name].copy_(master)

    def save(self, folder: Path) -> None:
        """Write the float32 parameters and both moments, exactly."""
        state = {
            f"{kind}/{name}": tensor
            for name, master in self._masters.items()
            for kind, tensor in self._adamw.state.get(master, {}).items()
        }
        save_file({name: p.detach() for name, p in self._masters.items()}, folder / _PARAMETERS)
        save_file(state, folder / _MOMENTS)

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote, bit for bit.

        Raises:
            OtherModel: the files' parameters are not this model's, by name or shape.
        """
        saved, state = load_file(folder / _PARAMETERS), load_file(folder / _MOMENTS)
        ours = {name: tuple(p.shape) for name, p in self._masters.items()}
        theirs = {name: tuple(p.shape) for name, p in saved.items()}
        if ours != theirs:
            name = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))[0]
            raise OtherModel(
                f"{folder / _PARAMETERS}: parameter {name!r} has shape {theirs.get(name)}, the model needs {ours.get(name)}; "
                "resume with the model.path the checkpoint was made with"
            )
        self._adamw.state.clear()
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(saved[name])
        for key, tensor in state.items():
            kind, _, name = key.partition("/")
            master = self._masters[name]
            self._adamw.state[master][kind] = tensor.to(master.device)
        self._adamw.zero_grad()
        self._publish()


def _master(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """The float32 parameter that is optimised; gradients of another type gather on it as soon as they are complete."""
    if parameter.dtype == torch.float32:
        return parameter
    master = torch.nn.Parameter(parameter.detach().float())

    def gather(source: torch.Tensor) -> None:
        assert source.grad is not None
        if master.grad is None:
            master.grad = source.grad.float()
        else:
            master.grad.add_(source.grad)
        source.grad = None

    parameter.register_post_accumulate_grad_hook(gather)
    return master
