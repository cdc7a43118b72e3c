"""Units of measurement: one name for each, and what it measures, so that a question can say which one it means."""

from __future__ import annotations

import re

from rewards.rules.number_words import ONES, TENS

_NAMES = {
    "length": {
        "mm": "millimetre millimeter", "cm": "centimetre centimeter", "m": "metre meter", "km": "kilometre kilometer kms",
        "inch": "inches", "foot": "feet ft", "yard": "yd yds", "mi": "mile",
    },
    "area": {"acre": "", "hectare": "ha", "km²": "km^2 sqkm", "m²": "m^2 sqm"},
    "mass": {
        "mg": "milligram", "g": "gram gramme", "kg": "kilogram kilo kgs kilogramme", "ounce": "oz", "lb": "lbs pound",
        "ton": "", "tonne": "",
    },
    "time": {
        "ms": "millisecond msec", "s": "second sec secs", "min": "minute mins", "h": "hour hr hrs", "day": "", "week": "wk",
        "month": "", "year": "yr yrs", "decade": "", "century": "centuries",
    },
    "volume": {"ml": "millilitre milliliter", "l": "litre liter", "gallon": "gal", "pint": "", "barrel": "bbl"},
    "data": {"kb": "kilobyte", "mb": "megabyte", "gb": "gigabyte", "tb": "terabyte"},
    "temperature": {"celsius": "°c c centigrade", "fahrenheit": "°f f", "kelvin": ""},
    "speed": {"mph": "", "kph": "km/h kmh", "knot": ""},
    "power": {"w": "watt", "kw": "kilowatt", "mw": "megawatt", "gw": "gigawatt"},
}  # fmt: skip
_UNITS = {
    word: (unit, measured)
    for measured, units in _NAMES.items()
    for unit, words in units.items()
    for word in (unit, *words.split())
}
_PEOPLE = frozenset(
    ("people", "men", "women", "children", "police", "staff", "feet", "mice", "sheep", "fish", "aircraft")
)
_WORD = re.compile(r"[^\W\d_]+(?:\^[23]|[²³])?|°[cf]")
_CHANGERS = frozenset(
    "basi gros score grand mil gazillion zillion dozen pair myriad half halve third quarter fourth fifth sixth seventh eighth ninth"
    " tenth ten hundred deficit red loss losse short shortfall debt never away too bc bce ago rejected excluded excluding provided"
    " doubled tripled halved squared cubed tenfold twofold fold more les fewer least most over under above below after before up"
    " down from than mod modulo time times cent penny pence isn't wasn't aren't not no minus negative i plus".split()
)
"""Words, as `unit_name` gives them, after which a number is another number."""
_CHANGING_MARKS = re.compile(
    r"[<>\u2264\u2265\u00b1\u221a|+\u2030:^\u00b2\u00b3]|[0-9]\s?[-/*]\s?[0-9]|%\sof\s[0-9]|\blambda\b|\\(?:pm|sqrt|leq?|geq?)\b"
)
_ASIDE = re.compile(
    r"basis|scores?|gross\w*|grands?|dozens?|lakhs?|crores?|myriads?|pairs?|times|hundreds|\w*illions?|tens|halves|thirds|quarters|fourths"
    r"|fifths|sixths|sevenths|eighths|ninths|tenths|\w*less|\w*ss|\w*is"
)
"""Words that end like plurals or units and change the number."""
MAX_QUESTION_CHARS = 2_000


def unit_name(word: str) -> str:
    """One name for the spellings of a unit; other words lose their plural's s."""
    singular = word[:-1] if len(word) > 3 and word.endswith("s") else word
    known = _UNITS.get(word) or _UNITS.get(singular)
    return known[0] if known else singular


def is_plain_unit(word: str) -> bool:
    """Whether `word`, as written, is a unit of measurement or a plural: something that is counted."""
    if _ASIDE.fullmatch(word):
        return False
    singular = word[:-1] if len(word) > 3 and word.endswith("s") else word
    return word in _UNITS or singular in _UNITS or word in _PEOPLE or singular != word


def question_allows(unit: str, question: str) -> bool:
    """Whether a question can be answered in `unit`: it names no other unit of what `unit` measures.

    For words that measure nothing known: whether the question speaks of them.
    """
    words = {
        unit_name(word)
        for word in _WORD.findall(question[:MAX_QUESTION_CHARS].casefold())
        if word not in ("s", "m", "c", "f", "l")
    }
    known = _UNITS.get(unit)
    if known is None:
        return all(word in words for word in unit.split())
    same = {word for word in words if word in _UNITS and _UNITS[word][1] == known[1]}
    return unit in same or not same


def is_measure(unit: str) -> bool:
    """Whether `unit` (by its one name) measures something known."""
    return unit in _UNITS


def changes_a_number(text: str) -> bool:
    """Whether a word or sign stands in `text` that makes the number beside it another one (`at least`, `dozen`, `>`)."""
    words = re.findall(r"[^\W\d_]+(?:['\u2019]t)?", text.casefold())
    if not any(char.isdigit() for char in text) and ONES.keys().isdisjoint(words) and TENS.keys().isdisjoint(words):
        return False
    return (
        any(word in _CHANGERS or unit_name(word) in _CHANGERS for word in words)
        or _CHANGING_MARKS.search(text) is not None
    )
