r"""Reading the final answer out of a response.

What counts: the text after the last `</think>`; in it the last marker ("the answer is", "Answer:",
`\boxed{}`, a heading that says so); without a marker, the last short line. Everything here is one
pass over a capped tail, so the time is linear in the response's length whatever it holds.

Two answers joined by "or", two boxes side by side, a list of lines, an answer that the words before
deny or the words after take back: the whole span is returned as the answer, so that no rule finds a
single candidate in it.

Left out: any judgement of the answer. That is the rules' work.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from rewards.doubt import denied_before, lists_items, takes_back, without_struck

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
    r"|\banswer\b[\s*_\"']{0,4}[:=\uff1a]"
    rf"|\b{_BEST}[\s*_]{{1,4}}(?:option|choice|letter)[\s*_]{{0,4}}(?:{_IS})"
    rf"|^[ \t#>*_]{{0,8}}(?:the[ \t])?(?:{_BEST}[ \t]{{1,4}})?answer[ \t*_]{{0,8}}(?:$|[-\u2013\u2014]\s)"
    r"|<answer>",
    re.IGNORECASE | re.MULTILINE,
)
_DOCUMENTED = re.compile(r"\bthe answer is\b", re.IGNORECASE)
_MARKER_WORD = re.compile(r"answer|option|choice|letter")
_BOX = re.compile(r"\\f?box(?:ed)?\s{0,3}\{")
_JOIN_BEFORE = re.compile(r"(?:\b(?:or|also|and)|[/|]|</answer>)[\s*_$,]{0,6}$", re.IGNORECASE)
_IF_BEFORE = re.compile(r"\bif\b[^.;!?\n]{0,100}$", re.IGNORECASE)
_BOX_JOINED = re.compile(r"\b(?:or|and|also|as\swell|else|either|possible)\b", re.IGNORECASE)
_BOX_SPACING = re.compile(r"\\(?:q?quad|text|[,;:! ])")
_WIDENED = re.compile(
    r"(?:\\text\s?\{\s?)?(?:\(?\s?or\b|alternatively|maybe|perhaps|as\swell\sas|[/|&+;]|(?:,|and)[\s$]{0,4}(?:[A-Z0-9]|\\box))"
    r"|,?\s?(?:is|was)(?:\snot|n['’]t|\swrong|\sincorrect|\sfalse)\b"
)

_LEAD = re.compile(
    r"(?:[\s:=\uff1a*_`]|\\\[|\\\(|\$\$|(?:thus|therefore|hence|indeed|definitely|certainly)[\s,]|>\s(?=\**[A-Z][a-z]))+"
)
_IS_THE_ANSWER = re.compile(r"\s(?:is|was)\s(?:the|my)\s(?:(?:final|correct|right|best)\s)?answer[.!*_\s]{0,4}$", re.I)
_HEADING = re.compile(
    r"\s{0,3}(?:#.*|\*\*.*\*\*:?|.*:|(?:in\s)?(?:conclusion|summary|result|response|solution|output|final))\s{0,3}",
    re.I,
)
_UNDRESSED = re.compile(r"[\w ,.;:!?%/&+-]*")
_OVERRIDES = re.compile("[\u202d\u202e]")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]*_]{0,4}\s+(?=([\"'“‘(\[*_]{0,3}[A-Z0-9\\][\w']{0,20}))")
_TITLES = re.compile(r"mr|mrs|ms|dr|prof|st|no|vs|gen|col|sgt|capt|lt|rev|hon|mt|ft|fig|vol|approx")
_MONTHS = re.compile(r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec")
_MAYBE_ABBREVIATIONS = re.compile(r"inc|ltd|co|corp|jr|sr|etc|dept|est|bros|u\.s|u\.k")
_OPENERS = re.compile(
    r"the|this|that|these|those|it|its|because|in|as|according|he|she|they|his|her|their|since|based|we|there"
    r"|therefore|so|which|both|explanation"
)

_LABEL = re.compile(
    r"(?:explanation|reasoning|reason|confidence|source|evidence|note|justification|reference)s?\b", re.I
)

_WRAPPED_TEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s?\{([^{}]*)\}")
_EDGE_TAG = re.compile(r"^</?[a-zA-Z]{1,12}>|</?[a-zA-Z]{1,12}>$")
_TEX_EDGES = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"))
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
    text = without_struck(final[-MAX_TAIL_CHARS:])
    span, uncut, how = _marked_span(text) or _last_line(text)
    if _OVERRIDES.search(span):
        return Extraction(answer=None, how=f"{how}: shown in another order than it is written")
    answer = undress(span)
    if len(answer) > MAX_ANSWER_CHARS:
        return Extraction(answer=None, how=f"{how}: {len(answer)} characters are more than {MAX_ANSWER_CHARS}")
    if not _readable(answer):
        return Extraction(answer=None, how=f"{how}: nothing readable there")
    return Extraction(answer=answer, how=how, uncut=undress(uncut)[:MAX_ANSWER_CHARS])


def _readable(text: str) -> bool:
    if text[:1].isalnum():
        return True
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return any(char.isalnum() for char in text)


def undress(text: str) -> str:
    """`text` without the markdown, TeX wrapping, tags, quotes and closing punctuation around it."""
    text = text.strip()
    if text.isascii() and "_" not in text and _UNDRESSED.fullmatch(text):
        return text.rstrip(".,;:!? ")
    if text[:1] == "<" and text[-1:] == ">" and text[1:-1].isalnum():
        return text[1:-1]
    for _ in range(6):
        before = text
        if "\\" in text:
            text = _WRAPPED_TEX.sub(r"\1", text)
        if "<" in text:
            text = _EDGE_TAG.sub("", text)
        text = text.strip("*_` \t\r\n\u200b\ufeff").rstrip(".,;:!?。、 ")
        if text.endswith("}") and "{" not in text:
            text = text[:-1]
        if text.count("$") == 2 and text[0] == text[-1] == "$":
            text = text[1:-1]
        for opening, closing in _TEX_EDGES if "\\" in text or "$$" in text else ():
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
    marker, box = _last_marker(text), _last(_BOX, text) if "box" in text else None
    if box is not None:
        content, end = _balanced(text, box.end())
        if marker is None or marker.start() < end:
            span, how = _boxed_span(text, box.start(), content, end, marker)
            return span, "", how
    if marker is None:
        return None
    before = text[max(0, marker.start() - MAX_LINE_CHARS) : marker.start()]
    joined = _JOIN_BEFORE.search(before[-20:]) or _IF_BEFORE.search(before)
    if joined and _MARKER.search(before):
        return before + text[marker.start() : marker.end() + MAX_LINE_CHARS], "", "two answers in one"
    if denied_before(before):
        return before + text[marker.start() : marker.end() + MAX_LINE_CHARS], "", "the words before deny it"
    rest = text[marker.end() :]
    if marker.group().casefold() == "<answer>":
        rest = rest.partition("</answer>")[0]
    return *_head(rest), f"after {' '.join(marker.group().split())[:40]!r}"


def _last_marker(text: str) -> re.Match[str] | None:
    """The last match of `_MARKER`; where the documented format is the last thing said, it is found without a search."""
    lower = text.lower() if text.isascii() else ""
    start = lower.rfind("the answer is")
    if start >= 0 and not _MARKER_WORD.search(lower, start + len("the answer is")):
        return _DOCUMENTED.search(text, start) or _last(_MARKER, text)
    return _last(_MARKER, text)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def _boxed_span(text: str, start: int, content: str, end: int, marker: re.Match[str] | None) -> tuple[str, str]:
    if content == "":
        return "", "an empty or unclosed box"
    if _follows_a_box(text[max(0, start - MAX_LINE_CHARS) : start]):
        line = text[max(0, start - MAX_LINE_CHARS) : end]
        return _BOX.sub(" | {", line), "several boxes side by side"
    before = text[max(0, start - MAX_LINE_CHARS) : start]
    if denied_before(before):
        return f"{before}{content}", "a box that the words before deny"
    if marker is not None and start < marker.start() < end:
        content = text[marker.end() : end - 1]
    tail = text[end : end + MAX_LINE_CHARS].lstrip(" \t*_$.])")
    if _WIDENED.match(tail) or takes_back(tail):
        return f"{content} | {tail}", "a box that the next words widen or take back"
    return content, "in \\boxed{}"


def _follows_a_box(before: str) -> bool:
    """Whether only a joiner ("or", a comma, a line break) stands between the last box in `before` and its end."""
    boxes = [box.end() for box in _BOX.finditer(before)]
    if not boxes:
        return False
    end = _balanced(before, boxes[-1])[1]
    if before[end - 1] != "}":
        return False
    between = before[end:]
    words = _BOX_SPACING.sub(" ", between).strip(" \t\r\n{}$()*_,;/|.")
    return words == "" or (len(words) < 60 and not set(words) & set(".!?\n") and _BOX_JOINED.search(words) is not None)


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
    lines = [line for line in text.rstrip()[-2 * MAX_LINE_CHARS :].splitlines() if _readable(line)]
    if not lines:
        return "", "", "no text"
    line, before = lines[-1], lines[-2] if len(lines) > 1 else ""
    if len(line) > MAX_LINE_CHARS:
        return "", "", f"no marker, and the last line is longer than {MAX_LINE_CHARS} characters"
    if before and denied_before(before.rstrip(" :*_") + " ") and before.rstrip().endswith(":"):
        return f"{before} {line}", "", "the line before denies the last one"
    if before and _is_short(line) and _is_short(before) and "=" not in before and not _HEADING.fullmatch(before):
        return "\n".join(lines[-8:]), "", "several short lines"
    if (named := _IS_THE_ANSWER.search(line)) and not denied_before(line[: named.start()]):
        line = line[: named.start()]
    return *_head(line), "the last line"


def _is_short(line: str) -> bool:
    """A few words without a closing mark: an item of a list rather than a sentence."""
    return len(line.split(maxsplit=7)) < 7 and line.rstrip(" *_`")[-1:] not in (".", "!", "?", ":", ",")


def _head(rest: str) -> tuple[str, str]:
    """The answer at the start of `rest`, without what explains it (with it, where it is no explanation); the same uncut."""
    if lists_items(rest[:MAX_ANSWER_CHARS].lstrip(" \t:=")):
        return rest[:MAX_ANSWER_CHARS], ""
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
    if _TITLES.fullmatch(word) or (_MONTHS.fullmatch(word) and next_word.lstrip("\"'“‘([*_")[:1].isdigit()):
        return False
    initial = (len(word) == 1 and word.isalpha()) or "." in word.rstrip("0123456789")
    if initial or _MAYBE_ABBREVIATIONS.fullmatch(word):
        return _OPENERS.fullmatch(next_word.lower().lstrip("\"'“‘([*_")) is not None
    return True


def _explains(below: str) -> bool:
    """Whether what follows an answer explains it, rather than naming another or taking it back."""
    if takes_back(below):
        return False
    return len(below.split(maxsplit=5)) >= 4 or _LABEL.match(below) is not None
