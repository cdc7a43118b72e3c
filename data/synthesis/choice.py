"""Multiple choice: a lookup whose answer is the letter of an option."""

from __future__ import annotations

import random

from data.synthesis.cells import Cell
from data.synthesis.names import Names
from data.synthesis.planting import Planting
from data.synthesis.words import CITIES

_LETTERS = "ABCD"


def plant_choice(rng: random.Random, names: Names, cell: Cell) -> Planting:
    """Four cities, each planted for someone where num_facts allows, so that naming any planted city is not enough."""
    people = names.draw(rng, 1, cell.num_facts)
    options = rng.sample(CITIES, len(_LETTERS))
    correct = rng.randrange(len(_LETTERS))
    distractors = options[:correct] + options[correct + 1 :]
    cities = [
        options[correct],
        *(distractors[i % len(distractors)] for i in range(len(people) - 1)),
    ]
    asked, letter = people[0], _LETTERS[correct]
    listed = " ".join(f"({x}) {city}" for x, city in zip(_LETTERS, options, strict=True))
    return Planting(
        facts=tuple(f"{p} visited {c}." for p, c in zip(people, cities, strict=True)),
        num_needed=1,
        question=f"Which city did {asked} visit? {listed}",
        answers=(letter,),
        answer_type="choice",
        options=tuple(options),
        chain_of_thought=f"Since {asked} visited {options[correct]} and that is ({letter})",
    )
