"""A graph with segments that torch runs: core sessions and torch segments, one after the other.

    stage 0: what depends on no segment | segments that need stage 0 only | stage 1: what depends on those | ...

It stands where a compiled core session does (`_core.Session`), so that whoever holds one need not know.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, LimitError
from ..graph import dims
from ..graph.ir import DTYPES, Array, Graph, Node, replace
from ..ops import OPS
from ..ops.interpreter import bind, with_sizes
from ..ops.segment import outputs
from ..ops.torch_program import Segment

if TYPE_CHECKING:
    from .. import _core

Compile = Callable[[Graph], "_core.Session"]


def has_segments(graph: Graph) -> bool:
    """Whether some of the graph runs in torch."""
    return any(node.op == "torch" for node in graph)


def describe(graph: Graph) -> str:
    """The segments, by name and place."""
    found = [node for node in graph if node.op == "torch"]
    return ", ".join(f"{node.name} ({node.source})" if node.source else node.name for node in found)


class Chain:
    """Runs a valid graph piece by piece; immutable, safe to run from many threads at once.

    seconds: that a call may take; what torch runs ends by itself, and then no piece begins any more.
    """

    def __init__(self, graph: Graph, compile_piece: Compile, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._graph = replace(graph, constants={})
        self._pieces = [
            CorePiece(session=compile_piece(piece), inputs=piece.inputs, outputs=piece.outputs)
            if isinstance(piece, Graph)
            else _torch_piece(graph, piece)
            for piece in split(graph)
        ]
        last = {name: index for index, piece in enumerate(self._pieces) for name in piece.inputs}
        self._done = [[name for name, at in last.items() if at == index] for index in range(len(self._pieces))]
        cores = [piece.session for piece in self._pieces if isinstance(piece, CorePiece)]
        self.isa = cores[0].isa if cores else "torch"
        self.threads = cores[0].threads if cores else 1

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, in order. Raises InputError."""
        known, start = self._named(inputs), time.monotonic()
        for _ in self._steps(known):
            if self._seconds is not None and time.monotonic() - start > self._seconds:
                raise LimitError(f"the call took longer than this session's limit, {self._seconds:g} seconds")
        return [known[name] for name in self._graph.outputs]

    def _named(self, inputs: Sequence[Array]) -> dict[str, Array]:
        names, arrays = self._graph.inputs, list(inputs)
        if len(arrays) != len(names):
            raise InputError(f"expected {len(names)} inputs, got {len(arrays)}")
        for place, array in enumerate(arrays):
            if not isinstance(array, np.ndarray):
                raise InputError(f"input {place} must be a NumPy array, is {type(array).__name__}")
        return dict(zip(names, arrays, strict=True))

    def _steps(self, known: dict[str, Array]) -> Iterator[tuple[CorePiece | TorchPiece, list[Array], dict[str, int]]]:
        """Run piece after piece, each shown with its inputs first; let go of what nobody needs any more."""
        sizes = bind(self._graph, known)
        for piece, done in zip(self._pieces, self._done, strict=True):
            given = [known[name] for name in piece.inputs]
            yield piece, given, sizes
            known.update(zip(piece.outputs, piece.run(given, sizes), strict=True))
            for name in done:
                if name not in self._graph.outputs:
                    del known[name]

    def run_into(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """`run`, and a copy into the caller's arrays."""
        made = self.run(inputs)
        if [(x.shape, x.dtype) for x in made] != [(x.shape, x.dtype) for x in outputs]:
            raise InputError(f"the outputs are {[f'{x.dtype} {list(x.shape)}' for x in made]}, the arrays for them not")
        for array, target in zip(made, outputs, strict=True):
            target[...] = array

    def profile(self, inputs: Sequence[Array], repeats: int) -> list[dict[str, Any]]:
        """The steps of all pieces; a segment is one step, whose operations are those of its products."""
        known = self._named(inputs)
        return [row for piece, given, sizes in self._steps(known) for row in piece.profile(given, sizes, repeats)]

    def nodes(self) -> list[dict[str, Any]]:
        """node, op and kernel of each step."""
        return [row for piece in self._pieces for row in piece.nodes()]


@dataclass(frozen=True, kw_only=True, eq=False)
class CorePiece:
    """A part of the graph that the core runs."""

    session: _core.Session
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, given: list[Array], sizes: Mapping[str, int]) -> list[Array]:
        """The outputs."""
        return self.session.run(given)

    def profile(self, given: list[Array], sizes: Mapping[str, int], repeats: int) -> list[dict[str, Any]]:
        """Each step's time."""
        return self.session.profile(given, repeats)

    def nodes(self) -> list[dict[str, Any]]:
        """Each step's kernel."""
        return self.session.nodes()


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchPiece:
    """A node that torch runs. constants: by their place among its inputs."""

    node: Node
    segment: Segment
    inputs: tuple[str, ...]
    constants: Mapping[int, Array]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it makes."""
        return self.node.outputs

    def _arrays(self, given: Sequence[Array]) -> list[Array]:
        computed = iter(given)
        count = len(self.node.inputs) - 1
        return [self.constants[place] if place in self.constants else next(computed) for place in range(count)]

    def run(self, given: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
        """The outputs. Raises InputError where torch fails, or gives something else than the graph says."""
        attrs: Mapping[str, Any] = with_sizes(self.node, sizes).attrs
        found = self.segment.run(self._arrays(given), attrs["sizes"])
        expected = [(DTYPES[value.dtype], value.shape) for value in outputs(attrs)]
        if [(array.dtype, array.shape) for array in found] != expected:
            gave = [f"{array.dtype} {list(array.shape)}" for array in found]
            raise InputError(f"segment {self.node.name!r}, which torch runs, gave {gave}; the graph says otherwise")
        return found

    def profile(self, given: Sequence[Array], sizes: Mapping[str, int], repeats: int) -> list[dict[str, Any]]:
        """One row for all of it."""
        arrays = self._arrays(given)
        attrs: Mapping[str, Any] = with_sizes(self.node, sizes).attrs
        operations = self.segment.flops(arrays, attrs["sizes"])
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.segment.run(arrays, attrs["sizes"])
            seconds.append(time.perf_counter() - start)
        measured = {"seconds": statistics.median(seconds), "operations": float(operations)}
        return [{**self.nodes()[0], **measured, "bytes": float(sum(array.nbytes for array in arrays))}]

    def nodes(self) -> list[dict[str, Any]]:
        """One row for all of it."""
        return [{"node": self.node.name, "op": "torch", "kernel": "torch"}]


def _torch_piece(graph: Graph, node: Node) -> TorchPiece:
    program, *names = node.inputs
    constants = {i: np.asarray(graph.constants[name]) for i, name in enumerate(names) if name in graph.constants}
    return TorchPiece(
        node=node,
        segment=Segment(np.asarray(graph.constants[program]).tobytes()),
        inputs=tuple(name for name in names if name not in graph.constants),
        constants=constants,
    )


# ---------------------------------------------------------------------------------------------------------------- split


def split(graph: Graph) -> list[Graph | Node]:
    """The core's parts of the graph and the nodes that torch runs, in an order that works."""
    stages: list[tuple[list[Node], list[Node]]] = []
    ready: dict[str, int] = {}
    for node in graph:
        stage = max((ready.get(name, 0) for name in node.inputs), default=0)
        while len(stages) <= stage:
            stages.append(([], []))
        in_torch = node.op == "torch"
        stages[stage][in_torch].append(node)
        ready.update(dict.fromkeys(node.outputs, stage + in_torch))
    parts: list[list[Node]] = [part for nodes, segments in stages for part in (nodes, *([node] for node in segments))]
    needed = [{name for node in part for name in node.inputs} for part in parts]
    pieces: list[Graph | Node] = []
    for index, part in enumerate(parts):
        later = set(graph.outputs).union(*needed[index + 1 :])
        if part and part[0].op == "torch":
            pieces.append(part[0])
        elif part:
            pieces.append(_piece(graph, part, needed[index], later))
    return pieces


def _piece(graph: Graph, nodes: list[Node], needed: set[str], later: set[str]) -> Graph:
    """The part as a graph of its own: what it reads from elsewhere becomes inputs, what others read outputs."""
    made = [name for node in nodes for name in node.outputs]
    constants = {name: constant for name, constant in graph.constants.items() if name in needed}
    read = [name for name in graph.values if name in needed and name not in made and name not in constants]
    symbols = _symbols(graph, nodes, (*read, *made))
    bare = {size for name in read for size in graph.values[name].shape}
    for name in graph.inputs:  # an input that the part does not read may still say how large a size is
        shape = set(graph.values[name].shape)
        if (symbols - bare) & shape:
            read.append(name)
            bare |= shape
    return replace(
        graph,
        inputs=tuple(read),
        outputs=tuple(name for name in made if name in later),
        values={name: graph.values[name] for name in (*read, *made, *constants)},
        nodes=tuple(nodes),
        constants=constants,
        symbols={name: symbol for name, symbol in graph.symbols.items() if name in symbols},
        conditions=tuple(item for item in graph.conditions if dims.symbols_of(item.size) <= symbols),
    )


def _symbols(graph: Graph, nodes: list[Node], names: Sequence[str]) -> set[str]:
    """The symbols in the values and attributes of a part."""
    sizes: list[Any] = [size for name in names for size in graph.values[name].shape]
    for node in nodes:
        for name, attr in OPS[node.op].attrs.items():
            if name in node.attrs and attr.kind in ("dim", "dims"):
                given: Any = node.attrs[name]
                sizes += given if attr.kind == "dims" else [given]
    return {symbol for size in sizes for symbol in dims.symbols_of(size)}
