"""Phrases to look for, each tried only where one of its words occurs: most texts cost one look at their words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from functools import lru_cache

WORD = re.compile(r"\w+")


def words_of(text: str) -> frozenset[str]:
    """The words of `text`, case folded."""
    return frozenset(WORD.findall(text.casefold()))


class Phrases:
    """A set of patterns, found by their words."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        """`rows`: words of which every match holds at least one, and the pattern (case is ignored, a dot is any character)."""
        self._by_word: dict[str, list[str]] = {}
        for words, pattern in rows:
            for word in words.split():
                self._by_word.setdefault(word, []).append(pattern)
        self._words = frozenset(self._by_word)

    def found(self, text: str, words: Set[str], unless: str = "") -> bool:
        """Whether a pattern matches `text` (with these words) and not `unless`."""
        return any(
            pattern.search(text) is not None and not (unless and pattern.search(unless))
            for word in self._words & words
            for pattern in map(_compiled, self._by_word[word])
        )


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compiled at its first use, so that an import stays light."""
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)
