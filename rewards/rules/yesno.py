"""Yes or no (true or false): the answer must open with the word and not take it back."""

from __future__ import annotations

import re
import unicodedata

from data.problem import Question
from rewards.extraction import MAX_ANSWER_CHARS, undress
from rewards.rules.types import RuleVerdict

_WORDS = {"yes": True, "true": True, "no": False, "false": False}
_OPENING = re.compile(
    r"\W*(yes|no|true|false)\b(?=[\s*_\"')\]]*(?:$|[,.;:!?(\u2013\u2014-]|because\b|since\b|as\b))", re.I
)
_OPPOSITE = {
    True: re.compile(
        r"\b(?:no|false|not|neither|nor|never|cannot|nope|nah|negative|untrue|nobody|none|hardly)\b|n['\u2019]t\b", re.I
    ),
    False: re.compile(r"\b(?:yes|true|yep|yeah|yup|affirmative|indeed\sso|correct|right)\b", re.IGNORECASE),
}
_HEDGE = re.compile(
    r"\b(?:but|however|maybe|perhaps|possibly|or|partially|partly|unless|although|though|unsure|uncertain|unclear"
    r"|depends|depending|probab(?:ly|ility)|half|doubtful|hardly|guess|lie|joking|either|opposite|contrary|reverse|if|sometimes|not\scertain|[0-9]+\s?/\s?[0-9]+"
    r"|wrong|incorrect|wait|actually)\b",
    re.IGNORECASE,
)
_NOT_SO = re.compile(r"\b(?:not\s(?:true|correct|right|so|yes)|incorrect|wrong|untrue)\b", re.IGNORECASE)


def judge(answer: str, question: Question) -> RuleVerdict:
    """Accepts the word that the gold says; a gold that is neither is compared word for word."""
    said = read_yesno(answer)
    all_read = True
    for gold in question.answers:
        meant = read_yesno(gold)
        all_read = all_read and meant is not None
        if meant is None:
            if undress(gold).casefold() == undress(answer).casefold():
                return RuleVerdict(accepted=True, readable=True, reason=f"yesno: equals {gold[:80]!r}")
        elif meant == said:
            return RuleVerdict(
                accepted=True, readable=True, reason=f"yesno: {'yes' if said else 'no'} as in {gold[:80]!r}"
            )
    if said is None:
        return RuleVerdict(accepted=False, readable=False, reason="yesno: neither a plain yes nor a plain no")
    reason = f"yesno: {'yes' if said else 'no'} is not the accepted answer"
    return RuleVerdict(accepted=False, readable=True, is_settled=all_read, reason=reason)


def read_yesno(text: str) -> bool | None:
    """True for yes, False for no, None where the text says neither, both, or hedges."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    opening = _OPENING.match(text)
    if opening is None:
        return None
    said = _WORDS[opening.group(1).lower()]
    rest = text[opening.end() :] if said else _NOT_SO.sub("", text[opening.end() :])
    return None if _OPPOSITE[said].search(rest) or _HEDGE.search(rest) else said
