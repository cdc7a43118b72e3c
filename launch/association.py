"""What the tiny base model can do before it has read anything: find a fact again by its content.

A language model of real size learns from text to look back for what followed a word before. On a laptop that takes too
long, so the tiny one starts from weights in the shape that trained transformers take, as in mimetic initialization
(Trockman and Kolter, arXiv 2305.09828), and is then trained on facts of random tokens:

    layer 0   two heads look one and two tokens back (constant query and key, so only rotary positions count)
              and write what they find into two subspaces that no embedding's copy mixes with
    layer 1   queries read the first subspace, keys the second; values copy the token to the output
    the rest  as transformers initialises it

Untrained, this answers nothing. Positions are drawn from a longer range than the sequence, so that distance is no clue:
facts repeated at a fixed distance teach position, not lookup.
B sequences, F facts a sequence, T = 3F tokens, V vocabulary.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import Qwen2ForCausalLM

POSITION_BIAS = 4.0
"""Size of the constant query and key of the two positional heads."""
POSITION_PAIRS = 6
"""Rotary pairs they use, from the fastest; slow ones cannot tell neighbours apart."""
WRITE_SCALE = 0.3
"""How loudly layer 0 writes beside the embeddings, which have norm 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssociationRecipe:
    """How association is trained."""

    steps: int = 500
    batch_tokens: int = 1024
    lr: float = 2e-3
    warmup_steps: int = 30
    num_facts: int = 24
    """Facts a sequence, repetitions included."""
    max_distinct: int = 16
    """Different facts a sequence; training starts at 2 and doubles."""
    max_position: int = 400
    """Range that the positions of a sequence are spread over, in tokens."""
    target: float = 0.98
    """Training ends early at this smoothed accuracy."""


def initialise(model: Qwen2ForCausalLM, generator: torch.Generator) -> None:
    """Give the first two layers the shape described above, in place."""
    config = model.config
    hidden, heads = config.hidden_size, config.num_attention_heads
    dim = hidden // heads
    basis = _orthogonal(hidden, generator)
    one_back, two_back = basis[:dim], basis[dim : 2 * dim]
    reader = _orthogonal(hidden, generator)[:dim]
    kept = torch.eye(hidden) - basis[: 2 * dim].T @ basis[: 2 * dim]
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, 1.0 / math.sqrt(hidden), generator=generator)
        first, second = (model.model.layers[i].self_attn for i in range(2))
        constant = torch.zeros(dim)
        constant[:POSITION_PAIRS] = constant[dim // 2 : dim // 2 + POSITION_PAIRS] = POSITION_BIAS
        for head, (offset, subspace) in enumerate(((1, one_back), (2, two_back))):
            rows = slice(head * dim, (head + 1) * dim)
            first.q_proj.bias[rows] = constant
            first.k_proj.bias[rows] = _rotated(constant, offset, config.rope_parameters["rope_theta"])
            first.v_proj.weight[rows] = reader
            first.o_proj.weight[:, rows] = WRITE_SCALE * subspace.T
        second.q_proj.weight.copy_(one_back.repeat(heads, 1))
        second.k_proj.weight.copy_(two_back.repeat(heads, 1))
        copied = _orthogonal(hidden, generator) @ kept
        second.v_proj.weight.copy_(copied)
        second.o_proj.weight.copy_(copied.T)


def train_association(model: Qwen2ForCausalLM, recipe: AssociationRecipe, seed: int) -> float:
    """Train in place on facts of random tokens; returns the smoothed accuracy it ended with."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    smoothed, max_distinct = 0.0, 2
    for step in range(recipe.steps):
        optimizer.param_groups[0]["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup_steps)
        span = int(recipe.max_position * rng.choice((0.25, 0.5, 1.0)))
        batch = facts_batch(model.config.vocab_size, rng.randint(2, max_distinct), span, recipe, generator)
        loss, accuracy = _loss(model, *batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smoothed = 0.95 * smoothed + 0.05 * accuracy
        if smoothed > 0.9 and max_distinct < recipe.max_distinct:
            max_distinct, smoothed = min(recipe.max_distinct, 2 * max_distinct), 0.5
        elif smoothed > recipe.target:
            break
    return smoothed


def facts_batch(
    vocab_size: int, num_distinct: int, span: int, recipe: AssociationRecipe, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(token ids, positions, labels), each [B, T]: facts `key link value`, each told once, then again in random order.

    Labels are the values of the second tellings, -100 elsewhere. Facts lie apart, their three tokens together; `span` is
    the position they reach at most.
    """
    num_facts = max(recipe.num_facts, 2 * num_distinct)
    rows = max(1, recipe.batch_tokens // (3 * num_facts))

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    pairs = uniform(rows, vocab_size).argsort(1)[:, : 2 * num_distinct].view(rows, num_distinct, 2)
    links = torch.randint(vocab_size, (rows, 2), generator=generator)
    link = links.gather(1, torch.randint(2, (rows, num_distinct), generator=generator))
    facts = torch.stack([pairs[:, :, 0], link, pairs[:, :, 1]], 2)
    again = torch.randint(num_distinct, (rows, num_facts - num_distinct), generator=generator)
    order = torch.cat([uniform(rows, num_distinct).argsort(1), again], 1)
    told = facts.gather(1, order[:, :, None].expand(-1, -1, 3))
    gaps = uniform(rows, num_facts).square()
    spread = uniform(rows, 1) ** 1.5 * max(0, span - 3 * num_facts) * gaps.cumsum(1) / gaps.sum(1, keepdim=True)
    positions = (spread.floor().long() + 3 * torch.arange(num_facts))[:, :, None] + torch.arange(3)
    labels = torch.full_like(told, -100)
    labels[:, num_distinct:, 2] = told[:, num_distinct:, 2]
    return told.flatten(1), positions.flatten(1), labels.flatten(1)


def _loss(
    model: Qwen2ForCausalLM, token_ids: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, float]:
    # Positions with gaps would be taken for several packed sequences; there is one, and plain causal attention.
    hidden = model.model(
        input_ids=token_ids, position_ids=positions, attention_mask={"full_attention": None}, use_cache=False
    ).last_hidden_state
    asked = labels[:, 1:] != -100
    logits = model.lm_head(hidden[:, :-1][asked])
    answers = labels[:, 1:][asked]
    return F.cross_entropy(logits, answers), (logits.argmax(-1) == answers).float().mean().item()


def _orthogonal(size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator))[0]


def _rotated(vector: torch.Tensor, offset: int, theta: float) -> torch.Tensor:
    """The rotary embedding of `vector` at position `offset`: as a key it meets the query `vector` best that far back."""
    half = len(vector) // 2
    angle = offset * theta ** (-torch.arange(half) / half)
    cos, sin = angle.cos().repeat(2), angle.sin().repeat(2)
    return vector * cos + torch.cat([-vector[half:], vector[:half]]) * sin
