"""The people of a problem: keys of its split, and where distractors are similar, names that look like theirs."""

from __future__ import annotations

import random
import zlib
from functools import cache, lru_cache

from data.problem import DataError
from data.synthesis.cells import Cell
from data.synthesis.words import CITIES, SPLITS, Split, keys_of

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


class Names:
    """Draws people for the tasks of one cell."""

    def __init__(self, cell: Cell) -> None:
        self._keys = keys_of(cell.split, cell.num_keys)
        self._cell = cell

    def draw(self, rng: random.Random, num_needed: int, num_people: int) -> list[str]:
        """Distinct people, those of the needed facts first.

        Person i >= num_needed is a distractor in the role of person i % num_needed, and where distractors are similar
        bears a name that looks like that person's, as long as there are any.

        Raises:
            DataError: more people than keys in use.
        """
        if num_people > len(self._keys):
            raise DataError(
                f"num_keys: {self._cell.task} needs {num_people} people, split {self._cell.split} has "
                f"{len(self._keys)} keys in use; raise num_keys or lower num_facts and hops"
            )
        if self._cell.distractors == "plain":
            return rng.sample(self._keys, num_people)
        people = dict.fromkeys(rng.sample(self._keys, num_needed))
        pools = [rng.sample(alike, len(alike)) for alike in (lookalikes(p, self._cell.split) for p in people)]
        for i in range(num_needed, num_people):
            people[_first_new(pools[i % num_needed], people) or self._other(rng, people)] = None
        return list(people)

    def _other(self, rng: random.Random, taken: dict[str, None]) -> str:
        while (name := rng.choice(self._keys)) in taken:
            pass
        return name


def _first_new(pool: list[str], taken: dict[str, None]) -> str | None:
    while pool:
        if (name := pool.pop()) not in taken:
            return name
    return None


@lru_cache(maxsize=4096)
def lookalikes(name: str, split: Split) -> tuple[str, ...]:
    """Names that differ from `name` in one letter or in the last syllable only (about 35), none of another split."""
    syllables = [c + v for c in _CONSONANTS for v in _VOWELS]
    alike = {
        (name[:at] + letter + name[at + 1 :].lower()).capitalize()
        for at in range(len(name))
        for letter in (_VOWELS if at % 2 else _CONSONANTS)
    } | {name[:4] + last for last in syllables}
    return tuple(sorted(n for n in alike - {name, *CITIES} if _split_of(n) == split))


def _split_of(name: str) -> Split:
    """Every possible name belongs to one split: a key to its own, any other by its hash."""
    return _split_of_keys().get(name) or SPLITS[zlib.crc32(name.encode()) % len(SPLITS)]


@cache
def _split_of_keys() -> dict[str, Split]:
    return {key: split for split in SPLITS for key in keys_of(split)}
