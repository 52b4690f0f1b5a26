"""Attention written out becomes one node; products read rows; repeated heads are shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphs import BATCH, Maker
from lowbit.graph.ir import Graph
from lowbit.passes.fold_transpose import fold_transpose
from lowbit.passes.fuse_attention import fuse_attention, share_heads
from passes.same import apply, ops


def written_out(scale: str = "", mask: str = "", rank: int = 4, **changes: Any) -> Graph:
    m = Maker(symbols=BATCH)
    lead: tuple[Any, ...] = ("batch", 3) if rank == 4 else ("batch",)
    q, k, v = m.input("q", *lead, 5, 4), m.input("k", *lead, 7, 4), m.input("v", *lead, 7, 6)
    scores = product = m.node("matmul", q, k, transpose_b=1)
    half = m.constant(np.float32([0.5]))
    if scale:
        scores = m.node(scale, half, scores) if scale == "mul" else m.node(scale, scores, half)
    keep = m.constant(np.arange(35).reshape(5, 7) % 3 > 0)
    lowest = m.constant(np.full(1, changes.get("fill", -np.inf), np.float32))
    if mask.startswith("add"):
        scores = m.node("add", scores, m.floats(5, 7))
        if mask == "add twice":
            scores = m.node("add", m.input("bias", "batch", *(1,) * (rank - 3), 5, 7), scores)
    elif mask:
        scores = m.node("where", keep, *((scores, lowest) if mask == "keep" else (lowest, scores)))
    p = m.node("softmax", scores, axis=changes.get("axis", -1))
    y = m.node("matmul", p, v)
    return m.graph(y, *({"p": [p], "product": [product]}.get(changes.get("returned", ""), [])))


@pytest.mark.parametrize("scale", ["", "mul", "div"])
@pytest.mark.parametrize("mask", ["", "add", "add twice", "keep", "drop"])
@pytest.mark.parametrize("rank", [3, 4])
def test_attention_written_out_becomes_one_node(scale: str, mask: str, rank: int) -> None:
    after = apply(written_out(scale, mask, rank), fuse_attention)
    assert ops(after) == {"attention": 1} | {"drop": {"logical_not": 1}, "add twice": {"add": 1}}.get(mask, {})
    assert after.nodes[-1].attrs["scale"] == {"": 1.0, "mul": 0.5, "div": 2.0}[scale]


@pytest.mark.parametrize("change", [{"returned": "p"}, {"returned": "product"}, {"axis": 2}, {"fill": -1e4}], ids=str)
def test_what_only_looks_like_it_stays(change: dict[str, Any]) -> None:
    graph = written_out("mul", "keep", **change)
    assert ops(apply(graph, fuse_attention)) == ops(graph)


def test_a_transpose_becomes_reading_by_rows() -> None:
    m = Maker(symbols=BATCH)
    q, k = m.input("q", "batch", 3, 5, 4), m.input("k", "batch", 7, 3, 4)
    y = m.node("matmul", q, m.node("transpose", k, perm=(0, 2, 3, 1)))
    after = apply(m.graph(y), fold_transpose)
    assert [node.attrs for node in after] == [{"perm": (0, 2, 1, 3)}, {"transpose_b": 1}]


@pytest.mark.parametrize("transpose_b", [0, 1])
def test_a_transpose_of_the_last_axes_goes(transpose_b: int) -> None:
    m = Maker(symbols=BATCH)
    a, b = m.input("a", "batch", 5, 4), m.input("b", "batch", *((4, 7) if transpose_b else (7, 4)))
    y = m.node("matmul", a, m.node("transpose", b, perm=(0, 2, 1)), transpose_b=transpose_b)
    assert [node.attrs for node in apply(m.graph(y), fold_transpose)] == [{"transpose_b": 1 - transpose_b}]


def test_a_transpose_that_moves_other_axes_stays() -> None:
    m = Maker(symbols=BATCH)
    a, b = m.input("a", 5, "batch", 4), m.input("b", 4, "batch", 5)
    graph = m.graph(m.node("matmul", a, m.node("transpose", b, perm=(2, 0, 1))))
    assert ops(apply(graph, fold_transpose)) == ops(graph)


def repeated(m: Maker, x: str, copies: int) -> str:
    one = m.node("reshape", x, shape=("batch", 2, 1, 7, 4))
    many = m.node("expand", one, shape=("batch", 2, copies, 7, 4))
    return str(m.node("reshape", many, shape=("batch", 2 * copies, 7, 4)))


@pytest.mark.parametrize("copies", [1, 3])
def test_repeated_heads_are_shared(copies: int) -> None:
    m = Maker(symbols=BATCH)
    q, k, v = m.input("q", "batch", 2 * copies, 5, 4), m.input("k", "batch", 2, 7, 4), m.input("v", "batch", 2, 7, 4)
    y = m.node("attention", q, repeated(m, k, copies), repeated(m, v, copies), scale=0.5)
    assert ops(apply(m.graph(y), share_heads)) == {"attention": 1}


def test_heads_repeated_in_turn_are_not_shared() -> None:
    """[a, b, a, b] is not [a, a, b, b]."""
    m = Maker(symbols=BATCH)
    q, k = m.input("q", "batch", 4, 5, 4), m.input("k", "batch", 2, 7, 4)
    one = m.node("reshape", k, shape=("batch", 1, 2, 7, 4))
    many = m.node("reshape", m.node("expand", one, shape=("batch", 2, 2, 7, 4)), shape=("batch", 4, 7, 4))
    graph = m.graph(m.node("attention", q, many, many, scale=0.5))
    assert ops(apply(graph, share_heads)) == ops(graph)
