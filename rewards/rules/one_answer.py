"""Whether a text is one answer: not several, not a denial, not the question again, not words to the judge.

Asked where a rule did not accept. What is refused here gets 0 and is shown to no judge; so each test is a pattern that
no honest answer needs, and none holds where a gold shares it (`Trinidad and Tobago`, `24/7`, lists).
"""

from __future__ import annotations

import re
from functools import lru_cache

from data.problem import Question
from rewards.doubt import CROSSES, DENYING_WORDS, NEGATION, hedges, lists_items
from rewards.phrases import WORD
from rewards.rules.addressed import speaks_to_the_judge, visible
from rewards.rules.choice import options_of
from rewards.rules.numeral import gold_number
from rewards.rules.text import normal_gold, normalise
from rewards.rules.units import changes_a_number

MAX_GOLD_SETS = 1_024
MAX_CANDIDATE_WORDS = 6
"""A piece between commas with more words is a clause rather than a candidate."""
LONG_GOLD_WORDS = 8
"""A gold of so many words is a sentence: an answer to it may hold commas and joiners of its own."""
ESSAY_WORDS = 60
"""An answer may have so many words, and four for each of the longest gold's."""
MANY_PIECES = 6
"""So many pieces are a list, however long each is."""
ROLL_CALL_WORDS = 12
"""So many words, most of them capitalised, are a list of names."""

_OR_WORDS = frozenset(("or", "either", "alternatively", "vs", "versus"))
_OR = re.compile(r"\b(?:or|either|alternatively|versus|vs)\b", re.IGNORECASE)
_OR_IDIOMS = re.compile(
    r"\b(?:more\sor\sless|whether\sor\snot|or\snot|sooner\sor\slater|one\sway\sor\sanother|or\sso(?!\si\b))\b", re.I
)
_SLASH = re.compile(r"(?<=[^\W\d_]{3})\s?/\s?(?=[^\W\d_]{3})|(?<=[0-9])/(?=[0-9]+/[0-9])|\s\|\s?|\s?\|\s|\s/\s|\u2228")
_PIECES = re.compile(
    r"[,;|&+\n\u2192\u3001\u2228]|->|=>|\s/\s|(?<=[^\W\d_]{3})/(?=[^\W\d_]{3})|\b(?:and|or|as\swell\sas|plus|then|but|also|nor|vs)\b",
    re.IGNORECASE,
)
_JOINING_WORDS = frozenset(("and", "or", "well", "plus", "then", "but", "also", "nor", "vs"))
_JOINING_MARKS = re.compile(r"[,;|&+/\n>\u2192\u3001\u2228\[{]|[.!?]\s")
_STRONG = re.compile(r"[;|&+\n\u2192\u3001\u2228]|->|=>|\b(?:and|as\swell\sas|plus|then|but|also)\b", re.IGNORECASE)
_SENTENCES = re.compile(r"[.!?]+\s+")
_OFFER_WORDS = frozenset(("one", "any", "either", "unless", "otherwise", "if"))
_OFFERS = re.compile(
    r"^\W*(?:one|any|either)\sof\b.{1,200}(?:,|\band\b|\bor\b)|%\s?(?:confiden\w{2}|sure|certain|likely|chance|probability)"
    r"|\bif\b.{1,60}\b(?:if|else)\b",
    re.IGNORECASE | re.DOTALL,
)
_CONDITION = re.compile(r"\b(?:unless|otherwise|only\sif)\b", re.IGNORECASE)
_SEVERAL_OPTIONS = re.compile(
    r"\b(?:or|either|neither|both|vs|unless|otherwise|though|if\snot)\b|^\W*(?:all|any|none|some|one)\b(?:\W*$|\sof\b)",
    re.IGNORECASE,
)
_ASIDES = re.compile(r"\([^()]{2,60}\)")

_NOT_WORDS = DENYING_WORDS | {"non", "except", "but", "t", "isn", "wasn", "neq", "ne", "no"}
_NOT_MARKS = re.compile(rf"[!{CROSSES}\u00ac]")
_NOT = re.compile(
    rf"\b(?:{NEGATION}|non|except|(?:no\sone|nothing)\sbut)\b|n['\u2019]t\b|!=|[{CROSSES}\u00ac]|\\neq?\b",
    re.IGNORECASE,
)
_NOT_SIGN = re.compile(
    rf"!=|\\neq?\b|[{CROSSES}\u00ac]|^\W{{0,3}}non-|^\W{{0,3}}(?:wrong|incorrect|false)\s", re.IGNORECASE
)
_NEGATIVE = re.compile(
    rf"\b(?:{NEGATION}|no|nothing|without|except)\b|n['\u2019]t\b|\b(?:un|in|im|dis)\w{{4,}}", re.IGNORECASE
)
"""A gold of such words may be put in words of denial: `unknown`, `insufficient information`."""
_DENYING_START = re.compile(
    r"\W*(?:(?:it|that|this|the\sanswer)\s(?:is|was)\s)?(?:(?:definitely|certainly|surely|probably|clearly|most\s\w+)\s)?"
    r"(?:not|never|non|any(?:one|thing|body|where)\s(?:but|except)|every(?:one|thing|body|where)\s(?:but|except)|all\s(?:but|except)"
    r"|except|(?:no\sone|nobody|nothing)\sbut|none\sof|neither|other\sthan)\b",
    re.IGNORECASE,
)
_CLAUSES = re.compile(r"[,;:.!?\n\u2013\u2014]|\bbut\b", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"\s?(?:(?:is|was|are|were|did|does|do|has|had|can|could|would)(?:\s?not|n['\u2019]?t|\snever|\sno\b)|(?:is|was)\s(?:wrong|incorrect|false)"
    r"|not\b|never\b|isnt\b|wasnt\b)",
    re.IGNORECASE,
)

_NUMBERS = re.compile(
    r"(?<![\w.])[0-9][0-9.]{0,20}%?\s?(?:,\s|;|\bor\b|\band\b|\bto\b|-|\u2013|\.\.|/[0-9]{1,4}/|\u00b1|\\pm)\s?[$\u20ac\u00a3]?[0-9]",
    re.IGNORECASE,
)
_MANY_NUMBERS = re.compile(r"(?:\b[0-9][0-9.,]{0,20}%?[\s;]{1,3}(?:(?:and|or)\s)?){4}[0-9]")
_MONTH = re.compile(r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)
_LETTERS = re.compile(
    r"\W*(?:(?:option|choice|both|either|neither|answers?|not)\s)*\(?[A-J]\)?(?:\W{0,6}(?:and|or|nor|to|through|too|also|[vx])?\W{0,6}\(?[A-J]\b\)?)+",
    re.IGNORECASE,
)
_LETTER_FIRST = re.compile(r"\W*(?!(?:A|I)\s[a-z])[A-J](?![\w'\u2019])")
_MARKED_LETTER = re.compile(r"\W{0,4}[A-J][).:\]]\s(?:[^\s()]+\s+){3}(?!.*(?<![\w'\u2019])\(?[B-J]\b)", re.DOTALL)
"""A letter with its mark, at least four words, and no other letter."""
_LETTER_LAST = re.compile(r".{2,200}\(([A-J])\)\W*", re.DOTALL)
_YES_OR_NO = re.compile(r"\b(?:yes|no|true|false|yep|nope|yeah|nah)\b|\by/n\b|yesno", re.IGNORECASE)
_COUNTRIES = frozenset(
    "usa us united states america uk united kingdom england scotland wales ireland canada france germany italy spain portugal"
    " netherlands belgium switzerland austria sweden norway denmark finland poland greece turkey russia india china japan australia"
    " brazil mexico argentina egypt".split()
) | {"united states", "united kingdom", "united states of america", "south korea", "south africa", "new zealand"}
"""What may close a place given in three parts: `Portland, Oregon, USA`."""
_LITTLE = frozenset(
    "the a an of in on at to for from by with and or is was are were be been it its he she they his her their this that which who"
    " whom what where when why how did do does has have had as not no".split()
)


class _Golds:
    """What the accepted answers of one question look like, so that an answer may look like them."""

    def __init__(self, answers: tuple[str, ...], asked: str) -> None:
        counts = [len(WORD.findall(answer)) for answer in answers]
        self.text = "\n".join(answers)
        self.normal = frozenset(normal_gold(answer) for answer in answers) - {""}
        self.most_words = max(counts)
        self.are_long = min(counts) >= LONG_GOLD_WORDS
        self.num_or = max(len(_OR.findall(answer)) for answer in answers)
        self.num_slashes = max(len(_SLASH.findall(answer)) + answer.count("/") for answer in answers)
        self.num_pieces = max(len(_pieces(answer)) for answer in answers)
        self.deny = any(_NEGATIVE.search(answer) for answer in answers)
        self.hedge = any(hedges(answer) or _OFFERS.search(answer) or _CONDITION.search(answer) for answer in answers)
        self.are_numbers = all(gold_number(answer) is not None for answer in answers)
        self.words = frozenset(w for a in answers for w in WORD.findall(a.casefold()) if w not in _LITTLE)
        self.asked = f" {normalise(asked)} "
        self.asked_stems = frozenset(word[:4] for word in self.asked.split()) | {"whet"}
        self.are_asked = any(f" {gold} " in self.asked for gold in self.normal)


_golds = lru_cache(maxsize=MAX_GOLD_SETS)(_Golds)


def objection(answer: str, question: Question, *, was_read: bool) -> str:
    """Why `answer` is not one answer to `question`; "" where it is one. `was_read`: the rule found its one meaning."""
    text = visible(answer)
    words = WORD.findall(text.casefold())
    word_set = frozenset(words)
    if speaks_to_the_judge(text, word_set, question):
        return "words to the judge"
    golds = _golds(question.answers, question.question[:1_000])
    if len(words) > ESSAY_WORDS + 4 * golds.most_words:
        return "an essay"
    if was_read and question.answer_type in ("choice", "yesno"):
        return ""
    if question.answer_type == "yesno" and _YES_OR_NO.search(text):
        return "neither a plain yes nor a plain no"
    if _denies(text, word_set, golds):
        return "a denial"
    if question.answer_type == "choice":
        return _several_options(text, word_set, question)
    if _offers_several(text, words, word_set, golds):
        return "several answers"
    if question.answer_type == "number" and not was_read and golds.are_numbers:
        if _several_numbers(text):
            return "several numbers"
        if changes_a_number(text):
            return "a number with words that change it"
    if question.answer_type != "yesno" and _echoes(text, words, golds):
        return "the question again"
    return ""


def _denies(text: str, words: frozenset[str], golds: _Golds) -> bool:
    """Whether `text` says that a gold is not the answer."""
    if golds.deny or (words.isdisjoint(_NOT_WORDS) and not _NOT_MARKS.search(text)):
        return False
    if _NOT_SIGN.search(text):
        return True
    if not golds.words.isdisjoint(words) and _DENYING_START.match(text):
        return True
    for clause in _CLAUSES.split(text):
        said = f" {normalise(clause)} "
        for gold in golds.normal:
            before, found, after = said.partition(f" {gold} ")
            if found and (_NOT.search(before) or _DENIED_AFTER.match(after)):
                return True
    return False


def _offers_several(text: str, words: list[str], word_set: frozenset[str], golds: _Golds) -> bool:
    short = not golds.are_long or len(words) <= 2 * LONG_GOLD_WORDS
    if short and not word_set.isdisjoint(_OR_WORDS) and len(_OR.findall(_OR_IDIOMS.sub("", text))) > golds.num_or:
        return True
    if short and ("/" in text or "|" in text or "\u2228" in text) and len(_SLASH.findall(text)) > golds.num_slashes:
        return True
    if not golds.hedge and (hedges(text, word_set) or _offers(text, word_set, golds)):
        return True
    if text.count("(") > 1 and golds.text.count("(") < 2 and len(_ASIDES.findall(text)) > 1:
        return True
    if len(words) >= ROLL_CALL_WORDS and golds.most_words <= MAX_CANDIDATE_WORDS:
        capitals = sum(word[:1].isupper() for word in text.split())
        if capitals * 5 >= len(words) * 4:
            return True
    if golds.num_pieces == 1 and lists_items(text.lstrip(": \n")):
        return True
    joins = not word_set.isdisjoint(_JOINING_WORDS) or _JOINING_MARKS.search(text) is not None
    return joins and _is_a_list(text, golds)


def _offers(text: str, words: frozenset[str], golds: _Golds) -> bool:
    """One of several by its own words: `one of A and B`, shares of confidence, a gold under a condition."""
    if "%" not in text and words.isdisjoint(_OFFER_WORDS):
        return False
    if _OFFERS.search(text) is not None:
        return True
    said = f" {normalise(text)} "
    return _CONDITION.search(text) is not None and any(f" {gold} " in said for gold in golds.normal)


def _pieces(text: str) -> list[str]:
    """The candidates of `text` where it is read as a list, normalised, each once."""
    return list(dict.fromkeys(normal for piece in _PIECES.split(text) if (normal := normalise(piece))))


def _is_a_list(text: str, golds: _Golds) -> bool:
    pieces = _pieces(text)
    if len(pieces) < 2:
        return _is_fragments(text, golds)
    if set(pieces) <= golds.normal or golds.are_long:
        return False
    if golds.num_pieces > 1:
        return len(pieces) > 2 * golds.num_pieces
    if text.lstrip()[:1] in ("[", "{"):
        return True
    short = all(len(piece.split()) <= MAX_CANDIDATE_WORDS for piece in pieces)
    right = [i for i, piece in enumerate(pieces) if piece in golds.normal]
    if len(pieces) > 3:
        return short or bool(right) or len(pieces) >= MANY_PIECES
    if len(pieces) == 3:
        return bool(right) and not (right[0] == 0 and pieces[2] in _COUNTRIES and not _STRONG.search(text))
    return bool(right) and short and _STRONG.search(text) is not None


def _is_fragments(text: str, golds: _Golds) -> bool:
    """Sentences of a few words each, as in `Paris. London. Rome`."""
    fragments = list(dict.fromkeys(filter(None, map(normalise, _SENTENCES.split(text)))))
    short = len(fragments) > 1 and all(len(f) > 2 and len(f.split()) <= 3 for f in fragments)
    return short and not golds.are_long and (len(fragments) > 2 or not golds.normal.isdisjoint(fragments))


def _several_numbers(text: str) -> bool:
    found = _NUMBERS.search(text) or _MANY_NUMBERS.search(text)
    return found is not None and not _MONTH.search(text)


def _several_options(text: str, words: frozenset[str], question: Question) -> str:
    """For a choice that the rule could not read: why it is no single option."""
    options = options_of(question)
    if not options and _MARKED_LETTER.match(text) and not _LETTERS.match(text):
        return ""  # what stands behind the letter may be its option's text, which is not known here
    if _LETTERS.match(text) or _LETTER_FIRST.match(text) or _LETTER_LAST.fullmatch(text):
        return "no single option's letter"
    if _SEVERAL_OPTIONS.search(text) or hedges(text, words):
        return "several options"
    said = f" {normalise(text)} "
    named = [option for option in options if (normal := normal_gold(option)) and f" {normal} " in said]
    if len(named) > 1:
        return "several options"
    if not named and len(said.split()) == 1 and len(said.strip()) <= 4:
        return "no option"
    return "a denial" if named and _NOT.search(text) and not _NOT.search(named[0]) else ""


def _echoes(text: str, words: list[str], golds: _Golds) -> bool:
    """Whether `text` only gives words of the question back, in their order or three and more in another."""
    if any(word[:4] not in golds.asked_stems and word not in _LITTLE for word in words):
        return False
    said = normalise(text)
    if golds.are_asked:
        return said == golds.asked.strip() and said not in golds.normal
    told = [word for word in said.split() if word not in _LITTLE]
    shares = not golds.words.isdisjoint(told)
    if said and f" {said} " in golds.asked:
        covers = len(said.split()) * 5 >= len(golds.asked.split()) * 3
        return covers or not (shares or " or " in golds.asked)
    return len(told) >= 3 and not shares
