r"""`python -m rewards.symbolic_worker`: compares formulas, each in a forked child that can be killed.

JSON lines in (`{answer, gold, deadline_s, memory_bytes}`), one JSON line out for each. A child has limits on address
space, CPU and files, lives for one comparison and is reaped with its CPU time, so nothing that an answer does outlasts
it. Formulas are read by `rewards.rules.formula`; sympy only ever gets numbers, symbols and its own functions, no text:
its readers of text (`Number(str)` included) end in Python's `eval`.

Equal means: the same expression, or the same value to `AGREED_DIGITS` significant digits, for formulas with variables at
`NUM_POINTS` points that the two texts decide. No other tolerance: 0.3333 is not 1/3, and 0 is not a small number.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import math
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from rewards.rules.formula import Formula, read_formula

try:
    import sympy
except ImportError as missing:
    print(json.dumps({"cannot_start": f"{missing}; install sympy"}), flush=True)
    sys.exit(1)

AGREED_DIGITS = 60
NUM_POINTS = 8
_AGREED = sympy.Rational(1, 10**AGREED_DIGITS)
_NOISE = sympy.Rational(1, 10**100)
"""Below this, what is left of a cancellation cannot be told from a value."""
_WORKING_DIGITS = 150
_PR_SET_PDEATHSIG = 1
_MAX_OPEN_FILES = 16
_PROBE_S = 10.0
_HEAVY_CPU_FRAC = 0.5
"""Of the deadline, in CPU time: a child killed with more was busy itself, one with less was kept waiting."""
_NO_VALUE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What sympy raises on formulas that it cannot work with; NotImplementedError and RecursionError are RuntimeErrors."""

_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}
_CALLS = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh, "cosh": sympy.cosh,
    "tanh": sympy.tanh, "ln": sympy.log, "exp": sympy.exp,
}  # fmt: skip
_ONE_PLACE = {"abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling, "fact": sympy.factorial}
_PIECEWISE = (sympy.Abs, sympy.floor, sympy.ceiling, sympy.sign)
_ANY_BASE = sympy.Symbol("base of log", positive=True)
"""Textbooks differ on `\\log`: two formulas with it are equal where they are for every base."""


def compare(answer: str, gold: str) -> tuple[str, str]:
    """Status (`equal`, `different`, `unreadable`, `too_heavy`) and detail; slow and hungry where the formulas are."""
    said, meant = read_formula(answer), read_formula(gold)
    if said is None or meant is None:
        return "unreadable", f"the {'answer' if said is None else 'gold'} is no formula"
    salt = hashlib.sha256(json.dumps([answer, gold]).encode()).digest()
    try:
        return ("equal", "") if _same(said, meant, salt) else ("different", "")
    except MemoryError:
        return "too_heavy", "out of memory"
    except _NO_VALUE as error:
        return "unreadable", f"no value: {type(error).__name__}"


def _same(said: Formula, meant: Formula, salt: bytes) -> bool:
    if "pm" in (_scalar_op(said), _scalar_op(meant)):
        return _same_items(_branches(said), _branches(meant), salt, ordered=meant.op == "list")
    if said.op in ("list", "set") and meant.op in ("list", "set"):
        return _same_items(said.parts, meant.parts, salt, ordered=meant.op == "list")
    if said.op != meant.op and {said.op, meant.op} & {"list", "set", "bracket", "union", "matrix", "row", "domain"}:
        return False
    if meant.op in ("bracket", "domain", "matrix", "row"):
        return said.text == meant.text and _same_items(said.parts, meant.parts, salt, ordered=True)
    if meant.op == "union":
        return _same_items(said.parts, meant.parts, salt, ordered=False)
    return _same_value(_value(said), _value(meant), salt)


def _same_items(said: Sequence[Formula], meant: Sequence[Formula], salt: bytes, *, ordered: bool) -> bool:
    if len(said) != len(meant):
        return False
    if ordered:
        return all(_same(one, other, salt) for one, other in zip(said, meant, strict=True))
    left = list(meant)
    for one in said:
        partner = next((i for i, other in enumerate(left) if _same(one, other, salt)), None)
        if partner is None:
            return False
        del left[partner]
    return True


def _scalar_op(formula: Formula) -> str:
    """ "pm" for a scalar with a plus-minus in it, else the node's own op."""
    scalar = formula.op not in ("list", "set", "bracket", "union", "matrix", "row", "domain")
    return "pm" if scalar and _num_signs(formula) else formula.op


def _num_signs(formula: Formula) -> int:
    return (formula.op == "pm") + sum(_num_signs(part) for part in formula.parts)


def _branches(formula: Formula) -> tuple[Formula, ...]:
    """The values that a plus-minus stands for, plus first; the items of a set or list."""
    if formula.op in ("list", "set"):
        return formula.parts
    if _num_signs(formula) > 1:
        raise ValueError("several plus-minus signs")
    return (_signed(formula, "mul"), _signed(formula, "neg")) if _num_signs(formula) else (formula,)


def _signed(formula: Formula, op: str) -> Formula:
    parts = tuple(_signed(part, op) for part in formula.parts)
    return Formula(op if formula.op == "pm" else formula.op, parts, formula.text)


def _value(formula: Formula) -> Any:
    """The sympy expression of a scalar; raises one of `_NO_VALUE` where it has none."""
    value = _built(formula)
    if value.has(sympy.nan, sympy.zoo) or (value.has(sympy.oo, -sympy.oo) and value not in (sympy.oo, -sympy.oo)):
        raise ValueError("undefined")
    return value


def _built(formula: Formula) -> Any:
    op, parts = formula.op, [_built(part) for part in formula.parts]
    if op == "num":
        whole, _, decimals = formula.text.partition(".")
        return sympy.Rational(int(whole + decimals), 10 ** len(decimals))
    if op == "sym":
        return sympy.Symbol(formula.text, real=True)
    if op == "const":
        return _CONSTANTS[formula.text]
    if op in ("add", "mul"):
        return sympy.Add(*parts) if op == "add" else sympy.Mul(*parts)
    if op == "neg":
        return -parts[0]
    if op == "inv":
        return 1 / parts[0]
    if op == "frac":
        return parts[0] / parts[1]
    if op == "pow":
        return sympy.Pow(*parts)
    if op == "root":
        return _root(*parts)
    if op == "call" and formula.text == "log":
        return sympy.log(parts[0]) / sympy.log(parts[1] if len(parts) == 2 else _ANY_BASE)
    if op == "call":
        return _CALLS[formula.text](parts[0])
    if op == "binom":
        return sympy.binomial(*parts)
    if op in ("percent", "degree"):
        return parts[0] / 100 if op == "percent" else parts[0] * sympy.pi / 180
    return _ONE_PLACE[op](parts[0])


def _root(radicand: Any, degree: Any) -> Any:
    """The real root where there is one: the cube root of -8 is -2."""
    if degree.is_odd and radicand.is_negative:
        return -((-radicand) ** (1 / degree))
    return radicand ** (1 / degree)


def _same_value(said: Any, meant: Any, salt: bytes) -> bool:
    if said == meant:
        return True
    if (said.is_Rational and meant.is_Rational) or said.is_infinite or meant.is_infinite:
        return False
    difference = said - meant
    if difference.is_Rational:
        return bool(difference == 0)
    if meant == 0:
        return bool(sympy.simplify(said) == 0)
    symbols = sorted(said.free_symbols | meant.free_symbols, key=lambda symbol: str(symbol.name))
    agreed = 0
    for point in _points(symbols, salt):
        verdict = _agree(difference, meant, point)
        if verdict is False:
            return False
        agreed += verdict is True
    if difference.has(*_PIECEWISE):
        return bool(sympy.simplify(difference) == 0)
    return agreed >= (NUM_POINTS // 2 if symbols else 1)


def _points(symbols: Sequence[Any], salt: bytes) -> Iterator[dict[Any, Any]]:
    """Values of the variables, 0.5 to 9.4 away from 0 on either side, that nobody can choose a formula for."""
    for number in range(NUM_POINTS if symbols else 1):
        point = {}
        for symbol in symbols:
            drawn = hashlib.sha256(salt + bytes([number]) + symbol.name.encode("utf-8", "surrogatepass")).digest()
            size = sympy.Rational(500 + int.from_bytes(drawn[:2], "big") % 9000, 1009)
            point[symbol] = size if symbol.is_positive or drawn[2] % 2 else -size
        yield point


def _agree(difference: Any, meant: Any, point: dict[Any, Any]) -> bool | None:
    """Whether both sides are the same to `AGREED_DIGITS` digits at `point`; None where a side has no value there."""
    gap = abs(difference.evalf(20, subs=point, maxn=_WORKING_DIGITS)).evalf(20)
    size = abs(meant.evalf(20, subs=point, maxn=_WORKING_DIGITS)).evalf(20)
    if not (gap.is_Number and size.is_Number and gap.is_finite and size.is_finite) or size < _NOISE:
        return None
    return bool(gap <= size * _AGREED)


def serve() -> None:
    """Answers requests on stdin until it closes."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    for answer, gold in ((r"\frac{\sqrt{2}}{2}", r"1/\sqrt{2}"), ("x^2-1", "(x-1)(x+1)"), (r"\sin^2 x", r"1-\cos^2 x")):
        compare(answer, gold)
    gc.collect()
    gc.freeze()
    probe = _answer({"answer": "sqrt(4)", "gold": "2", "deadline_s": _PROBE_S, "memory_bytes": 2**30}, libc)
    if probe["status"] != "equal":
        print(
            json.dumps({"cannot_start": f"no comparison works here: {probe['status']}, {probe['detail']}"}), flush=True
        )
        return
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin.buffer:
        print(json.dumps(_answer(json.loads(line), libc)), flush=True)


def _answer(request: dict[str, Any], libc: Any) -> dict[str, Any]:
    """Forks, waits for the child until the deadline, kills it and reads its CPU time."""
    started = time.monotonic()
    until = started + request["deadline_s"]
    reading, writing = os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        return {"status": "failed", "detail": f"no child: {error}", "cpu_s": 0.0, "wall_s": 0.0}
    if child == 0:
        _child(request, writing, libc)
    os.close(writing)
    said = b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    on_time = bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))
    if on_time:
        said = os.read(reading, select.PIPE_BUF)
    os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, ended, usage = os.wait4(child, 0)
    cpu_s = usage.ru_utime + usage.ru_stime
    status, detail = _outcome(said, on_time=on_time, ended=ended, cpu_frac=cpu_s / request["deadline_s"])
    return {"status": status, "detail": detail, "cpu_s": cpu_s, "wall_s": time.monotonic() - started}


def _outcome(said: bytes, *, on_time: bool, ended: int, cpu_frac: float) -> tuple[str, str]:
    """What became of a child; one that died by itself died of its formulas."""
    if said:
        status, _, detail = said.decode().partition("\n")
        return status, detail
    if on_time:
        return "too_heavy", f"the comparison died: {os.waitstatus_to_exitcode(ended)}"
    if cpu_frac >= _HEAVY_CPU_FRAC:
        return "too_heavy", "over the deadline"
    return "timeout", f"over the deadline after {cpu_frac:.0%} of it in CPU time: the machine is busy"


def _child(request: dict[str, Any], writing: int, libc: Any) -> NoReturn:
    """Compares under limits, writes `status` and `detail` as two lines, and ends; never returns to the loop."""
    code = 1
    try:
        _confine(request["deadline_s"], request["memory_bytes"], libc)
        status, detail = compare(request["answer"], request["gold"])
        os.write(writing, f"{status}\n{detail}".encode())
        code = 0
    finally:
        os._exit(code)


def _confine(deadline_s: float, memory_bytes: int, libc: Any) -> None:
    """No way back to the worker's pipes, limits on memory, CPU and files, and an end when the worker ends."""
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    cpu_s = math.ceil(deadline_s) + 1
    for limit, value in (
        (resource.RLIMIT_AS, _address_space_bytes() + memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def _address_space_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    serve()
