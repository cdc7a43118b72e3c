r"""Reading the final answer out of a response.

What counts: the text after the last `</think>`; in it the last marker ("the answer is", "Answer:",
`\boxed{}`, a heading that says so); without a marker, the last short line. Everything here is one
pass over a capped tail, so the time is linear in the response's length whatever it holds.

Two answers joined by "or", two boxes side by side, an answer that the next words take back: the
whole span is returned as the answer, so that no rule finds a single candidate in it.

Left out: any judgement of the answer. That is the rules' work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_TAIL_CHARS = 20_000
"""Only this many characters at the end of the final text are read."""
MAX_ANSWER_CHARS = 2_000
"""A longer span is an essay, not an answer."""
MAX_LINE_CHARS = 300
"""Without a marker, a longer last line is not read as an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """The answer of one response, and how it was found."""

    answer: str | None
    """Bare: no markdown, quotes, closing punctuation or trailing explanation; None where there is no answer."""
    how: str
    """For people: the marker that was used, or why there is no answer."""
    uncut: str = ""
    """The answer with the sentences that were taken for its explanation, for golds of several sentences; "" without any."""


_IS = r"(?:is|are|was|were|should\s{1,3}be|must\s{1,3}be|would\s{1,3}be)\b|[:=\uff1a]"
_BEST = r"(?:final|correct|right|best|short|overall|single)"
_MARKER = re.compile(
    rf"(?:\b(?:the|my|our|{_BEST})[\s*_]{{1,4}}(?:{_BEST}[\s*_]{{1,4}}){{0,2}}|^[ \t#>*_]{{0,8}})"
    rf"answers?\b[\s*_]{{0,4}}(?:(?:to|for)\s[^.:!?\n]{{1,100}}?\s)?(?:{_IS})"
    r"|\banswer\b[\s*_]{0,4}[:=\uff1a]"
    rf"|\b{_BEST}[\s*_]{{1,4}}(?:option|choice|letter)[\s*_]{{0,4}}(?:{_IS})"
    rf"|^[ \t#>*_]{{0,8}}(?:the[ \t])?(?:{_BEST}[ \t]{{1,4}})?answer[ \t*_]{{0,8}}$",
    re.IGNORECASE | re.MULTILINE,
)
_BOX = re.compile(r"\\f?box(?:ed)?\s{0,3}\{")
_JOIN_BEFORE = re.compile(r"(?:\bor|[/|])[\s*_$,]{0,6}$", re.IGNORECASE)
_BOX_BEFORE = re.compile(r"\}[\s*_$.]{0,6}(?:(?:or|and|,|;|/|\|)[\s*_$]{0,6}){0,2}$", re.IGNORECASE)

_LEAD = re.compile(r"(?:[\s:=\uff1a*_`]|\\\[|\\\(|\$\$)+")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]*_]{0,4}\s+(?=([\"'“‘(\[*_]{0,3}[A-Z0-9\\][\w']{0,20}))")
_TITLES = re.compile(r"mr|mrs|ms|dr|prof|st|no|vs|gen|col|sgt|capt|lt|rev|hon|mt|ft|fig|vol|approx")
_MAYBE_ABBREVIATIONS = re.compile(r"inc|ltd|co|corp|jr|sr|etc|dept|est|bros|u\.s|u\.k")
_OPENERS = re.compile(
    r"the|this|that|these|those|it|its|because|in|as|according|he|she|they|his|her|their|since|based|we|there"
    r"|therefore|so|which|both|explanation"
)

_HEDGE_OPENERS = re.compile(
    r"or|and|also|alternatively|maybe|perhaps|possibly|wait|no|not|actually|sorry|correction|hmm|but|however"
    r"|otherwise|unless|either|oops"
)
_HEDGE = re.compile(
    r"\b(?:or\s(?:maybe|perhaps|possibly|else)|alternatively|(?:could|might|may)\salso\sbe|(?:could|might)\sbe"
    r"|not\s(?:entirely\s|completely\s)?(?:sure|certain)|unsure|other\spossib\w{1,6}"
    r"|another\s(?:possible\s|valid\s|acceptable\s)?answer|also\s(?:acceptable|correct|possible|valid)|wait"
    r"|on\ssecond\sthought|scratch\sthat|i\swas\swrong|incorrect|not\scorrect|is\swrong)\b",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:explanation|reasoning|reason|confidence|source|evidence|note|justification|reference)s?\b", re.I
)

_WRAPPED_TEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s?\{([^{}]*)\}")
_EDGE_TAG = re.compile(r"^</?[a-zA-Z]{1,12}>|</?[a-zA-Z]{1,12}>$")
_QUOTES = ("''", '""', "“”", "‘’", "«»", "„“", "「」")


def extract_answer(response: str, *, thinking: bool = False) -> Extraction:
    """The final answer of a response.

    Args:
        response: what the model wrote, the prompt not included.
        thinking: the prompt already opened `<think>`, so a response without `</think>` is an
            unfinished thought and has no answer.
    """
    final, why_none = _after_thought(response, thinking)
    if why_none:
        return Extraction(answer=None, how=why_none)
    text = final[-MAX_TAIL_CHARS:]
    span, uncut, how = _marked_span(text) or _last_line(text)
    answer = undress(span)
    if len(answer) > MAX_ANSWER_CHARS:
        return Extraction(answer=None, how=f"{how}: {len(answer)} characters are more than {MAX_ANSWER_CHARS}")
    if not any(char.isalnum() for char in answer):
        return Extraction(answer=None, how=f"{how}: nothing readable there")
    return Extraction(answer=answer, how=how, uncut=undress(uncut)[:MAX_ANSWER_CHARS])


def undress(text: str) -> str:
    """`text` without the markdown, TeX wrapping, tags, quotes and closing punctuation around it."""
    text = text.strip()
    for _ in range(6):
        before = text
        text = _WRAPPED_TEX.sub(r"\1", text)
        text = _EDGE_TAG.sub("", text).strip("*_` \t\r\n\u200b\ufeff").rstrip(".,;:!?。、 ")
        if text.count("$") == 2 and text[0] == text[-1] == "$":
            text = text[1:-1]
        for opening, closing in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$")):
            if text.endswith(closing) and text.find(opening) in (-1, 0, len(text) - 2):
                text = text.removeprefix(opening).removesuffix(closing)
        if len(text) > 1 and text[0] + text[-1] in _QUOTES:
            text = text[1:-1]
        text = text.strip()
        if text == before:
            break
    return text


def _after_thought(response: str, thinking: bool) -> tuple[str, str]:
    """The text after the last closed thought, or why there is none."""
    _, closed, final = response.rpartition("</think>")
    if not closed and thinking:
        return "", "the thought was never closed"
    if "<think>" in final:
        return "", "a thought was opened and never closed"
    return final, ""


def _marked_span(text: str) -> tuple[str, str, str] | None:
    """Raw answer, the same uncut, and the marker's name; None where there is no marker."""
    marker, box = _last(_MARKER, text), _last(_BOX, text)
    if box is not None:
        content, end = _balanced(text, box.end())
        if marker is None or marker.start() < end:
            span, how = _boxed_span(text, box.start(), content, end, marker)
            return span, "", how
    if marker is None:
        return None
    before = text[: marker.start()]
    if _JOIN_BEFORE.search(before[-20:]) and _MARKER.search(before[-MAX_LINE_CHARS:]):
        both = before[-MAX_LINE_CHARS:] + text[marker.start() : marker.end() + MAX_LINE_CHARS]
        return both, "", "two answers in one"
    return *_head(text[marker.end() :]), f"after {' '.join(marker.group().split())[:40]!r}"


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def _boxed_span(text: str, start: int, content: str, end: int, marker: re.Match[str] | None) -> tuple[str, str]:
    if content == "":
        return "", "an empty or unclosed box"
    if _BOX_BEFORE.search(text[max(0, start - 20) : start]) and _BOX.search(
        text[max(0, start - MAX_LINE_CHARS) : start]
    ):
        line = text[max(0, start - MAX_LINE_CHARS) : end]
        return _BOX.sub("{", line), "several boxes side by side"
    if marker is not None and start < marker.start() < end:
        content = text[marker.end() : end - 1]
    tail = text[end:].lstrip(" \t*_$.\\])")
    first_word = re.match(r"[a-zA-Z]+", tail)
    if first_word and first_word.group().lower() in ("or", "alternatively", "maybe", "perhaps"):
        return f"{content} {tail[:MAX_LINE_CHARS]}", "a box that the next words widen"
    return content, "in \\boxed{}"


def _balanced(text: str, start: int) -> tuple[str, int]:
    """What stands between the open brace before `start` and its partner, and the index after that; "" if none."""
    depth = 1
    limit = min(len(text), start + MAX_ANSWER_CHARS)
    for i in range(start, limit):
        char = text[i]
        if char == "{" and text[i - 1] != "\\":
            depth += 1
        elif char == "}" and text[i - 1] != "\\":
            depth -= 1
            if depth == 0:
                return text[start:i], i + 1
    return "", len(text)


def _last_line(text: str) -> tuple[str, str, str]:
    lines = text.rstrip()[-(MAX_LINE_CHARS + 100) :].splitlines()
    for line in reversed(lines):
        if any(char.isalnum() for char in line):
            if len(line) > MAX_LINE_CHARS:
                return "", "", f"no marker, and the last line is longer than {MAX_LINE_CHARS} characters"
            return *_head(line), "the last line"
    return "", "", "no text"


def _head(rest: str) -> tuple[str, str]:
    """The answer at the start of `rest`, without what explains it (with it, where it is no explanation); the same uncut."""
    lead = _LEAD.match(rest)
    rest = rest[lead.end() :] if lead else rest
    line, _, below = rest.partition("\n")
    for boundary in _SENTENCE_END.finditer(line):
        if _ends_sentence(line[: boundary.start() + 1], boundary.group(1)):
            line, below = line[: boundary.start()], line[boundary.end() :] + "\n" + below
            break
    below = below[:MAX_ANSWER_CHARS].strip(" \t\r\n*_`$\"'.)]}\\-=#>")
    if not any(char.isalnum() for char in below):
        return line, ""
    uncut = f"{line}. {below}"
    return (line, uncut) if _explains(below) else (uncut, "")


def _ends_sentence(left: str, next_word: str) -> bool:
    """Whether the mark at the end of `left` ends a sentence rather than an abbreviation."""
    if left[-1] != ".":
        return True
    words = left[:-1].rsplit(None, 1)
    word = words[-1].lower().lstrip("\"'“‘(*_") if words else ""
    if _TITLES.fullmatch(word):
        return False
    initial = (len(word) == 1 and word.isalpha()) or "." in word.rstrip("0123456789")
    if initial or _MAYBE_ABBREVIATIONS.fullmatch(word):
        return _OPENERS.fullmatch(next_word.lower().lstrip("\"'“‘([*_")) is not None
    return True


def _explains(below: str) -> bool:
    """Whether what follows an answer explains it, rather than naming another or taking it back."""
    words = below.split(maxsplit=5)
    if _HEDGE_OPENERS.fullmatch(words[0].lower().strip(",.:;!?*_")) or _HEDGE.search(below):
        return False
    return len(words) >= 4 or _LABEL.match(below) is not None
