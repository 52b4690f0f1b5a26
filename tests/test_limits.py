"""What a session may take: operations are counted when a call is planned, and what is too much says so."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowbit
from graphs import Maker
from lowbit import InputError, LimitError, Limits
from lowbit.graph.ir import Graph, Symbol
from lowbit.runtime import format


def product() -> Graph:
    """y = x w of 64 x 64 for any number of rows: 2 * 64 * 64 operations each, and the bytes."""
    maker = Maker(0, {"rows": Symbol(minimum=0)})
    x = maker.input("x", "rows", 64)
    return maker.graph(maker.node("linear", x, maker.floats(64, 64)))


def rows(count: int) -> np.ndarray[Any, Any]:
    return np.ones((count, 64), np.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": 0},
        {"memory": 1.5},
        {"memory": True},
        {"memory": 2**63},
        {"operations": 0},
        {"operations": float("nan")},
        {"operations": float("inf")},
        {"operations": "many"},
        {"seconds": -1},
        {"seconds": False},
        {"seconds": [1]},
    ],
)
def test_limits_are_positive_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"limits: {next(iter(wrong))} "):
        Limits(**wrong)


def test_limits_are_limits(tmp_path: Path) -> None:
    wrong: Any = 1e9
    for make in (
        lambda: lowbit.load(tmp_path / "no.lowbit", limits=wrong),
        lambda: lowbit.Session(product(), limits=wrong),
    ):
        with pytest.raises(InputError, match=r"limits must be a lowbit\.Limits or None, not a float"):
            make()


def test_a_call_of_too_many_operations_is_refused_with_numbers() -> None:
    session = lowbit.Session(product(), limits=Limits(operations=1e6))
    expected = session.run(rows(64))
    for call in (session.run, session.profile):
        with pytest.raises(
            LimitError, match=r"takes 8\.72e\+06 operations.* in node 'n0_linear' \(linear\).* is 1e\+06.*raise it"
        ):
            call(rows(1000))
    with pytest.raises(LimitError, match="operations"):
        session.run_into([rows(1000)], [rows(1000)])
    np.testing.assert_array_equal(session.run(rows(64)), expected)


def test_what_is_computed_once_counts_before_it_runs() -> None:
    maker = Maker()
    large = maker.node("matmul", *[maker.node("expand", maker.floats(1, 1), shape=(1500, 1500)) for _ in "ab"])
    graph = maker.graph(maker.node("add", maker.input("x", 1), maker.node("reduce", large, kind="sum", axes=(0, 1))))
    with pytest.raises(LimitError, match=r"operations.*\(matmul\)"):
        lowbit.Session(graph, limits=Limits(operations=1e9)).run(np.ones(1, np.float32))


def test_limits_are_kept_by_files_pickles_and_copies(tmp_path: Path) -> None:
    graph, file = product(), tmp_path / "net.lowbit"
    format.save(file, graph)
    few = Limits(operations=1e6)
    session, model = lowbit.Session(graph, limits=few), lowbit.load(file, limits=few)
    kept = [session, copy.deepcopy(session), pickle.loads(pickle.dumps(session))]
    kept += [each.session for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)))]
    for each in kept:
        with pytest.raises(LimitError):
            each.run(rows(1000))
    lowbit.Session(graph, limits=Limits(operations=None)).run(rows(1000))
    lowbit.load(file).session.run(rows(1000))
