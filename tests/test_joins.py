"""No copies: values written where they are joined, parts and orders of axes read where they lie, change no bit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import BATCH, Maker, feeds
from lowbit.graph.ir import Graph, Symbol
from lowbit.runtime.session import Session
from test_session import check

SCALES = {"zero_point_x": 100, "output": "u8", "zero_point_y": 100}


def conv(m: Maker, x: str, channels: int, filters: int, size: int = 1, groups: int = 1, residual: str = "") -> str:
    """A convolution of codes with scale and zero point as its input that keeps height and width."""
    multiplier, bias = m.constant(m.rng.uniform(1e-4, 1e-3, filters).astype("f")), m.floats(filters, scale=20.0)
    weight, extra = m.weight(filters, channels // groups, size, size), (residual,) if residual else ()
    attrs = {"residual_multiplier": 0.5, "residual_zero_point": 100} if residual else {}
    padding = (size // 2,) * 4
    return m.node(
        "quantized_conv2d", x, weight, multiplier, bias, *extra, padding=padding, groups=groups, **SCALES, **attrs
    )


def steps(graph: Graph, batch: int = 2) -> list[str]:
    """What a session runs, operator by operator."""
    session = Session(graph, threads=1)
    return [row.op for row in session.profile(**feeds(graph, {"batch": batch}), repeats=1).rows]


class Values:
    """A growing set of images of codes or floats with one height and width, to draw from."""

    def __init__(self, data: st.DataObject, m: Maker, *, codes: bool) -> None:
        self.data, self.m, self.codes = data, m, codes
        channels, height, width = (data.draw(st.integers(1, most)) for most in (9, 6, 6))
        x = m.input("x", "batch", channels, height, width)
        self.channels = {m.node("quantize", x, scale=0.02, zero_point=100) if codes else x: channels}

    def any(self, channels: int | None = None) -> str:
        """A value, if possible of so many channels."""
        names = [name for name, count in self.channels.items() if count == channels]
        return self.data.draw(st.sampled_from(names or sorted(self.channels)))

    def make(self) -> None:
        """One more value from those that are there."""
        m, x = self.m, self.any()
        count = self.channels[x]
        kinds = ["join", "join", "join", "part", "conv", "wide", "depth", "pool", "unary", "pair"]
        kind = self.data.draw(st.sampled_from(kinds))
        if kind == "join":
            parts = [self.any() for _ in range(self.data.draw(st.integers(1, 4)))]
            self.channels[m.node("concat", *parts, axis=1)] = sum(self.channels[part] for part in parts)
        elif kind == "part":
            start = self.data.draw(st.integers(0, count - 1))
            stop = self.data.draw(st.integers(start + 1, count))
            self.channels[m.node("slice", x, axis=1, start=start, stop=stop)] = stop - start
        elif kind in ("conv", "wide"):
            filters, residual = self.data.draw(st.integers(1, 40)), ""
            if self.data.draw(st.booleans()):
                residual = self.any()
                filters = self.channels[residual]
            self.channels[self._conv(x, count, filters, 3 if kind == "wide" else 1, 1, residual)] = filters
        elif kind == "depth":
            self.channels[self._conv(x, count, count, 3, count, "")] = count
        elif kind == "pool":
            y = m.node("max_pool2d", x, kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1))
            self.channels[y] = count
        elif kind == "unary":
            y = m.node("lookup", x, m.table()) if self.codes else m.node("unary", x, kind="tanh")
            self.channels[y] = count
        else:
            other = self.any(count)
            if self.channels[other] == count:
                sums = {"multiplier_a": 0.5, "multiplier_b": 0.7, "zero_point_a": 90, "zero_point_b": 120}
                y = (
                    m.node("quantized_add", x, other, zero_point_y=100, **sums)
                    if self.codes
                    else m.node("add", x, other)
                )
                self.channels[y] = count

    def _conv(self, x: str, channels: int, filters: int, size: int, groups: int, residual: str) -> str:
        if self.codes:
            return conv(self.m, x, channels, filters, size, groups, residual)
        weight = self.m.floats(filters, channels // groups, size, size, scale=1 / (channels * size))
        extra = ("", residual) if residual else ()
        return self.m.node("conv2d", x, weight, *extra, padding=(size // 2,) * 4, groups=groups)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans(), st.integers(0, 2**31), st.integers(1, 3))
def test_random_joins(data: st.DataObject, codes: bool, seed: int, batch: int) -> None:
    m = Maker(seed, BATCH)
    values = Values(data, m, codes=codes)
    for _ in range(data.draw(st.integers(3, 14))):
        values.make()
    made = list(values.channels)[1:]
    outputs = data.draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True)) if made else []
    check(m.graph(*dict.fromkeys([*outputs, list(values.channels)[-1]])), {"batch": batch}, seed)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(0, 2**31))
def test_joins_along_any_axis(data: st.DataObject, seed: int) -> None:
    m = Maker(seed, BATCH)
    shape = [data.draw(st.integers(1, 5)) for _ in range(data.draw(st.integers(1, 4)))]
    names = [m.input("x", "batch", *shape)]
    for _ in range(data.draw(st.integers(2, 8))):
        x = data.draw(st.sampled_from(names))
        y = m.node("unary", x, kind=data.draw(st.sampled_from(["abs", "neg", "relu"])))
        axis = data.draw(st.integers(1, len(shape)))
        halves = [m.node("slice", y, axis=axis, start=a, stop=b, step=1) for a, b in ((0, 2), (2, 99))]
        halves = [m.node("unary", half, kind="square") if data.draw(st.booleans()) else half for half in halves]
        names.append(m.node("concat", *halves, axis=axis))
    last = m.node("concat", *names, axis=data.draw(st.integers(1, len(shape))))
    check(m.graph(last, *data.draw(st.lists(st.sampled_from(names[1:]), max_size=2, unique=True))), {"batch": 2}, seed)


def test_a_join_of_convolutions_runs_nothing() -> None:
    m = Maker(0, BATCH)
    x = m.node("quantize", m.input("x", "batch", 8, 9, 9), scale=0.02, zero_point=100)
    y = m.node("concat", conv(m, x, 8, 24), conv(m, x, 8, 40, 3), axis=1)
    graph = m.graph(m.node("dequantize", conv(m, y, 64, 8), scale=0.02, zero_point=100))
    assert "concat" not in steps(graph)
    check(graph, {"batch": 3})


def test_a_dense_block_runs_no_join() -> None:
    m = Maker(1, BATCH)
    x = m.node("quantize", m.input("x", "batch", 16, 7, 7), scale=0.02, zero_point=100)
    features = [conv(m, x, 16, 16)]
    for i in range(4):
        joined = m.node("concat", *features, axis=1) if i > 0 else features[0]
        features.append(conv(m, joined, 16 * (i + 1), 16, 3))
    graph = m.graph(m.node("adaptive_max_pool2d", m.node("concat", *features, axis=1), output_size=(1, 1)))
    assert "concat" not in steps(graph)
    assert steps(graph).count("quantized_conv2d") == 5
    check(graph, {"batch": 2})


@pytest.mark.parametrize("channels", [1, 5])
def test_what_is_read_beside_an_input_does_not_change(channels: int) -> None:
    m = Maker(3, BATCH)  # kernels read four channels at a time: here the next image's, which the layer itself writes
    x = m.node("quantize", m.input("x", "batch", 3, 4, 4), scale=0.02, zero_point=100)
    few = conv(m, x, 3, channels)
    check(m.graph(m.node("concat", few, conv(m, few, channels, 70), axis=1)), {"batch": 2})


@pytest.mark.parametrize("batch", [1, 3])
def test_halves_of_an_image_are_read_where_they_lie(batch: int) -> None:
    m = Maker(2, BATCH)
    x = m.node("quantize", m.input("x", "batch", 4, 5, 5), scale=0.02, zero_point=100)
    y = conv(m, x, 4, 32)
    left, right = (m.node("slice", y, axis=1, start=start, stop=start + 16) for start in (0, 16))
    graph = m.graph(m.node("quantized_add", conv(m, left, 16, 16), conv(m, right, 16, 16, 3), multiplier_a=0.5,
                           multiplier_b=0.5, zero_point_a=100, zero_point_b=100, zero_point_y=100))  # fmt: skip
    assert "slice" not in steps(graph, batch)
    check(graph, {"batch": batch})


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 2**31))
def test_attention_between_transposes(data: st.DataObject, seed: int) -> None:
    m = Maker(seed, {**BATCH, "length": Symbol(minimum=1, maximum=9)})
    heads, depth = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    wide = m.input("x", "batch", "length", 2, heads, depth)
    values = [
        m.node("reshape", part, shape=("batch", "length", heads, depth))
        for part in (m.node("slice", wide, axis=2, start=i, stop=i + 1) for i in range(2))
    ]
    values.append(m.node("unary", values[0], kind="tanh"))
    turned = [m.node("transpose", value, perm=(0, 2, 1, 3)) for value in values]
    outputs = []
    for _ in range(data.draw(st.integers(1, 3))):
        y = m.node("attention", *(data.draw(st.sampled_from(turned)) for _ in range(3)), scale=0.5)
        perm = data.draw(st.sampled_from([(0, 2, 1, 3), (0, 1, 3, 2), (2, 0, 1, 3)]))
        outputs += [m.node("transpose", y, perm=perm), *data.draw(st.sampled_from([[], [y]]))]
        turned.append(y)
        outputs[-1] = m.node("unary", outputs[-1], kind="abs") if data.draw(st.booleans()) else outputs[-1]
    outputs += data.draw(st.lists(st.sampled_from(turned), max_size=1))
    check(m.graph(*dict.fromkeys(outputs)), {"batch": 2, "length": data.draw(st.integers(1, 9))}, seed)


def test_attention_reads_keys_and_writes_results_in_the_order_of_layers() -> None:
    m = Maker(6, {**BATCH, "length": Symbol(minimum=1, maximum=50)})
    x = m.input("x", "batch", "length", 24)
    heads = [
        m.node("transpose", m.node("reshape", m.node("linear", x, m.floats(24, 24)),
                                   shape=("batch", "length", 4, 6)), perm=(0, 2, 1, 3))
        for _ in range(3)
    ]  # fmt: skip
    y = m.node("transpose", m.node("attention", *heads, scale=0.4), perm=(0, 2, 1, 3))
    graph = m.graph(m.node("linear", m.node("reshape", y, shape=("batch", "length", 24)), m.floats(8, 24)))
    session = Session(graph, threads=1)
    rows = session.profile(**feeds(graph, {"batch": 2, "length": 7}), repeats=1).rows
    assert "transpose" not in [row.op for row in rows]
    check(graph, {"batch": 2, "length": 7})
