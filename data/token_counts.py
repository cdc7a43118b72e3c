"""Prompt lengths, counted once: by content, template and tokenizer, in threads, with a cache on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.count_cache import KEY_BYTES, CountCache
from data.in_order import chunked, in_order, num_cores
from data.problem import Problem, SourceProblem
from data.prompts import PromptTemplate, count_prompt_tokens, measured

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_PROBLEMS = 64
CHUNK_CHARACTERS = 1 << 18
"""A chunk of this much text takes a worker about a tenth of a second."""


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of all that decides a prompt's ids: vocabulary, merges, normalisation, chat template.

    Equal for a tokenizer and its saved and loaded copy. Padding and truncation settings do not count.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    else:
        rules = json.loads(backend.to_str())
        rules.pop("padding", None)
        rules.pop("truncation", None)
    markers = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token]
    identity = json.dumps([rules, markers, tokenizer.chat_template], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


class TokenCounter:
    """Measures prompts, looking in the cache first."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: PromptTemplate,
        *,
        fingerprint: str,
        cache_dir: Path | None,
    ) -> None:
        """`fingerprint` is the tokenizer's; without `cache_dir` nothing outlives the object.

        Raises:
            DataError: no chat template, or a cache that cannot be written.
        """
        self.num_cached = 0
        """Of the lengths that `measure` gave so far: how many came from the cache."""
        self._tokenizer = tokenizer
        self._template = template
        self._cache: CountCache | None = None
        if cache_dir is not None:
            key = hashlib.sha256(f"{fingerprint}\0{template.text}".encode()).hexdigest()[:16]
            self._cache = CountCache(cache_dir / f"{key}.txt")

    def measure(self, problems: Iterable[SourceProblem], *, workers: int | None = None) -> Iterator[Problem]:
        """The problems with their prompts' lengths, in order, by `workers` threads (None: as many as cores)."""
        chunks = chunked(problems, num_characters, max_items=CHUNK_PROBLEMS, max_size=CHUNK_CHARACTERS)
        for chunk, num_cached in in_order(self.measured_chunk, chunks, workers=workers or num_cores()):
            self.num_cached += num_cached
            yield from chunk

    def measured_chunk(self, problems: Sequence[SourceProblem]) -> tuple[list[Problem], int]:
        """The problems with their lengths, and how many of these came from the cache; safe to call from threads."""
        keys = [_content_hash(problem) for problem in problems]
        known = self._cache.find(keys) if self._cache else [None] * len(keys)
        missing = {key: p for key, p, count in zip(keys, problems, known, strict=True) if count is None}
        fresh: dict[bytes, int] = {}
        if missing:
            counts = count_prompt_tokens(self._tokenizer, list(missing.values()), self._template)
            fresh = dict(zip(missing, counts, strict=True))
            if self._cache:
                self._cache.add(fresh)
        lengths = [fresh[key] if count is None else count for key, count in zip(keys, known, strict=True)]
        done = [measured(problem, length) for problem, length in zip(problems, lengths, strict=True)]
        return done, sum(count is not None for count in known)


def num_characters(problem: SourceProblem) -> int:
    """Of document and question, by which chunks are bounded."""
    return len(problem.context) + len(problem.question)


def _content_hash(problem: SourceProblem) -> bytes:
    digest = hashlib.sha256(f"{len(problem.context)}\0{problem.context}{problem.question}".encode())
    return digest.digest()[:KEY_BYTES]
