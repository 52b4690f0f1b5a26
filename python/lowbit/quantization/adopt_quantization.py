"""Makes integer nodes of what was quantized before it came here (torchao's PT2E), with its own scales and codes.

Such a graph computes in float32 between `quantize` and `dequantize` nodes, and its weights are float32 numbers whose
codes are known. Nothing is calibrated or rounded again: whatever reads dequantized codes and is quantized after is one
integer node, with the constants that these scales give. The quantization of a value that only moves (a max pool, a
reshape ...) is moved before the move, which changes nothing and keeps bytes instead of floats.

What the model leaves in float32 stays in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Array, Coded, Graph, Node, Quant, Weight, replace
from ..ops.interpreter import validate
from ..passes.fuse_residual import fuse_residual
from ..passes.layers import LAYERS
from ..passes.remove_dead import remove_dead
from ..passes.rewrite import Rewriter
from ..runtime.meta import Decision
from .emit import put_other
from .fuse_requantize import MOVES_CODES, Emitter, IntegerLayer, put_dynamic_layer, put_layer
from .known_weights import KnownWeights
from .plan import can_follow, in_torch
from .quantizer import Quantized
from .round_groups import GroupCodes

MOVES = ("reshape", "transpose", "slice", "max_pool2d")
"""Operators that move codes of one value, each as it is."""
KEPT = "came quantized: its scales, zero points and codes are kept"


def is_quantized(graph: Graph) -> bool:
    """Whether some values of a captured graph are quantized already."""
    return any(node.op == "quantize" or _by_row(graph, node) for node in graph)


def adopt_quantization(graph: Graph, coded: Sequence[Coded]) -> Quantized:
    """The integer graph of a model that came quantized. coded: the numbers of its weights, and their codes.

    before: x -> quantize -> dequantize -> conv2d(clip 0) -> quantize -> dequantize -> linear -> y
    after:  x -> quantize -> quantized_conv2d(codes) -> quantized_linear(float) -> y
    """
    weights = KnownWeights(coded)
    graph = fuse_residual(graph, lambda r, layer, other: _takes_residual(r, layer, other, weights))
    adopter = _Adopter(graph, weights)
    made = adopter.run()
    reference = remove_quantization(graph)
    decisions = tuple(_decision(node, adopter) for node in reference)
    return Quantized(graph=validate(made), reference=validate(reference), decisions=decisions)


def _by_row(graph: Graph, node: Node) -> bool:
    """Whether it is a layer that finds ranges of its input's rows at run time."""
    return node.op == "linear" and any(each.rows for each in graph.origins.get(node.inputs[1], ()))


def _takes_residual(r: Rewriter, layer: Node, other: str, weights: KnownWeights) -> bool:
    """Whether the layer will be an integer node and the other operand has codes."""
    producers = [r.producer(name) for name in (layer.inputs[0], other)]
    coded = all(node is not None and node.op == "dequantize" for node in producers)
    return coded and weights.of(r.graph, layer.inputs[1]) is not None


class _Adopter:
    """The integer graph under construction."""

    def __init__(self, graph: Graph, weights: KnownWeights) -> None:
        self.graph, self.weights = graph, weights
        self._quants = _targets(graph)
        """What values become as soon as they are made, if their makers can; then also what codes stand for."""
        self._emit = Emitter(graph, self._quants)
        self._stands: dict[str, str] = {}
        """For a dequantized value, or codes, the value whose codes they are."""
        self._coded: set[str] = set()
        self._taken: set[str] = set()
        self.kept: set[str] = set()
        """Names of nodes that became integer nodes."""

    def run(self) -> Graph:
        """Emit every node as codes where that is what the model says, else in float32."""
        for node in self.graph:
            if node.op == "quantize":
                self._quantize(node)
            elif node.op == "dequantize":
                self._dequantize(node)
            elif node.name not in self._taken and not self._put_codes(node):
                inputs = tuple(self._emit.floats(self._stand(name)) if name else "" for name in node.inputs)
                self._emit.put_floats(replace(node, inputs=inputs))
        return remove_dead(self._emit.finish())

    def _stand(self, value: str) -> str:
        return self._stands.get(value, value)

    def _quantize(self, node: Node) -> None:
        x, codes = self._stand(node.inputs[0]), node.outputs[0]
        quant = _quant(node)
        if x in self._coded and self._quants[x] == quant:
            self._stands[codes] = x
            return
        self._quants[codes] = quant
        self._emit.put_codes(replace(node, inputs=(self._emit.floats(x),)), codes)
        self._coded.add(codes)

    def _dequantize(self, node: Node) -> None:
        codes = self._stand(node.inputs[0])
        self._stands[node.outputs[0]] = codes
        if node.outputs[0] in self.graph.outputs:
            self._emit.put_floats(replace(node, inputs=(self._emit.codes(codes),)))

    def _put_codes(self, node: Node) -> bool:
        """Emit the node as an integer one, if it is one; whether it was."""
        named = replace(node, inputs=tuple(self._stand(name) for name in node.inputs))
        if node.op in LAYERS:
            done = self._put_layer(named)
        else:
            done = all(name in self._coded for name in named.inputs) and self._put_other(node, named)
        if done:
            self.kept.add(node.name)
        return done

    def _put_layer(self, node: Node) -> bool:
        constants = [self.graph.constants.get(name) if name else None for name in node.inputs[1:3]]
        codes = self.weights.of(self.graph, node.inputs[1])
        others = [name for name in (node.inputs[0], *node.inputs[3:4]) if name]
        bias = constants[1] if len(constants) > 1 else None
        by_row = _by_row(self.graph, node)
        if codes is None or isinstance(bias, Weight) or not (by_row or all(name in self._coded for name in others)):
            return False
        if (bias is None and len(node.inputs) > 2 and node.inputs[2]) or _overflows(codes.codes):
            return False
        shift = np.zeros(len(codes.scales)) if bias is None else bias.astype(np.float64)
        if by_row:
            put_dynamic_layer(self._emit, node, IntegerLayer(codes=codes, bias=shift))
            return True
        as_codes = node.outputs[0] in self._quants
        put_layer(self._emit, node, IntegerLayer(codes=codes, bias=shift), as_codes=as_codes)
        if as_codes:
            self._coded.add(node.outputs[0])
        return True

    def _put_other(self, node: Node, named: Node) -> bool:
        if len(node.outputs) != 1 or not can_follow(self.graph, node):
            return False
        activation = self._clip_after(node)
        out = (activation or node).outputs[0]
        if node.op in MOVES and len(named.inputs) == 1:  # codes that are moved are codes, whoever reads them
            self._quants.setdefault(out, self._quants[named.inputs[0]])
        if out not in self._quants:
            return False
        put_other(self._emit, named, activation)
        self._coded.add(out)
        if activation is not None:
            self._taken.add(activation.name)
            self.kept.add(activation.name)
        return True

    def _clip_after(self, node: Node) -> Node | None:
        """The clip that an addition can take with it as bounds: no rounding lies between them."""
        readers = self.graph.consumers(node.outputs[0])
        if node.op != "add" or len(readers) != 1 or readers[0].op != "clip" or node.outputs[0] in self.graph.outputs:
            return None
        return readers[0]


def _quant(node: Node) -> Quant:
    scale, zero_point = node.attrs["scale"], node.attrs["zero_point"]
    assert isinstance(scale, int | float)
    assert isinstance(zero_point, int)
    return Quant(scale=float(scale), zero_point=zero_point)


def _overflows(codes: Array) -> bool:
    rows = np.abs(codes.reshape(codes.shape[0], -1).astype(np.int64)).sum(axis=1)
    return bool(255 * int(rows.max(initial=0)) >= 2**31)


def _targets(graph: Graph) -> dict[str, Quant]:
    """Values of which only codes are read, and which; the inputs of moves whose output is such a value, too."""
    made = {name for node in graph for name in node.outputs if node.op not in ("quantize", "dequantize")}
    found: dict[str, Quant] = {}
    for node in reversed(graph.nodes):
        for name in node.outputs:
            readers = graph.consumers(name)
            quants = {_quant(reader) if reader.op == "quantize" else None for reader in readers}
            if name in made and name not in graph.outputs and len(quants) == 1 and None not in quants:
                (quant,) = quants
                assert quant is not None
                found[name] = quant
        out = node.outputs[0]
        if node.op in MOVES_CODES and out in found and can_follow(graph, node):
            private = [name for name in node.inputs if graph.consumers(name) == (node,) and name not in graph.outputs]
            found.update(dict.fromkeys((name for name in private if name in made), found[out]))
    return found


def remove_quantization(graph: Graph) -> Graph:
    """The graph without its quantize and dequantize nodes: what it would compute if activations were not rounded."""
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph:
        source = renamed.get(node.inputs[0], node.inputs[0]) if node.inputs else ""
        if node.op in ("quantize", "dequantize") and source:
            renamed[node.outputs[0]] = source
            if node.outputs[0] in graph.outputs:
                shape = graph.values[node.outputs[0]].shape
                nodes.append(replace(node, op="reshape", inputs=(source,), attrs={"shape": shape}))
        else:
            nodes.append(replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs)))
    return remove_dead(replace(graph, nodes=tuple(nodes)))


def _decision(node: Node, adopter: _Adopter) -> Decision:
    if node.op == "torch":
        return in_torch(adopter.graph, node)
    if node.name in adopter.kept:
        codes = adopter.weights.of(adopter.graph, node.inputs[1]) if node.op in LAYERS else None
        reason = "works on the codes of the model" if codes is None else KEPT
        bits = codes.bits if isinstance(codes, GroupCodes) else 8
        return Decision(node=node.name, op=node.op, scheme=f"int{bits}", reason=reason)
    reason = "the model leaves it in float32"
    if node.op in LAYERS and adopter.weights.of(adopter.graph, node.inputs[1]) is not None:
        reason = "its weight came quantized, its input did not"
    return Decision(node=node.name, op=node.op, scheme="float32", reason=reason)
