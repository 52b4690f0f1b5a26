"""Small graphs, built from the IR alone, that hold every operator: shared by tests of files, sessions and fuzzing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from lowbit.graph import blocks
from lowbit.graph.ir import Array, Dim, Graph, Node, Quant, Symbol, Value, Weight, replace
from lowbit.graph.weights import middle, shaped
from lowbit.ops import constant_value, infer


class Maker:
    """Adds node after node; a value's type is what its operator infers."""

    def __init__(self, seed: int = 0, symbols: dict[str, Symbol] | None = None, bits: int = 4) -> None:
        self.bits = bits
        self.rng = np.random.default_rng(seed)
        self.made = Graph(inputs=(), outputs=(), values={}, nodes=(), constants={}, symbols=symbols or {})

    def input(self, name: str, *shape: Dim, dtype: str = "f32") -> str:
        values = {**self.made.values, name: Value(dtype=dtype, shape=shape)}
        self.made = replace(self.made, inputs=(*self.made.inputs, name), values=values)
        return name

    def constant(self, constant: Array | Weight, name: str = "") -> str:
        name = name or f"c{len(self.made.constants)}"
        values = {**self.made.values, name: constant_value(constant)}
        self.made = replace(self.made, values=values, constants={**self.made.constants, name: constant})
        return name

    def floats(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((scale * self.rng.standard_normal(shape)).astype(np.float32))

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        codes = self.rng.integers(-127, 128, shape).astype(np.int8)
        scales = self.rng.uniform(0.01, 0.1, shape[0]) * scale
        return self.constant(Weight(codes=codes, scales=scales.astype(np.float32)))

    def grouped(
        self,
        channels: int,
        depth: int,
        group_size: int,
        *,
        kernel: tuple[int, ...] = (),
        affine: bool = False,
        scales: str = "float16",
        offsets: str = "",
        bits: int = 0,
    ) -> str:
        """Of `self.bits` bits, unless others are said; depth: of a channel's weights in all, kernel included.

        affine: with zero points. scales, offsets: their types; offsets "": none.
        """
        shape = (channels, depth // group_size)
        bits = bits or self.bits
        low = 0 if affine or (offsets and bits < 8) else -middle(bits)
        rows = self.rng.integers(low, low + 2**bits, (channels, depth)).astype(np.int8)
        weight = Weight(
            codes=shaped(rows, (channels, depth // math.prod(kernel), *kernel)),
            scales=self.rng.uniform(0.01, 0.1, shape).astype(scales),
            zero_points=self.rng.integers(0, 2**bits, shape).astype(np.uint8) if affine else None,
            offsets=self.rng.uniform(-1, 1, shape).astype(offsets) if offsets else None,
            bits=bits,
            group_size=group_size,
        )
        return self.constant(weight)

    def tabled(self, *shape: int, bits: int = 4, group_size: int = 0, most: int = 127) -> str:
        """Random codes for values of a table, whole numbers of up to `most`."""
        count = (shape[0], math.prod(shape[1:]) // group_size) if group_size else shape[:1]
        weight = Weight(
            codes=self.rng.integers(0, 2**bits, shape).astype(np.int8),
            scales=self.rng.uniform(0.01, 0.1, count).astype(np.float16 if group_size else np.float32),
            values=self.rng.integers(-most, most + 1, 2**bits).astype(np.float32),
            bits=bits,
            group_size=group_size,
        )
        return self.constant(weight)

    def sparse(self, pattern: str, density: float, *shape: int) -> str:
        """Random codes of which all but some blocks, the first among them, are zero."""
        rows, columns = blocks.PATTERNS[pattern]
        kept = self.rng.random((shape[0] // rows, int(np.prod(shape[1:])) // columns)) < density
        kept[0, 0] = True
        matrix = self.rng.integers(1, 128, (shape[0], kept.shape[1] * columns), dtype=np.int8)
        matrix = matrix * kept.repeat(rows, 0).repeat(columns, 1)
        codes = np.moveaxis(matrix.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
        return self.constant(Weight(codes=codes, scales=np.ones(shape[0], np.float32), sparsity=pattern))

    def signs(self, *shape: int) -> str:
        scales = self.rng.uniform(0.01, 0.1, shape[0]).astype(np.float32)
        codes = self.rng.integers(0, 2, shape).astype(np.int8)
        return self.constant(Weight(codes=codes, scales=scales, bits=1, values=np.float32([-1, 1])))

    def table(self) -> str:
        return self.constant(self.rng.integers(0, 256, 256).astype(np.uint8))

    def node(self, op: str, *inputs: str, outputs: int = 1, quant: Quant | None = None, **attrs: Any) -> Any:
        index = len(self.made.nodes)
        names = tuple(f"v{index}" if outputs == 1 else f"v{index}_{place}" for place in range(outputs))
        node = Node(op=op, name=f"n{index}_{op}", inputs=inputs, outputs=names, attrs=attrs, source=f"net.layer{index}")
        types = [replace(value, quant=quant) for value in infer(node, self.made)]
        values = {**self.made.values, **dict(zip(names, types, strict=True))}
        self.made = replace(self.made, nodes=(*self.made.nodes, node), values=values)
        return names[0] if outputs == 1 else names

    def graph(self, *outputs: str) -> Graph:
        return replace(self.made, outputs=outputs)


BATCH = {"batch": Symbol(minimum=1, maximum=64)}
PAD1 = (1, 1, 1, 1)


def float_net() -> Graph:
    """Convolutions, pools and a classifier in float32, batch free."""
    m = Maker(1, BATCH)
    x = m.input("x", "batch", 3, 12, 10)
    y = m.node("conv2d", x, m.floats(8, 3, 3, 3), m.floats(8), padding=PAD1, stride=(2, 1), activation_min=0.0)
    z = m.node("conv2d", y, m.floats(8, 1, 3, 3), m.floats(8), padding=PAD1, groups=8)
    z = m.node("conv2d", z, m.floats(8, 4, 1, 1), "", y, groups=2, activation_min=0.0, activation_max=6.0)
    z = m.node("clip", z, min=-1.0, max=5.5)
    z = m.node("max_pool2d", z, kernel=(3, 3), stride=(2, 2), padding=PAD1)
    z = m.node("avg_pool2d", z, kernel=(2, 2), stride=(2, 2), ceil_mode=1, count_include_pad=0)
    a = m.node("adaptive_avg_pool2d", m.node("adaptive_max_pool2d", z, output_size=(2, 2)), output_size=(2, 1))
    f = m.node("reshape", a, shape=("batch", 16))
    y = m.node("linear", f, m.floats(10, 16), m.floats(10), activation_min=-20.0)
    return m.graph(m.node("softmax", y, axis=-1), f)


def volume_net() -> Graph:
    """Convolutions over volumes, and transposed ones, in float32 and on codes."""
    m = Maker(5, BATCH)
    x = m.input("x", "batch", 4, 3, 5, 4)
    up = {"stride": (1, 2, 2), "padding": (1, 1, 0, 1, 1, 0), "output_padding": (0, 1, 0)}
    y = m.node("conv3d", x, m.floats(6, 4, 2, 3, 3), m.floats(6), padding=(1, 0, 1, 1, 1, 1), activation_min=0.0)
    y = m.node("conv_transpose3d", y, m.floats(6, 3, 3, 3, 2), "", groups=2, **up)
    q = m.node("quantize", x, scale=0.03, zero_point=120)

    def scaled(channels: int) -> tuple[str, str]:
        return m.constant(m.rng.uniform(1e-4, 2e-3, channels).astype(np.float32)), m.floats(channels, scale=20.0)

    codes = {"zero_point_x": 120, "zero_point_y": 7, "output": "u8"}
    a = m.node(
        "quantized_conv3d", q, m.weight(4, 1, 1, 3, 3), *scaled(4), groups=4, padding=(0, 0, 1, 1, 1, 1), **codes
    )
    codes["zero_point_x"] = 7
    a = m.node("quantized_conv_transpose3d", a, m.weight(4, 4, 3, 3, 2), *scaled(4), **up, **codes)
    flat = m.node("reshape", a, shape=("batch", 12, 11, 7))
    b = m.node(
        "quantized_conv_transpose2d", flat, m.weight(12, 1, 3, 3), *scaled(12), groups=12, stride=(2, 3), **codes
    )
    c = m.node(
        "conv_transpose2d", m.node("reshape", y, shape=("batch", 18, 11, 7)), m.floats(5, 18, 2, 2), stride=(2, 2)
    )
    return m.graph(c, m.node("dequantize", b, scale=0.2, zero_point=7))


def integer_net() -> Graph:
    """Every operator on static codes, batch free."""
    m = Maker(2, BATCH)
    x = m.input("x", "batch", 4, 9, 11)
    y = m.node("quantize", x, scale=0.03, zero_point=120, quant=Quant(scale=0.03, zero_point=120))
    conv = {"zero_point_x": 120, "output": "u8", "zero_point_y": 7, "hi": 250}

    def scaled(channels: int) -> tuple[str, str]:
        return m.constant(m.rng.uniform(1e-4, 2e-3, channels).astype(np.float32)), m.floats(channels, scale=20.0)

    a = m.node("quantized_conv2d", y, m.weight(8, 4, 3, 3), *scaled(8), padding=(1, 0, 2, 1), stride=(2, 2), **conv)
    conv["zero_point_x"] = 7
    b = m.node("quantized_conv2d", a, m.weight(8, 1, 3, 3), *scaled(8), padding=PAD1, groups=8, lo=7, **conv)
    c = m.node(
        "quantized_conv2d",
        b,
        m.weight(8, 4, 1, 1),
        *scaled(8),
        a,
        m.table(),
        "",
        "",
        m.floats(8),
        groups=2,
        residual_multiplier=0.7,
        residual_zero_point=7,
        **conv,
    )
    d = m.node(
        "quantized_add",
        c,
        m.node("lookup", a, m.constant(m.rng.integers(0, 256, (8, 256)).astype(np.uint8))),
        zero_point_a=7,
        multiplier_a=0.6,
        zero_point_b=3,
        multiplier_b=0.3,
        zero_point_y=9,
    )
    gate = m.node("quantized_adaptive_avg_pool2d", c, output_size=(1, 1), zero_point_x=7, multiplier=1.0, output="u8")
    d = m.node("quantized_mul", d, gate, zero_point_a=9, zero_point_b=0, multiplier=0.01, zero_point_y=9)
    e = m.node("max_pool2d", d, kernel=(2, 2), stride=(1, 1), padding=(0, 1, 1, 0), dilation=(1, 1))
    f = m.node(
        "quantized_avg_pool2d",
        e,
        kernel=(3, 2),
        stride=(2, 2),
        padding=(1, 1, 0, 1),
        zero_point_x=9,
        multiplier=1.1,
        output="u8",
        zero_point_y=9,
        ceil_mode=1,
    )
    g = m.node(
        "quantized_adaptive_avg_pool2d",
        f,
        output_size=(1, 1),
        zero_point_x=9,
        multiplier=0.9,
        output="u8",
        zero_point_y=4,
    )
    h = m.node("reshape", g, shape=("batch", 8))
    i = m.node("quantized_linear", h, m.weight(6, 8), *scaled(6), zero_point_x=4, output="u8", zero_point_y=128)
    j = m.node("quantized_linear", i, m.weight(5, 6), *scaled(5), zero_point_x=128, output="f32", min=-50.0)
    k = m.node("quantized_adaptive_avg_pool2d", e, output_size=(2, 2), zero_point_x=9, multiplier=0.05, output="f32")
    return m.graph(j, m.node("dequantize", i, scale=0.2, zero_point=128), k)


def dynamic_net() -> Graph:
    """Activations quantized at run time: by sample for a convolution, by row for linear layers, with further codes."""
    m = Maker(3, BATCH)
    x = m.input("x", "batch", 3, 6, 6)
    codes, scale, zero = m.node("dynamic_quantize", x, outputs=3, granularity="sample")
    multiplier = m.constant(m.rng.uniform(0.01, 0.1, 4).astype(np.float32))
    y = m.node(
        "quantized_conv2d",
        codes,
        m.weight(4, 3, 3, 3),
        multiplier,
        m.floats(4),
        "",
        "",
        scale,
        zero,
        output="f32",
        min=0.0,
    )
    y = m.node("transpose", y, perm=(0, 2, 3, 1))
    codes, scale, zero = m.node("dynamic_quantize", y, outputs=3, granularity="row")
    multiplier = m.constant(m.rng.uniform(0.01, 0.1, 7).astype(np.float32))
    y = m.node("quantized_linear", codes, m.weight(7, 4), multiplier, m.floats(7), "", "", scale, zero, output="f32")
    factors = m.constant(m.rng.uniform(0.1, 2.0, 7).astype(np.float32))
    copies = m.constant(np.array([5, 2, 5]))
    codes, scale, zero = m.node("dynamic_quantize", y, factors, copies, outputs=3, granularity="row")
    multiplier = m.constant(m.rng.uniform(0.01, 0.1, 3).astype(np.float32))
    return m.graph(
        m.node("quantized_linear", codes, m.weight(3, 10), multiplier, m.floats(3), "", "", scale, zero, output="f32")
    )


OTHER_KINDS: list[dict[str, Any]] = [
    {"offsets": "float16"},
    {"scales": "float32"},
    {"scales": "float32", "affine": True},
    {"scales": "float32", "offsets": "float16"},
    {"offsets": "float32"},
    {"bits": 8},
    {"bits": 8, "scales": "float32", "offsets": "float16"},
]
"""Of weights in groups, beside half-float scales with or without zero points."""


def few_bits_net(bits: int = 4) -> Graph:
    """Linear layers with few bits a weight: static and by row, symmetric and affine, with a residual and a table; rows
    of two tables."""
    m = Maker(17, BATCH, bits)
    x = m.input("x", "batch", 5, 32)
    scaled = [m.constant(m.rng.uniform(0.2, 0.5, n).astype(np.float32)) for n in (40, 40, 9, 7)]
    codes = m.node("quantize", x, scale=0.05, zero_point=120)
    a = m.node(
        "quantized_linear", codes, m.grouped(40, 32, 8), scaled[0], m.floats(40), zero_point_x=120, output="u8",
        zero_point_y=128, lo=3,
    )  # fmt: skip
    b = m.node(
        "quantized_linear", a, m.grouped(40, 40, 40, affine=True), scaled[1], m.floats(40), a, m.table(), "", "",
        m.floats(40),
        zero_point_x=128, output="u8", zero_point_y=100, residual_multiplier=0.5, residual_zero_point=128,
    )  # fmt: skip
    c = m.node("quantized_linear", b, m.grouped(9, 40, 8, affine=True), scaled[2], m.floats(9), output="f32", max=50.0)
    rows, scale, zero = m.node("dynamic_quantize", c, outputs=3, granularity="row")
    d = m.node("quantized_linear", rows, m.grouped(7, 9, 9), scaled[3], m.floats(7), "", "", scale, zero, output="f32")
    for place, kind in enumerate(OTHER_KINDS):
        each = m.grouped(9, 40, 8, **kind)
        c = m.node(
            "add", c, m.node("quantized_linear", b, each, scaled[2], m.floats(9), output="f32", zero_point_x=place)
        )
    tokens = m.input("tokens", "batch", 3, dtype="i64")
    e = m.node("quantized_embedding", tokens, m.grouped(100, 120, 40))
    f = m.node("quantized_embedding", m.node("cast", tokens, dtype="i32"), m.grouped(100, 19, 19, affine=True))
    return m.graph(d, m.node("dequantize", b, scale=0.2, zero_point=100), e, f)


def grouped_net() -> Graph:
    """Activations quantized in groups along rows, some with factors, for weights of every kind; batch free."""
    m = Maker(37, BATCH)
    x = m.input("x", "batch", 3, 104)
    of_x = m.node("quantize_groups", x, outputs=2, group_size=32)  # the last group has 8 values
    factors = m.constant(m.rng.uniform(0.1, 2.0, 96).astype(np.float32))

    def layer(codes: list[str], weight: str, channels: int, group_size: int, *rest: str, **attrs: Any) -> str:
        multiplier = m.constant(m.rng.uniform(0.01, 0.1, channels).astype(np.float32))
        inputs = (codes[0], weight, multiplier, m.floats(channels), "", "", codes[1], *rest)
        return m.node("quantized_linear", *inputs, output="f32", x_group_size=group_size, **attrs)

    a = layer(of_x, m.weight(96, 104), 96, 32, min=-3.0, max=3.0)
    b = layer(of_x, m.grouped(7, 104, 104), 7, 32, "", m.floats(7))
    sums = [a]
    of_a = m.node("quantize_groups", a, factors, outputs=2, group_size=16)
    for bits in (8, 4, 3, 2, 1):
        for kind in ({}, {"scales": "float32"}, {"offsets": "float16"}, {"affine": True}):
            if bits < 8 or "affine" not in kind:
                sums.append(layer(of_a, m.grouped(96, 96, 48, bits=bits, **kind), 96, 16))
    for name in sums[1:]:
        a = m.node("add", a, name)
    codes = m.node("quantize", a, scale=0.5, zero_point=99)
    of_a = m.node("quantize_groups", a, outputs=2, group_size=200)
    c = m.node(
        "quantized_linear", of_a[0], m.tabled(96, 96), m.constant(np.full(96, 0.1, np.float32)), m.floats(96), codes,
        "", of_a[1], output="f32", x_group_size=200, residual_multiplier=0.5, residual_zero_point=99,
    )  # fmt: skip
    return m.graph(a, b, c)


def sign_net() -> Graph:
    """Layers of signs, with borders, zeros of every kind, words that are not full, and every end; batch free."""
    m = Maker(29, BATCH)
    x = m.input("x", "batch", 40, 5, 6)

    def scaled(channels: int) -> tuple[str, str]:
        return m.constant(m.rng.uniform(0.01, 0.1, channels).astype(np.float32)), m.floats(channels)

    ends = {"output": "u8", "zero_point_y": 120}
    y = m.node("unary", x, kind="relu")
    a = m.node(
        "sign_conv2d", m.node("pack_signs", y, axis=1), m.signs(33, 40, 3, 3), *scaled(33), output="f32",
        padding=(1, 2, 0, 1), stride=(2, 1),
    )  # fmt: skip
    words = m.node("pack_signs", a, axis=1, zero=1)
    b = m.node("sign_conv2d", words, m.signs(64, 33, 2, 2), *scaled(64), "", m.table(), dilation=(2, 1), lo=3, **ends)
    c = m.node(
        "sign_conv2d", m.node("pack_signs", m.node("dequantize", b, scale=0.1, zero_point=120), axis=1, zero=-1),
        m.signs(64, 64, 1, 1), *scaled(64), b, "", "", "", m.floats(64), residual_multiplier=0.1,
        residual_zero_point=120, **ends,
    )  # fmt: skip
    rows = m.node("transpose", m.node("dequantize", c, scale=0.1, zero_point=120), perm=(0, 2, 3, 1))
    words = m.node("pack_signs", rows, axis=-1)
    d = m.node("sign_linear", words, m.signs(17, 64), *scaled(17), output="f32", min=-1.0, max=2.5)
    words = m.node("pack_signs", d, axis=-1, zero=-1)
    return m.graph(m.node("sign_linear", words, m.signs(7, 17), *scaled(7), output="f32"), c, words)


def table_net(bits: int = 4) -> Graph:
    """Rows of tables in codes of eight and few bits, alone and in bags; one table is a layer's weight, too."""
    m = Maker(23, BATCH, bits)
    tokens = m.input("tokens", "batch", 3, dtype="i64")
    table = m.weight(100, 37)
    a = m.node("quantized_embedding", tokens, table)
    codes, scale, zero = m.node("dynamic_quantize", a, outputs=3, granularity="row")
    multiplier = m.constant(m.rng.uniform(0.01, 0.1, 100).astype(np.float32))
    b = m.node("quantized_linear", codes, table, multiplier, m.floats(100), "", "", scale, zero, output="f32")
    flat = m.node("reshape", tokens, shape=("3*batch",))
    offsets = m.node("arange", start=0, length="batch", step=3, dtype="i64")
    weights = m.node("cast", flat, dtype="f32")
    c = m.node("quantized_embedding_bag", flat, table, offsets, mode="mean", padding=4)
    d = m.node("quantized_embedding_bag", flat, m.grouped(100, 120, 40, affine=True), offsets, weights, mode="sum")
    ends = m.node("concat", offsets, m.node("reshape", m.node("dim_value", value="3*batch"), shape=(1,)), axis=0)
    e = m.node("quantized_embedding_bag", flat, m.grouped(100, 19, 19), ends, mode="sum", last=1)
    bytes_ = m.grouped(100, 64, 32, bits=8)
    f = m.node("quantized_embedding_bag", flat, m.grouped(100, 64, 32, offsets="float32"), offsets, weights, mode="sum")
    g = m.node("quantized_embedding", tokens, bytes_)
    return m.graph(b, c, d, e, f, g)


def sparse_net() -> Graph:
    """Convolutions and linear layers, most of whose weights are zero, in blocks of every kind."""
    m = Maker(19, BATCH)
    codes = m.node("quantize", m.input("x", "batch", 8, 5, 6), scale=0.03, zero_point=120)
    scaled = [m.constant(np.full(n, 0.004, np.float32)) for n in (16, 12, 10, 32)]
    geometry = {"zero_point_x": 120, "padding": (1, 1, 1, 1)}
    a = m.node(
        "quantized_conv2d", codes, m.sparse("4x4", 0.2, 16, 8, 3, 3), scaled[0], m.floats(16), output="u8",
        zero_point_y=9,
        **geometry,
    )  # fmt: skip
    b = m.node(
        "quantized_conv2d", a, m.sparse("1x4", 0.3, 12, 16, 1, 1), scaled[1], m.floats(12), output="u8", zero_point_x=9
    )
    flat = m.node("reshape", b, shape=("batch", 360))
    c = m.node("quantized_linear", flat, m.sparse("unstructured", 0.1, 10, 360), scaled[2], m.floats(10), output="f32")
    d = m.node(
        "quantized_linear", flat, m.sparse("16x4", 0.1, 32, 360), scaled[3], m.floats(32), output="f32", zero_point_x=4
    )
    return m.graph(c, d)


def code_table_net() -> Graph:
    """Weights whose codes stand in tables of values: layers, a convolution by groups, rows; binary ones in groups."""
    m = Maker(29, BATCH)
    codes = m.node("quantize", m.input("x", "batch", 8, 5, 6), scale=0.03, zero_point=120)
    scaled = [m.constant(m.rng.uniform(0.001, 0.01, n).astype(np.float32)) for n in (16, 32, 12, 9)]
    a = m.node(
        "quantized_conv2d", codes, m.tabled(16, 8, 3, 3), scaled[0], m.floats(16), zero_point_x=120, output="u8",
        zero_point_y=100, padding=PAD1,
    )  # fmt: skip
    b = m.node(
        "quantized_conv2d", a, m.tabled(32, 1, 3, 3, bits=3), scaled[1], m.floats(32), groups=16,
        zero_point_x=100, output="u8", zero_point_y=90,
    )  # fmt: skip
    flat = m.node("reshape", b, shape=("batch", 32 * 3 * 4))
    c = m.node("quantized_linear", flat, m.tabled(12, 384), scaled[2], m.floats(12), zero_point_x=90, output="f32")
    ones = m.constant(np.ones(9, np.float32))
    parts = [
        m.node("quantized_linear", flat, weight, ones, m.floats(9), zero_point_x=90, output="f32")
        for weight in (
            m.tabled(9, 384, group_size=48),
            m.tabled(9, 384, group_size=48, most=7),
            m.tabled(9, 384, bits=1, group_size=384, most=1),
        )
    ]
    tokens = m.input("tokens", "batch", 3, dtype="i64")
    d = m.node("quantized_embedding", tokens, m.tabled(100, 37))
    e = m.node("quantized_embedding", tokens, m.tabled(100, 64, bits=2, group_size=32, most=1))
    return m.graph(c, *parts, d, e)


def few_bits_image_net(bits: int = 4) -> Graph:
    """Convolutions with few bits a weight: groups that straddle taps, affine ones, one pixel, and ranges by sample."""
    m = Maker(18, BATCH, bits)
    x = m.input("x", "batch", 3, 9, 7)
    scaled = [m.constant(m.rng.uniform(0.01, 0.05, n).astype(np.float32)) for n in (24, 70, 24, 6)]
    a = m.node(
        "quantized_conv2d", m.node("quantize", x, scale=0.03, zero_point=120), m.grouped(24, 27, 27, kernel=(3, 3)),
        scaled[0], m.floats(24, scale=20.0), padding=(1, 0, 2, 1), stride=(2, 1), zero_point_x=120, output="u8",
        zero_point_y=9, lo=9,
    )  # fmt: skip
    b = m.node(
        "quantized_conv2d", a, m.grouped(70, 24, 8, kernel=(1, 1), affine=True), scaled[1],
        m.floats(70, scale=20.0), "",
        m.table(), zero_point_x=9, output="u8", zero_point_y=100,
    )  # fmt: skip
    c = m.node(
        "quantized_conv2d", b, m.grouped(24, 70 * 6, 70 * 6, kernel=(3, 2), affine=True), scaled[2],
        m.floats(24, scale=20.0),
        a, padding=(2, 2, 1, 1), dilation=(2, 2), zero_point_x=128, output="u8", residual_multiplier=0.5,
        residual_zero_point=9,
    )  # fmt: skip
    codes, scale, zero = m.node("dynamic_quantize", m.node("dequantize", c, scale=0.1, zero_point=0), outputs=3,
                                granularity="sample")  # fmt: skip
    d = m.node(
        "quantized_conv2d", codes, m.grouped(6, 96, 16, kernel=(2, 2)), scaled[3], m.floats(6), "", "", scale, zero,
        padding=(0, 1, 1, 0), output="f32", min=0.0,
    )  # fmt: skip
    return m.graph(d)


def half_steps_net() -> Graph:
    """A convolution of two bits over the caller's own codes, in groups of half as many as a kernel reads at a time."""
    m = Maker(27, BATCH, 2)
    x = m.input("x", "batch", 80, 3, 1, dtype="u8")
    scales = m.constant(m.rng.uniform(0.01, 0.05, 40).astype(np.float32))
    y = m.node("quantized_conv2d", x, m.grouped(40, 80, 8, kernel=(1, 1)), scales, m.floats(40), zero_point_x=100,
               output="f32")  # fmt: skip
    return m.graph(y)


def elementwise_net() -> Graph:
    """Arithmetic, unary functions, and what only moves elements; two inputs, two free sizes."""
    m = Maker(4, {**BATCH, "rows": Symbol(minimum=2, maximum=40)})
    x, y = m.input("x", "batch", "rows", 6), m.input("y", 6)
    a = m.node("mul", m.node("add", x, y), m.node("sub", x, m.floats(1, 1, 6)))
    a = m.node("prelu", m.node("div", a, m.constant(np.float32([2.0]))), m.floats(6))
    for kind in ("sigmoid", "tanh", "hardswish", "silu", "gelu", "elu", "leaky_relu"):
        a = m.node("unary", a, kind=kind)
    b = m.node("pad", a, padding=(0, 0, 1, 2, 0, 0), value=-1.5)
    c = m.node("concat", b, x, m.node("clip", x, max=0.25), axis=1)
    d = m.node("slice", c, axis=1, start=1, stop="3*rows + 2", step=2)
    e = m.node("transpose", d, perm=(2, 0, 1))
    f = m.node("mean", e, axes=(0,), keepdim=1)
    q = m.node("quantize", x, scale=0.05, zero_point=100)
    q = m.node("concat", q, m.node("pad", q, padding=(0, 0, 0, 1, 0, 0), value=100.0), axis=1)
    q = m.node("reshape", m.node("slice", q, axis=-1, start=0, stop=3), shape=("batch", "6*rows + 3"))
    g = m.node("mul", m.node("cast", q, dtype="f32"), m.constant(np.float32([0.5])))
    return m.graph(f, g, m.node("cast", d, dtype="i32"))


def sequence_net() -> Graph:
    """Products of two computed operands, attention with every kind of mask, normalization; batch and length free."""
    m = Maker(5, {**BATCH, "length": Symbol(minimum=1, maximum=50)})
    x, image = m.input("x", "batch", "length", 24), m.input("image", "batch", 6, 5, 3)
    x = m.node("layer_norm", x, m.floats(24), m.floats(24), eps=1e-5)
    x = m.node("rms_norm", x, m.floats(24), eps=1e-6)
    q = m.node("transpose", m.node("reshape", x, shape=("batch", "length", 4, 6)), perm=(0, 2, 1, 3))
    k = m.node("slice", q, axis=1, start=0, stop=2)
    flags = m.constant(np.array([True, False, True, True])[:, None, None])
    a = m.node("attention", q, k, k, flags, scale=0.5, nan_if_empty=0)
    scores = m.node("matmul", a, q, transpose_b=1)
    b = m.node("attention", q, q, a, scores, scale=0.25, causal=1, divides_last=1)
    c = m.node("matmul", scores, m.node("layer_norm", b, eps=0.1, axes=2))
    g = m.node("group_norm", image, m.floats(6), m.floats(6), groups=3, eps=1e-5)
    d = m.node("matmul", m.node("group_norm", g, groups=6, eps=0.01), m.floats(3, 7))
    return m.graph(c, m.node("rms_norm", d, axes=2, eps=1e-3), b)


def cache_net() -> Graph:
    """Attention over caches of all types that are outputs; batch and steps free."""
    m = Maker(5, {**BATCH, "steps": Symbol(minimum=1, maximum=40)})
    q, kv = m.input("q", "batch", 4, "steps", 6), m.input("kv", "batch", 2, "steps", 6)
    keys, values = m.input("keys", "batch", 2, 8, 6, 16), m.input("values", "batch", 2, 8, 16, 6)
    n = m.input("n", "batch", dtype="i64")
    length = m.node("remainder", n, m.constant(np.asarray(60, np.int64)))
    y, keys, values = m.node("cached_attention", q, kv, kv, keys, values, length, outputs=3, scale=0.4, window=20)
    halves = [m.node("cast", x, dtype="f16") for x in (keys, values)]
    turns = [
        m.node(
            "unary",
            m.node("reshape", m.node("slice", kv, axis=1, start=0, stop=1), shape=("batch", "steps", 6)),
            kind=kind,
        )
        for kind in ("cos", "sin")
    ]
    z, *halves = m.node("cached_attention", y, kv, kv, *halves, length, *turns, outputs=3, scale=0.3, softcap=2.0)
    zero = m.constant(np.zeros((1, 1, 1, 1, 1), np.int8))
    codes = [m.node("expand", zero, shape=("batch", 2, 8, *sizes)) for sizes in ((10, 16), (16, 10))]
    c, *codes = m.node("cached_attention", q, kv, kv, *codes, length, outputs=3, scale=0.3, window=9)
    return m.graph(z, keys, values, *halves, c, *codes)


def number_net() -> Graph:
    """Arithmetic, comparison and logic of integers and floats; reductions; sizes as values."""
    m = Maker(5, {**BATCH, "rows": Symbol(minimum=2, maximum=40)})
    n, x = m.input("n", "batch", "rows", dtype="i64"), m.input("x", "batch", "rows", 6)
    three = m.constant(np.asarray(3, np.int64))
    a = m.node("floor_div", m.node("sub", n, m.constant(np.int64([7]))), three)
    a = m.node("trunc_div", m.node("mul", a, a), m.node("add", n, m.node("dim_value", value="rows + 1")))
    a = m.node("maximum", m.node("minimum", a, n), m.node("remainder", n, three))
    b = m.node("pow", m.node("fmod", n, three), m.constant(np.int64([2])))
    positions = m.node("arange", start="rows", length="rows", step=-2, dtype="i64")
    c = m.node("compare", m.node("add", a, b), positions, kind="gt")
    c = m.node("logical", c, m.node("logical_not", m.node("compare", n, three, kind="eq")), kind="or")
    mask = m.node("expand", m.node("reshape", c, shape=("batch", "rows", 1)), shape=("batch", "rows", 6))
    y = m.node("where", mask, x, m.constant(np.asarray(-2.5, np.float32)))
    y = m.node("minimum", m.node("remainder", y, m.constant(np.float32([1.5]))), m.node("maximum", x, y))
    z = m.node("pow", m.node("unary", y, kind="abs"), m.constant(np.float32([2.5])))
    for kind in ("sin", "cos", "exp2", "log1p", "erf", "atan", "erfc"):
        z = m.node("unary", z, kind=kind)
    total = m.node("reduce", z, kind="sum", axes=(1, -1), keepdim=1)
    top = m.node("reduce", y, kind="max", axes=(1,))
    counts = m.node("reduce", m.node("cast", c, dtype="i64"), kind="sum", axes=(1,))
    some = m.node("reduce", mask, kind="any", axes=(2,))
    spread = m.node("reduce", x, kind="var", axes=(-1,), correction=1.0, keepdim=1)
    spread = m.node("sub", spread, m.node("reduce", x, kind="std", axes=(1,), keepdim=1))
    return m.graph(
        total,
        top,
        counts,
        some,
        spread,
        *(m.node("cumsum", n if kind == "sum" else x, axis=1, kind=kind) for kind in ("sum", "prod", "max", "min")),
    )


def index_net() -> Graph:
    """Reading and writing at computed places, order along axes."""
    m = Maker(6, {**BATCH, "rows": Symbol(minimum=3, maximum=40)})
    n, x = m.input("n", "batch", "rows", dtype="i64"), m.input("x", "batch", "rows", 6)
    ids = m.node("remainder", n, m.constant(np.int64([9])))
    y = m.node("add", m.node("take", m.floats(9, 6), ids, axis=0), x)
    places = m.node("remainder", n, m.node("dim_value", value="rows"))
    column = m.node("expand", m.node("reshape", places, shape=("batch", "rows", 1)), shape=("batch", "rows", 6))
    g = m.node("gather", y, column, axis=1)
    sample = m.node("reshape", m.node("arange", start=0, length="batch", dtype="i64"), shape=("batch", 1))
    i = m.node("index", g, sample, m.node("sub", places, m.node("dim_value", value="rows")), axis=0)
    s = m.node("scatter", y, column, i, axis=1, reduce="add")
    p = m.node("index_put", s, i, sample, places, axis=0, reduce="max")
    values, order = m.node("sort", p, axis=1, outputs=2, descending=1)
    best, where = m.node("topk", values, axis=2, k=2, outputs=2, largest=0)
    t = m.node("triangle", values, diagonal="rows - 4", upper=1)
    three = m.node("reshape", m.node("slice", ids, axis=1, start=0, stop=3), shape=("3*batch",))
    offsets = m.node("arange", start=0, length="batch", step=3, dtype="i64")
    bags = m.node("embedding_bag", m.floats(9, 5), three, offsets, mode="max")
    bags = m.node("add", bags, m.node("embedding_bag", m.floats(9, 5), three, offsets, mode="mean", padding=4))
    return m.graph(best, where, order, t, m.node("argmax", g, axis=-1, kind="min"), bags)


def recurrent_net() -> Graph:
    """Each kind of recurrent layer, forward and backward, with and without states; batch and number of steps free."""
    m = Maker(6, {**BATCH, "steps": Symbol(minimum=0, maximum=40)})
    x, h0, c0 = m.input("x", "steps", "batch", 24), m.input("state", "batch", 6), m.input("cell", "batch", 6)
    a, _, c = m.node("lstm", x, m.floats(24, 6, scale=0.4), h0, c0, outputs=3)
    b, h, _ = m.node("lstm", x, m.floats(24, 5, scale=0.4), "", c0, m.floats(5, 6), outputs=3, reverse=1)
    gates = m.node("linear", m.node("concat", a, b, axis=2), m.floats(18, 11), m.floats(18))
    y, _ = m.node("gru", gates, m.floats(18, 6, scale=0.4), m.floats(18), h0, outputs=2)
    z, _ = m.node("gru", gates, m.floats(18, 6, scale=0.4), outputs=2, reverse=1)
    y, u = m.node("rnn", m.node("add", y, z), m.floats(6, 6, scale=0.3), h0, outputs=2, kind="tanh")
    y, _ = m.node("rnn", y, m.floats(6, 6, scale=0.3), outputs=2, kind="relu", reverse=1)
    return m.graph(y, m.node("add", u, c), h)


def lengths_net() -> Graph:
    """Recurrent layers whose samples end before the last step; batch and number of steps free."""
    m = Maker(9, {**BATCH, "steps": Symbol(minimum=4, maximum=40)})
    x, h0, n = m.input("x", "steps", "batch", 24), m.input("state", "batch", 5), m.input("n", "batch", dtype="i64")
    n = m.node("add", m.node("remainder", n, m.node("dim_value", value="steps")), m.constant(np.int64([1])))
    a, h, c = m.node("lstm", x, m.floats(24, 5, scale=0.4), h0, "", m.floats(5, 6), n, outputs=3, reverse=1)
    b, _, d = m.node("lstm", x, m.floats(24, 6, scale=0.4), "", "", "", n, outputs=3)
    gates = m.node("linear", m.node("concat", a, b, axis=2), m.floats(15, 11), m.floats(15))
    y, g = m.node("gru", gates, m.floats(15, 5, scale=0.4), m.floats(15), h0, n, outputs=2)
    z, _ = m.node("gru", gates, m.floats(15, 5, scale=0.4), "", "", n, outputs=2, reverse=1)
    y, u = m.node("rnn", m.node("add", y, z), m.floats(5, 5, scale=0.3), h0, n, outputs=2, kind="tanh", reverse=1)
    z, v = m.node("rnn", y, m.floats(5, 5, scale=0.3), "", n, outputs=2, kind="relu")
    return m.graph(y, z, m.node("add", c, d), *(h, g, u, v))


def coded_recurrent_net() -> Graph:
    """Recurrent layers whose weights are codes, with and without states and lengths; batch and steps free."""
    m = Maker(7, {**BATCH, "steps": Symbol(minimum=4, maximum=40)})
    x, h0, n = m.input("x", "steps", "batch", 24), m.input("state", "batch", 6), m.input("n", "batch", dtype="i64")
    n = m.node("add", m.node("remainder", n, m.node("dim_value", value="steps")), m.constant(np.int64([1])))
    a, _, c = m.node("quantized_lstm", x, m.weight(24, 6, scale=0.1), h0, h0, outputs=3)
    b, h, _ = m.node("quantized_lstm", x, m.weight(24, 5, scale=0.1), "", h0, m.floats(5, 6), n, outputs=3, reverse=1)
    gates = m.node("linear", m.node("concat", a, b, axis=2), m.floats(18, 11), m.floats(18))
    y, _ = m.node("quantized_gru", gates, m.weight(18, 6, scale=0.1), m.floats(18), h0, outputs=2)
    z, _ = m.node("quantized_gru", gates, m.weight(18, 6, scale=0.1), "", "", n, outputs=2, reverse=1)
    y, u = m.node("quantized_rnn", m.node("add", y, z), m.weight(6, 6, scale=0.1), h0, n, outputs=2, kind="tanh")
    y, _ = m.node("quantized_rnn", y, m.tabled(6, 6, most=3), outputs=2, kind="relu", reverse=1)
    return m.graph(y, m.node("add", u, c), h)


def resampling_net() -> Graph:
    """Interpolation and padding of every mode, on floats and codes; height free."""
    m = Maker(6, {**BATCH, "rows": Symbol(minimum=3, maximum=40)})
    x = m.input("x", "batch", 3, "rows", 5)
    y = m.node("resize", x, size=("2*rows", 12), mode="linear", scales=(2.0, 2.4))
    y = m.node("conv2d", m.node("pad", y, padding=(0, 0, 0, 0, 2, 1, 3, 4), mode="reflect"), m.floats(4, 3, 1, 1))
    y = m.node("resize", y, size=(9, 8), mode="cubic", align_corners=1)
    q = m.node("quantize", x, scale=0.03, zero_point=120)
    q = m.node("resize", q, size=("rows + 3", 7), mode="nearest", scales=(1.9, 1.5), snap=16)
    q = m.node("pad", q, padding=(0, 0, 1, 0, 0, 3, 2, 2), mode="replicate")
    q = m.node("resize", q, size=(6, 5), mode="linear")
    q = m.node("pad", q, padding=(0, 0, 0, 2, 6, 0, 1, 0), mode="circular")
    q = m.node("pad", q, padding=(0, 0, 0, 0, "rows - 2", 0, 0, 0), value=120.0)
    q = m.node("resize", q, size=(7, 9), mode="nearest_exact")
    q = m.node("resample", q, axis=3, size="rows", mode="linear", scale=0.4)
    y = m.node("resample", m.node("resample", y, axis=2, size=4, mode="cubic"), axis=3, size="rows", mode="linear")
    return m.graph(y, m.node("dequantize", q, scale=0.03, zero_point=120))


def unpooling_net() -> Graph:
    """Maxima with their places, and values put back there; height free."""
    m = Maker(8, {**BATCH, "rows": Symbol(minimum=2, maximum=40)})
    x = m.input("x", "batch", 19, "rows", 6)
    y, places = m.node("max_pool2d_with_indices", x, outputs=2, kernel=(2, 2), stride=(2, 2), ceil_mode=1)
    best, at = m.node("adaptive_max_pool2d_with_indices", y, outputs=2, output_size=(1, 2))
    y = m.node("add", m.node("max_unpool2d", y, places, output_size=("rows", 6)), x)
    wide = m.node("max_unpool2d", best, at, output_size=("rows", 5))
    z, again = m.node(
        "max_pool2d_with_indices", y, outputs=2, kernel=(3, 2), stride=(1, 2), padding=(1, 1, 1, 0), dilation=(1, 2)
    )
    return m.graph(z, again, wide, places)


def sampling_net() -> Graph:
    """Pixels at computed places of images and volumes; the number of places free."""
    m = Maker(9, {**BATCH, "rows": Symbol(minimum=1, maximum=40)})
    x, grid = m.input("x", "batch", 18, 7, 5), m.input("grid", "batch", "rows", 3, 2)
    volume, places = m.input("volume", "batch", 2, 3, 4, 5), m.input("places", "batch", 1, "rows", 2, 3)
    y = m.node("grid_sample", x, grid, mode="linear", padding="border")
    z = m.node("grid_sample", x, grid, mode="cubic", padding="reflection", align_corners=1)
    w = m.node("grid_sample", volume, places, mode="linear", padding="zeros")
    return m.graph(m.node("concat", y, z, axis=1), w, m.node("grid_sample", y, grid, mode="nearest", padding="zeros"))


GRAPHS: dict[str, Callable[[], Graph]] = {
    "float_net": float_net,
    "volume_net": volume_net,
    "integer_net": integer_net,
    "dynamic_net": dynamic_net,
    "grouped_net": grouped_net,
    "four_bit_net": few_bits_net,
    "two_bit_net": partial(few_bits_net, 2),
    "three_bit_net": partial(few_bits_net, 3),
    "one_bit_net": partial(few_bits_net, 1),
    "table_net": table_net,
    "two_bit_table_net": partial(table_net, 2),
    "three_bit_table_net": partial(table_net, 3),
    "one_bit_table_net": partial(table_net, 1),
    "code_table_net": code_table_net,
    "sign_net": sign_net,
    "sparse_net": sparse_net,
    "four_bit_image_net": few_bits_image_net,
    "two_bit_image_net": partial(few_bits_image_net, 2),
    "three_bit_image_net": partial(few_bits_image_net, 3),
    "one_bit_image_net": partial(few_bits_image_net, 1),
    "half_steps_net": half_steps_net,
    "elementwise_net": elementwise_net,
    "resampling_net": resampling_net,
    "unpooling_net": unpooling_net,
    "sampling_net": sampling_net,
    "sequence_net": sequence_net,
    "cache_net": cache_net,
    "number_net": number_net,
    "index_net": index_net,
    "recurrent_net": recurrent_net,
    "lengths_net": lengths_net,
    "coded_recurrent_net": coded_recurrent_net,
}


def feeds(graph: Graph, sizes: dict[str, int] | None = None, seed: int = 0) -> dict[str, Array]:
    """Random inputs; a free size is `sizes[name]`, else its minimum + 1."""
    from lowbit.graph import dims
    from lowbit.graph.ir import DTYPES

    rng = np.random.default_rng(seed)
    known = {name: symbol.minimum + 1 for name, symbol in graph.symbols.items()} | (sizes or {})
    made = {}
    for name in graph.inputs:
        value = graph.values[name]
        shape = [dims.evaluate(dim, known) for dim in value.shape]
        dtype = DTYPES[value.dtype]
        made[name] = (
            rng.standard_normal(shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 100, shape).astype(dtype)
        )
    return made
