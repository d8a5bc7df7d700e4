"""Arithmetic that can do nothing but arithmetic: numbers and operators, bounded on the way."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

LONGEST = 200
"""Characters in an expression."""
LARGEST = 10**30
"""The largest absolute value of a result, and of every result on the way."""

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def evaluate(expression: str) -> float:
    """Work out an expression of numbers, + - * / // % ** and brackets. A whole result is an int.

    Raises:
        ValueError: It is not plain arithmetic, or it is too long, or a result is too large. The message
            says which, to the person who asked.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} characters")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError("it is not a sum I can read") from None
    except ZeroDivisionError:
        raise ValueError("it divides by zero") from None
    return int(value) if value == int(value) and abs(value) < 2**53 else value


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(left), _value(right)))
    raise ValueError("only numbers, + - * / // % ** and brackets are allowed")


def _power(base: float, exponent: float) -> float:
    """Raise to a power whose size is known to be small before the work is begun."""
    if base < 0 and exponent != int(exponent):
        raise ValueError("it takes a root of a negative number")
    if base and exponent * math.log10(abs(base)) > math.log10(LARGEST):
        raise ValueError("the result is too large")
    return _bounded(base**exponent)


def _bounded(value: float) -> float:
    if not abs(value) <= LARGEST:
        raise ValueError("the result is too large")
    return value
