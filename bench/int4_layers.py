"""Single linear layers with four-bit weights to measure: floats in, floats out, activations quantized row by row.

All contestants hold the same real numbers: normal weights, rounded to codes -8 .. 7 with a half-float scale for each
group. A layer may come in copies that share its input, each with weights in a place of its own, so that running all of
them in turn reads the weights from farther away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from layers import repetitions
from lowbit.graph.ir import Array, Graph, Node, Value, Weight
from lowbit.ops import constant_value
from lowbit.runtime.profile import Row
from lowbit.runtime.session import Session

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """[rows, depth] x [outputs, depth], with a scale for each `group` adjacent weights."""

    rows: int
    outputs: int
    depth: int
    group: int
    copies: int = 1

    @property
    def groups(self) -> int:
        """Of an output's weights."""
        return self.depth // self.group

    @cached_property
    def x(self) -> Floats:
        """The input."""
        return np.random.default_rng(1).standard_normal((self.rows, self.depth), np.float32)

    @cached_property
    def _rounded(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
        normal = np.random.default_rng(0).standard_normal((self.outputs, self.groups, self.group), np.float32)
        scales = (np.abs(normal).max(axis=2) / np.float32(7.5)).astype(np.float16)
        codes = np.clip(np.rint(normal / scales[..., None].astype(np.float32)), -8, 7).astype(np.int8)
        return codes.reshape(self.outputs, self.depth), scales

    def codes(self, copy: int) -> npt.NDArray[np.int8]:
        """Of a copy's weights: its own memory and, after the first, its own numbers, so that nobody shares them."""
        return np.roll(self._rounded[0], copy, axis=0)

    def scales(self, copy: int) -> npt.NDArray[np.float16]:
        """[outputs, groups]"""
        return np.roll(self._rounded[1], copy, axis=0)

    def real(self, copy: int) -> Floats:
        """The weights as numbers, exact."""
        return self.codes(copy).astype(np.float32) * np.repeat(self.scales(copy).astype(np.float32), self.group, axis=1)

    @property
    def operations(self) -> float:
        """Of a copy; a multiply-add counts two."""
        return 2.0 * self.rows * self.outputs * self.depth

    @property
    def weight_bytes(self) -> float:
        """Of a copy: codes and scales."""
        return self.outputs * (self.depth / 2 + 2 * self.groups)

    def of_copies(self, copies: int) -> Layer:
        """The same layer in so many copies."""
        return replace(self, copies=copies)

    def graph(self, bits: int) -> Graph:
        """For each copy, a node that quantizes the input and the layer, with weights of four or eight bits."""
        values = {"x": Value(dtype="f32", shape=(self.rows, self.depth))}
        constants: dict[str, Array | Weight] = {
            "multiplier": np.full(self.outputs, 1, np.float32),
            "bias": np.zeros(self.outputs, np.float32),
        }
        nodes = []
        for copy in range(self.copies):
            codes, scale, zero, w, y = (f"{part}{copy}" for part in ("codes", "scale", "zero", "w", "y"))
            constants[w] = self._four_bits(copy) if bits == 4 else self._eight_bits(copy)
            values[codes] = Value(dtype="u8", shape=(self.rows, self.depth))
            values[scale], values[zero] = (Value(dtype=dtype, shape=(self.rows,)) for dtype in ("f32", "u8"))
            values[y] = Value(dtype="f32", shape=(self.rows, self.outputs))
            rows, inputs = (codes, scale, zero), (codes, w, "multiplier", "bias", "", "", scale, zero)
            for kind, read, made, attrs in (
                ("dynamic_quantize", ("x",), rows, {"granularity": "row"}),
                ("quantized_linear", inputs, (y,), {"output": "f32"}),
            ):
                nodes.append(Node(op=kind, name=f"{kind} {copy}", inputs=read, outputs=made, attrs=attrs))
        values |= {name: constant_value(constant) for name, constant in constants.items()}
        outputs = tuple(f"y{copy}" for copy in range(self.copies))
        return Graph(inputs=("x",), outputs=outputs, values=values, nodes=tuple(nodes), constants=constants)

    def _four_bits(self, copy: int) -> Weight:
        return Weight(codes=self.codes(copy), scales=self.scales(copy), bits=4, group_size=self.group)

    def _eight_bits(self, copy: int) -> Weight:
        """The codes times 15, so that they have eight bits."""
        return Weight(codes=self.codes(copy) * np.int8(15), scales=np.ones(self.outputs, np.float32))


def steps(session: Session, layer: Layer, op: str, repeats: int) -> list[Row]:
    """The copies' rows of a profile."""
    return [row for row in session.profile(layer.x, repeats=repeats) if row.op == op]


def step_timer(session: Session, layer: Layer, op: str) -> Callable[[], float]:
    """A turn: the median time of an operator's node in a profile; the mean of it over the copies."""
    warm = session.profile(layer.x, repeats=3)
    return partial(_step_seconds, session, layer, op, repetitions(warm.seconds))


def _step_seconds(session: Session, layer: Layer, op: str, repeats: int) -> float:
    return sum(row.seconds for row in steps(session, layer, op, repeats)) / layer.copies
