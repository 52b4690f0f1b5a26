"""The integer programme against trying everything."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.errors import InputError
from lowbit.optimization.allocate import Border, Problem, allocate
from lowbit.optimization.candidates import Candidate, Plan, Price

SCHEMES = ("float32", "int8", "int4", "ternary")
QUANTITIES = ("microseconds", "bytes", "noise")


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A few layers in a row, with made-up prices, and conversions between them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = [f"layer{index}" for index in range(draw(st.integers(1, 4)))]
    prices = {
        name: [
            Price(candidate=Candidate(scheme=scheme), microseconds=float(rng.uniform(1, 9)),
                  bytes=int(rng.integers(1, 100)), noise=float(rng.uniform(0, 1)))
            for scheme in SCHEMES[: draw(st.integers(1, 4))]
        ]
        for name in names
    }  # fmt: skip
    borders = tuple(
        Border(first=a, second=b, to_codes=float(rng.uniform(0, 3)), to_float=float(rng.uniform(0, 3)))
        for a, b in itertools.pairwise(names)
    )
    return Problem(prices=prices, borders=borders, fixed={"microseconds": 2.0, "bytes": 5.0})


def plans(problem: Problem) -> Iterator[Plan]:
    """All."""
    for chosen in itertools.product(*problem.prices.values()):
        yield problem.plan(dict(zip(problem.prices, chosen, strict=True)))


@given(problem=problems(), share=st.floats(0.2, 1.0), minimize=st.sampled_from(QUANTITIES))
@settings(max_examples=40, deadline=None)
def test_nothing_is_better(problem: Problem, share: float, minimize: str) -> None:
    """The plan is within its budgets, and no other within them has less of what is minimized; no plan, no answer."""
    most = {quantity: max(getattr(plan, quantity) for plan in plans(problem)) for quantity in QUANTITIES}
    budgets = {quantity: share * amount for quantity, amount in most.items() if quantity != minimize}
    within = [plan for plan in plans(problem) if all(getattr(plan, q) <= b for q, b in budgets.items())]
    found = allocate(problem, {minimize: 1.0}, budgets)
    if found is None:
        assert not within
        return
    assert all(getattr(found, quantity) <= budget * (1 + 1e-6) for quantity, budget in budgets.items())
    best = min((float(getattr(plan, minimize)) for plan in within), default=math.inf)  # inf: by tolerance alone
    assert float(getattr(found, minimize)) <= best * (1 + 2e-3) + 1e-9


def test_what_a_layer_might_have_been() -> None:
    """Next better is what has less noise, and most of it; next cheaper is what saves, at the least noise."""
    costs = {"float32": (9.0, 400, 0.0), "int8": (4.0, 100, 0.1), "int4": (3.0, 50, 0.5), "ternary": (2.0, 20, 0.9)}
    prices = {
        name: Price(candidate=Candidate(scheme=name), microseconds=time, bytes=size, noise=noise)
        for name, (time, size, noise) in costs.items()
    }
    problem = Problem(prices={"fc": list(prices.values())}, fixed={})
    choice = problem.plan({"fc": prices["int4"]}).choices["fc"]
    assert (choice.better, choice.cheaper) == (prices["int8"], prices["ternary"])
    ends = [problem.plan({"fc": prices[name]}).choices["fc"] for name in ("float32", "ternary")]
    assert (ends[0].better, ends[1].cheaper) == (None, None)


def test_conversions_count() -> None:
    """A layer between two that work on codes stays with them, though it alone would be faster in float32."""

    def price(scheme: str, time: float) -> Price:
        return Price(candidate=Candidate(scheme=scheme), microseconds=time, bytes=1, noise=0.0)

    ends = [price("float32", 9.0), price("int8", 1.0)]
    prices = {"a": ends, "b": [price("float32", 1.0), price("int8", 2.0)], "c": ends}
    borders = tuple(Border(first=x, second=y, to_codes=1.0, to_float=1.0) for x, y in ("ab", "bc"))
    for given_, scheme, total in ((borders, "int8", 4.0), ((), "float32", 3.0)):
        plan = allocate(Problem(prices=prices, borders=given_, fixed={}), {"microseconds": 1.0}, {})
        assert plan is not None
        assert (plan["b"].scheme, plan.microseconds) == (scheme, total)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named, with its extra."""
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(InputError, match=r'pip install "lowbit\[compress\]"'):
        allocate(Problem(prices={}, fixed={}), {"noise": 1.0}, {})
