"""What code asks of values and sizes while torch traces it: checks, which decide nothing, and what differs for 1.

`if not valid.all(): raise ...` and `assert (x > 0).all()` have no share in the result, whether they stand in torch's
distributions or in a person's own code: the trace goes on as if nothing were wrong, and what is not torch's is noted.
torch takes each free size for 2 or more, so `if x.shape[0] > 1` would be decided for 1, too: such a size is noted.
"""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import sympy

from ..torch_internals import (
    CHECKS_ARGUMENTS,
    LOOKS_AT_MASKS,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    SymNode,
    symbolic_shapes,
)
from .places import TORCH

ASKED = "lowbit.asked"
HERE = str(Path(__file__).parent)
_TRACING = (
    "__init__.py",
    "_tensor.py",
    "_ops.py",
    "overrides.py",
    "_export/",
    "export/",
    "fx/",
    "_subclasses/",
    "utils/",
)
"""The parts of torch through which a question passes."""


@dataclass
class Asked:
    """notes: the checks of a person's own code that are left out. apart: sizes that are else for 1, with the line."""

    notes: list[str] = field(default_factory=list)
    apart: dict[sympy.Symbol, str] = field(default_factory=dict)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of a class or module replaced for a while, or made."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def asking() -> Iterator[Asked]:
    """For a while, questions by values that are checks have an answer; all else is noted as torch traces."""
    found = Asked()
    evaluate, is_true = ShapeEnv.evaluate_expr, SymNode.bool_
    machinery = symbolic_shapes.uninteresting_files()

    def evaluate_expr(env: ShapeEnv, *args: Any, **kwargs: Any) -> Any:
        try:
            return evaluate(env, *args, **kwargs)
        except GuardOnDataDependentSymNode:
            frame = _asker()
            answer = None if frame is None else _wanted(frame)
            if frame is None or answer is None:
                raise
            if not frame.f_code.co_filename.startswith(TORCH):
                found.notes.append(f"a check is left out: {_line(frame)}")
            return sympy.true if answer else sympy.false

    def bool_(node: SymNode) -> bool:
        answer = is_true(node)
        frame = _asker()
        if frame is not None and not frame.f_code.co_filename.startswith(TORCH) and _is_own(frame):
            found.apart.update(dict.fromkeys(_apart(node.expr, answer), _line(frame)))
        return answer

    with (
        replaced(ShapeEnv, "evaluate_expr", evaluate_expr),
        replaced(SymNode, "bool_", bool_),
        replaced(*LOOKS_AT_MASKS, _is_causal),
        replaced(*CHECKS_ARGUMENTS, False),
        replaced(
            symbolic_shapes, "uninteresting_files", lambda: {*machinery, __file__}
        ),  # of which guards tell no line
    ):
        yield found
    found.notes[:] = dict.fromkeys(found.notes)


def _is_causal(mask: Any, is_causal: bool | None = None, size: int | None = None) -> bool:
    """What the caller says; torch looks at the mask to save the work of adding it."""
    return is_causal is True


def _apart(expr: Any, answer: bool) -> list[sympy.Symbol]:
    """The size that a condition is about, if the answer is another for a size of 1."""
    symbols = list(getattr(expr, "free_symbols", ()))
    if len(symbols) != 1 or symbols[0].name.startswith(("u", "zuf")):
        return []
    return symbols if expr.subs(symbols[0], 1) == (sympy.false if answer else sympy.true) else []


def _asker() -> FrameType | None:
    """The code whose `if`, `assert` or `bool()` needs an answer."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((HERE, *(f"{TORCH}/{part}" for part in _TRACING))):
        frame = frame.f_back
    return frame


def caller_line() -> str:
    """The line of the innermost code that is neither torch's nor lowbit's: `net.py:12: y = f(x)`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((str(Path(HERE).parent), TORCH, "<")):
        frame = frame.f_back
    return "" if frame is None else _line(frame)


def _is_own(frame: FrameType) -> bool:
    return "site-packages" not in frame.f_code.co_filename


def _line(frame: FrameType) -> str:
    name, line = frame.f_code.co_filename, frame.f_lineno
    return f"{Path(name).name}:{line}: {linecache.getline(name, line).strip()}"


# --------------------------------------------------------------------------------------------------------------- checks

Place = tuple[int, int, int, int]
"""Line, last line, column and last column of an expression."""


def _wanted(frame: FrameType) -> bool | None:
    """The answer for which a check finds nothing wrong; None if the question is no check's."""
    code, checks = frame.f_code, _checks(frame.f_code.co_filename)
    positions: Callable[[], Any] | None = getattr(code, "co_positions", None)  # from Python 3.11 on
    if positions is not None:
        jump = frame.f_lasti // 2  # where an `if` jumps, what it asks about comes right before
        places = itertools.islice(positions(), max(jump - 1, 0), max(jump, 1) + 1)
        exact = [checks[place] for place in map(_place, places) if place in checks]
        if exact or not any(name.startswith("@py_assert") for name in code.co_varnames):  # pytest moves its asserts
            return exact[-1] if exact else None
    found = {answer for place, answer in checks.items() if place[0] <= frame.f_lineno <= place[1]}
    return found.pop() if len(found) == 1 else None


def _place(position: Sequence[int]) -> Place:
    line, last, column, end = position
    return line, last, column, end


@lru_cache(maxsize=64)
def _checks(filename: str) -> dict[Place, bool]:
    """The conditions of a file that only lead to an exception or a warning, and for which answer they do not."""
    try:
        module = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[Place, bool] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Assert):
            _collect(node.test, True, found)
        elif isinstance(node, ast.If) and _complains(node.body):
            _collect(node.test, False, found)
        elif isinstance(node, ast.If) and node.orelse and isinstance(node.orelse[-1], ast.Raise):
            _collect(node.test, True, found)
    return found


def _collect(test: ast.expr, answer: bool, found: dict[Place, bool]) -> None:
    """The parts of a condition that are asked one by one."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _collect(test.operand, not answer, found)
    if isinstance(test, ast.BoolOp):
        for value in test.values:
            _collect(value, answer, found)
        return None
    found[test.lineno, test.end_lineno or test.lineno, test.col_offset, test.end_col_offset or 0] = answer
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "bool" and test.args:
        _collect(test.args[0], answer, found)
    return None


_REMARKS = ("warn", "warning", "print", "info", "debug", "error")


def _complains(body: Sequence[ast.stmt]) -> bool:
    """Whether a block ends in an exception, or says something and does nothing."""
    return isinstance(body[-1], ast.Raise) or all(_is_remark(statement) for statement in body)


def _is_remark(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    function = call.func if isinstance(call, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", "")) in _REMARKS or isinstance(statement, ast.Pass)
