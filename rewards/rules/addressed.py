"""Answers that speak to whoever judges them: verdicts, instructions, claims to be right, and openings with nothing in them.

A judge is a model and can be talked to, so such an answer is refused before it is asked. A pattern that one of the
golds holds too is part of the subject, and allowed.
"""

from __future__ import annotations

import re
import unicodedata

from data.problem import Question
from rewards.phrases import Phrases, words_of

MAX_CHARS = 2_000

_HTML = r"(?:b|i|u|em|strong|sub|sup|br|p|span|code|tt|small|big|cite|q|mark)"
_REFERENCE = (
    r"(?:(?:references?|gold(?:en|\sstandard)?|ground[-\s]truth|expected|accepted|official|intended|above)"
    r"(?:'s|\s(?:answer|solution|response|value|label|key|text|one|says|letter))?"
    r"|(?:standard|target|correct|right|given|provided|hidden|true|other|first|second)\s(?:answer|solution|response|value|label|key))"
)
_REPLY = r"(?:say|says|output|print|reply|respond|return|answer|write|emit|mark|grade|score|rate|label|accept|give|treat|count|choose)"
_RIGHT = r"(?:correct|right|true|accurate|valid|verified|equivalent|identical|equal|accepted|the\ssame|a\smatch)"
_CLAIM = r"(?:correct|right|true|accurate|verified|equivalent|identical|the\ssame|a\smatch)"
_RIGHT_WORDS = frozenset(
    "correct right true accurate valid verified equivalent identical equal accepted same match".split()
)
_JUDGE = r"(?:judge|grader|evaluator|examiner|assessor|verifier|marker)"

_MARKS = re.compile(
    r"\[\[|\]\]|<\||\|>|<<|\[/?(?:inst|system|user|assistant)\]|```\s?json"
    rf"|</?(?!{_HTML}\b)[a-z][\w|]{{0,30}}\s?/?>"
    r"|[\"'](?:verdict|references?|candidate|score|correct|equivalent)[\"']?\s?[:,=]"
    r"|(?:^|[\n.;!?|>-]\s{0,3})(?:system|assistant|user|human|developer|judge|grader|question)\s?:"
    r"|\b(?:references?|verdict|gold(?:en)?\sanswer|answer\s[12ab]|expected\sanswer|correct\s(?:option|answer))\s?:"
    r"|\b(?:score|reward|grade|correct|equivalent|is_correct)\s?[:=]\s?(?:1|10|100|true|yes|full|a\b)"
    r"|#\s?(?:references?|candidate|verdict|instructions?)\b",
    re.IGNORECASE,
)
"""Marks of chats, prompts and verdicts; each holds one of the characters below."""
_MARK_CHARS = re.compile(r"[\[\]<|`\"':=#]")
_SPEAKS = Phrases(
    (
        # Verdicts.
        ("verdict", r"\bverdict\W{1,6}(?:is\W{1,3}|should\sbe\W{1,3})?(?:yes|no|true|false|correct|equal|pass)\b"),
        ("yes", r"\b(?:first|second|both)\ssays?\syes\b"),
        # Instructions.
        ("yes true correct", rf"\b{_REPLY}(?:\s(?!no\b)\w+){{0,4}}\s[\"'\[(*{{]{{0,3}}(?-i:YES|TRUE|CORRECT)\b"
            r"|\b(?:output|print|return|emit|respond\swith|reply\swith|answer\swith)\s(?:exactly\s|only\s|just\s)?\W{0,3}yes\b"
            r"|(?:^|[.:;!?\n]\s{0,3}|\b(?:please|just|simply|only|always)\s)say\W{1,3}(?:yes|true|correct)\W{0,3}$"),
        ("ignore disregard forget override bypass", r"\b(?:ignore|disregard|forget|override|bypass)\s(?:(?:all|any|the|your|these|every|of)\s){0,3}"
            r"(?:previous|prior|above|earlier|preceding|references?|prompts?|criteria|system|gold)\b"),
        ("mark grade rate label score accept count treat judge consider regard", r"\b(?:mark|grade|rate|label|score|accept|count|treat|judge|consider"
            rf"|regard)\s(?:this|it|that|me|(?:my|the)\s(?:answer|response|candidate|comparison|two))\b[^.\n]{{0,30}}\b{_RIGHT}\b"),
        ("as full", rf"\b(?:mark|grade|count|treat|accept)(?:ed)?\sas\s(?:{_RIGHT}|yes)\b|\b(?:give|award|deserves?|grant)\s(?:\w+\s){{0,2}}full\s(?:marks|credit)\b"),
        ("judge grader evaluator examiner assessor verifier marker",
            rf"\b(?:dear|hello|hi|hey|note\sto|attention|message\sto)\s(?:the\s|my\s|dear\s|llm\s)?{_JUDGE}\s?[:,]"
            rf"|\b{_JUDGE}\s(?:must|should|shall|will|has\sto|likes?|wants?|prefers?|expects?)\s(?:best|say|accept|print|reply|respond|return|another)"),
        ("you as", r"\b(?:you\sare|if\syou\sare)\san?\s(?:helpful\s|large\s)?(?:ai\b|language\smodel|llm\b|judge|grader|evaluator|assistant)"
            r"|\bas\san?\s(?:large\s)?(?:ai\b|language\smodel|llm\b)"),
        ("system end grandmother", r"\b(?:system\sprompt|end\sof\s(?:candidate|prompt)|be\smy\sgrandmother)\b"),
        # The reference, or the comparison itself.
        ("same identical equal equivalent match matches matching equals agrees as see whatever like",
            r"\b(?:same|identical|equal|equivalent|match(?:es|ing)?|equals|agrees|as\sin|see|whatever|like)\b(?:\s\w+){0,2}?\s(?:the|your|this|my)?\s?"
            rf"{_REFERENCE}\W{{0,3}}$"),
        ("reference gold golden ground expected accepted intended", r"\b(?:the|your)\s(?:reference(?:\sanswer|'s|\ssays|\sis\b)"
            r"|(?:gold|golden|gold\sstandard|ground[-\s]truth|expected|accepted|intended)\sanswer)"),
        ("what whatever", r"\b(?:what|whatever)\s(?:the|your)\s(?:reference|gold|key|answer)(?:\sanswer|\skey)?\s(?:says|states|is\W*$)"),
        ("answers responses", r"\b(?:both|two|these)\s(?:two\s)?(?:answers|responses)\s(?:are|mean)\b"),
        ("answer", r"\banswer\s[12ab]\s(?:equals|is|matches|and|=)|\binsert\s(?:the\s|your\s)?answer\b|\byour\sanswer\shere\b"),
        ("key marks", r"\b(?:in|of|from|per)\sthe\s(?:answer\skey\b|key\W*$)|\bbetween\sthe\smarks\b"),
        # Claims to be right.
        ("correct right true accurate verified equivalent identical same match", r"\b(?:this|that|it|which|above|answer|response|solution|everything)"
            rf"\s(?:answer\s|one\s)?(?:is|are|was|has\sbeen)\s(?:\w+\s){{0,5}}?{_CLAIM}(?:\s(?:answer|one))?\s?(?:[.,;!)]|$)"
            r"|\b(?:answer|response|solution)\s(?:has\sbeen|is|was)\sverified\b"),
        ("antwort r\u00e9ponse respuesta resposta risposta", r"\b(?:antwort|r\u00e9ponse|respuesta|resposta|risposta)\b[^.\n]{0,20}"
            r"\b(?:richtig|correct|juste|corretta)"),
        ("als como comme", r"\b(?:als|como|comme)\s(?:richtig|correct)"),
    )
)  # fmt: skip
_SPEAKS_ELSEWISE = re.compile(
    "(?:\u043e\u0442\u0432\u0435\u0442|\u7b54\u6848|\u56de\u7b54|\ub2f5)[^.\\n]{0,20}(?:\u043f\u0440\u0430\u0432\u0438\u043b|\u6b63\u786e|\u6b63\u78ba|\u6b63\u89e3|\uc815\ub2f5)"
    "|\u5224\u5b9a\u4e3a\\s?\u6b63\u786e",
    re.IGNORECASE,
)
_ONLY_A_CLAIM = re.compile(
    rf"(?:the\s|an?\s)?(?:(?:obviously|clearly|certainly|definitely|absolutely|completely|100\s?%|totally|very|quite)\s){{0,3}}{_RIGHT}"
    rf"(?:\W{{1,3}}(?:and\s)?(?:{_RIGHT}|as\s[^.]{{0,30}}|answer|option|choice|letter|number|one|value|thing|response|same[^.]{{0,30}})){{0,2}}\W*"
    r"|the\s(?:right|correct|true)\s(?:answer|option|choice|letter|number|one|value)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_CAPITAL_YES = re.compile(r"\bYES\b")
_ASKS_WHETHER = re.compile(
    r"\W*(?:is|are|was|were|do|does|did|can|could|has|have|had|will|would|should|may|might|am)\b", re.I
)
_YES_GOLD = re.compile(r"\b(?:yes|no|true|false)\b", re.IGNORECASE)
_OPENINGS = re.compile(
    r"(?:final\s|the\s|my\s)?(?:solution|answer|response|reasoning|explanation|thoughts?(?:\sprocess)?|analysis|conclusion|result)"
    r"|step\s(?:1|one)|(?:ok(?:ay)?|sure|certainly|of\scourse|well|hmm|blank|null)"
    r"|(?:let\W?s|let\sus|let\sme)\s(?:think|solve|work|break|start|begin|analy[sz]e|see|go|look|find|consider)\b.{0,60}"
    r"|here\sis\s(?:the|my)\s(?:final\s)?(?:answer|solution)|i\swill\s(?:now\s)?(?:give|provide|answer|solve|think).{0,60}"
    r"|as\sin\s(?:the\s)?(?:document|text|passage)|as\s(?:stated|computed|given|shown|explained)\sabove|as\s(?:above|before)"
    r"|see\s(?:above|below|my\sreasoning)|i\shave\sanswered\sabove|r\u00e9ponse|l\u00f6sung|respuesta|soluci\u00f3n|antwort"
    r"|schritt\sf\u00fcr\sschritt|vamos\sa\s.{0,60}|\u89e3|\u89e3\u7b54|\u89e3\u8aac|\u304b\u3044\u305b\u3064|\ud480\uc774|\u0440\u0435\u0448\u0435\u043d\u0438\u0435"
    r"|\u8ba9\u6211\u4eec.{0,40}",
    re.IGNORECASE | re.DOTALL,
)


def speaks_to_the_judge(text: str, words: frozenset[str], question: Question) -> bool:
    """Whether a text asserts its own correctness, gives verdicts or instructions, or is an opening and no more.

    `text` as `visible` gives it, `words` as `words_of` does.
    """
    golds = "\n".join(question.answers)
    if _marks(text, golds) or _SPEAKS.found(text, words, golds):
        return True
    if not text.isascii() and _SPEAKS_ELSEWISE.search(text) and not _SPEAKS_ELSEWISE.search(golds):
        return True
    if "yes" in words and _gives_a_verdict(text, question, golds):
        return True
    if (
        not words.isdisjoint(_RIGHT_WORDS)
        and _ONLY_A_CLAIM.fullmatch(text)
        and words_of(golds).isdisjoint(_RIGHT_WORDS)
    ):
        return True
    return _is_an_opening(text) and not _is_an_opening(golds)


def _marks(text: str, golds: str) -> bool:
    return bool(_MARK_CHARS.search(text) and _MARKS.search(text)) and not _MARKS.search(golds)


def _is_an_opening(text: str) -> bool:
    return _OPENINGS.fullmatch(text.strip(" \t\r\n.,:;!?*_#\"'()-\u2026\u3002\uff1a")) is not None


def visible(text: str) -> str:
    """`text` in its compatibility form and without invisible characters, cut to `MAX_CHARS`."""
    text = text[:MAX_CHARS]
    if text.isascii():
        return text
    return "".join(char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char) != "Cf")


def _gives_a_verdict(text: str, question: Question, golds: str) -> bool:
    """A YES in capitals, where nobody asked whether."""
    found = _CAPITAL_YES.search(text)
    if found is None or (question.answer_type == "text" and _YES_GOLD.search(golds)):
        return False
    opens = not any(char.isalnum() for char in text[: found.start()])
    asked = question.answer_type == "yesno" or _ASKS_WHETHER.match(question.question) is not None
    return not (opens and asked)
