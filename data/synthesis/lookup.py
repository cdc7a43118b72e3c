"""Lookup: one fact among many of the same form."""

from __future__ import annotations

import random
from collections.abc import Sequence

from data.synthesis.planting import Planting
from data.synthesis.words import CITIES


def plant_lookup(rng: random.Random, keys: Sequence[str], num_facts: int) -> Planting:
    """`Kelora visited Oslo.` among num_facts facts of that form about other people."""
    people, cities = rng.sample(keys, num_facts), rng.choices(CITIES, k=num_facts)
    asked, city = people[0], cities[0]
    return Planting(
        facts=tuple(f"{p} visited {c}." for p, c in zip(people, cities, strict=True)),
        question=f"Which city did {asked} visit?",
        answers=(city,),
        answer_type="text",
        chain_of_thought=f"Since {asked} visited {city}",
    )
