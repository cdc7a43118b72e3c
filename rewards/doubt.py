"""Words that deny an answer, take it back or put another beside it, and text that was struck out.

A policy that is paid for hedging learns to hedge: `Paris. Failing that, London` says two things. These are word lists,
not an understanding; what they miss costs nothing where the first answer is wrong, since only that one is read.
"""

from __future__ import annotations

import re

from rewards.phrases import Phrases, words_of

CROSSES = "\u274c\u274e\u2717\u2718\u2715\u2716\u26d4\U0001f6ab\U0001f44e\u2260"
"""Signs that say no."""
DENYING_WORDS = frozenset(
    "not never cannot none neither nor nobody hardly wrong incorrect false untrue refuse refuses refused deny denies denied"
    " doubt doubts doubted doubtful unlikely disagree disagrees opposite reverse contrary impossible mistaken".split()
)
"""Words that turn what they stand before into its opposite."""
NEGATION = "|".join(sorted(DENYING_WORDS))

_DENIAL = re.compile(
    rf"\b(?:{NEGATION}|(?:anything|everything)\s(?:but|except))\b|n['\u2019]t\b|!=|\\neq?\b|\\not\b|[{CROSSES}]",
    re.IGNORECASE,
)
_NO_DENIAL = re.compile(
    r"\b(?:no|without\s(?:a|any)?|beyond)\s?(?:reasonable\s)?doubt\b|\bnot\s(?:hard|difficult|surprising\w{0,2}|only)\b"
    r"|\bcannot\sbe\s(?:denied|doubted)\b",
    re.IGNORECASE,
)
_CLAUSE_BREAK = re.compile(
    r"[.,;!?]\s|[\u2013\u2014\n]|\s-\s|\b(?:so|but|and|hence|thus|therefore|then|yet|rather)\b", re.IGNORECASE
)
_REASON = re.compile(
    r"\W{0,6}(?:since|because|as|given|although|though|when|while|if|even|after|before|who|which)\b", re.I
)
_OPEN_END = re.compile(r"(?::|\bthat|\bnot|\bsay)[\s*_]{0,4}\n[\s*_#>-]{0,8}$", re.IGNORECASE)
_OTHER = re.compile(
    r"\b(?:wrong|incorrect|false|bad|poor|worst|possible|potential|plausible|candidate|alternative|another|other|second"
    r"|third|fourth|fifth|option\s\w{1,8},?|rejected|likely)[\s*_]{1,3}$",
    re.IGNORECASE,
)
MAX_CLAUSE_CHARS = 160
"""So far back a denial is looked for."""

_OPENERS = frozenset(
    "or and also alternatively maybe perhaps possibly wait no not actually sorry correction hmm but however otherwise unless"
    " either oops failing second third next another other instead nope nah hardly except alternative negative"
    " affirmative yep never yes".split()
)
_FIRST_WORD = re.compile(r"\W{0,8}((?!no\s(?!one\b|way\b))\w{1,20})", re.IGNORECASE)
_HEDGES = Phrases(
    (
        ("or", r"\bor\s(?:maybe|perhaps|possibly|else|so\si|at\sleast)\b"),
        ("alternatively failing oops", r"\b(?:alternatively|failing\sthat|oops)\b"),
        ("whichever", r"\bchoose\swhichever\b|\bwhichever\s(?:you|of)\b"),
        ("could might may", r"\b(?:could|might|may)\salso\sbe\b|\b(?:it|this|that|answer|which)\s(?:could|might)\sbe\b"),
        ("sure certain unsure", r"(?:\bi['\u2019]?\s?a?m|^|[.,;!?])\s{0,2}(?:not\s(?:entirely\s|completely\s)?(?:sure|certain)|unsure)\b"),
        ("if", r"[,;]\sif\snot\b|\bif\snot,"),
        ("other another", r"\b(?:an)?other\s(?:possib\w{1,6}|(?:possible|valid|acceptable|plausible)\s\w+)|\banother\s(?:answer|guess|possibility)\b"),
        ("second third", r"\b(?:second|third)\s(?:choice|guess)\b|\b(?:my|a)\s(?:second|third)\s(?:answer|option|candidate)\b"),
        ("possible", r"\b(?:first|second|third|another|one)\spossible\b"),
        ("myself", r"\bi\smyself\s"),
        ("my", r"\bmy\s(?:first|second|other)\s(?:idea|guess|thought)\b"),
        ("also", r"\balso\s(?:acceptable|accepted|correct|possible|valid)\b"),
        ("wait sorry correction", r"(?:^|[.,;:!?\n\u2026]|\bno,?)\s{0,3}(?:wait|sorry|correction)\b"),
        ("opposite", r"\bthe\sopposite\s(?:is|of\s(?:that|this|it))\b"),
        ("joking kidding nevermind", r"\b(?:(?:just|only)\s(?:joking|kidding)|nevermind)\b"),
        ("thought reflection", r"\bon\s(?:second\sthought|reflection)\b"),
        ("scratch strike mind", r"\b(?:scratch|strike)\sthat\b|\bnever\smind\b"),
        ("wrong incorrect false correct true right so", r"\bi\swas\swrong\b"
            r"|\b(?:that|this|it|which|answer)(?:\sis|\swas|['\u2019]s)\s(?:incorrect|wrong|false|not\s(?:correct|true|right|so))\s?(?:[.,;:!]|$)"),
        ("answer", r"\banswer\s(?:is\snot|is\s?n['\u2019]t)\b|(?<!this)(?<!that)(?<!\bit)(?<!which)\sis\sthe\s(?:\w{1,8}\s)?answer\b"),
        ("back up ignore", r"\b(?:i\stake\s(?:it|that|this)\sback|i\s(?:made|am\smaking)\s(?:it|that|this)\sup|please\signore\s(?:it|that|this))\b"),
        ("meant mean retract withdraw doubt guess", r"\bi\s(?:meant|mean|retract|withdraw|doubt|guess)\b"),
        ("depends depending", r"\bit\sdepends\b|[,;]\sdepending\son\b"),
        ("instead", r"\b(?:take|use|say|choose|pick)\s\w+(?:\s\w+)?\sinstead\b"),
        ("ruled", r"\bcannot\sbe\sruled\sout\b"),
        ("well", r"\bjust\sas\swell\b|\bfits?\sjust\sas\b"),
        ("lie way avoid", r"\bthat\sis\sa\slie\b|\beither\sway\b|\bi\swould\savoid\b"),
        ("according based", r"\b(according\sto|based\son)\b.{1,80}\b\1\b"),
        ("possibly maybe perhaps probably", r"(?:,|\bbut|\band)\s(?:possibly|maybe|perhaps|probably)\b"),
    )
)  # fmt: skip
_ITEM = re.compile(r"[ \t]*(?:[-*+\u2022\u2013>|][ \t]+|\(?\d{1,2}[.)][ \t]+|\(?[a-zA-Z][.)][ \t]+)\S")
_STRUCK = re.compile(
    r"~~[^~\n]{1,300}~~|<(del|s|strike)>[^<]{0,300}</\1>|<!--[^>]{0,300}-->|\\[bx]?cancel\s?\{[^{}]{0,300}\}"
    r"|\\sout\s?\{[^{}]{0,300}\}|(?:[^\W_][\u0335-\u0338]){1,300}",
    re.IGNORECASE,
)


def denied_before(before: str) -> bool:
    """Whether the clause at the end of `before` denies what comes next, as in `It is not true that`."""
    clause = before[-MAX_CLAUSE_CHARS:]
    if _OTHER.search(clause[-40:]):
        return True
    if _DENIAL.search(clause) is None:
        return False
    start = 0
    open_end = _OPEN_END.search(clause)
    for found in _CLAUSE_BREAK.finditer(clause, 0, open_end.start() if open_end else len(clause)):
        start = found.end()
    clause = _NO_DENIAL.sub(" ", clause[start:])
    return _DENIAL.search(clause) is not None and not _REASON.match(clause)


def takes_back(text: str) -> bool:
    """Whether what follows an answer names another, makes it one of several, or takes it back."""
    first = _FIRST_WORD.match(text)
    return (first is not None and first[1].casefold() in _OPENERS) or hedges(text)


def hedges(text: str, words: frozenset[str] | None = None) -> bool:
    """Whether a phrase that widens an answer or takes it back stands anywhere in `text` (`words`: its words, where known)."""
    return _HEDGES.found(text, words_of(text) if words is None else words)


def lists_items(text: str) -> bool:
    """Whether two lines of `text` open with the mark of a list and hold a few words each: candidates, not reasons."""
    if "\n" not in text:
        return False
    items = [line for line in text.split("\n")[:40] if _ITEM.match(line) and len(line.split(maxsplit=9)) <= 8]
    return len(items) > 1


def without_struck(text: str) -> str:
    """`text` without what its writer struck out or hid: `~~Paris~~`, `<del>`, comments, `\\cancel{}`, overlaid dashes."""
    if "~~" in text or "<" in text or "cancel" in text or "sout" in text or not text.isascii():
        return _STRUCK.sub(" ", text)
    return text
