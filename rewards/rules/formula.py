r"""Reading a formula, LaTeX (`\frac{\sqrt{2}}{2}`) or plain (`sqrt(2)/2`), into a small tree.

The tree holds words and numerals, never values: nothing is computed here and nothing is handed to an interpreter, so
reading is one pass over the text. What has two readings has none: `1/2x`, `2 3`, `\sqrt12`, `5\frac{3}{2}`.

Left out, so unreadable: relations, sums, products, integrals, limits, derivatives, prose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_DEPTH = 60
"""Brackets, roots and exponents within one another; a deeper formula is not read."""
FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp".split())
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon"
    " phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega".split()
)


@dataclass(frozen=True, slots=True)
class Formula:
    """One node of the tree: what is done (`op`), to what (`parts`), and the word or numeral of a leaf (`text`)."""

    op: str
    """Scalars: num sym const add mul neg inv frac pow root call abs floor ceil fact binom percent degree pm.
    Else: list (bare commas), set, bracket (`text` is its two brackets), union, matrix, row, domain."""
    parts: tuple[Formula, ...] = ()
    text: str = ""


class _Unreadable(Exception):
    """The text is no formula, or has more than one reading."""


_LOOKALIKES = str.maketrans(
    {
        "π": "\\pi ", "∞": "\\infty ", "√": "sqrt ", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "−": "-", "–": "-",
        "°": "^{\\circ}", "²": "^{2}", "³": "^{3}", "∪": "\\cup ", "±": "\\pm ", "∅": "\\emptyset ", "θ": "\\theta ",
        "α": "\\alpha ", "β": "\\beta ", "λ": "\\lambda ", "φ": "\\phi ", "ω": "\\omega ", "⌊": "\\lfloor ", "⌋": "\\rfloor ",
        "（": "(", "）": ")", "，": ",", "\u00a0": " ", "~": " ",
    }
)  # fmt: skip
_NOISE = re.compile(
    r"\\(?:left|right|bigl|bigr|big|Bigl|Bigr|Big|displaystyle|textstyle|limits|quad|qquad)(?![a-zA-Z])|(?<!\\)\\[,;:! ]"
)
_WORDS = re.compile(r"\\(?:text|textrm|textit|textbf|mathrm|mathit|mathbf|operatorname|mbox)\s?\{([^{}]*)\}")
_DOMAIN = re.compile(r"\\mathbb\s?\{?([NZQRC])\}?")
_MATRIX = re.compile(r"\\(begin|end)\s?\{[pb]?matrix\}")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3}){1,12}(?![0-9,])")
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[a-zA-Z]+|[0-9]+(?:\.[0-9]+)?|\.[0-9]+|\*\*|\S", re.DOTALL)
_SAME = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\dbinom": "\\binom", "\\cdot": "*", "\\times": "*",
    "\\div": "/", "**": "^", "\\%": "%", "\\lbrace": "\\{", "\\rbrace": "\\}", "\\lvert": "|", "\\rvert": "|",
    "\\vert": "|", "\\varnothing": "\\emptyset", "\\lbrack": "[", "\\rbrack": "]", "infinity": "\\infty", "pi": "\\pi",
    "and": ",", "asin": "\\arcsin", "acos": "\\arccos", "atan": "\\arctan", "\\mp": "\\pm",
}  # fmt: skip
_OPENS = {"(": "round", "[": "round", "\\{": "set", "{": "group"}
_CLOSES = {")": "round", "]": "round", "\\}": "set", "}": "group"}
_PAIRED = {"\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil"), "|": ("|", "abs")}
_LEAVES = {"\\infty": "oo", "\\pi": "pi", "e": "e", "i": "i"}


def read_formula(text: str) -> Formula | None:
    """The tree of `text`; None where it is no formula that can be read in one way only."""
    try:
        return _Reader(_tokens(text)).whole()
    except _Unreadable:
        return None


def _tokens(text: str) -> list[str]:
    text = _NOISE.sub(" ", text.translate(_LOOKALIKES).replace("{,}", ""))
    text = _MATRIX.sub(r"\\\1 ", _DOMAIN.sub(r" \\domain\1 ", _WORDS.sub(_upright, text)))
    if not any(mark in text for mark in ("(", "[", "\\{", ", ")):
        text = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
    tokens: list[str] = []
    for token in _TOKEN.findall(text):
        token = _SAME.get(token, token)
        if not token[0].isascii() or not token[0].isalpha() or len(token) == 1:
            tokens.append(token)
        elif token in FUNCTIONS or token == "sqrt":
            tokens.append("\\" + token if token != "sqrt" else token)
        elif len(token) <= 3 and not any(
            name in token for name in ("ln", "pi", "log", "exp", "sin", "cos", "tan", "or")
        ):
            tokens.extend(token)
        else:
            raise _Unreadable
    return tokens


def _upright(words: re.Match[str]) -> str:
    """What `\\text{...}` stands for inside a formula: a letter, a function, "and"."""
    content = words.group(1).strip()
    if content in FUNCTIONS:
        return f" \\{content} "
    return f" {content} " if content == "and" or (len(content) == 1 and content.isalpha()) else " \\prose "


class _Reader:
    """One pass over the tokens, one method per level of precedence."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._with_comma = _brackets_with_comma(tokens)

    def whole(self) -> Formula:
        parts = self._items("")
        if self._at != len(self._tokens):
            raise _Unreadable
        return parts[0] if len(parts) == 1 else Formula("list", parts)

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, *wanted: str) -> str:
        """The next token where it is one of `wanted`; "" otherwise."""
        token = self._next()
        if token in wanted and token:
            self._at += 1
            return token
        return ""

    def _need(self, *wanted: str) -> str:
        token = self._take(*wanted)
        if not token:
            raise _Unreadable
        return token

    def _items(self, close: str) -> tuple[Formula, ...]:
        parts = [self._union()]
        while self._take(","):
            parts.append(self._union())
        if close:
            self._need(close)
        return tuple(parts)

    def _union(self) -> Formula:
        parts = [self._item()]
        while self._take("\\cup"):
            parts.append(self._item())
        return parts[0] if len(parts) == 1 else Formula("union", tuple(parts))

    def _item(self) -> Formula:
        """A set, an interval or point, a matrix, a number domain; else a scalar."""
        self._deeper()
        token = self._next()
        if token.startswith("\\domain") or token == "\\emptyset":
            self._at += 1
            found = Formula("set") if token == "\\emptyset" else Formula("domain", text=token[-1])
        elif self._take("\\{"):
            found = Formula("set") if self._take("\\}") else Formula("set", self._items("\\}"))
        elif self._at in self._with_comma:
            self._at += 1
            parts = [self._union()]
            while self._take(","):
                parts.append(self._union())
            found = Formula("bracket", tuple(parts), token + self._need(")", "]"))
        elif self._take("\\begin"):
            found = self._matrix()
        else:
            found = self._sum()
        self._depth -= 1
        return found

    def _matrix(self) -> Formula:
        rows: list[Formula] = []
        row = [self._sum()]
        while end := self._need("&", "\\\\", "\\end"):
            if end == "&":
                row.append(self._sum())
                continue
            rows.append(Formula("row", tuple(row)))
            if end == "\\end" or self._take("\\end"):
                return Formula("matrix", tuple(rows))
            row = [self._sum()]
        raise _Unreadable

    def _sum(self) -> Formula:
        sign = self._take("+", "-", "\\pm")
        terms = [_signed(sign, self._product())]
        while sign := self._take("+", "-", "\\pm"):
            terms.append(_signed(sign, self._product()))
        return terms[0] if len(terms) == 1 else Formula("add", tuple(terms))

    def _product(self) -> Formula:
        factors, divided = [self._signed_power()], False
        while True:
            operator = self._take("*", "/")
            if operator:
                factor = self._signed_power()
                divided = operator == "/"
                factors.append(Formula("inv", (factor,)) if divided else factor)
            elif self._starts_factor():
                of_function = factors[-1].text in ("f", "g", "h") and self._next() == "("
                if divided or of_function or self._next()[0] in "0123456789.":
                    raise _Unreadable
                self._juxtapose(factors)
            else:
                return factors[0] if len(factors) == 1 else Formula("mul", tuple(factors))

    def _juxtapose(self, factors: list[Formula]) -> None:
        """Takes a factor without an operator; `2\\frac{1}{2}` makes a mixed number, `2(\\frac{1}{2})` a product."""
        is_fraction, before, factor = self._next() == "\\frac", factors[-1], self._power()
        plain = is_fraction and factor.op == "frac" and all(part.op == "num" for part in factor.parts)
        if not plain or before.op not in ("num", "neg"):
            factors.append(factor)
            return
        over, under = (part.text for part in factor.parts)
        if not (before.text.isdigit() and over.isdigit() and under.isdigit() and _less(over, under)):
            raise _Unreadable
        factors[-1] = Formula("add", (before, factor))

    def _starts_factor(self) -> bool:
        token = self._next()
        if not token or token in _CLOSES or self._at in self._with_comma:
            return False
        if token == "|":
            return False
        known = (
            token in _OPENS or token in _PAIRED or token in _LEAVES or token == "sqrt" or token[1:] in FUNCTIONS | GREEK
        )
        return known or token[0].isalnum() or token in ("\\frac", "\\sqrt", "\\binom")

    def _signed_power(self) -> Formula:
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign == "-"
        power = self._power()
        return Formula("neg", (power,)) if negative else power

    def _power(self) -> Formula:
        base = self._primary()
        if self._take("!"):
            base = Formula("fact", (base,))
        if self._take("^"):
            base = self._raised(base)
        if self._take("%"):
            base = Formula("percent", (base,))
        return base

    def _raised(self, base: Formula) -> Formula:
        if self._take("\\circ"):
            return Formula("degree", (base,))
        if self._next() == "{" and self._tokens[self._at : self._at + 3] == ["{", "\\circ", "}"]:
            self._at += 3
            return Formula("degree", (base,))
        return Formula("pow", (base, self._exponent()))

    def _exponent(self) -> Formula:
        self._deeper()
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign == "-"
        token = self._next()
        if token[:1].isdigit() and token.isascii():
            self._at += 1
            number = Formula("num", text=token)
            found = self._raised(number) if self._take("^") else number
        else:
            found = self._power()
        self._depth -= 1
        return Formula("neg", (found,)) if negative else found

    def _primary(self) -> Formula:
        self._deeper()
        token = self._next()
        if not token:
            raise _Unreadable
        self._at += 1
        if token[0] in "0123456789" or (token[0] == "." and len(token) > 1):
            found = Formula("num", text=token)
        elif token in _LEAVES:
            found = Formula("const", text=_LEAVES[token])
        elif (len(token) == 1 and token.isascii() and token.isalpha()) or token[1:] in GREEK:
            found = Formula("sym", text=token.lstrip("\\") + self._subscript())
        elif token in _PAIRED:
            close, op = _PAIRED[token]
            found = Formula(op, (self._sum(),))
            self._need(close)
        elif token in _OPENS and token != "\\{" and self._at - 1 not in self._with_comma:
            found = self._sum()
            self._need({"(": ")", "[": "]", "{": "}"}[token])
        elif token in ("\\frac", "\\binom"):
            found = Formula(token[1:], (self._argument(), self._argument()))
        elif token in ("\\sqrt", "sqrt"):
            found = self._root(token)
        elif token[1:] in FUNCTIONS:
            found = self._call(token[1:])
        else:
            raise _Unreadable
        self._depth -= 1
        return found

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Unreadable

    def _argument(self) -> Formula:
        """What a command takes: a group, or a single digit, letter or constant."""
        token = self._next()
        if token.isdigit() and token.isascii():
            self._tokens[self._at] = token[1:]
            self._at += len(token) == 1
            return Formula("num", text=token[0])
        if self._take("{"):
            found = self._sum()
            self._need("}")
            return found
        if token.isalnum() or token in _LEAVES or token[1:] in GREEK:
            return self._primary()
        raise _Unreadable

    def _root(self, token: str) -> Formula:
        degree = Formula("num", text="2")
        if self._take("["):
            degree = self._sum()
            self._need("]")
        following = self._next()
        if following in ("(", "{", "\\frac", "\\pi") or (
            following.isalnum() and (len(following) == 1 or token == "sqrt")
        ):
            return Formula("root", (self._primary(), degree))
        raise _Unreadable

    def _call(self, name: str) -> Formula:
        base: tuple[Formula, ...] = ()
        power = None
        if name == "log" and self._take("_"):
            base = (self._argument(),)
        if self._take("^"):
            power = self._exponent()
        if self._next() in ("(", "{"):
            called = Formula("call", (self._primary(), *base), name)
        else:
            factors = [self._power()]
            while self._starts_factor() and self._next()[0] not in "0123456789." and self._next()[1:] not in FUNCTIONS:
                self._juxtapose(factors)
            argument = factors[0] if len(factors) == 1 else Formula("mul", tuple(factors))
            called = Formula("call", (argument, *base), name)
        if power is None:
            return called
        inverse = power == Formula("neg", (Formula("num", text="1"),))
        if inverse:
            if name not in ("sin", "cos", "tan"):
                raise _Unreadable
            return Formula("call", called.parts, "arc" + name)
        return Formula("pow", (called, power))

    def _subscript(self) -> str:
        if not self._take("_"):
            return ""
        if not self._take("{"):
            token = self._next()
            self._at += 1
            if not token.isalnum():
                raise _Unreadable
            return "_" + token
        name = ""
        while not self._take("}"):
            token = self._next()
            if not (token.isalnum() or token in ("+", "-", ",")):
                raise _Unreadable
            name += token
            self._at += 1
        return "_" + name


def _signed(sign: str, term: Formula) -> Formula:
    return Formula({"-": "neg", "\\pm": "pm"}[sign], (term,)) if sign in ("-", "\\pm") else term


def _less(over: str, under: str) -> bool:
    over, under = over.lstrip("0"), under.lstrip("0")
    return (len(over), over) < (len(under), under)


def _brackets_with_comma(tokens: list[str]) -> frozenset[int]:
    """Where the round and square brackets open that hold a comma of their own: points, intervals, vectors."""
    opened: list[tuple[str, int]] = []
    found = set()
    for at, token in enumerate(tokens):
        if token in _OPENS:
            opened.append((_OPENS[token], at))
        elif token in _CLOSES:
            if not opened or opened.pop()[0] != _CLOSES[token]:
                raise _Unreadable
        elif token == "," and opened and opened[-1][0] == "round":
            found.add(opened[-1][1])
    if opened:
        raise _Unreadable
    return frozenset(found)
