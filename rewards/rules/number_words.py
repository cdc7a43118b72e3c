"""Whole numbers in English words: `five`, `twenty-one`, `two hundred and five`, `a million two hundred thousand`."""

from __future__ import annotations

import re

ONES = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19,
}  # fmt: skip
TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = re.compile(r"[\s-]?\s?,?\s?(?:and\s)?([a-z]+)")
_FIRST = re.compile(r"[a-z]+")


def number_words(text: str) -> tuple[int, str] | None:
    """The number that opens `text` (lower case) and what follows it; None where no number word does.

    A closing "hundred", "thousand" and so on is left in what follows, so that the caller reads it as it reads `3 million`.
    """
    first = _FIRST.match(text)
    if first is None or (first[0] not in ONES and first[0] not in TENS and first[0] not in ("a", "an")):
        return None
    total = group = 0
    smallest_scale = 10**15
    end = start = first.start()
    multiplied, before_last = 1, start
    position = start
    size = None  # the kind of the last word: what may still be added to the group
    while word := (first if position == start else _WORD.match(text, position)):
        name = word[word.re.groups]
        if name in ("a", "an") and position == start:
            size, group = "a", 1
        elif name in TENS and size in (None, "hundred", "scale"):
            size, group = "tens", group + TENS[name]
        elif name in ONES and (size in (None, "hundred", "scale") or (size == "tens" and 0 < ONES[name] < 10)):
            size, group = "ones", group + ONES[name]
        elif name == "hundred" and size in ("a", "ones", "tens") and 0 < group < 100:
            size, group, multiplied, before_last = "hundred", group * 100, 100, end
        elif name in _SCALES and size is not None and size != "scale" and group > 0 and _SCALES[name] < smallest_scale:
            total, group, smallest_scale = total + group * _SCALES[name], 0, _SCALES[name]
            size, multiplied, before_last = "scale", _SCALES[name], end
        else:
            break
        position = end = word.end()
        if size in ("ones", "tens", "a"):
            multiplied = 1
    if size in (None, "a"):
        return None
    value = total + group
    return (value, text[end:]) if multiplied == 1 else (value // multiplied, text[before_last:])
