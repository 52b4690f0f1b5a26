"""Single integer layers to measure: lowbit's graph of one, and lowbit's own time for it in a session.

Codes and weights are drawn from normal distributions, as trained ones nearly are, or weights are given, and scaled so
that the outputs use their range. A layer may come in copies that share its input, each with weights in a place of its
own, so that running all of them in turn reads the weights from farther away.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

import cap
from lowbit import _core
from lowbit.graph.ir import Array, Graph, Node, Value, Weight
from lowbit.ops import constant_value
from lowbit.runtime import roofline
from lowbit.runtime.profile import Row
from lowbit.runtime.roofline import Roofline
from lowbit.runtime.session import Session

ZERO = 128
"""The zero point of inputs and outputs: the middle of the codes."""
SLICE = 0.005
"""Seconds of a contestant's turn: short, so that on a busy machine some turns are left alone."""


def begin(
    parser: argparse.ArgumentParser, peers: Sequence[str], *, rounds: int
) -> tuple[argparse.Namespace, list[str], Roofline]:
    """Read the command line, with --peers, --threads, --rounds and --isa; measure the machine and print what it is.

    Returns the options, the peers that are wanted, and the machine's limits for so many threads.
    """
    parser.add_argument("--peers", default=",".join(peers))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=rounds)
    cap.add_option(parser)
    options = parser.parse_args()
    cap.hold(options.isa)
    wanted = [peer for peer in options.peers.split(",") if peer]
    if unknown := sorted(set(wanted) - set(peers)):
        parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(peers)}")
    roof = roofline.measure(threads=options.threads, seconds=2.0)
    print(f"{_core.cpu()['model']}; {roof}; {options.rounds} interleaved rounds\n")
    return options, wanted, roof


@dataclass(frozen=True, kw_only=True)
class Case:
    """An int8 layer: codes u8 `x` and `y`, weights s8 `w`, by their shapes; the integer operator and its attributes.

    given: the weights' numbers, or None: drawn. sparsity: the share of the weights that is zero, in blocks of `block` x
    4 output x input channels.
    """

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    y: tuple[int, ...]
    attrs: dict[str, int | tuple[int, ...]]
    copies: int = 1
    given: npt.NDArray[np.float32] | None = None
    sparsity: float = 0.0
    block: int = 4

    @cached_property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The input."""
        normal = np.random.default_rng(1).standard_normal(self.x, np.float32)
        codes: npt.NDArray[np.uint8] = np.clip(np.rint(normal * 42) + ZERO, 0, 255).astype(np.uint8)
        return codes

    @cached_property
    def weights(self) -> npt.NDArray[np.int8]:
        """Each output's largest is 127 or -127."""
        numbers = np.random.default_rng(0).standard_normal(self.w, np.float32) if self.given is None else self.given
        largest = np.abs(numbers).max(axis=tuple(range(1, len(self.w))), keepdims=True)
        codes: npt.NDArray[np.int8] = np.rint(numbers * (127 / largest)).astype(np.int8)
        blocks = (-(-self.w[0] // self.block), -(-self.w[1] // 4), *self.w[2:])
        worth = np.random.default_rng(3).permutation(int(np.prod(blocks))).reshape(blocks)
        kept = np.repeat(np.repeat(worth >= self.sparsity * worth.size, self.block, axis=0), 4, axis=1)
        return codes * kept[: self.w[0], : self.w[1]]

    def copy(self, number: int) -> npt.NDArray[np.int8]:
        """The weights of a copy: its own memory and, after the first, its own numbers, so that nobody shares them."""
        return np.roll(self.weights, number, axis=0)

    @cached_property
    def multiplier(self) -> npt.NDArray[np.float32]:
        """From sums to output codes, for each output: their standard deviation becomes 40 codes."""
        rows = self.weights.reshape(self.w[0], -1).astype(np.float32)
        multiplier: npt.NDArray[np.float32] = np.float32(40 / 42) / np.sqrt(np.fmax(np.square(rows).sum(axis=1), 1))
        return multiplier

    @cached_property
    def bias(self) -> npt.NDArray[np.float32]:
        """In output codes, for each output."""
        return np.random.default_rng(2).standard_normal(self.w[0], np.float32)

    def pair(self, name: str) -> tuple[int, int]:
        """A convolution's attribute of two axes; its padding before both."""
        values = self.attrs[name]
        assert isinstance(values, tuple)
        return values[0], values[1]

    def graph(self) -> Graph:
        """A node for each copy, zero points in the middle of the codes, output u8."""
        attrs = {**self.attrs, "zero_point_x": ZERO, "zero_point_y": ZERO, "lo": 0, "hi": 255, "output": "u8"}
        values = {"x": Value(dtype="u8", shape=self.x)}
        constants: dict[str, Array | Weight] = {"multiplier": self.multiplier, "bias": self.bias}
        nodes = []
        for copy in range(self.copies):
            constants[f"w{copy}"] = Weight(codes=self.copy(copy), scales=np.ones(self.w[0], np.float32))
            values[f"y{copy}"] = Value(dtype="u8", shape=self.y)
            inputs = ("x", f"w{copy}", "multiplier", "bias")
            name = f"{self.op} {copy}"
            nodes.append(Node(op=self.op, name=name, inputs=inputs, outputs=(f"y{copy}",), attrs=attrs))
        values |= {name: constant_value(constant) for name, constant in constants.items()}
        outputs = tuple(f"y{copy}" for copy in range(self.copies))
        return Graph(inputs=("x",), outputs=outputs, values=values, nodes=tuple(nodes), constants=constants)


def product(m: int, n: int, k: int, *, copies: int = 1, given: npt.NDArray[np.float32] | None = None) -> Case:
    """[m, k] x [n, k]."""
    return Case(op="quantized_linear", x=(m, k), w=(n, k), y=(m, n), attrs={}, copies=copies, given=given)


def conv(channels: int, outputs: int, size: int, kernel: int, *, stride: int = 1, groups: int = 1) -> Case:
    """A `kernel` x `kernel` convolution on [1, channels, size, size], padded to keep size / stride."""
    pad, out = kernel // 2, (size + stride - 1) // stride
    attrs: dict[str, int | tuple[int, ...]] = {
        "stride": (stride,) * 2,
        "padding": (pad,) * 4,
        "dilation": (1, 1),
        "groups": groups,
    }
    w = (outputs, channels // groups, kernel, kernel)
    return Case(op="quantized_conv2d", x=(1, channels, size, size), w=w, y=(1, outputs, out, out), attrs=attrs)


def steps(session: Session, case: Case, repeats: int) -> list[Row]:
    """The copies' rows of a profile."""
    return [row for row in session.profile(case.codes, repeats=repeats) if row.op == case.op]


def node_timer(session: Session, case: Case) -> Callable[[], float]:
    """A turn: the median time of a node in a profile of about `SLICE`; the mean of it over the copies."""
    warm = steps(session, case, repeats=3)
    return partial(_node_seconds, session, case, repetitions(sum(row.seconds for row in warm)))


def repetitions(seconds: float) -> int:
    """How many calls, of so many seconds each, a turn takes."""
    return max(3, min(1000, round(SLICE / max(seconds, 1e-7))))


def _node_seconds(session: Session, case: Case, repeats: int) -> float:
    rows = steps(session, case, repeats)
    return sum(row.seconds for row in rows) / len(rows)
