"""Multiple choice: one letter in any usual dress, or one option's own text.

Two letters, a negated letter, or a letter with another option's text are no answer. Letters A to J
are known where the question carries no options.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from data.problem import Question
from rewards.extraction import MAX_ANSWER_CHARS, undress
from rewards.rules.text import MAX_CACHED_GOLDS, normal_gold, normalise, without_explanation
from rewards.rules.types import RuleVerdict

_MAX_LETTERS = 26
_CLAUSE_WORDS = 4
"""So many words after a letter explain it; fewer are the option's own or another's."""
_LETTERS_WITHOUT_OPTIONS = 10
_LISTED_ON_LINES = re.compile(r"^[ \t]*[(\[]?(?P<letter>[A-Z])[)\].:][ \t]+(?=\S)", re.MULTILINE)
_LISTED_INLINE = re.compile(r"(?:^|\s)[(\[](?P<letter>[A-Z])[)\]]\s+(?=\S)")
_NAME = r"(?:(?:the|my)\s)?(?:(?:correct|right|best|final)\s)?(?:option|choice|answer|letter)\s?(?:is\s|:\s?)?"
_OPENING = re.compile(
    rf"(?:(?:it\s?is|it's|this\sis|that\sis|i\s(?:choose|pick|select)|choose|pick|select|must\sbe)\s)?"
    rf"(?:(?:definitely|certainly|clearly)\s)?(?:{_NAME})?"
    r"(?P<dress>(?:(?![!<>~=\u2260\u00ac\-\u2212])[\W_]){0,6})(?P<letter>[A-Za-z])(?![\w'\u2019]|-\w)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_IS_RIGHT = re.compile(
    r"\s(?:is|would\sbe|must\sbe)\s(?:the\s)?(?:correct|right|best)(?:\s(?:answer|option|choice|one))?$", re.I
)
_OTHER_LETTER = re.compile(
    r"(?<![\w'\u2019])(?:[b-hj-z](?![\w'\u2019])|[(\[][a-z][)\]]|(?:option|choice|answer|and|or)\s[(\[]?[a-z](?![\w'\u2019]))",
    re.IGNORECASE,
)
_CAPITAL_A = re.compile(r"(?<![\w'\u2019])A(?=\s(?:too|also|fits|as\swell|is|works|and|or)\b|[,;.)]|$)")
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|none|except|without|cannot|wrong|incorrect|false|either|both|maybe|perhaps|unless|however|or"
    r"|though|although|ruled|eliminated|crossed|avoid|excluded|rejected|depends|mean|meant|probability|others?|untrue|if)\b|n['\u2019]t\b"
    r"|^\W*no\b\W*$",
    re.IGNORECASE,
)
_LETTER_LAST = re.compile(r"([^\n]{2,200}?),?\s(?:(?:option|choice)\s\(?([A-Za-z])\)?|\(([A-Za-z])\))", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def judge(answer: str, question: Question) -> RuleVerdict:
    """Accepts the letter (or the option's text) of an accepted answer."""
    options = options_of(question)
    said = read_choice(answer, options)
    all_read = True
    for gold in question.answers:
        meant = _meant(gold, options)
        all_read = all_read and meant is not None
        if meant is None:
            if (normal := normal_gold(gold)) and normal == normalise(answer[:MAX_ANSWER_CHARS]):
                return RuleVerdict(accepted=True, readable=True, reason=f"choice: equals {gold[:80]!r}")
        elif meant == said:
            return RuleVerdict(accepted=True, readable=True, reason=f"choice: {said}")
    if said is None:
        return RuleVerdict(accepted=False, readable=False, reason="choice: no single option is named")
    reason = f"choice: {said} is not the accepted answer"
    return RuleVerdict(accepted=False, readable=True, is_settled=all_read, reason=reason)


@lru_cache(maxsize=MAX_CACHED_GOLDS)
def _meant(gold: str, options: tuple[str, ...]) -> str | None:
    return read_choice(gold, options)


def options_of(question: Question) -> tuple[str, ...]:
    """The choices' texts, A first: the question's own field, else what its text lists by letter; () for neither."""
    return question.options or _listed_options(question.question)


@lru_cache(maxsize=MAX_CACHED_GOLDS)
def _listed_options(question: str) -> tuple[str, ...]:
    for pattern in (_LISTED_ON_LINES, _LISTED_INLINE):
        marks = list(pattern.finditer(question))
        letters = "".join(mark["letter"] for mark in marks)
        if len(letters) > 1 and "ABCDEFGHIJKLMNOPQRSTUVWXYZ".startswith(letters):
            ends = [*(mark.start() for mark in marks[1:]), len(question)]
            return tuple(question[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True))
    return ()


def read_choice(answer: str, options: tuple[str, ...] = ()) -> str | None:
    """The one letter that `answer` names, upper case; None where it names none, several or not that one."""
    if len(answer) > MAX_ANSWER_CHARS:
        return None
    if not answer.isascii():
        answer = unicodedata.normalize("NFKC", answer)
    by_text = _letters_of(answer, options)
    if by_text:
        return by_text[0] if len(by_text) == 1 else None
    bare = without_explanation(answer)
    if options and (last := _LETTER_LAST.fullmatch(bare)) and (by_text := _letters_of(last[1], options)):
        letter = (last[2] or last[3]).upper()
        return letter if by_text == [letter] else None
    whole_letter, whole_rest = _opening_letter(answer) if options else (None, "")
    if whole_letter is not None and whole_letter in _letters_of(whole_rest, options):
        return whole_letter
    letter, rest = _opening_letter(bare)
    count = min(len(options), _MAX_LETTERS) if options else _LETTERS_WITHOUT_OPTIONS
    if letter is None or ord(letter) - ord("A") >= count:
        return None
    named = _letters_of(rest, options)
    if named:
        return letter if letter in named else None
    only_letters = all(len(word) == 1 for word in _WORD.findall(rest))
    if rest and (
        only_letters
        or _NEGATION.search(rest)
        or _OTHER_LETTER.search(rest)
        or (letter != "A" and _CAPITAL_A.search(rest))
    ):
        return None
    return None if _mentions_another(rest, letter, options) or _is_a_remark(rest, letter, options) else letter


def _is_a_remark(rest: str, letter: str, options: tuple[str, ...]) -> bool:
    """Whether a few words that are not the option's own follow the letter: `B. Discarded`, `B, alongside the first`."""
    if not rest or not options or len(rest.split()) >= _CLAUSE_WORDS:
        return False
    return not set(normalise(rest).split()) <= set(normal_gold(options[ord(letter) - ord("A")]).split())


def _mentions_another(rest: str, letter: str, options: tuple[str, ...]) -> bool:
    """Whether the text of an option that is not the letter's own stands in `rest` as whole words."""
    if not rest or not options:
        return False
    words, own = f" {normalise(rest)} ", f" {normal_gold(options[ord(letter) - ord('A')])} "
    others = (f" {normal_gold(option)} " for option in options[:_MAX_LETTERS])
    return any(
        len(other) > 2
        and other != own
        and ((other in words and other not in own) or (words in other and words not in own))
        for other in others
    )


def _opening_letter(text: str) -> tuple[str | None, str]:
    """The letter that opens `text` and what follows it; None where the first letter is a word or an article."""
    found = _OPENING.match(undress(text))
    if found is None:
        return None, ""
    letter, rest = found["letter"], undress(_IS_RIGHT.sub("", found["rest"]))
    closed = found["rest"].lstrip()[:1] in ("(", ")", "]", ".", ":", ",", "*", "-", "\u2013", "\u2014", "}", ";")
    if rest and not closed and not _stands_alone(found["rest"]):
        return None, ""
    return letter.upper(), rest.lstrip("()].:,*-\u2013\u2014}; \t\n")


def _stands_alone(rest: str) -> bool:
    """Whether what follows a letter without a mark only says that it is right (`B is correct`)."""
    return rest.strip() == "" or (_IS_RIGHT.sub("", rest).strip(" .*_") == "")


def _letters_of(text: str, options: tuple[str, ...]) -> list[str]:
    """The letters of the options whose text is `text`."""
    normal = normalise(text)
    if not normal:
        return []
    return [chr(ord("A") + i) for i, option in enumerate(options[:_MAX_LETTERS]) if normal_gold(option) == normal]
