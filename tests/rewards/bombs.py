"""Symbolic bombs: formulas that keep a computer algebra system busy, fill its memory, or break its reader.

None is worth any of `WRONG_GOLDS`. Seeded; one in fifteen runs into any deadline, the others try the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

WRONG_GOLDS = (r"\frac{\sqrt{2}}{7}", r"3\pi-\sqrt{11}", "x^2-19x+1", r"\frac{355}{113}")


def bombs(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """`count` pairs (bomb, a gold that it does not equal), the families in turn."""
    random = Random(seed)
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        answer = family(random)
        yield answer, "0" if family in AGAINST_ZERO else random.choice(WRONG_GOLDS)


def exponent_tower(random: Random) -> str:
    digits = [str(random.randint(5, 9)) for _ in range(random.randint(4, 7))]
    return "^{".join(digits) + "}" * (len(digits) - 1)


def tower_of_e(random: Random) -> str:
    height = random.randint(4, 30)
    return "e^{" * height + str(random.randint(5, 99)) + "}" * height


def factorial(random: Random) -> str:
    return f"{random.randint(10**7, 10**12)}!"


def factorial_of_factorials(random: Random) -> str:
    return f"(({random.randint(4, 20)}!)!)!"


def huge_power(random: Random) -> str:
    return f"{random.randint(2, 9)}^{{10^{{{random.randint(8, 13)}}}}}"


def memory_eater(random: Random) -> str:
    terms = [f"{random.randint(3, 99)}^{{{random.randint(10**6, 10**7)}}}" for _ in range(random.randint(2, 9))]
    return "+".join(terms)


def nested_radicals(random: Random) -> str:
    depth = random.randint(5, 58)
    return r"\sqrt{2+" * depth + str(random.randint(2, 9)) + "}" * depth


def sum_of_radicals(random: Random) -> str:
    return "+".join(rf"\sqrt[{random.randint(2, 9)}]{{{random.randint(2, 9999)}+\sqrt{{{n}}}}}" for n in range(2, 40))


def huge_sum(random: Random) -> str:
    command = random.choice([r"\sum", r"\prod"])
    return rf"{command}_{{k=1}}^{{10^{{{random.randint(6, 12)}}}}} \frac{{1}}{{k^{random.randint(2, 9)}}}"


def integral(random: Random) -> str:
    return rf"\int_0^{{\infty}} \frac{{\sin^{{{random.randint(9, 99)}}} x}}{{x^{{{random.randint(2, 9)}}}+1}} dx"


def giant_integer(random: Random) -> str:
    return "".join(random.choices("123456789", k=random.randint(100, 1900)))


def giant_decimal(random: Random) -> str:
    digits = "".join(random.choices("0123456789", k=random.randint(100, 1900)))
    return "0." + digits + "7"


def tiny_difference(random: Random) -> str:
    return rf"\frac{{\sqrt{{2}}}}{{7}}+3\pi+10^{{-{random.randint(5, 40)}}}"


def deep_fraction(random: Random) -> str:
    depth = random.randint(10, 58)
    return r"1+\frac{1}{x+" * depth + "1" + "}" * depth


def wide_polynomial(random: Random) -> str:
    return f"(x+y+z+{random.randint(2, 9)})^{{{random.randint(100, 9000)}}}+(x-y)^{{{random.randint(100, 9000)}}}"


def long_product(random: Random) -> str:
    return "".join(f"(x^{{{random.randint(2, 99)}}}-{n}y)" for n in range(random.randint(20, 90)))


def huge_matrix(random: Random) -> str:
    size = random.randint(5, 18)
    row = "&".join(str(random.randint(0, 9)) for _ in range(size))
    return r"\begin{pmatrix}" + r"\\".join([row] * size) + r"\end{pmatrix}"


def binomials(random: Random) -> str:
    return rf"\binom{{{random.randint(10**7, 10**9)}}}{{{random.randint(10**6, 5 * 10**6)}}}"


def trigonometric_tower(random: Random) -> str:
    names = random.choices(["sin", "cos", "tan", "exp", "sinh"], k=random.randint(5, 50))
    return "".join(rf"\{name}(" for name in names) + f"{random.randint(2, 9)}x" + ")" * len(names)


def sine_of_a_giant(random: Random) -> str:
    return rf"\sin({random.randint(2, 9)}^{{{random.randint(10**5, 10**8)}}})"


def trigonometric_identity_that_is_none(random: Random) -> str:
    terms = [rf"\sin^{{{random.randint(3, 9)}}}({n}x)\cos^{{{random.randint(3, 9)}}}({n + 1}y)" for n in range(2, 9)]
    return "+".join(terms)


def absolute_values(random: Random) -> str:
    return "+".join(f"|x-{n}|*|y+{random.randint(2, 99)}|" for n in range(2, random.randint(9, 40)))


def many_variables(random: Random) -> str:
    return "*".join(f"(a_{n}+b_{n})^{{{random.randint(2, 9)}}}" for n in range(random.randint(20, 80)))


def unbalanced(random: Random) -> str:
    return "".join(
        random.choices(["{", "}", "(", "[", r"\{", r"\frac{", r"\sqrt{", "1", "x", "^", "_"], k=random.randint(5, 900))
    )


def only_openings(random: Random) -> str:
    return random.choice(["(", "{", r"\sqrt{", "2^{", r"\frac{1}{", r"\{", "-", "|", "x^"]) * random.randint(50, 200)


def ten_thousand_characters(random: Random) -> str:
    return random.choice(["1+", "x*", "9^", "{}", r"\pi ", "1,", "a "]) * random.randint(3_000, 5_000)


def code(random: Random) -> str:
    call = random.choice(["__import__('os').abort()", "exit()", "open('/dev/zero').read()", "(lambda: 0).__class__"])
    return random.choice(["{}", "${}$", r"\text{{{}}}", r"\operatorname{{{}}}", "x_{{{}}}", "1+{}"]).format(call)


def soup(random: Random) -> str:
    pieces = [
        "\x00",
        "\ud800",
        "\u202e",
        "٥",
        "½",
        "²",
        "é",
        "\\",
        "$",
        "{",
        "}",
        "^",
        "_",
        "1",
        "x",
        "!",
        "\n",
        ",",
        "&",
        "%",
        "#",
        '"',
    ]
    return "".join(random.choices(pieces, k=random.randint(1, 400)))


HEAVY: tuple[Callable[[Random], str], ...] = (
    exponent_tower, tower_of_e, factorial, factorial_of_factorials, huge_power, memory_eater, sum_of_radicals, binomials,
    sine_of_a_giant, trigonometric_identity_that_is_none, absolute_values,
)  # fmt: skip
"""What runs into any deadline."""
QUICK: tuple[Callable[[Random], str], ...] = (
    nested_radicals, huge_sum, integral, giant_integer, giant_decimal, tiny_difference, deep_fraction, wide_polynomial,
    long_product, huge_matrix, trigonometric_tower, many_variables, unbalanced, only_openings, ten_thousand_characters,
    code, soup,
)  # fmt: skip
"""What mostly does not: it is told apart, found unreadable, or breaks on something."""
FAMILIES = HEAVY + 10 * QUICK
AGAINST_ZERO = (trigonometric_identity_that_is_none, absolute_values, sum_of_radicals)
