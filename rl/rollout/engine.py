"""The seam between the loop and whatever samples: vLLM, or transformers where vLLM is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rl.types import Completion


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """One prompt to sample from. A pure function of its fields and the weights: a retried call gives the same tokens."""

    prompt_token_ids: tuple[int, ...]
    """[P]"""
    seeds: tuple[int, ...]
    """One per sample; their number is the number of samples."""
    max_response_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = -1


class Engine(Protocol):
    """Samples, scores, and takes new weights."""

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """Completions per request, in order; one per seed. log-probabilities are those of the processed distribution."""
        ...

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> list[float]:
        """Log-probability (temperature 1) of each token after the first num_prompt_tokens; for the sync probe only."""
        ...

    def update_weights(self, path: str, version: int) -> None:
        """Take the weights in the safetensors file at path and forget every cached prefix."""
        ...

    def close(self) -> None: ...
