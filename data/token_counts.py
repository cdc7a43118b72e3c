"""Prompt lengths, counted once: a disk cache keyed by content, template and tokenizer.

One text file per (template, tokenizer), `content-hash count;` a line, appended to. A line torn by a
killed process lacks its semicolon and is counted again; two writers only append lines twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.problem import Problem, SourceProblem
from data.prompts import PromptTemplate, count_prompt_tokens, measured

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LINE = re.compile(r"^([0-9a-f]{32}) (\d+);$", re.MULTILINE)
_PROBLEMS_PER_BATCH = 64


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
        """`fingerprint` is the tokenizer's; without `cache_dir` nothing outlives the object."""
        self.num_cached = 0
        """Counts that came from the cache so far."""
        self._tokenizer = tokenizer
        self._template = template
        self._file: Path | None = None
        self._counts: dict[str, int] = {}
        if cache_dir is not None:
            key = hashlib.sha256(f"{fingerprint}\0{template.text}".encode()).hexdigest()[:16]
            self._file = cache_dir / f"{key}.txt"
            if self._file.exists():
                known = self._file.read_text(encoding="ascii", errors="replace")
                self._counts = {content: int(count) for content, count in _LINE.findall(known)}

    def measure(self, problems: Iterable[SourceProblem]) -> Iterator[Problem]:
        """The problems with their prompts' lengths, in order, a batch at a time."""
        remaining = iter(problems)
        while batch := list(islice(remaining, _PROBLEMS_PER_BATCH)):
            yield from (measured(problem, n) for problem, n in zip(batch, self._count(batch), strict=True))

    def _count(self, problems: Sequence[SourceProblem]) -> list[int]:
        # What the cache lacks is tokenized as one batch and appended to it.
        keys = [_content_hash(problem) for problem in problems]
        missing = {key: problem for key, problem in zip(keys, problems, strict=True) if key not in self._counts}
        self.num_cached += sum(key in self._counts for key in keys)
        if missing:
            counts = count_prompt_tokens(self._tokenizer, list(missing.values()), self._template)
            fresh = dict(zip(missing, counts, strict=True))
            self._counts.update(fresh)
            self._append(fresh)
        return [self._counts[key] for key in keys]

    def _append(self, fresh: dict[str, int]) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="ascii") as file:
            # The leading newline ends a line that a killed process may have torn.
            file.write("\n" + "".join(f"{key} {count};\n" for key, count in fresh.items()))


def _content_hash(problem: SourceProblem) -> str:
    digest = hashlib.sha256(f"{len(problem.context)}\0{problem.context}{problem.question}".encode())
    return digest.hexdigest()[:32]
