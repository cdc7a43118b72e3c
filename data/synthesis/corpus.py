"""The haystack: real prose, cut into sentences once, whose token costs are measured once.

Left out on purpose: shuffling sentences (a document keeps the corpus's own order, and one longer than the corpus shuffles
blocks of them) and any download.
"""

from __future__ import annotations

import pydoc_data.topics
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.problem import DataError

_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PROSE = re.compile(r"[A-Z][^|*=+`\\^<>]*[.!?]")
_MIN_WORDS, _MAX_WORDS = 4, 24
_BLOCK_SENTENCES = 32
"""What stays together when a document is longer than the corpus."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Sentences of prose in reading order, whitespace normalised."""

    sentences: tuple[str, ...]


def prose_sentences(text: str) -> list[str]:
    """The sentences of 4 to 24 words in a text that hold no table, heading or markup.

    Short ones make facts easy to spread; the upper bound keeps a needle's depth near uniform.
    """
    sentences = (
        sentence
        for paragraph in _PARAGRAPH_BREAK.split(text)
        for sentence in _SENTENCE_BREAK.split(" ".join(paragraph.split()))
    )
    return [s for s in sentences if _MIN_WORDS <= s.count(" ") + 1 <= _MAX_WORDS and _PROSE.fullmatch(s)]


def builtin_corpus() -> Corpus:
    """The language reference that every Python ships (`pydoc_data.topics`): about 1,600 sentences."""
    topics = pydoc_data.topics.topics
    return Corpus(tuple(s for name in sorted(topics) for s in prose_sentences(topics[name])))


def read_corpus(folder: str | Path) -> Corpus:
    """The prose of every `.txt` and `.md` file under a folder, files in name order.

    Raises:
        DataError: the folder is missing or holds no usable sentence.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"--corpus {folder}: not a folder; name one that holds .txt or .md files, or leave it out")
    files = sorted(p for p in root.rglob("*") if p.suffix in (".txt", ".md") and p.is_file())
    sentences: list[str] = []
    for file in files:
        try:
            sentences += prose_sentences(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 at byte {error.start}; convert it or remove it") from error
    if not sentences:
        raise DataError(f"--corpus {folder}: no prose sentence in {len(files)} .txt or .md files; add running text")
    return Corpus(tuple(sentences))


class Haystack:
    """Cuts runs of sentences of a wanted token cost out of a corpus; each sentence is measured at most once."""

    def __init__(self, corpus: Corpus, count_text_tokens: Callable[[str], int]) -> None:
        self._sentences = corpus.sentences
        self._count = count_text_tokens
        self._costs: list[int | None] = [None] * len(self._sentences)

    def _cost(self, index: int) -> int:
        cost = self._costs[index]
        if cost is None:
            cost = self._costs[index] = self._count(" " + self._sentences[index])
        return cost

    def run_of_sentences(self, rng: random.Random, max_tokens: int) -> list[str]:
        """Consecutive sentences from a random start whose summed cost is at most max_tokens.

        The last one is cut at a word when it would not fit. A run longer than the corpus goes through it again, each
        time in another order.
        """
        sentences: list[str] = []
        left = max_tokens
        order = self._order(rng, start=rng.randrange(len(self._sentences)))
        while left > 0:
            index = next(order)
            sentence, cost = self._sentences[index], self._cost(index)
            if cost > left:
                words = sentence.split(" ")
                sentence = " ".join(words[: left * len(words) // cost])
            if sentence:
                sentences.append(sentence)
            left -= cost
        return sentences

    def _order(self, rng: random.Random, start: int) -> Iterator[int]:
        """Once around from the start, then without end: blocks of consecutive sentences, shuffled anew each time."""
        num = len(self._sentences)
        yield from range(start, num)
        yield from range(start)
        blocks = [range(first, min(first + _BLOCK_SENTENCES, num)) for first in range(0, num, _BLOCK_SENTENCES)]
        while True:
            rng.shuffle(blocks)
            for block in blocks:
                yield from block
