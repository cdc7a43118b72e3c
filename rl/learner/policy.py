"""Loading a causal language model for the learner, and refusing those the shared prompt is not exact for."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rl.learner.attention import IMPLEMENTATION

_HEAD_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class ModelRefused(ValueError):
    """A model that cannot be trained; the message names it and the way out."""

    exit_code = 2


def load_policy(path: str, *, dtype: torch.dtype) -> PreTrainedModel:
    """The model at `path` (folder or hub id), in host memory, with `shared_prefix` attention; code from its folder never runs.

    Raises:
        ModelRefused: nothing loadable is there, or its attention or head is of a kind the learner is not exact for.
    """
    if path.startswith(("/", ".", "~")) and not Path(path).is_dir():
        raise ModelRefused(
            f"model.path: there is no folder {path!r}; name a folder with config.json and weights, or a hub id"
        )
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelRefused(_not_loadable(path, error)) from error
    refuse_inexact(config)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=dtype, attn_implementation=IMPLEMENTATION, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelRefused(_not_loadable(path, error)) from error
    _refuse_modules(model)
    return model


def _not_loadable(path: str, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return f"model.path: {path!r} cannot be loaded ({reason}); name a folder or hub id of a causal language model"


def _refuse_modules(model: PreTrainedModel) -> None:
    """What only the built model shows: attention of its own making, dropout anywhere, a head with a bias."""
    found = ""
    dropouts = (f"{name} (p={m.p})" for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p > 0)
    if not model._supports_attention_backend:
        found = "attention that transformers cannot replace"
    elif model.get_output_embeddings().bias is not None:
        found = "a head with a bias"
    else:
        found = next((f"dropout {dropout}" for dropout in dropouts), "")
    if found:
        raise ModelRefused(_refusal(model.config.model_type, found))


def _refusal(model_type: str, found: str) -> str:
    return (
        f"model.path: model type {model_type!r} has {found}; the learner is exact for full softmax attention over K/V without dropout "
        "and a plain linear head only; choose such a model, or change its config.json where that is what you want"
    )


def refuse_inexact(config: PreTrainedConfig) -> None:
    """Refuse a model whose response cannot be computed exactly from its prompt's published K/V.

    Raises:
        ModelRefused: naming the model type and what it has: attention other than full softmax attention, dropout, or a
            head that is not one matrix.
    """
    found = ""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if kinds:
        found = f"layers of type {', '.join(kinds)}"
    elif getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        found = f"sliding_window={config.sliding_window}"
    elif getattr(config, "num_attention_heads", None) is None:
        found = "no attention heads"
    elif getattr(config, "attention_dropout", 0.0):
        found = f"attention_dropout={config.attention_dropout}"
    else:
        found = next(
            (f"{n}={getattr(config, n)}" for n in _HEAD_CHANGES if getattr(config, n, None) not in (None, 1.0)), ""
        )
    if found:
        raise ModelRefused(_refusal(config.model_type, found))


def max_shared_tokens(config: PreTrainedConfig) -> int | None:
    """Longest prompt plus response for which the prompt's keys are the same whatever follows; None: any length.

    Dynamic and long rope change their frequencies once a sequence grows beyond a length, and with them the keys of the
    whole prompt: up to that length they are exact, beyond it no two responses of different length share a prompt.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        return int(config.max_position_embeddings)
    if rope.get("rope_type") == "longrope":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        return int(original)
    return None
