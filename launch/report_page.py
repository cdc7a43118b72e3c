"""How a page is put together: templates that escape everything, one style, one script, and a policy that admits no other.

What a model wrote is text in the page and can be nothing else. It stands there escaped by the template, or as JSON in
a block that no browser runs, from where the script puts it into the page as text. The policy names style and script
by their hashes, allows no address to be asked for, and forbids the script to make markup out of text.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from rl.samples import shortened

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
HIDDEN = frozenset("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff")
"""Bidirectional controls and zero-width characters (the joiners of scripts and emoji are left alone)."""
_JSON_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(template: str, **values: Any) -> str:
    """A template's page; it names every value that it shows."""
    from markupsafe import Markup

    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return _environment().get_template(template).render(
        policy=policy, style=Markup(style), script=Markup(script), **values
    )  # fmt: skip


def json_block(value: Any) -> str:
    """JSON that can stand in a <script type="application/json">: nothing in it can end the block or begin another."""
    from markupsafe import Markup

    return Markup(orjson.dumps(value).decode().translate(_JSON_ESCAPES))


def percent(share: float) -> str:
    """0.785 -> 78.5%."""
    return f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """75 -> 1 min 15 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def visible(text: str) -> str:
    """Control characters and marks that reorder or hide text, made visible; line breaks and tabs stay."""
    return "".join(
        chr(0x2400 + ord(c)) if c < " " and c not in "\n\t"
        else f"[U+{ord(c):04X}]" if c in HIDDEN or 0xD800 <= ord(c) < 0xE000 or "\x7f" <= c < "\xa0"
        else c
        for c in text
    )  # fmt: skip


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "shortened": shortened, "percent": percent, "duration": duration}
    return environment


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
