"""Reading one number out of a short text, exactly (`fractions`), or not at all.

Read: signs and accounting parentheses, thousands separators, decimals, `1e6`, `3 x 10^4`, `2^10`,
`5/2`, `2 1/2`, number words, `7 (seven)`, currency, percent, scale words, a unit. Whatever else stands in
the text (a second number, "or", "less than", a direction such as "decrease") makes it unreadable:
None, which equals nothing. Model text reaches no `eval`, no `float`, and powers are bounded.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rewards.rules.number_words import ONES, TENS, number_words
from rewards.rules.units import is_plain_unit, unit_name

MAX_CACHED_GOLDS = 2_048
MAX_NUMERAL_CHARS = 120
MAX_DIGITS = 60
MAX_EXPONENT = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Numeral:
    """A number as it was printed."""

    value: Fraction
    """Sign and scale words applied; percent not (5 % has value 5)."""
    last_place: Fraction
    """The worth of the last printed digit; 0 for fractions, which are exact."""
    is_whole: bool
    """Printed without fraction, and without decimals other than zeros."""
    percent: bool = False
    scale: int = 1
    """What the scale word multiplied by; 1 without one."""
    currency: str = ""
    """ISO code, or "" where none was named."""
    unit: str = ""
    """The words after the number, singular, units by one name; "" where there are none."""
    unit_is_plain: bool = True
    """Every word of the unit is a known unit or a plural, so that it can stand where the gold names none."""

    @property
    def kind(self) -> str:
        """What is counted, as far as it was named: a currency, "%", or a unit; "" where nothing was named."""
        return self.currency or ("%" if self.percent else self.unit)

    def show(self) -> str:
        number = str(self.value) if self.value.denominator == 1 else f"{float(self.value):.6g}"
        return " ".join(part for part in (number[:40] + "%" * self.percent, self.currency, self.unit) if part)


_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "thousands": 10**3, "millions": 10**6, "billions": 10**9, "trillions": 10**12,
    "mn": 10**6, "mln": 10**6, "mio": 10**6, "bn": 10**9, "bln": 10**9, "tn": 10**12, "lakh": 10**5, "crore": 10**7,
    "lakhs": 10**5, "crores": 10**7, "quadrillion": 10**15,
}  # fmt: skip
_SHORT_SCALES = {"k": 10**3, "m": 10**6, "mm": 10**6, "b": 10**9, "t": 10**12}
_CURRENCIES = {
    "$": "USD", "us$": "USD", "usd": "USD", "dollar": "USD", "dollars": "USD", "€": "EUR", "eur": "EUR", "euro": "EUR",
    "euros": "EUR", "£": "GBP", "gbp": "GBP", "¥": "JPY", "jpy": "JPY", "yen": "JPY", "cny": "CNY", "rmb": "CNY",
    "yuan": "CNY", "₹": "INR", "inr": "INR", "rs": "INR", "rupees": "INR", "₩": "KRW", "krw": "KRW", "chf": "CHF",
    "cad": "CAD", "c$": "CAD", "aud": "AUD", "a$": "AUD", "hk$": "HKD", "hkd": "HKD", "sgd": "SGD", "s$": "SGD",
    "pound sterling": "GBP", "rm": "MYR", "sek": "SEK", "nok": "NOK", "dkk": "DKK",
}  # fmt: skip
_PERCENTS = frozenset(("%", "percent", "percents", "pct", "percentage"))
_FILLERS = re.compile(r"in|of|us|u\.s\.|american|per|a|an|the|total|ad|ce|them")
_NOT_UNITS = re.compile(
    r"s|or|and|not|no|nor|to|than|but|less|more|fewer|greater|larger|smaller|over|under|above|below|plus|minus"
    r"|if|is|was|are|were|maybe|perhaps|possibly|either|neither|between|at|least|most|only|point|decrease"
    r"|decreased|decline|declined|drop|dropped|loss|losses|lost|negative|down|lower|fall|fell|increase|increased"
    r"|up|higher|wrong|false|incorrect|true|correct|depending|unless|except|without|dozen|half|squared|cubed"
    r"|square|root|factorial|nan|inf|infinity|yes|unknown"
    r"|zillions?|\w{0,12}(?:tenth|hundredth|thousandth|illionth)s?"
)
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]{1,6}")
_TEX_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]{1,40})\}\s?\{([^{}]{1,40})\}")
_TEX_WORDS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s?\{([^{}]*)\}")
_TEX_SPACES = re.compile(r"\\[,;:! ]|\{,\}|\\left|\\right|~")
_TIMES_TEN = re.compile(r"(?<=[0-9])\s?x\s?(?=10\s?\^)")
_LEAD = re.compile(
    r"(?:(?:approximately|approx\.?|about|around|roughly|nearly|exactly|precisely|circa|equal to|equals|a total of|it is|it's|=|:"
    r"|in the year|the year|in|there (?:are|were|is|was)"
    r"|≈|~)\s{0,2}){1,3}"
)
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,15}|[0-9]{1,3}(?: [0-9]{3}){1,15}(?![0-9])|[0-9]{1,2}(?:,[0-9]{2}){1,8},[0-9]{3}|[0-9]{1,60})"
_PLAIN = rf"(?P<whole>{_DIGITS})?(?P<decimals>\.[0-9]{{1,60}}|\.(?![0-9]))?(?![0-9,.]*[0-9])"
_NUMBER = re.compile(
    rf"(?:(?P<mixed>[0-9]{{1,9}})\s(?=[0-9]{{1,9}}\s?/))?(?:{_PLAIN})"
    r"(?:\s?e(?P<sci>[+-]?[0-9]{1,4})(?![a-z0-9.])|\s?[x×*]\s?10\s?(?:\^|\*\*)\s?[{(]?(?P<ten>[+-]?[0-9]{1,4})[})]?"
    r"|\s?(?:\^|\*\*)\s?[{(]?(?P<power>[+-]?[0-9]{1,4})[})]?|\s?/\s?(?P<below>[0-9]{1,15})(?![0-9.,]))?(?![0-9])"
)
_TWICE = re.compile(r"([^()]{1,60}?)\s?\(([^()]{1,60})\)")
_NAMED = re.compile(r"(?!.*\b(?:not|or|nor|never)\b)[^\W\d][^0-9<>!\u2260~]{0,60}(?<![!<>\u2264\u2265])")
_CALCULATED = re.compile(r"(?=.*[-+*/x\u00d7\u00f7])[0-9.,()+\-*/x\u00d7\u00f7%$\s]{1,80}")
_THOUSANDS_MARK = re.compile(r"(?<=[0-9])['\u2019](?=[0-9]{3}(?![0-9]))")
_SIGN = re.compile(r"(?:(?P<minus>-|minus\s|negative\s)|\+)\s?")
_TOKEN = re.compile(r"us\$|hk\$|[cas]\$|[$€£¥₹₩%]|[^\W\d_]+(?:[.'’-][^\W\d_]+)*\.?|\S")


def read_number(text: str, *, is_gold: bool = False) -> Numeral | None:
    """The one number that `text` is, or None.

    Parentheses are a minus sign in a gold (accounting) and only dress in an answer, since the prompt's
    own format is "the answer is (insert answer here)"; after a currency, `$(5)`, they are a minus in both.
    """
    if len(text) > MAX_NUMERAL_CHARS:
        return None
    text = _right_side(_plain(text))
    text = text[lead.end() :] if (lead := _LEAD.match(text)) else text
    read = _one_number(text, is_gold)
    if read is None and text.endswith(")") and (twice := _TWICE.fullmatch(text)):
        outer, inner = (_one_number(side, False) for side in twice.groups())
        return outer if outer and inner and outer.value == inner.value and not inner.kind else None
    return read


def _one_number(text: str, is_gold: bool) -> Numeral | None:
    text, negative, currency = _head(text, is_gold)
    by_word = number_words(text)
    found = None if by_word else _NUMBER.match(text)
    if by_word:
        value, place, whole, rest = Fraction(by_word[0]), Fraction(1), True, by_word[1]
    elif found and (read := _value(found)):
        (value, place, whole), rest = read, text[found.end() :]
    else:
        return None
    return _with_tail(-value if negative else value, place, whole, currency, rest, attached=not rest[:1].isspace())


def _right_side(text: str) -> str:
    """What stands right of the one `=`, where the left is a name or a calculation; else `text`."""
    if text.count("=") != 1:
        return text
    left, right = (side.strip() for side in text.split("="))
    return right if _NAMED.fullmatch(left) or _CALCULATED.fullmatch(left) else text


@lru_cache(maxsize=MAX_CACHED_GOLDS)
def gold_number(gold: str) -> Numeral | None:
    """`read_number` of a gold, kept: a group judges the same one again and again."""
    return read_number(gold, is_gold=True)


def _plain(text: str) -> str:
    """Lower-case text without TeX, superscripts, vulgar fractions and invisible characters."""
    if not text.isascii():
        text = _SUPERSCRIPTS.sub(lambda m: "^" + m.group().translate(_SUPERSCRIPT), text)
        text = "".join(f" {c} " if unicodedata.decomposition(c).startswith("<fraction>") else c for c in text)
        text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
        text = re.sub("[\u2010-\u2015\u2212]", "-", "".join(c for c in text if unicodedata.category(c) != "Cf"))
    if "\\" in text:
        text = _TEX_WORDS.sub(r" \1", _TEX_FRACTION.sub(r" \1/\2", text))
        text = _TEX_SPACES.sub("", text).replace("\\times", "x").replace("\\cdot", "x").replace("\\approx", "")
        text = text.replace("\\%", "%").replace("\\$", "$")
    text = _TEX_SPACES.sub("", text).replace("**", "^").replace("*", " x ")
    text = " ".join(text.casefold().split())
    if "'" in text or "\u2019" in text:
        text = _THOUSANDS_MARK.sub(",", text)
    if "per cent" in text:
        text = text.replace("per cent", "percent")
    if "10" in text:
        text = _TIMES_TEN.sub("x", text)
    if text.count("$") == 2 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    return text.rstrip(".,;:!")


@lru_cache(maxsize=MAX_CACHED_GOLDS)
def asked_currencies(question: str) -> frozenset[str]:
    """The currencies that a question names."""
    words = _TOKEN.findall(question[:2_000].casefold())
    return frozenset(_CURRENCIES[word] for word in words if word in _CURRENCIES and word not in ("rs", "rm"))


def _head(text: str, is_gold: bool) -> tuple[str, bool, str]:
    """What follows signs, currency and parentheses; whether they say minus; the currency."""
    negative = False
    currency = ""
    parentheses = 0
    for _ in range(4):
        if (sign := _SIGN.match(text)) is not None:
            if negative:
                return "", False, ""
            negative, text = sign["minus"] is not None, text[sign.end() :]
            continue
        if text.startswith("(") and parentheses == 0:
            parentheses, text = (2 if currency else 1), text[1:].replace(")", "", 1).strip()
            continue
        token = _TOKEN.match(text)
        if token is None or token.group() not in _CURRENCIES or currency:
            break
        currency, text = _CURRENCIES[token.group()], text[token.end() :].strip()
    if parentheses and negative and (is_gold or parentheses == 2):
        return "", False, ""
    return text, negative or parentheses == 2 or (parentheses == 1 and is_gold), currency


@lru_cache(maxsize=MAX_DIGITS + 1)
def _place(num_decimals: int) -> Fraction:
    return Fraction(1, 10**num_decimals)


def _value(found: re.Match[str]) -> tuple[Fraction, Fraction, bool] | None:
    """Value, worth of the last printed digit, and whether it was printed whole; None where it is out of bounds."""
    whole = (found["whole"] or "").replace(",", "").replace(" ", "")
    decimals = (found["decimals"] or "")[1:]
    if not whole + decimals or len(whole + decimals) > MAX_DIGITS or (len(whole) > 1 and whole[0] == "0"):
        return None
    place = _place(len(decimals))
    value = Fraction(int(whole + decimals), place.denominator)
    if found["below"] is not None:
        if decimals or int(found["below"]) == 0:
            return None
        return value / int(found["below"]) + int(found["mixed"] or 0), Fraction(0), False
    if found["mixed"] is not None:
        return None
    exponent = int(found["sci"] or found["ten"] or found["power"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    if found["power"] is not None:
        if len(whole + decimals) * abs(exponent) > MAX_EXPONENT or (value == 0 and exponent <= 0):
            return None
        return value**exponent, Fraction(0), exponent >= 0 and not decimals
    if exponent == 0:
        return value, place, not decimals.strip("0")
    power_of_ten = Fraction(10) ** exponent
    return value * power_of_ten, place * power_of_ten, exponent >= 0 and not decimals.strip("0")


def _with_tail(
    value: Fraction, place: Fraction, whole: bool, currency: str, rest: str, *, attached: bool
) -> Numeral | None:
    """The numeral once the words after it are read as scale, percent, currency and unit; None where they are none."""
    scale, percent, unit, plain = 1, False, list[str](), True
    tokens = _TOKEN.findall(rest.replace("(", " ").replace(")", " ")) if rest else []
    if len(tokens) > 8:
        return None
    if tokens[-1:] == ["times"]:
        tokens.pop()
    for i, token in enumerate(tokens):
        word = token.rstrip(".")
        short = _SHORT_SCALES.get(word, 1) if i == 0 and (currency or (attached and word == "k")) else 1
        if word in _SCALES or short != 1:
            scale *= _SCALES.get(word, short)
        elif word in _PERCENTS:
            percent = True
        elif word in _CURRENCIES:
            if currency not in ("", _CURRENCIES[word]):
                return None
            currency = _CURRENCIES[word]
        elif word == "°" or (percent and word in ("points", "point")):
            continue
        elif (
            _NOT_UNITS.fullmatch(word)
            or word in ONES
            or word in TENS
            or word == "times"
            or not word.replace("-", "").replace("'", "").replace(".", "").isalpha()
        ):
            return None
        elif not _FILLERS.fullmatch(word):
            plain = plain and is_plain_unit(word)
            unit.append(unit_name(word))
    if len(unit) > 4 or scale > 10**15:
        return None
    return Numeral(
        value=value * scale if scale > 1 else value,
        last_place=place * scale if scale > 1 else place,
        is_whole=whole,
        percent=percent,
        scale=scale,
        currency=currency,
        unit=" ".join(unit),
        unit_is_plain=plain,
    )
