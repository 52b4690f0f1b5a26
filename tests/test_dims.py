"""Size expressions: the parser is strict, and every form of an expression gives the same number as Python does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit.errors import GraphError
from lowbit.graph import dims
from lowbit.graph.ir import Symbol

SYMBOLS = {"a": Symbol(minimum=1, maximum=50), "b": Symbol(minimum=0, maximum=9), "c": Symbol(minimum=3, maximum=300)}
INDEX = {"a": 0, "b": 1, "c": 2}


def combine(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.tuples(inner, inner)
    infix = st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner)
    return st.one_of(
        infix.map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        infix.map(lambda t: f"{t[0]}{t[1]}{t[2]}"),
        pair.map(lambda t: f"max({t[0]}, {t[1]})"),
        pair.map(lambda t: f"min({t[0]},{t[1]})"),
        inner.map(lambda t: f"-({t})"),
    )


EXPRESSIONS = st.recursive(st.sampled_from(["a", "b", "c", "0", "1", "2", "3", "7", "16"]), combine, max_leaves=8)
SIZES = st.fixed_dictionaries({name: st.integers(s.minimum, s.maximum) for name, s in SYMBOLS.items()})


def python_value(text: str, sizes: dict[str, int]) -> int | None:
    """The oracle is Python itself, on text this test made."""
    try:
        return int(eval(text, {"__builtins__": {}, "max": max, "min": min}, sizes))
    except ZeroDivisionError:
        return None


def rpn_value(rpn: list[int], sizes: dict[str, int]) -> int:
    """What the runtime's evaluator does (cpp/graph/op.h, DimOp)."""
    by_index = [sizes[name] for name in INDEX]
    operations = [
        lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, lambda x, y: x // y, lambda x, y: x % y, max, min,
    ]  # fmt: skip
    stack: list[int] = []
    for opcode, operand in zip(rpn[::2], rpn[1::2], strict=True):
        if opcode == 0:
            stack.append(operand)
        elif opcode == 1:
            stack.append(by_index[operand])
        else:
            right = stack.pop()
            stack.append(operations[opcode - 2](stack.pop(), right))
    (result,) = stack
    return result


@given(EXPRESSIONS, SIZES)
def test_every_form_has_python_s_value(text: str, sizes: dict[str, int]) -> None:
    expected = python_value(text, sizes)
    try:
        simple = dims.simplify(text)
    except GraphError:  # a divisor that is 0 for every size, or a form too large
        return
    if expected is None:
        return  # exact quotients such as (a*b) // b are simplified away, also where b is 0
    assert dims.evaluate(text, sizes) == expected
    assert dims.evaluate(simple, sizes) == expected
    assert dims.simplify(simple) == simple
    assert dims.evaluate(dims.simplify(text, SYMBOLS), sizes) == expected
    assert rpn_value(dims.to_rpn(text, INDEX), sizes) == expected
    low, high = dims.bounds(text, SYMBOLS)
    assert low <= expected <= high


@given(EXPRESSIONS, EXPRESSIONS, SIZES)
def test_arithmetic(a: str, b: str, sizes: dict[str, int]) -> None:
    for function, symbol in ((dims.add, "+"), (dims.sub, "-"), (dims.mul, "*"), (dims.floordiv, "//"), (dims.mod, "%")):
        expected = python_value(f"({a}) {symbol} ({b})", sizes)
        try:
            result = function(a, b)
        except GraphError:
            continue
        if expected is not None:
            assert dims.evaluate(result, sizes) == expected


@given(EXPRESSIONS, EXPRESSIONS, SIZES)
def test_equal_never_lies_on_the_sample_it_can_see(a: str, b: str, sizes: dict[str, int]) -> None:
    try:
        if dims.simplify(a) != dims.simplify(b):
            return
    except GraphError:
        return
    left, right = python_value(a, sizes), python_value(b, sizes)
    assert left is None or right is None or left == right


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 * 3 + 1", 7),
        ("b+a", "a + b"),
        ("(a - 1) // 2 + 1", "((a + 1) // 2)"),
        ("((a - 1) // 2 + 1 - 1) // 2 + 1", "((a + 3) // 4)"),
        ("(6*a + 7) // 3", "2*a + 2"),
        ("(a*49*64) // (49*a)", 64),
        ("a - a", 0),
        ("max(a, a + 1) * 2", "2*a + 2"),
        ("-7 // 2", -4),
        ("-7 % 4", 1),
        ("(4*a + 9) % 4", 1),
    ],
)
def test_canonical_form(text: str, expected: object) -> None:
    assert dims.simplify(text) == expected


def test_bounds_decide_maxima() -> None:
    assert dims.simplify("max(c, 3)", SYMBOLS) == "c"
    assert dims.simplify("min(a, 50) + min(c, 2)", SYMBOLS) == "a + 2"


def test_equal_beyond_the_canonical_form() -> None:
    assert dims.equal("max(a, 3) - 3", "max(a - 3, 0)", SYMBOLS)
    assert not dims.equal("max(a, 3) - 3", "max(a - 3, 1)", SYMBOLS)
    assert not dims.equal("a", "b", SYMBOLS)


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "a +", "+ a", "a b", "a ** 2", "a / 2", "a.b", "f(a)", "max(a)", "max(a, b, c)", "(a", "a)", "1.5",
        "1e3", "a[0]",
        "__import__('os')", "lambda: 0", "a if a else b", "a = 1", "a // 0", "a % 0", "max", "min + 1", "٣", "é",
        "9" * 30, str(2**62), "4611686018427387903 * 2", "(" * 100 + "a" + ")" * 100, "a+" * 5000 + "a",
        "*".join(["(a+b+c+1)"] * 90), "max(" * 60 + "a" + ",1)" * 60,
    ],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(GraphError):
        dims.simplify(text)


def test_unknown_symbols_are_named() -> None:
    with pytest.raises(GraphError, match="'z'"):
        dims.evaluate("z + 1", {})
    with pytest.raises(GraphError, match="'z'"):
        dims.to_rpn("z + 1", {})
    with pytest.raises(GraphError, match="'z'"):
        dims.bounds("z + 1", {})
    with pytest.raises(GraphError, match="divides by zero"):
        dims.evaluate("a // b", {"a": 1, "b": 0})
