"""What rows made for a trainer hold only inside a prompt or not at all: document, question, answer type, letter."""

from __future__ import annotations

import re

from data.fields import Place, shown, text_value
from data.problem import AnswerType

_INSTRUCTION = "Format your response as follows"
_CHOICE_GOLD = re.compile(r"^\s*\(?([A-Za-z])(?:\)|[.:]|\s*$)")


def user_turn(prompt: object, place: Place, column: str) -> str:
    """The text of the one user turn of a list of {role, content}; a system turn before it is dropped.

    Raises:
        DataError: another type, no user turn, or more turns.
    """
    if not isinstance(prompt, list) or not all(isinstance(turn, dict) and "role" in turn for turn in prompt):
        seen = f"seen {type(prompt).__name__} {shown(prompt)}"
        raise place.error(column, seen, "it must be a list of {role, content}")
    turns = [turn for turn in prompt if turn["role"] != "system"]
    if len(turns) != 1 or turns[0]["role"] != "user":
        roles = ", ".join(shown(str(turn["role"])[:20])[1:-1] for turn in prompt[:8]) or "no turns"
        raise place.error(column, f"seen turns: {roles}", "it must hold one user turn, after at most a system turn")
    return text_value(turns[0].get("content"), place, f"{column}.content")


def document_and_question(content: str, place: Place, column: str) -> tuple[str, str]:
    """Document and question of `... <text> document </text> question Format your response as follows...`.

    The document ends at the *last* `</text>`, since documents may hold that tag themselves. The format
    instruction, which may be absent, belongs to the prompt's template, not to the question. Text that
    `data.prompts.L1_TEMPLATE` rendered comes back exactly; other spacing around the question is stripped.

    Raises:
        DataError: no tags, a blank document or a blank question.
    """
    start, end = content.find("<text>"), content.rfind("</text>")
    if start < 0 or end < start:
        fix = "write '<text> document </text> question', or give columns context and question (--columns FIELD=NAME)"
        raise place.error(column, f"seen no <text> ... </text> in {shown(content)}", fix)
    context = content[start + len("<text>") : end].removeprefix("\n").removesuffix("\n")
    tail = content[end + len("</text>") :]
    cut = tail.rfind(_INSTRUCTION)
    question = tail if cut < 0 else tail[:cut]
    if not question.strip():
        fix = "put the question after </text>"
        raise place.error(column, f"seen no question between </text> and {_INSTRUCTION!r}", fix)
    exact = question.startswith("\n\n") and question.endswith("\n\n") and cut >= 0
    question = question[2:-2] if exact else question.strip()
    return text_value(context, place, f"{column} (between <text> and </text>)"), question


def implied_type(gold: object, golds: tuple[str, ...], options: tuple[str, ...]) -> AnswerType:
    """The answer type where nobody wrote it down.

    A choice where options are given, a number where the file holds one and not a string, yesno where every
    gold is yes or no, else text.

    Args:
        gold: the value as the file holds it.
        golds: the same, as strings.
    """
    if options:
        return "choice"
    items = gold if isinstance(gold, list) else [gold]
    if not any(isinstance(item, str) for item in items):
        return "number"
    return "yesno" if all(text.strip().rstrip(".").lower() in ("yes", "no") for text in golds) else "text"


def as_letter(gold: str, options: tuple[str, ...]) -> str:
    """`(B)`, `b.` and `B. its text` name a letter; so does an option's own text; anything else stays."""
    if gold.strip() in options:
        return chr(65 + options.index(gold.strip()))
    match = _CHOICE_GOLD.match(gold)
    return match[1].upper() if match else gold
