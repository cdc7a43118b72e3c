"""The seam between the loop and whatever samples: vLLM, or transformers where vLLM is not installed.

P prompt tokens, R response tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rl.types import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """One prompt to sample from. A pure function of its fields and the weights: a retried call gives the same tokens."""

    prompt_token_ids: tuple[int, ...]
    """[P]"""
    seeds: tuple[int, ...]
    """One per sample, each in [0, 2**63); their number is the number of samples."""
    max_response_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = -1


class Engine(Protocol):
    """Samples, scores, and takes new weights."""

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """Completions per request, in order; one per seed. log-probabilities are those of the processed distribution.

        Raises:
            ValueError: a prompt with its response limit does not fit the engine's max_model_len.
        """
        ...

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> list[float]:
        """Log-probability (temperature 1) of each token after the first num_prompt_tokens; for the sync probe only."""
        ...

    def update_weights(self, path: str, version: int) -> None:
        """Take the weights at path and forget every cached prefix.

        path: a safetensors file or a folder of them that holds a whole model, or a file with an adapter alone, which
            belongs to the model that the engine started with, whatever it has taken since.

        Raises:
            RuntimeError: the names at path are not the model's.
        """
        ...

    def close(self) -> None: ...


class Workers(Protocol):
    """Engines behind one front, which all hold the same weights whenever they serve."""

    @property
    def policy_version(self) -> int:
        """Version of the weights that `generate` samples from; 0 is the model they started with."""
        ...

    def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """As `Engine.generate`; which engine samples a request depends on nothing but the requests."""
        ...

    def score(self, token_ids: Sequence[int], num_prompt_tokens: int) -> dict[str, list[float]]:
        """As `Engine.score`, from every engine, by worker name."""
        ...

    def update_weights(self, path: str, version: int, *, rewrite: Callable[[str], None] | None = None) -> None:
        """Push the weights at path to every engine.

        rewrite: writes these same weights to the path it is given; called when a restarted engine needs them and
        the file is gone. None: the file at path stays where it is.
        """
        ...


def check_request(request: SampleRequest, max_model_len: int) -> None:
    """Raise ValueError unless the prompt is not empty, fits with its response limit, and asks for a sample."""
    num_prompt_tokens = len(request.prompt_token_ids)
    if num_prompt_tokens == 0 or not request.seeds or request.max_response_tokens < 1:
        raise ValueError(
            f"SampleRequest: {num_prompt_tokens} prompt tokens, {len(request.seeds)} seeds, max_response_tokens "
            f"{request.max_response_tokens}; each must be at least 1"
        )
    if num_prompt_tokens + request.max_response_tokens > max_model_len:
        raise ValueError(
            f"SampleRequest: {num_prompt_tokens} prompt + {request.max_response_tokens} response tokens > "
            f"max_model_len={max_model_len}; the stages' windows decide it, so filter the prompt or raise the last stage's"
        )


def stop_token_ids(model_path: str, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a response: the tokenizer's, the configuration's and the generation configuration's.

    They differ in published models (a base model's `<|endoftext|>` beside the chat template's `<|im_end|>`), and an
    engine that knows only one samples on behind the end of the answer.
    """
    from transformers import AutoConfig, GenerationConfig

    found = [tokenizer.eos_token_id, AutoConfig.from_pretrained(model_path).get_text_config().eos_token_id]
    with suppress(OSError):  # A model without generation_config.json has said all it has to say in its configuration.
        found.append(GenerationConfig.from_pretrained(model_path).eos_token_id)
    ids = {i for item in found if item is not None for i in (item if isinstance(item, list) else [item])}
    if not ids:
        raise ValueError(f"model {model_path!r}: no end-of-sequence token in tokenizer or config; set eos_token_id")
    return frozenset(ids)


def response_text(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The decoded response without the special tokens at its end; those inside stay visible."""
    special, end = set(tokenizer.all_special_ids), len(token_ids)
    while end and token_ids[end - 1] in special:
        end -= 1
    text = tokenizer.decode(list(token_ids[:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)
