from __future__ import annotations

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from dni_fx.expressions import is_symbol, wrong_with


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s17', positive=True, integer=True)",
        "Mul(Integer(2), Symbol('s0', integer=True))",
        "Add(FloorDiv(Symbol('u0', integer=True), Integer(2)), Integer(-3))",
        "Pow(Symbol('s0'), Integer(-1))",
        "PowByNatural(Symbol('s0'), Integer(2))",
        "Max(Integer(7), Symbol('s0'))",
        "LessThan(Symbol('u0', integer=True), Integer(99))",
        "Float('1.5', precision=53)",
        "s0*s1 + 3 // (s0 % 4) - 2**s0",
        "Eq(Mod(s0, 4), 0) & (s1 >= 2) | ~(s0 != 9223372036854775807)",
        "true",
        "-int_oo",
    ],
)
def test_what_torch_writes_for_a_size_is_arithmetic(text: str) -> None:
    assert wrong_with(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "__import__('os').system('true')",
        "open('a', 'w')",
        "Symbol('s0').__class__",
        "(lambda: 1)()",
        "[s0 for s0 in (1,)]",
        "s0 if s0 else 1",
        "s0; s1",
        "s0, s1",
        "s0\n+ s1",
        "sympify('s0')",
        "Symbol('a; b')",
        "Symbol('__class__')",
        "Symbol(Symbol('s0'))",
        "Symbol('s0', positive=open)",
        "Symbol('s0', commutative=False)",
        "Max(*s0)",
        "Max(s0)(s1)",
        "'text'",
        "Float('os')",
        "Float('1', precision=10000000)",
        "9**9**9**9",
        "((9**64)**64)**64",
        "2**(s0 - s0 + 10**9)",
        "Pow(9, 999999999)",
        "LShift(1, 1000000000000)",
        "9" * 40,
        "1e999",
        "s0" + " + s0" * 2000,
        "-" * 4000 + "s0",
        "(" * 300 + "s0" + ")" * 300,
        "\N{MATHEMATICAL SANS-SERIF SMALL S}0",
        "x[0]",
        "f'{s0}'",
        "s0 := 2",
        "{s0}",
        "...",
        "1j",
    ],
)
def test_what_is_not_small_arithmetic_is_refused(text: str) -> None:
    assert wrong_with(text) != ""


_expressions = st.recursive(
    st.one_of(
        st.sampled_from(["s0", "s17", "u3"]).map(
            lambda name: sympy.Symbol(name, integer=True, positive=True)
        ),
        st.integers(-100, 100).map(sympy.Integer),
    ),
    lambda inner: st.builds(
        lambda op, left, right: op(left, right),
        st.sampled_from([sympy.Add, sympy.Mul, sympy.Max, sympy.Min]),
        inner,
        inner,
    ),
    max_leaves=8,
)


@given(_expressions)
def test_every_polynomial_passes_as_sympy_writes_it(expression: sympy.Expr) -> None:
    assert wrong_with(sympy.srepr(expression)) == ""


@given(st.text(max_size=40))
def test_no_attribute_and_no_unknown_call_passes(text: str) -> None:
    assert wrong_with(f"{text}.a") != ""
    assert wrong_with(f"eval({text!r})") != ""


def test_symbols_are_short_names() -> None:
    assert all(map(is_symbol, ["s0", "u12", "batch", "zuf1"]))
    assert not any(map(is_symbol, ["", "S0", "s0.a", "__a", "s0s0", "u9999999", "s0\n"]))
