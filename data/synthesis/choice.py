"""Multiple choice: a lookup whose answer is the letter of an option."""

from __future__ import annotations

import random
from collections.abc import Sequence

from data.synthesis.planting import Planting
from data.synthesis.words import CITIES

_LETTERS = "ABCD"


def plant_choice(rng: random.Random, keys: Sequence[str], num_facts: int) -> Planting:
    """Four cities, each planted for someone where num_facts allows, so that naming any planted city is not enough."""
    people = rng.sample(keys, max(1, num_facts))
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
        question=f"Which city did {asked} visit? {listed}",
        answers=(letter,),
        answer_type="choice",
        options=tuple(options),
        chain_of_thought=f"Since {asked} visited {options[correct]} and that is ({letter})",
    )
