"""Lookup: one fact among many of the same form."""

from __future__ import annotations

import random

from data.synthesis.cells import Cell
from data.synthesis.names import Names
from data.synthesis.planting import Planting
from data.synthesis.words import CITIES


def plant_lookup(rng: random.Random, names: Names, cell: Cell) -> Planting:
    """`Kelora visited Oslo.` among num_facts facts of that form about other people."""
    people, cities = names.draw(rng, 1, cell.num_facts), rng.choices(CITIES, k=cell.num_facts)
    asked, city = people[0], cities[0]
    return Planting(
        facts=tuple(f"{p} visited {c}." for p, c in zip(people, cities, strict=True)),
        num_needed=1,
        question=f"Which city did {asked} visit?",
        answers=(city,),
        answer_type="text",
        chain_of_thought=f"Since {asked} visited {city}",
    )
