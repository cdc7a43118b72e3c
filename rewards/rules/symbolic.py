r"""Which answers are worth a symbolic comparison: `\frac{\sqrt2}{2}` against `1/\sqrt2`.

Only formulas that could be equal and that are cheap: what would keep a computer algebra system busy (towers of powers,
factorials, long numerals, deep nesting) is turned away here, in one pass over the text. The comparison itself belongs to
`rewards.pool`, whose processes can be killed.

Strict where golds are easily mistaken for arithmetic: `3-1`, `4/5` and `AB-12` may be a score, a date and a code, so a
gold is taken for a formula only by a mark of mathematics (a root, a power, pi, ...). Beside a gold that is a number only
numbers are compared: a computation (`\sqrt{1764}`, `6\cdot 7`) is not yet its result. A relation is no answer to a gold
without one: `x=5`, `x<5` and `1=2` do not become their right sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rewards.rules.formula import Formula, read_formula

MAX_CHARS = 256
"""A longer text, on either side, is not compared."""
MAX_NUMERAL_DIGITS = 40
MAX_DIGITS = 80
MAX_DEPTH = 20
"""Levels of the formula's tree."""
MAX_EXPONENT = 300
MAX_EXPONENT_OF_SUM = 20
"""`(x+1)^n` has n + 1 terms."""
MAX_POWERS_WITHIN = 2
"""`e^{x^2}` has two powers within one another."""

_MARKS = frozenset("pow root call frac matrix set bracket union domain pm abs floor ceil degree".split())
_KINDS = {"list": "several", "set": "several"} | {op: op for op in ("bracket", "union", "matrix", "domain")}
_WRAPS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_POLYNOMIAL_LETTERS = frozenset("xyznt")
_LEFT_SIDE = re.compile(r"([a-zA-Z](?:_\{?\w{1,4}\}?)?(?:\([a-z]\))?)\s{0,4}=(?!=)([^=<>]+)")
_UNIT_NAMES = (
    r"(?:square|cubic|sq\.?)?\s?(?:units?|inch(?:es)?|foot|feet|yards?|miles?|met(?:er|re)s?|(?:centi|milli|kilo)met(?:er|re)s?"
    r"|seconds?|minutes?|hours?|days?|grams?|kilograms?|lit(?:er|re)s?|mm|cm|dm|km|kg|mg|mL|ft|in|lb)"
)
_UNIT = re.compile(
    rf"(?:\\?\s?\\(?:text|textrm|mathrm|mbox)\s?\{{\s{{0,3}}({_UNIT_NAMES}|[mgsLh])\s{{0,3}}\}}|(?<=[0-9)}}])\s({_UNIT_NAMES}))(\^\{{?[23]\}}?)?$"
)


def symbolic_pair(answer: str, gold: str) -> tuple[str, str] | None:
    """Both sides without their dress, where a symbolic comparison is worth its while; else None.

    Args:
        answer: the extracted answer, never trusted.
        gold: one accepted answer.
    """
    if max(len(answer), len(gold)) > MAX_CHARS:
        return None
    sides = _without_units(_bare(answer), _bare(gold))
    sides = sides and _without_left_side(*sides)
    if not sides or not all(_few_digits(side) for side in sides):
        return None
    said, meant = read_formula(sides[0]), read_formula(sides[1])
    if said is None or meant is None or not _same_kind(said, meant):
        return None
    if _is_number(meant):
        asked = _is_number(said) and (_holds(said, {"frac"}) or _holds(meant, {"frac"}))
    else:
        asked = _is_marked(meant)
    if not asked:
        return None
    return sides if _is_cheap(said) and _is_cheap(meant) else None


def _bare(text: str) -> str:
    """`text` without the delimiters of mathematics and the full stop around it."""
    text = text.strip().rstrip(".").rstrip()
    for opening, closing in _WRAPS:
        if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    return text.rstrip(".").rstrip()


def _without_units(answer: str, gold: str) -> tuple[str, str] | None:
    """Both sides without a unit at the end; None where each has another."""
    said, meant = _UNIT.search(answer), _UNIT.search(gold)
    if said and meant and _unit_name(said) != _unit_name(meant):
        return None
    return answer[: said.start()].rstrip() if said else answer, gold[: meant.start()].rstrip() if meant else gold


def _unit_name(unit: re.Match[str]) -> str:
    return (unit.group(1) or unit.group(2)) + (unit.group(3) or "").strip("^{}")


def _without_left_side(answer: str, gold: str) -> tuple[str, str] | None:
    """The right sides where the gold is `x = ...`; the answer may leave `x =` out, but not bring it along."""
    said, meant = _LEFT_SIDE.fullmatch(answer), _LEFT_SIDE.fullmatch(gold)
    if said is None:
        return answer, meant.group(2).strip() if meant else gold
    if meant is None or said.group(1) != meant.group(1):
        return None
    return said.group(2).strip(), meant.group(2).strip()


def _few_digits(text: str) -> bool:
    """Whether numerals are short; a run counts through its decimal point and its commas."""
    digits = run = 0
    for char in text:
        if char.isdigit():
            digits, run = digits + 1, run + 1
        elif char not in ".,":
            run = 0
        if run > MAX_NUMERAL_DIGITS or digits > MAX_DIGITS:
            return False
    return True


def _same_kind(said: Formula, meant: Formula) -> bool:
    """Whether the two could be equal at all: a set, a point or a list is never the answer to a single value."""
    several = [_holds(side, {"pm"}) and side.op not in _KINDS for side in (said, meant)]
    one, other = (
        "several" if many else _KINDS.get(side.op, "one") for many, side in zip(several, (said, meant), strict=True)
    )
    return one == other


def _is_marked(formula: Formula) -> bool:
    """Whether this is mathematics and nothing else: a mark such as a root, pi, or a polynomial in x."""
    if _holds(formula, _MARKS) or any(node.op == "const" and node.text in ("pi", "oo") for node in _nodes(formula)):
        return True
    letters = {node.text for node in _nodes(formula) if node.op == "sym"}
    return formula.op == "add" and bool(letters) and letters <= _POLYNOMIAL_LETTERS


def _is_number(formula: Formula) -> bool:
    """A numeral, a fraction, or a mixed number, signed or not."""
    if formula.op == "neg":
        formula = formula.parts[0]
    if formula.op == "add":
        return [part.op for part in formula.parts] == ["num", "frac"] and _is_proper(formula.parts[1])
    if formula.op == "mul":
        return [node.op for node in formula.parts] == ["num", "inv"] and _is_numeral(formula.parts[1].parts[0])
    return _is_numeral(formula) or (formula.op == "frac" and all(map(_is_numeral, formula.parts)))


def _is_numeral(formula: Formula) -> bool:
    return formula.op == "num" or (formula.op == "neg" and formula.parts[0].op == "num")


def _is_proper(fraction: Formula) -> bool:
    over, under = fraction.parts
    return over.text.isdigit() and under.text.isdigit() and int(over.text) < int(under.text)


def _is_cheap(formula: Formula) -> bool:
    if _depth(formula) > MAX_DEPTH or _holds(formula, {"fact", "binom"}):
        return False
    return all(_is_cheap_power(node) for node in _nodes(formula) if node.op == "pow")


def _is_cheap_power(power: Formula) -> bool:
    base, exponent = power.parts
    cap = MAX_EXPONENT_OF_SUM if _holds(base, {"add"}) else MAX_EXPONENT
    product = 1
    for node in _nodes(exponent):
        if node.op == "num":
            whole = node.text.partition(".")[0]
            product *= max(1, int(whole[:5] or "0"))
    if product > cap:
        return False
    return _powers_within(power) <= MAX_POWERS_WITHIN and not (_is_constant(exponent) and _holds(exponent, {"pow"}))


def _is_constant(formula: Formula) -> bool:
    return not _holds(formula, {"sym"})


def _powers_within(formula: Formula) -> int:
    return (formula.op == "pow") + max((_powers_within(part) for part in formula.parts), default=0)


def _depth(formula: Formula) -> int:
    return 1 + max((_depth(part) for part in formula.parts), default=0)


def _holds(formula: Formula, ops: frozenset[str] | set[str]) -> bool:
    return any(node.op in ops for node in _nodes(formula))


def _nodes(formula: Formula) -> Iterator[Formula]:
    waiting = [formula]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.parts)
