"""Makes models of one module: what each layer may become, and the model of any plan.

What is learnt of the module's data is kept, so that a model in which only codes differ takes little. Zeros are made in
a copy of the module (`compress.prune`, `compress.refit`), which is captured anew.
"""

from __future__ import annotations

import copy
import glob
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..compress import finalize, prune, refit
from ..compress.gather import Prunable
from ..conversion import Prepared, Request, prepare
from ..converted_model import Conversion, ConvertedModel
from ..errors import InputError
from ..graph import blocks
from ..graph.ir import Graph, Node
from ..passes.layers import LAYERS, TABLES
from ..progress import Reporter
from ..quantization.few_bits import Width
from ..quantization.quantizer import Quantizer
from ..quantization.schemes import SCHEMES, Scheme
from ..quantization.tables import SMALL_TABLE
from ..runtime import format
from .candidates import Candidate

FLOAT, STORED, INT8 = (Candidate(scheme=name) for name in ("float32", "int8-weights", "int8"))
WIDE = tuple(Candidate(scheme=name) for name, scheme in SCHEMES.items() if scheme.entropy)
FEW = (*(Candidate(scheme=name) for name in ("int4", "int4-g32", "ternary", "kmeans")), *WIDE)
"""Forms of less than int8's information; what is of equal form is offered once, as the first."""
SPARSE = tuple(
    Candidate(scheme="int8", pattern=pattern, sparsity=share / 100)
    for pattern, shares in (("4x4", (30, 40, 50, 60, 70, 80, 90)), ("1x4", (70, 80, 90, 95)))
    for share in shares
)
SMALLEST = 4096
"""Weights of a layer from which on some are worth leaving out."""
CRITERION = "wanda"


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A layer or table. name: its module's path, or its node's name. nodes: its calls. path: of the module, if any."""

    name: str
    nodes: tuple[Node, ...]
    shape: tuple[int, ...]
    path: str | None

    @property
    def size(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)


class Workshop:
    """Makes models of a module. request: as `convert` has it, all in int8."""

    def __init__(self, request: Request, inputs: Any, report: Reporter) -> None:
        self.request, self.inputs, self._report = request, inputs, report
        self._sparse: dict[frozenset[tuple[str, Candidate]], Prepared] = {}
        self.prepared = self._prepare(request.net)
        self.quantizer = _quantizer(self.prepared)
        self.graph: Graph = self.quantizer.graph
        self._coded = {row.node for row in self.quantizer.make().decisions if row.cost_int8_us is not None}
        """What can work on codes."""
        self._forms = {
            candidate.scheme: self.quantizer.with_schemes(
                {node.name: SCHEMES[candidate.scheme] for node in self.graph if node.op in (*LAYERS, *TABLES)}
            )
            for candidate in (STORED, INT8, *FEW)
        }
        self.layers = self._layers()
        self.offers = {name: self._offers(layer) for name, layer in self.layers.items()}

    def form(self, scheme: str) -> Quantizer:
        """What quantizes all layers by that scheme."""
        return self._forms[scheme]

    def width(self, node: Node, scheme: str) -> Width | None:
        """What a node's weights become under a scheme; None: they stay float32."""
        return None if scheme == "float32" else self._forms[scheme].width(node.name)

    def build(self, plan: Mapping[str, Candidate], reasons: Mapping[str, str] | None = None) -> Conversion:
        """The model of a plan. reasons: for people, by layer."""
        zeros = frozenset((name, candidate) for name, candidate in plan.items() if candidate.pattern)
        prepared = self._pruned(zeros) if zeros else self.prepared
        schemes: dict[str, Scheme] = {}
        floats: dict[str, str] = {}
        given: dict[str, str] = {}
        for name, candidate in plan.items():
            reason = (reasons or {}).get(name, f"planned as {candidate.name}")
            for node in self.layers[name].nodes:
                schemes[node.name] = SCHEMES[candidate.scheme]
                is_float = candidate == FLOAT or (candidate == STORED and node.op in LAYERS)
                (floats if is_float else given)[node.name] = reason
        made = _quantizer(prepared).with_schemes(schemes).make(floats, given=given)
        return prepared.conversion(made)

    def whole(self, candidate: Candidate) -> dict[str, Candidate]:
        """The plan in which each layer becomes that, or else int8, or float32."""
        found = {}
        for name, offers in self.offers.items():
            is_small = self.layers[name].nodes[0].op in TABLES and self.layers[name].size < SMALL_TABLE
            order = (FLOAT,) if is_small else (candidate, INT8, FLOAT)  # as `convert` has it
            found[name] = next(each for each in order if each in offers)
        return found

    def _prepare(self, net: nn.Module) -> Prepared:
        return prepare(replace(self.request, net=net), self.inputs, self._report)

    def _pruned(self, zeros: frozenset[tuple[str, Candidate]]) -> Prepared:
        """The module with these zeros, refit and captured."""
        if zeros not in self._sparse:
            self._report("prune", 0, None)
            net = pruned(self.request.net, {self.layers[name].path or "": each for name, each in zeros}, self._batches)
            self._sparse = {zeros: self._prepare(finalize(net))}  # the last one alone: they are large
        return self._sparse[zeros]

    @property
    def _batches(self) -> Iterable[Any]:
        if self.request.data is not None:
            return self.request.data
        given = self.prepared.given
        return [given.kwargs if given.kwargs else given.args]

    def _layers(self) -> dict[str, Layer]:
        modules = dict(self.request.net.named_modules())
        found: dict[str, list[Node]] = {}
        paths: dict[str, str | None] = {}
        for node in self.graph:
            weight = self.graph.constants.get(weight_of(node)) if node.op in (*LAYERS, *TABLES) else None
            if not isinstance(weight, np.ndarray) or (node.op in TABLES and not self._has_table(node)):
                continue
            own = [path for path in self.request.rules.paths(node) if _may_own(modules.get(path), weight.shape)]
            name = own[0] if own else node.name
            if name in found and weight_of(found[name][0]) != weight_of(node):
                name, own = node.name, []
            found.setdefault(name, []).append(node)
            paths[name] = own[0] if own else None
        return {
            name: Layer(
                name=name,
                nodes=tuple(nodes),
                shape=tuple(self.graph.constants[weight_of(nodes[0])].shape),
                path=paths[name],
            )
            for name, nodes in found.items()
        }

    def _has_table(self, node: Node) -> bool:
        return self.form("int8").width(node.name) is not None

    def _offers(self, layer: Layer) -> tuple[Candidate, ...]:
        first = layer.nodes[0]
        found = [FLOAT] if first.op in TABLES else [FLOAT, STORED]
        weight = self.graph.constants[weight_of(first)]
        if layer.size == 0 or not np.isfinite(weight).all() or (first.op in TABLES and layer.size < SMALLEST):
            return (FLOAT,)
        if not all(node.name in self._coded or node.op in TABLES for node in layer.nodes):
            return tuple(found)
        found.append(INT8)
        known: list[Width] = []
        for candidate in FEW:
            widths = [self.width(node, candidate.scheme) for node in layer.nodes]
            width = widths[0]
            if width is None or any(each is None or (each.bits == 8 and not each.entropy) for each in widths):
                continue
            if not any(_form(each) == _form(width) for each in known):
                known.append(width)
                found.append(candidate)
        return (*found, *(each for each in SPARSE if self._prunes(layer, each)))

    def _prunes(self, layer: Layer, candidate: Candidate) -> bool:
        """Whether such zeros can be made in a layer, and are worth it."""
        module = None if layer.path is None else self.request.net.get_submodule(layer.path)
        return (
            isinstance(module, Prunable)
            and getattr(module, "groups", 1) == 1
            and tuple(module.weight.shape) == layer.shape
            and layer.size >= SMALLEST
            and blocks.fits(layer.shape, candidate.pattern)
            and sum(each is module.weight for each in _parameters(self.request.net)) == 1
        )


def pruned(net: nn.Module, zeros: Mapping[str, Candidate], data: Iterable[Any]) -> nn.Module:
    """A copy with masks on these layers, by path, the weights that are kept refit to the data."""
    made = copy.deepcopy(net).eval()
    kinds: dict[tuple[str, float], list[str]] = {}
    for path, candidate in sorted(zeros.items()):
        kinds.setdefault((candidate.pattern, candidate.sparsity), []).append(path)
    for (pattern, share), paths in kinds.items():
        modules = [glob.escape(path) if path else "*" for path in paths]
        prune(made, share, pattern=pattern, criterion=CRITERION, modules=modules, calibration=data)
    return refit(made, data)


def file_bytes(model: ConvertedModel) -> int:
    """Of the file that `save` writes."""
    return len(format.dumps(model.graph, model.meta.document(), compress=model.meta.wants_streams))


def _quantizer(prepared: Prepared) -> Quantizer:
    if prepared.quantizer is None:
        raise InputError("the module has codes already: lowbit.optimize takes one that computes in float32")
    return prepared.quantizer


def _form(width: Width) -> tuple[int, int, str, float]:
    return width.bits, width.group_size, width.values, width.entropy


def weight_of(node: Node) -> str:
    """The name of a layer's weight, or of a table."""
    return node.inputs[1 if node.op in LAYERS else 0] if len(node.inputs) > 1 else ""


def _may_own(module: nn.Module | None, shape: Sequence[int]) -> bool:
    """Whether it is the layer itself that a node with such a weight was captured from."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and (
        weight.dim() == len(shape) or weight.numel() == math.prod(shape)  # a Conv1d is a Conv2d in the graph
    )


def _parameters(net: nn.Module) -> list[torch.Tensor]:
    return [parameter for module in net.modules() for parameter in module.parameters(recurse=False)]
