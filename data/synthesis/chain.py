"""Chain: several hops, each through a fact of its own, planted apart."""

from __future__ import annotations

import random
from itertools import pairwise

from data.synthesis.cells import Cell
from data.synthesis.names import Names
from data.synthesis.planting import Planting
from data.synthesis.words import CITIES


def plant_chain(rng: random.Random, names: Names, cell: Cell) -> Planting:
    """`Kelora trusts Mabino.` and `Mabino visited Oslo.`: follow the trust, then read the city.

    num_facts is rounded down to whole chains (at least one), num_hops facts each; every chain but the first distracts.
    """
    num_hops = cell.num_hops
    num_chains = max(1, cell.num_facts // num_hops)
    drawn = names.draw(rng, num_hops, num_chains * num_hops)
    chains = []
    for i in range(num_chains):
        people, city = drawn[i * num_hops : (i + 1) * num_hops], rng.choice(CITIES)
        links = [f"{a} trusts {b}" for a, b in pairwise(people)]
        chains.append((people[0], [*links, f"{people[-1]} visited {city}"], city))
    asked, needed, city = chains[0]
    whom = "the person" + " trusted by the person" * (num_hops - 2)
    return Planting(
        facts=tuple(f"{fact}." for _, facts, _ in chains for fact in facts),
        num_needed=num_hops,
        num_hops=num_hops,
        question=f"Which city did {whom} that {asked} trusts visit?",
        answers=(city,),
        answer_type="text",
        chain_of_thought="Since " + " and ".join(needed),
    )
