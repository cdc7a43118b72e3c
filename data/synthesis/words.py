"""The vocabulary of the synthetic tasks: keys that name people, disjoint by split, and the cities they visit."""

from __future__ import annotations

import random
from functools import cache
from typing import Literal

from data.problem import DataError

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_KEYS_BY_SPLIT: dict[Split, int] = {"train": 2000, "dev": 500, "test": 500}

_CITIES = """
Accra Algiers Amman Ankara Athens Baku Bamako Bangkok Basel Beirut Berlin Bern Bogota Bonn Boston
Bristol Brussels Budapest Cairo Calgary Cardiff Chennai Chicago Cologne Cordoba Dakar Dallas Delhi
Denver Doha Dover Dublin Durban Essen Fargo Geneva Genoa Ghent Glasgow Granada Graz Halifax Hamburg
Hanoi Harare Havana Helsinki Houston Jakarta Kabul Kampala Karachi Kiev Kyoto Lagos Leeds Leipzig
Lima Lisbon London Luanda Lusaka Lyon Madrid Malmo Manila Medina Memphis Miami Milan Minsk Monaco
Moscow Mumbai Munich Nairobi Naples Odessa Osaka Oslo Ottawa Oxford Palermo Paris Perth Porto Prague
Quito Riga Rome Seoul Seville Sofia Sydney Tampa Tokyo Tunis Turin Vienna Warsaw Zurich
"""
CITIES: tuple[str, ...] = tuple(_CITIES.split())


@cache
def _all_keys() -> tuple[str, ...]:
    """3,000 distinct pronounceable names of six letters (so none is part of another), in a fixed random order."""
    rng = random.Random("longreach synthetic keys")
    taken = {city.lower() for city in CITIES}
    names: dict[str, None] = {}
    while len(names) < sum(_KEYS_BY_SPLIT.values()):
        name = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3))
        if name not in taken:
            names[name.capitalize()] = None
    return tuple(names)


def keys_of(split: Split, limit: int | None = None) -> tuple[str, ...]:
    """The first `limit` keys (None: all) that belong to a split; the splits share none.

    Raises:
        DataError: the split is unknown, or limit is below 1 or above what the split has.
    """
    if split not in SPLITS:
        raise DataError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    start = sum(_KEYS_BY_SPLIT[s] for s in SPLITS[: SPLITS.index(split)])
    keys = _all_keys()[start : start + _KEYS_BY_SPLIT[split]]
    if limit is not None and not 1 <= limit <= len(keys):
        raise DataError(f"num_keys: {limit} is outside 1..{len(keys)}, the keys of split {split}")
    return keys[:limit]
