"""Every architecture of `architectures.py`, whole: float32 as torch, int8 near it, one conversion for all shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lowbit
from architectures import ARCHITECTURES, Architecture, Inputs
from lowbit.graph.ir import Graph, replace
from lowbit.ops import OPS
from lowbit.ops.recurrent import CODED

FLOAT_BOUND = 1e-4
"""Of max |difference| / max |y|, in scheme float32."""


def tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of a module's result, whatever holds them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from tensors(item)
    elif isinstance(output, tuple | list):
        for item in output:
            yield from tensors(item)


def plain(net: torch.nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors(net(**inputs)))


def sqnr(result: list[Tensor], expected: list[Tensor]) -> float:
    """dB, of the worst of the outputs."""
    ratios = [
        float((y.double() ** 2).sum() / ((y.double() - x.double()) ** 2).sum().clamp_min(1e-30))
        for x, y in zip(result, expected, strict=True)
    ]
    return 10 * float(np.log10(max(min(ratios), 1e-30)))


def assert_integer_nodes_exact(graph: Graph, inputs: dict[str, np.ndarray]) -> int:
    """Each integer node gives, on the session's own values, the bits of its NumPy reference; how many there were.

    Recurrent layers on codes are none: their cells are floats.
    """
    cells = {op.name for op in CODED}
    nodes = [
        node
        for node in graph
        if (node.op.startswith("quantized_") and node.op not in cells)
        or node.op in ("quantize", "dynamic_quantize", "lookup")
    ]
    names = dict.fromkeys(name for node in nodes for name in (*node.inputs, *node.outputs))
    made = {name for node in graph for name in node.outputs}
    shown = [name for name in names if name in made]
    values = dict(zip(shown, lowbit.Session(replace(graph, outputs=tuple(shown))).run(**inputs), strict=True))
    values |= {**inputs, **graph.constants}
    for node in nodes:
        arrays = [values.get(name) if name else None for name in node.inputs]
        for name, expected in zip(node.outputs, OPS[node.op].reference(node, arrays), strict=True):
            np.testing.assert_array_equal(values[name], expected, err_msg=f"{node.op} {node.name}")
    return len(nodes)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


@pytest.fixture(scope="module")
def net(architecture: Architecture) -> torch.nn.Module:
    return architecture.net()


@pytest.fixture(scope="module")
def int8(architecture: Architecture, net: torch.nn.Module) -> lowbit.Model:
    """Converted with calibration; no fallback."""
    example = architecture.example(*architecture.shapes[0])
    model: lowbit.Model = lowbit.convert(net, example, calibration=architecture.calibration(), progress=False)
    return model


def test_float32_equals_torch(architecture: Architecture, net: torch.nn.Module) -> None:
    """At three batches and lengths, from one conversion, in the module's own structure."""
    model = lowbit.convert(net, architecture.example(*architecture.shapes[0]), scheme="float32", progress=False)
    for batch, length in architecture.shapes:
        inputs = architecture.example(batch, length, seed=3)
        result = model(**inputs)
        with torch.no_grad():
            original = net(**inputs)
        assert type(result) is type(original)
        pairs = list(zip(tensors(result), tensors(original), strict=True))
        assert pairs
        for x, y in pairs:
            assert x.dtype == y.dtype
            assert x.shape == y.shape
            difference = float((x.double() - y.double()).abs().max())
            assert difference <= FLOAT_BOUND * float(y.abs().max()), f"batch {batch}, length {length}"


def test_int8_is_near_the_original(architecture: Architecture, net: torch.nn.Module, int8: lowbit.Model) -> None:
    assert any(row["scheme"] == "int8" for row in int8.decisions), "something is quantized"
    inputs = architecture.example(8, architecture.shapes[0][1], seed=4)
    assert sqnr(list(tensors(int8(**inputs))), plain(net, inputs)) >= architecture.bound


def test_integer_nodes_give_the_interpreters_bits(architecture: Architecture, int8: lowbit.Model) -> None:
    inputs = architecture.example(*architecture.shapes[2], seed=5)
    assert assert_integer_nodes_exact(int8.graph, {name: tensor.numpy() for name, tensor in inputs.items()}) > 0


def test_a_sample_does_not_depend_on_its_batch(architecture: Architecture, int8: lowbit.Model) -> None:
    inputs = architecture.example(*architecture.shapes[2], seed=6)
    together = list(tensors(int8(**inputs)))
    count = architecture.shapes[2][0]
    for index in range(count):
        alone = list(tensors(int8(**{name: tensor[index : index + 1] for name, tensor in inputs.items()})))
        for whole, single in zip(together, alone, strict=True):
            axes = [axis for axis, size in enumerate(single.shape) if size == 1 and whole.shape[axis] == count]
            for axis in axes:  # CLIP's logits have the batch twice, a recurrent state has it second
                whole = whole.narrow(axis, index, 1)
            assert torch.equal(whole, single)
