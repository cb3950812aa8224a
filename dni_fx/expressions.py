"""The arithmetic that a symbolic size in a file may be written in.

torch reads these texts with `sympy.sympify`, which evaluates them as Python. What passes here is
numbers, symbols, operators and a fixed list of functions, too small to be a burden to compute.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

_FUNCTIONS = """
    Abs Add And CeilDiv CeilToInt CleanDiv Eq Equality Float FloatPow FloatTrueDiv FloorDiv FloorToInt Ge
    GreaterThan Gt Identity IntTrueDiv Integer IsNonOverlappingAndDenseIndicator LShift Le LessThan Lt Max
    Min Mod ModularIndexing Mul Ne Not Or Pow PowByNatural PythonMod RShift Rational RoundDecimal RoundToInt
    StrictGreaterThan StrictLessThan Symbol ToFloat TruncToFloat TruncToInt Unequality Where ceiling floor
"""
_ASSUMPTIONS = "even finite integer negative nonnegative nonpositive nonzero odd positive precision real"
_CONSTANTS = frozenset({"oo", "int_oo", "true", "false"})
_SYMBOL = re.compile(r"[a-z]{1,20}(_?\d{1,6})?")
_CHARACTERS = re.compile(r"[\w +\-*/%()<>=!,.&|~']{1,4096}", re.ASCII)
_DECIMAL = re.compile(r"-?\d{1,40}(\.\d{1,40})?(e[+-]?\d{1,3})?")
_OPERATORS = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr),
    *(ast.UAdd, ast.USub, ast.Invert),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_LARGEST_NUMBER = 2**64
_LARGEST_POWER = 64
_DEEPEST_POWER = 2  # (9**64)**64 is a number of 4,000 digits; one more level has 250,000


def is_symbol(text: str) -> bool:
    """Whether the text is the name of one symbolic size: `s0`, `u12`, `batch`."""
    return _SYMBOL.fullmatch(text) is not None


def wrong_with(text: str) -> str:
    """Why the text may not be evaluated as a symbolic size; empty where it may.

    >>> wrong_with("2*s0 + FloorDiv(Symbol('s1', integer=True), 4)")
    ''
    >>> wrong_with("open('a.txt', 'w')")
    'open is not arithmetic'
    """
    if _CHARACTERS.fullmatch(text) is None:
        return "it has characters that arithmetic has no use for, or more than 4,096"
    try:
        return next(_wrong(ast.parse(text.strip(), mode="eval").body, 0), "")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "it is not an expression"


def _wrong(node: ast.expr, powers: int) -> Iterator[str]:
    """What is wrong with one node and what is under it; `powers` counts the powers that it is the base of."""
    match node:
        case ast.Constant(value=int() | float() as number) if abs(number) <= _LARGEST_NUMBER:
            pass
        case ast.Name(id=name):
            if name not in _CONSTANTS and not is_symbol(name):
                yield f"{name} is not the name of a size"
        case ast.UnaryOp(op=op, operand=operand) if isinstance(op, _OPERATORS):
            yield from _wrong(operand, powers)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
            yield from (_wrong_power if isinstance(op, ast.Pow) else _wrong_each)([left, right], powers)
        case ast.Compare(left=left, ops=ops, comparators=others) if {*map(type, ops)} <= {*_OPERATORS}:
            yield from _wrong_each([left, *others], powers)
        case ast.Call(func=ast.Name(id=name)) if name in _FUNCTIONS.split():
            yield from _wrong_call(name, node, powers)
        case _:
            yield f"{ast.unparse(node).partition('(')[0]} is not arithmetic"


def _wrong_each(nodes: list[ast.expr], powers: int) -> Iterator[str]:
    for node in nodes:
        yield from _wrong(node, powers)


def _wrong_call(name: str, node: ast.Call, powers: int) -> Iterator[str]:
    for keyword in node.keywords:
        if keyword.arg not in _ASSUMPTIONS.split() or not _is_small(keyword.value):
            yield f"{ast.unparse(keyword)} says nothing about a size"
    match name, node.args:
        case "Symbol", [ast.Constant(value=str(text))]:
            if not is_symbol(text):
                yield f"{text!r} is not the name of a size"
        case "Float", [ast.Constant(value=str(text))]:
            if _DECIMAL.fullmatch(text) is None:
                yield f"{text!r} is not a number"
        case (("Symbol" | "Float"), _):
            yield f"{name} takes one text"
        case (("Pow" | "PowByNatural" | "FloatPow" | "LShift"), [_, _]):
            yield from _wrong_power(node.args, powers)
        case _:
            yield from _wrong_each(node.args, powers)


def _wrong_power(pair: list[ast.expr], powers: int) -> Iterator[str]:
    _, exponent = pair
    match exponent:
        case ast.Name() | ast.Call(func=ast.Name(id="Symbol")):
            pass
        case ast.Call(func=ast.Name(id="Integer"), args=[number]) if _is_small(number):
            pass
        case _ if not _is_small(exponent):  # a sum, say, could be of any size once it is worked out
            yield f"the power {ast.unparse(exponent)} is neither a symbol nor at most {_LARGEST_POWER}"
        case _:
            pass
    if powers == _DEEPEST_POWER:
        yield "it raises powers to powers"
    yield from _wrong_each(pair, powers + 1)


def _is_small(node: ast.expr) -> bool:
    """Whether the node is a number, true or false, and no larger than a power may be."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return number <= _LARGEST_POWER
        case ast.Constant(value=int() | float() as number):
            return number <= _LARGEST_POWER
        case _:
            return False
