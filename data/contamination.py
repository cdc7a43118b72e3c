"""Training problems that an evaluation set already holds, found by shared word n-grams.

As in GPT-3's filtering (arXiv 2005.14165, appendix C): n-grams of n = 13 lower-case words without punctuation, and
n-grams that stand in more than 10 texts are boilerplate, ignored. Question and document are compared apart:

- question with questions: one shared n-gram is enough. A question of fewer than n words is one n-gram, all of it,
  so a short one must be the same question. What more than 10 evaluation questions hold is a form ("Which of the
  following ..."), not a question.
- document with documents: the share of the shorter one's distinct n-grams that the other holds too, at least
  `min_share`. Real corpora quote each other: one shared sentence "overly penalized long documents" there, and is
  normal here, where passages of one encyclopedia recur; half of a document is the document. The shorter one counts,
  so that an evaluation document is also found inside a longer training document.

Not compared: questions with documents, answers, and paraphrases, which share no 13 words. N texts, W words of one,
H distinct n-grams of the evaluation set.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from data.prepared import MANIFEST_FILE, load_prepared
from data.problem import DataError, SourceProblem
from data.readers import read_problems

Hashes = npt.NDArray[np.uint64]

DEFAULT_NGRAM_WORDS = 13
DEFAULT_MIN_SHARE = 0.5
MAX_QUESTIONS_PER_NGRAM = 10
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_ASCII_WORDS = bytes(byte if byte >= 128 or chr(byte).isalnum() else ord(" ") for byte in bytes(range(256)).lower())
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")
"""Scripts that put no space between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese), and Hangul: each character is a word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """A part of a training problem that an evaluation problem holds too."""

    problem_id: str
    """The training problem's."""
    eval_id: str
    """The evaluation problem's that shares most; of several with the same document the first."""
    eval_source: str
    part: Literal["question", "document"]
    share: float
    """In (0, 1]: shared distinct n-grams over those of the shorter text."""

    def __str__(self) -> str:
        return f"{self.part} shared with {self.eval_id!r} of {self.eval_source} (share {self.share:.2f})"


def evaluation_problems(source: str) -> Iterator[SourceProblem]:
    """Problems of a prepared set or of any data file.

    Raises:
        DataError: as `load_prepared` and `read_problems` do.
    """
    if (Path(source) / MANIFEST_FILE).is_file():
        return iter(load_prepared(source).problems)
    return read_problems(source)


def words_of(text: str) -> list[bytes]:
    """The words of a text, UTF-8, case-folded; punctuation separates words and is dropped."""
    if not text.isascii():
        chars = set().union(*set(_BEYOND_ASCII.findall(text)))
        for char in chars:
            if not char.isalnum() and unicodedata.category(char)[0] != "M":
                text = text.replace(char, " ")
        if any(map(str.isalpha, chars)):
            text = text.casefold()
        if _UNSPACED.search(text):
            text = _UNSPACED.sub(r" \1 ", text)
    return text.encode().translate(_ASCII_WORDS).split()


def ngram_hashes(words: Sequence[bytes], ngram_words: int) -> Hashes:
    """[max(W - n + 1, 1)] hashes of a text's word n-grams in order; a text of fewer than n words is one n-gram.

    The hash is sum_j h(word_j) m^(n-1-j) mod 2^64, h being Python's own hash of bytes (SipHash): equal only within
    one process. Empty for no words.
    """
    hashes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
    length = min(ngram_words, len(words))
    count = len(words) - length + 1 if words else 0
    rolled = hashes[:count].copy()
    for offset in range(1, length):
        rolled *= _MULTIPLIER
        rolled += hashes[offset : offset + count]
    return rolled


class EvaluationIndex:
    """Evaluation sets' n-grams in memory, asked about one training problem at a time.

    Takes about 20 bytes for each distinct n-gram of each distinct document, twice that while it is built.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        ngram_words: int = DEFAULT_NGRAM_WORDS,
        min_share: float = DEFAULT_MIN_SHARE,
    ) -> None:
        """Reads every source through once.

        Args:
            sources: prepared sets or data files.
            ngram_words: n, at least 2.
            min_share: in (0, 1]; documents that share less do not count.

        Raises:
            DataError: n or share out of bounds, or a source that cannot be read.
        """
        if ngram_words < 2:
            raise DataError(f"contamination n-gram: seen {ngram_words} words; it must be at least 2, 13 is usual")
        if not 0 < min_share <= 1:
            raise DataError(f"contamination share: seen {min_share}; it must be above 0 and at most 1")
        self._ngram_words = ngram_words
        self._min_share = min_share
        questions, documents = _TextsRead(), _TextsRead()
        for source in sources:
            for problem in evaluation_problems(source):
                owner = (source, problem.problem_id)
                questions.add(self._ngrams(problem.question), owner)
                documents.add_distinct(self._ngrams(problem.context), owner)
        self._questions = _Texts(questions, max_texts_per_ngram=MAX_QUESTIONS_PER_NGRAM)
        self._documents = _Texts(documents)

    def overlaps(self, problem: SourceProblem) -> tuple[Overlap, ...]:
        """What the evaluation sets hold of a problem: at most one overlap of the question and one of the document."""
        parts: tuple[tuple[Literal["question", "document"], str, _Texts, float], ...] = (
            ("question", problem.question, self._questions, 0.0),
            ("document", problem.context, self._documents, self._min_share),
        )
        found = []
        for part, text, texts, min_share in parts:
            (source, eval_id), share = texts.nearest(self._ngrams(text))
            if share > 0 and share >= min_share:
                found.append(
                    Overlap(problem_id=problem.problem_id, eval_id=eval_id, eval_source=source, part=part, share=share)
                )
        return tuple(found)

    def _ngrams(self, text: str) -> Hashes:
        return ngram_hashes(words_of(text), self._ngram_words)


class _TextsRead:
    """Evaluation texts as they are read: distinct n-grams and whose text it is."""

    def __init__(self) -> None:
        self.ngrams: list[Hashes] = []
        self.owners: list[tuple[str, str]] = []
        """Source and problem id."""
        self._seen: set[int] = set()

    def add(self, hashes: Hashes, owner: tuple[str, str]) -> None:
        self.ngrams.append(np.unique(hashes))
        self.owners.append(owner)

    def add_distinct(self, hashes: Hashes, owner: tuple[str, str]) -> None:
        """`add`, unless the same text was added before: many problems may ask about one document."""
        whole = hash(hashes.tobytes())
        if whole not in self._seen:
            self._seen.add(whole)
            self.add(hashes, owner)


class _Texts:
    """An inverted index: n-gram to the evaluation texts that hold it. N texts, P pairs of n-gram and text."""

    def __init__(self, read: _TextsRead, *, max_texts_per_ngram: int | None = None) -> None:
        self._owners = read.owners
        self._sizes = np.array([len(hashes) for hashes in read.ngrams], dtype=np.int64)
        """[N] distinct n-grams of each text."""
        pairs = np.concatenate([*read.ngrams, np.zeros(0, dtype=np.uint64)])
        read.ngrams.clear()
        order = np.argsort(pairs, kind="stable")
        self._texts = np.repeat(np.arange(len(self._sizes), dtype=np.int32), self._sizes)[order]
        """[P] text numbers, by n-gram."""
        self._hashes, self._starts, self._counts = np.unique(pairs[order], return_index=True, return_counts=True)
        """[H] n-grams, rising; where the texts of each begin in `_texts`; how many they are."""
        if max_texts_per_ngram is not None:
            kept = self._counts <= max_texts_per_ngram
            self._hashes, self._starts, self._counts = self._hashes[kept], self._starts[kept], self._counts[kept]
        num_slots = 1 << max(10, (4 * len(self._hashes)).bit_length())
        self._slot_mask = np.uint64(num_slots - 1)
        self._slot_used = np.zeros(num_slots, dtype=np.bool_)
        """[slots] whether any n-gram ends in these bits: spares most searches."""
        self._slot_used[self._hashes & self._slot_mask] = True

    def nearest(self, hashes: Hashes) -> tuple[tuple[str, str], float]:
        """The owner of the text that shares most with a text's n-grams, and the share; 0 where none shares any."""
        maybe = np.unique(hashes[self._slot_used[hashes & self._slot_mask]])
        places = np.minimum(np.searchsorted(self._hashes, maybe), len(self._hashes) - 1)
        places = places[self._hashes[places] == maybe] if len(self._hashes) else places[:0]
        if not len(places):
            return ("", ""), 0.0
        counts = self._counts[places]
        ends = np.cumsum(counts)
        pairs = np.arange(ends[-1]) + np.repeat(self._starts[places] - (ends - counts), counts)
        num_shared = np.bincount(self._texts[pairs], minlength=len(self._sizes))
        shares = num_shared / np.maximum(np.minimum(self._sizes, len(np.unique(hashes))), 1)
        best = int(np.argmax(shares))
        return self._owners[best], float(shares[best])


def find_overlaps(problems: Iterable[SourceProblem], index: EvaluationIndex) -> Iterator[Overlap]:
    """The overlaps of every problem, in the problems' order, as they are read."""
    for problem in problems:
        yield from index.overlaps(problem)
