"""Arithmetic: numbers found in the document, then added."""

from __future__ import annotations

import random

from data.synthesis.cells import Cell
from data.synthesis.names import Names
from data.synthesis.planting import Planting


def plant_arithmetic(rng: random.Random, names: Names, cell: Cell) -> Planting:
    """`Kelora owns 17 boats.`, and how many do two people own together? Numbers are 2 to 49, sums below 100."""
    people = names.draw(rng, 2, max(2, cell.num_facts))
    numbers = [rng.randint(2, 49) for _ in people]
    (first, second), (a, b) = people[:2], numbers[:2]
    return Planting(
        facts=tuple(f"{p} owns {n} boats." for p, n in zip(people, numbers, strict=True)),
        num_needed=2,
        question=f"How many boats do {first} and {second} own together?",
        answers=(str(a + b),),
        answer_type="number",
        chain_of_thought=f"Since {first} owns {a} and {second} owns {b}, and {a} + {b} = {a + b}",
    )
