"""Which pattern is noted for which zeros."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import Maker
from lowbit.errors import GraphError
from lowbit.graph import blocks
from lowbit.graph.ir import Array, Weight, replace
from lowbit.ops.interpreter import validate
from lowbit.passes.note_sparsity import density, note_sparsity, sparse_layers
from lowbit.runtime.meta import Kept


def pruned(shape: tuple[int, ...], pattern: str, share: float, seed: int = 0) -> Array:
    """Random codes, of which `share` of the blocks are zero; the others hold a few zeros, too."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-20, 21, shape).astype(np.int8)
    size = blocks.PATTERNS[pattern]
    kept = rng.permutation(codes.size // (size[0] * size[1])) >= round(share * codes.size / (size[0] * size[1]))
    matrix = np.moveaxis(codes, 1, -1).reshape(shape[0], -1)
    matrix = matrix * kept.reshape(shape[0] // size[0], -1).repeat(size[0], 0).repeat(size[1], 1)
    return np.ascontiguousarray(np.moveaxis(matrix.reshape(shape[0], *shape[2:], shape[1]), -1, 1))


def noted(codes: Array) -> str | None:
    weight = Weight(codes=codes, scales=np.ones(len(codes), np.float32))
    m = Maker()
    m.constant(weight, "w")
    constant = note_sparsity(m.graph(m.node("clip", m.input("x", 3)))).constants["w"]
    assert isinstance(constant, Weight)
    assert constant.codes is codes
    return constant.sparsity


@pytest.mark.parametrize("shape", [(64, 256), (64, 32, 3, 3), (32, 8, 2, 3, 2)])
@pytest.mark.parametrize("pattern", blocks.PATTERNS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_pattern_that_was_pruned_is_found(shape: tuple[int, ...], pattern: str, share: float) -> None:
    assert noted(pruned(shape, pattern, share)) == pattern


def test_dense_weights_and_odd_sizes() -> None:
    assert noted(pruned((64, 64), "4x4", 0.1)) is None
    assert noted(pruned((65, 64), "1x4", 0.8)) == "1x4"
    assert noted(pruned((65, 63), "unstructured", 0.8)) == "unstructured"
    assert noted(np.zeros((64, 64), np.int8)) == "4x4"  # a coarser one would stand for too many codes a byte
    for shape in ((0, 4), (4, 0), (7,)):
        assert noted(np.zeros(shape, np.int8)) is None


def test_layers_are_named_with_their_density() -> None:
    m = Maker()
    codes = pruned((16, 64), "4x4", 0.75)
    w = m.constant(Weight(codes=codes, scales=np.ones(16, np.float32)))
    ones = m.constant(np.ones(16, np.float32))
    graph = note_sparsity(
        m.graph(m.node("quantized_linear", m.input("x", 2, 64, dtype="u8"), w, ones, ones, output="f32"))
    )
    assert density(codes, "4x4") == 0.25
    assert sparse_layers(graph) == (Kept(node=graph.nodes[0].name, pattern="4x4", density=0.25),)


@pytest.mark.parametrize(
    ("shape", "pattern", "message"),
    [((16, 64), "2x2", "none of"), ((18, 64), "4x4", "whole|consist"), ((32, 64), "32x4", "finer pattern")],
)
def test_notes_that_do_not_hold_are_refused(shape: tuple[int, ...], pattern: str, message: str) -> None:
    m = Maker()
    m.constant(Weight(codes=np.zeros(shape, np.int8), scales=np.ones(shape[0], np.float32), sparsity=pattern))
    graph = m.graph(m.node("clip", m.input("x", 3)))
    with pytest.raises(GraphError, match=message):
        validate(graph)


def test_four_bit_weights_stay_as_they_are() -> None:
    m = Maker()
    m.grouped(8, 64, 32)
    graph = m.graph(m.node("clip", m.input("x", 3)))
    weight = next(c for c in graph.constants.values() if isinstance(c, Weight))
    zero = replace(weight, codes=np.zeros_like(weight.codes))
    found = note_sparsity(replace(graph, constants=dict.fromkeys(graph.constants, zero)))
    assert all(c is zero for c in found.constants.values())
