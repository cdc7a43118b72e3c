"""Reading a judge's reply: a JSON verdict, or the last `[[YES]]` / `[[NO]]`; prose decides nothing."""

from __future__ import annotations

import json
import re

MAX_REPLY_CHARS = 20_000
SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["YES", "NO"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
"""What a structured reply must look like."""

_MARK = re.compile(r"\[\[\s{0,2}(yes|no)\s{0,2}\]\]", re.IGNORECASE)
_FENCE = re.compile(r"^```[a-z]{0,8}\s*|\s*```$", re.IGNORECASE)


def parse_verdict(content: str | None) -> bool | None:
    """True for YES, False for NO, None where the reply holds no verdict.

    Where marks disagree, the last one counts only if nothing but punctuation follows it: in
    `[[NO]], though [[YES]] would be tempting` the reply is quoting, and None is returned.
    """
    if not isinstance(content, str):
        return None
    _, closed, content = content[-MAX_REPLY_CHARS:].rpartition("</think>")
    if not closed and "<think>" in content:
        return None
    content = content.strip()
    by_json = _json_verdict(_FENCE.sub("", content))
    if by_json is not None:
        return by_json
    marks = list(_MARK.finditer(content))
    if not marks:
        return None
    last = marks[-1]
    verdicts = {mark.group(1).lower() for mark in marks}
    if len(verdicts) > 1 and any(char.isalnum() for char in content[last.end() :]):
        return None
    return last.group(1).lower() == "yes"


def _json_verdict(text: str) -> bool | None:
    if not text.startswith("{"):
        return None
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        return None
    verdict = reply.get("verdict")
    return {"YES": True, "NO": False}.get(verdict.strip().upper()) if isinstance(verdict, str) else None
