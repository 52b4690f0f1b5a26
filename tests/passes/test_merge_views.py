"""Views of views are one view, and what changes nothing disappears."""

from __future__ import annotations

import numpy as np

from graphs import BATCH, Maker
from lowbit.passes.merge_views import merge_views, remove_identities
from passes.same import apply, ops


def test_reshapes_merge() -> None:
    m = Maker(symbols=BATCH)
    y = m.node("reshape", m.input("x", "batch", 4, 6), shape=("batch", 24))
    y = m.node("reshape", m.node("reshape", y, shape=("batch", 2, 12)), shape=("batch * 2", 12))
    assert ops(apply(m.graph(y), merge_views)) == {"reshape": 1}


def test_transposes_merge() -> None:
    m = Maker(symbols=BATCH)
    y = m.node("transpose", m.input("x", "batch", 4, 6), perm=(1, 2, 0))
    y = m.node("transpose", y, perm=(0, 2, 1))
    after = apply(m.graph(y), merge_views)
    assert [node.attrs["perm"] for node in after] == [(1, 0, 2)]


def test_a_view_that_is_read_elsewhere_stays_for_that() -> None:
    m = Maker(symbols=BATCH)
    y = m.node("reshape", m.input("x", "batch", 4, 6), shape=("batch", 24))
    z = m.node("reshape", y, shape=("batch", 2, 12))
    assert ops(apply(m.graph(y, z), merge_views)) == {"reshape": 2}


def test_identities_disappear() -> None:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", 4, 6)
    zero, one = m.constant(np.zeros((), np.float32)), m.constant(np.ones(6, np.float32))
    y = m.node("reshape", x, shape=("batch", 4, 6))
    y = m.node("transpose", y, perm=(0, 1, 2))
    y = m.node("slice", y, axis=1, start=0, stop=4)
    y = m.node("pad", y, padding=(0,) * 6)
    y = m.node("concat", y, axis=2)
    y = m.node("clip", y)
    y = m.node("cast", y, dtype="f32")
    y = m.node("sub", m.node("add", zero, m.node("add", y, zero)), zero)
    y = m.node("div", m.node("mul", one, m.node("mul", y, one)), one)
    assert ops(apply(m.graph(m.node("unary", y, kind="tanh")), remove_identities)) == {"unary": 1}


def test_what_looks_like_an_identity_but_changes_the_shape_stays() -> None:
    m = Maker()
    x, zeros = m.input("x", 1, 4), m.constant(np.zeros((3, 4), np.float32))
    graph = m.graph(m.node("unary", m.node("add", x, zeros), kind="tanh"))
    assert ops(apply(graph, remove_identities)) == {"add": 1, "unary": 1}


def test_an_input_that_is_returned_keeps_its_node() -> None:
    m = Maker(symbols=BATCH)
    graph = m.graph(m.node("reshape", m.input("x", "batch", 4), shape=("batch", 4)))
    assert ops(apply(graph, remove_identities)) == {"reshape": 1}
