"""Which formulas are compared, and which of those are equal: fair forms are accepted, wrong and evasive ones are not."""

from __future__ import annotations

import time

import pytest

from rewards.pool import SymbolicPool
from rewards.rules.formula import Formula, read_formula
from rewards.rules.symbolic import MAX_CHARS, symbolic_pair
from tests.rewards.bombs import bombs

EQUAL = [
    # (answer, gold)
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    ("sqrt(2)/2", r"\frac{\sqrt{2}}{2}"),
    ("√2/2", r"\frac{\sqrt{2}}{2}"),
    ("2^{-1/2}", r"\frac{\sqrt{2}}{2}"),
    (r"\dfrac{\sqrt2}{2}", r"\frac{\sqrt{2}}{2}"),
    (r"$\frac{\sqrt{2}}{2}$", r"\frac{\sqrt{2}}{2}"),
    (r"\(\frac{\sqrt{2}}{2}\).", r"\frac{\sqrt{2}}{2}"),
    (r"\sqrt{\frac{1}{2}}", r"\frac{\sqrt{2}}{2}"),
    ("2π", r"2\pi"),
    ("2*pi", r"2\pi"),
    (r"\pi \cdot 2", r"2\pi"),
    (r"\frac{6\pi}{3}", r"2\pi"),
    (r"1.5\pi", r"\frac{3\pi}{2}"),
    ("0.5", r"\frac12"),
    ("1/2", r"\frac12"),
    (r"\frac12", "1/2"),
    (r"\frac{2}{4}", "0.5"),
    (r"2\frac{1}{2}", r"\frac{5}{2}"),
    (r"-\frac{3}{7}", r"\frac{-3}{7}"),
    (r"\frac{3}{-7}", r"-\frac{3}{7}"),
    (r"\frac{3\sqrt{5}}{2}", r"3\sqrt{5}/2"),
    (r"\sqrt{45}/2", r"\frac{3\sqrt{5}}{2}"),
    (r"\sqrt{5+2\sqrt{6}}", r"\sqrt{2}+\sqrt{3}"),
    (r"\frac{1}{\sqrt{3}-1}", r"\frac{\sqrt{3}+1}{2}"),
    (r"\sqrt[3]{54}", r"3\sqrt[3]{2}"),
    (r"\sqrt[3]{-8}", r"-\sqrt{4}"),
    ("1+x^2", "x^2+1"),
    ("(x+1)^2", "x^2+2x+1"),
    ("x(x+1)", "x^2+x"),
    ("(x-1)(x+1)", "x^2-1"),
    ("2x + 3", "3+2x"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\frac{1}{x}+\frac{1}{y}", r"\frac{x+y}{xy}"),
    ("e^{2x}", r"(e^x)^2"),
    (r"\exp(-x^2)", "e^{-x^2}"),
    (r"1-\cos^2 x", r"\sin^2 x"),
    (r"2\sin x \cos x", r"\sin 2x"),
    (r"\sin(60^\circ)", r"\frac{\sqrt{3}}{2}"),
    (r"3\ln 2", r"\ln 8"),
    (r"\log_2 8", r"\log_2 8^1"),
    (r"2\frac{1}{2}", "2.5"),
    (r"2\log 10", r"\log 100"),
    (r"\ln\frac{1}{2}", r"-\ln(2)"),
    (r"\{2,1\}", r"\{1,2\}"),
    (r"\{\frac{2}{4}, 3\}", r"\left\{3, \frac{1}{2}\right\}"),
    (r"\pm\sqrt{2}", r"\{\sqrt{2},-\sqrt{2}\}"),
    (r"1+\sqrt2, 1-\sqrt2", r"1\pm\sqrt{2}"),
    (r"1 - \sqrt{2} \text{ and } 1 + \sqrt{2}", r"1 \pm \sqrt{2}"),
    (r"(-\infty, 2)\cup(3,\infty)", r"\left(-\infty,2\right) \cup \left(3,\infty\right)"),
    (r"(3,\infty)\cup(-\infty,2)", r"(-\infty,2)\cup(3,\infty)"),
    ("[0, 1/2)", r"[0,\frac{1}{2})"),
    (r"(1, \sqrt{4})", "(1,2)"),
    (r"\begin{bmatrix} 1 & 1/2 \\ 0 & 4 \end{bmatrix}", r"\begin{pmatrix}1&\frac12\\0&4\end{pmatrix}"),
    (r"\frac{\sqrt{3}}{4}\text{ cm}^2", r"\frac{\sqrt{3}}{4}\text{ cm}^2"),
    (r"4\pi \text{ cm}", r"4\pi"),
    (r"4\pi", r"4\pi \text{ square units}"),
    (r"\frac{2}{2}x+5", "y=x+5"),
    (r"x = \frac{\pi}{4}", r"x=\pi/4"),
    ("|x|", r"\sqrt{x^2}"),
    (r"\frac{1}{2} + \frac{\sqrt{3}}{2}i", r"e^{i\pi/3}"),
    (r"25\%x", r"\frac{x^2}{4x}"),
    (r"1{,}000\pi", r"1000\pi"),
    ("a_1 + a_2^2", "a_2^2+a_1"),
]
NOT_EQUAL = [
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{2}}{2}"),
    (r"-\frac{\sqrt{2}}{2}", r"\frac{\sqrt{2}}{2}"),
    ("0.7071067811865475244", r"\frac{\sqrt{2}}{2}"),
    (r"\sqrt{2}", r"\frac{\sqrt{2}}{2}"),
    ("0.3333333333333333", r"\frac13"),
    ("3.14159265358979", r"\pi"),
    (r"\frac{22}{7}", r"\pi"),
    (r"\frac{355}{113}", r"\pi"),
    (r"\pi+10^{-40}", r"\pi"),
    ("0", r"10^{-7}\pi"),
    ("0.0", r"\frac{1}{10^{90}}"),
    (r"10^{-90}\pi", r"\sin^2 x+\cos^2 x-1"),
    ("2 3", r"\frac{10}{2}"),
    ("(2)(3)", r"\frac{10}{2}"),
    (r"2(\frac{1}{2})", r"\frac{5}{2}"),
    (r"5\frac{3}{2}", r"\frac{13}{2}"),
    ("1/2x", r"\frac{x}{2}+x^2-x^2"),
    (r"25\%", r"\sqrt{625}"),
    ("x=5", r"\sqrt{25}"),
    ("5=x", r"\sqrt{25}"),
    ("1=2", r"\sqrt{4}"),
    ("y=5", r"x=\sqrt{25}"),
    (r"x \geq \sqrt{2}", r"\sqrt{2}"),
    (r"\sqrt{2} \leq x", r"x \geq \sqrt{2}"),
    (r"x^2-1=0", r"x^2-1"),
    (r"\{5\}", r"\sqrt{25}"),
    (r"\{\sqrt{2}\}", r"\sqrt{2}"),
    (r"\pm\sqrt{2}", r"\sqrt{2}"),
    (r"\sqrt{2}", r"\pm\sqrt{2}"),
    (r"\sqrt{2}, \sqrt{3}", r"\sqrt{2}"),
    (r"\sqrt{2} \text{ or } \sqrt{3}", r"\sqrt{2}"),
    (r"\sqrt{2} or \sqrt{3}", r"\sqrt{2}"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    (r"\{1,1\}", r"\{1,2\}"),
    ("(2,1)", "(1,2)"),
    ("[1,2]", "(1,2)"),
    ("[1,2)", "(1,2]"),
    (r"\{1,2\}", "(1,2)"),
    ("1,2", "(1,2)"),
    (r"\sqrt{3}, \sqrt{2}", r"\sqrt{2}, \sqrt{3}"),
    (r"(-\infty,2)", r"(-\infty,2)\cup(3,\infty)"),
    (r"(-\infty,\infty)", r"\mathbb{R}"),
    ("[0,1]", r"\mathbb{R}"),
    (r"\infty", r"-\infty"),
    (r"\frac{1}{0}", r"\infty"),
    (r"\frac{0}{0}", r"\frac{0}{0}"),
    ("x^2+2x+2", "(x+1)^2"),
    ("X^2+1", "x^2+1"),
    ("y^2+1", "x^2+1"),
    ("x", r"\sqrt{x^2}"),
    (r"2\ln x", r"\ln x^2"),
    (r"\sin x", r"\sin^2 x"),
    (r"\sin^{-1} x", r"\frac{1}{\sin x}"),
    (r"\log 100", r"\sqrt{4}"),
    (r"\sin 60", r"\frac{\sqrt{3}}{2}"),
    (r"45^\circ", r"\sqrt{2025}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"4\pi\text{ cm}", r"4\pi\text{ m}"),
    (r"4\pi\text{ cm}", r"4\pi\text{ cm}^2"),
    (r"\lfloor x \rfloor", "x^2/x"),
    # golds that only look like arithmetic: a score, a date, codes, words
    ("2", "3-1"),
    ("0.8", "4/5"),
    ("BA-12", "AB-12"),
    ("on", "no"),
    ("BA", "AB"),
    ("-5", "1990-1995"),
    ("tac", "cat"),
    (r"\sqrt{4}", "3-1"),
    # golds that are numbers: a computation is not yet the answer
    (r"\sqrt{1764}", "42"),
    (r"6\cdot 7", "42"),
    (r"\frac{84-1}{2}+\frac{1}{2}", "42"),
    (r"\log_2 8", "3"),
    ("2^{10}", "1024"),
    ("0.25+0.25", r"\frac{1}{2}"),
    (r"40+\frac{4}{2}", "42"),
    (r"25\%", r"\frac{1}{4}"),
    # no answers at all
    ("", r"\sqrt{2}"),
    ("the", r"\sqrt{2}"),
    (r"\boxed{}", r"\sqrt{2}"),
    (r"\text{the square root of two}", r"\sqrt{2}"),
    (r"\sqrt{2} is the answer", r"\sqrt{2}"),
    (r"not \sqrt{2}", r"\sqrt{2}"),
    (r"\sqrt{2}\sqrt{", r"\sqrt{2}"),
    ("__import__('os').getpid()", r"\sqrt{2}"),
]


def test_fair_forms_are_equal_and_wrong_or_evasive_ones_are_not() -> None:
    pool = SymbolicPool(workers=2, deadline_s=5.0)
    pairs = {case: symbolic_pair(*case) for case in (*EQUAL, *NOT_EQUAL)}
    compared = [(case, pair) for case, pair in pairs.items() if pair is not None]
    replies = pool.compare([pair for _, pair in compared])
    pool.close()
    status = {case: reply.status for (case, _), reply in zip(compared, replies, strict=True)}
    assert [(case, pairs[case], status.get(case)) for case in EQUAL if status.get(case) != "equal"] == []
    paid = [
        case
        for case in NOT_EQUAL
        if status.get(case, "not compared") not in ("not compared", "different", "unreadable")
    ]
    assert paid == []
    assert sum(case in status for case in NOT_EQUAL) >= 25, "the comparison, too, says no"


def test_the_comparison_itself_is_strict_where_the_rule_would_have_refused_to_ask() -> None:
    pool = SymbolicPool(deadline_s=5.0)
    attacks = [
        ("2 3", "5"), ("(2)(3)", "5"), (r"25\%", "25"), ("1=2", "2"), ("x=5", "5"), (r"\pm 2", "2"), (r"\{5\}", "5"),
        ("A", "a"), ("5,6", "5"), ("0", r"10^{-150}\pi"), (r"\{1,2\}", "1,2,3"), ("f(2x)", "2f(x)"), (r"2(\frac{1}{2})", r"\frac{5}{2}"), ("[1,2]", "(1,2)"),
    ]  # fmt: skip
    replies = pool.compare(attacks)
    pool.close()
    assert [case for case, reply in zip(attacks, replies, strict=True) if reply.status == "equal"] == []


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9}}", "2^{1000}", "(x+1)^{500}", "x^{10^{10}}", "e^{e^{e^{x}}}", "5!", r"\binom{9}{2}", "x" * 300,
        "1" * 41, "0." + "1" * 41, "+".join(["12345"] * 20), r"\sum_{k=1}^{9} k", r"\prod_{k=1}^{9} k",
        r"\int_0^1 x dx", r"\lim_{x \to 0} x", r"\sqrt{" * 21 + "2" + "}" * 21, r"\frac{1}{" * 25 + "2" + "}" * 25,
        "(" * 100, "1,000^{9{,}000}",
    ],
)  # fmt: skip
def test_what_would_be_heavy_is_not_compared(answer: str) -> None:
    assert symbolic_pair(answer, r"\frac{\sqrt{2}}{2}") is None
    assert symbolic_pair(r"\frac{\sqrt{2}}{2}", answer) is None


@pytest.mark.parametrize(
    "answer", ["e^{-x^2}", "x^{100}", "2^{64}", "(x+1)^{10}", r"e^{\frac{2i\pi}{3}}", r"\sqrt[3]{2+\sqrt{5}}"]
)
def test_ordinary_powers_are_compared(answer: str) -> None:
    assert symbolic_pair(answer, "x^2+1") is not None


def test_the_sides_are_handed_on_without_their_dress() -> None:
    assert symbolic_pair(r"$x = 2\pi\text{ cm}$.", r"x=2\pi") == (r"2\pi", r"2\pi")


def test_only_few_bombs_reach_the_pool() -> None:
    asked = sum(symbolic_pair(answer, gold) is not None for answer, gold in bombs(5, 2_000))
    assert asked < 2_000 * 0.15


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        ")",
        "{",
        "^",
        "1",
        "x",
        "1,",
        r"\frac",
        r"\text{",
        r"\sqrt{",
        "$",
        "|",
        "-",
        " ",
        "=",
        ".",
        r"\left",
        "_{",
        "!",
        "%",
        "٥",
    ],
)
def test_deciding_takes_no_time_on_any_length(piece: str) -> None:
    def seconds(text: str) -> float:
        started = time.process_time()
        assert symbolic_pair(text, r"\sqrt{2}") is None
        assert symbolic_pair(r"\sqrt{2}", text) is None
        return time.process_time() - started

    assert min(seconds((piece * 20_000)[:20_000]) for _ in range(3)) < 0.001
    assert min(seconds((piece * MAX_CHARS)[: MAX_CHARS - 1] + "!") for _ in range(3)) < 0.02


def test_reading_is_linear_in_the_text() -> None:
    def seconds(terms: int) -> float:
        text = "+".join([r"\frac{x}{2}"] * terms)
        started = time.process_time()
        assert read_formula(text) is not None
        return time.process_time() - started

    short, long = min(seconds(500) for _ in range(5)), min(seconds(4_000) for _ in range(5))
    assert long < 24 * short, "8 times the text: 8 when linear, 64 when quadratic"


def test_a_formula_is_read_as_it_is_written() -> None:
    two, x = Formula("num", text="2"), Formula("sym", text="x")
    assert read_formula("x^2") == Formula("pow", (x, two))
    assert read_formula(r"x^2\frac{x}{2}") == Formula("mul", (Formula("pow", (x, two)), Formula("frac", (x, two))))
    assert read_formula("-x^2") == Formula("neg", (Formula("pow", (x, two)),))
    assert read_formula("2x") == read_formula(r"2\cdot x") == Formula("mul", (two, x))
    assert read_formula("(2,x]") == Formula("bracket", (two, x), "(]")
    assert read_formula("1,234") == Formula("num", text="1234")


@pytest.mark.parametrize(
    "text", ["", "$", "\\", "2 3", "x2", "1/2x", r"\sqrt12", r"5\frac{3}{2}", "1.2.3", "x=1", "9!!", "5%%", "a or b"]
)
def test_what_has_no_reading_or_two_is_unreadable(text: str) -> None:
    assert read_formula(text) is None
