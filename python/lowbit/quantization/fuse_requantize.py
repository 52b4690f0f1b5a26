"""Emits the integer graph: what scales mean becomes the constants of fused integer nodes.

A layer's output is y / s_y = acc * (s_x s_w[c] / s_y) + b[c] / s_y + (r - z_r) * (s_r / s_y): one multiplier and one
bias a channel, computed in float64 and stored as float32, so that no float layer, addition or activation is left
between two integer nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..graph.ir import Array, Attribute, Graph, Node, Quant, Weight, replace
from ..ops import constant_value, infer
from ..ops.quantized import GROUP_SIZE
from ..passes.functions import function_of, operands
from .cost import GEOMETRY
from .round_groups import GroupCodes
from .round_weights import Codes

MOVES_CODES = (
    "max_pool2d",
    "adaptive_max_pool2d",
    "reshape",
    "transpose",
    "slice",
    "pad",
    "concat",
    "resize",
    "resample",
)
"""Ops that move or blend codes and leave their meaning alone."""
PAIRS = ("add", "mul")
AVERAGES = ("avg_pool2d", "adaptive_avg_pool2d")
BOUNDS = ("activation_min", "activation_max")


@dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """The integer form of a layer's constants: weight codes, and the bias in float64.

    factors: what its input's rows are multiplied by before they are quantized; the codes are of weight / factors.
    activation_group_size: of such rows, how many adjacent values share a scale; 0: all, and a zero point.
    """

    codes: Codes | GroupCodes
    bias: Array
    factors: Array | None = None
    activation_group_size: int = 0


class Emitter:
    """A graph under construction in which a value may exist as codes, as floats, or as both.

    Whichever its maker produces bears the value's name, except that the model's outputs are always floats; the other
    is made at its first use, by a quantize or dequantize node.
    """

    def __init__(self, graph: Graph, quants: Mapping[str, Quant]) -> None:
        self.graph = graph
        self._quants = quants
        self._nodes: list[Node] = []
        self._names: set[str] = set()
        self._values = {name: graph.values[name] for name in graph.inputs}
        self._constants: dict[str, Array | Weight] = {}
        self._codes: dict[str, str] = {}
        self.translated: dict[tuple[str, float, int], str] = {}
        """Codes of a value in another scale and zero point than its own."""
        self._floats: dict[str, str] = {name: name for name in graph.inputs}

    def quant(self, value: str) -> tuple[float, int]:
        """Scale and zero point of a value that has codes."""
        quant = self._quants[value]
        return float(quant.scale), int(quant.zero_point)

    def codes(self, value: str) -> str:
        """The name of the value's codes."""
        if value not in self._codes:
            scale, zero_point = self.quant(value)
            name = self._free(f"{value}.codes")
            attrs: dict[str, Attribute] = {"scale": scale, "zero_point": zero_point}
            self.put(Node(op="quantize", name=name, inputs=(self.floats(value),), outputs=(name,), attrs=attrs))
            self._mark(value, name)
        return self._codes[value]

    def dynamic_codes(
        self, value: str, granularity: str, factors: Array | None, copies: tuple[int, ...] = ()
    ) -> tuple[str, str, str]:
        """The names of the value's codes, scales and zero points, found per "row" or "sample" at each call.

        factors: of rows, the same for all who read the value so. copies: what has one more code each, likewise.
        """
        key = f"{value}.{granularity}"
        outputs = (f"{key}.codes", f"{key}.scale", f"{key}.zero_point")
        if key not in self._codes:
            attrs: dict[str, Attribute] = {"granularity": granularity}
            inputs = [self.floats(value)]
            if factors is not None:
                inputs.append(self.constant(f"{key}.factors", factors))
            if copies:
                inputs.append(self.constant(f"{key}.copies", np.array(copies, np.int64)))
            self.put(Node(op="dynamic_quantize", name=outputs[0], inputs=tuple(inputs), outputs=outputs, attrs=attrs))
            self.annotate(outputs[0], Quant(scale=outputs[1], zero_point=outputs[2]))
            self._codes[key] = outputs[0]
        return outputs

    def group_codes(self, value: str, group_size: int, factors: Array | None) -> tuple[str, str]:
        """The names of the codes and scales of groups of a value's rows, found at each call; factors as above."""
        key = f"{value}.groups{group_size}"
        outputs = (f"{key}.codes", f"{key}.scale")
        if key not in self._codes:
            inputs = (self.floats(value), *(() if factors is None else (self.constant(f"{key}.factors", factors),)))
            attrs: dict[str, Attribute] = {"group_size": group_size}
            self.put(Node(op="quantize_groups", name=outputs[0], inputs=inputs, outputs=outputs, attrs=attrs))
            self.annotate(outputs[0], Quant(scale=outputs[1], zero_point=0))
            self._codes[key] = outputs[0]
        return outputs

    def floats(self, value: str) -> str:
        """The name of the value as float32 (or whatever type it has that is no code)."""
        if value in self.graph.constants and value not in self._constants:
            self._constants[value], self._values[value] = self.graph.constants[value], self.graph.values[value]
            self._floats[value] = value
        if value not in self._floats:
            scale, zero_point = self.quant(value)
            made = self._free(f"{value}.float")
            name = value if self._codes[value] != value else made
            attrs: dict[str, Attribute] = {"scale": scale, "zero_point": zero_point}
            self.put(Node(op="dequantize", name=made, inputs=(self._codes[value],), outputs=(name,), attrs=attrs))
            self._floats[value] = name
        return self._floats[value]

    def put_codes(self, node: Node, value: str) -> None:
        """Append a node that makes the codes of `value`."""
        name = self._free(f"{value}.codes") if value in self.graph.outputs else value
        self.put(replace(node, outputs=(name,)))
        self._mark(value, name)

    def put_floats(self, node: Node) -> None:
        """Append a node whose outputs are floats under their own names."""
        self.put(node)
        self._floats.update((name, name) for name in node.outputs)

    def put(self, node: Node) -> None:
        """Append a node; its outputs' types follow."""
        known = replace(self.graph, values=self._values, constants=self._constants)
        self._values.update(zip(node.outputs, infer(node, known), strict=True))
        name = node.name
        while name in self._names:
            name += "_"
        self._names.add(name)
        self._nodes.append(replace(node, name=name))

    def constant(self, name: str, constant: Array | Weight) -> str:
        """Add a constant; its name."""
        name = self._free(name)
        self._constants[name], self._values[name] = constant, constant_value(constant)
        return name

    def _free(self, name: str) -> str:
        """`name`, or a longer one if a value has it."""
        while name in self.graph.values or name in self._values:
            name += "_"
        return name

    def annotate(self, name: str, quant: Quant) -> None:
        """Say what the codes of an emitted value mean."""
        self._values[name] = replace(self._values[name], quant=quant)

    def _mark(self, value: str, name: str) -> None:
        self._codes[value] = name
        self.annotate(name, self._quants[value])

    def finish(self) -> Graph:
        """The graph: the model's outputs, and what states begin with, are floats."""
        for name in (*self.graph.outputs, *(state.initial for state in self.graph.states if state.initial)):
            self.floats(name)
        values, constants = dict(self._values), dict(self._constants)
        return replace(self.graph, nodes=tuple(self._nodes), values=values, constants=constants, origins={})


# --------------------------------------------------------------------------------------------------------------- static


def put_layer(
    emit: Emitter,
    node: Node,
    layer: IntegerLayer,
    *,
    as_codes: bool,
    activation: Node | None = None,
    slope: Array | None = None,
) -> None:
    """A layer on codes, with its residual and bounds, and the unary function or clip after it as a table.

    slope: what the activation multiplies negative values by, [1] or one a channel; then there is no table.

    before: conv2d(x, w, b, residual) -> unary
    after:  quantized_conv2d(x codes, w codes, multiplier, bias, residual codes, table)
    """
    out = activation.outputs[0] if activation is not None else node.outputs[0]
    scale_x, zero_x = emit.quant(node.inputs[0])
    scale_y, zero_y = emit.quant(out if slope is not None else node.outputs[0]) if as_codes else (1.0, 0)
    attrs: dict[str, Attribute] = {key: node.attrs[key] for key in GEOMETRY if key in node.attrs}
    attrs |= {"zero_point_x": zero_x, "output": "u8" if as_codes else "f32"}
    if as_codes:
        attrs |= {"zero_point_y": zero_y, **_code_bounds(node, BOUNDS, scale_y, zero_y)}
    else:
        attrs |= _float_bounds(node)
    inputs = [emit.codes(node.inputs[0])]
    inputs += _layer_constants(emit, node, layer, scale_x / scale_y, 1 / scale_y)
    if len(node.inputs) > 3 and node.inputs[3]:
        scale_r, zero_r = emit.quant(node.inputs[3])
        inputs.append(emit.codes(node.inputs[3]))
        attrs |= {"residual_multiplier": float(np.float32(scale_r / scale_y)), "residual_zero_point": zero_r}
    if slope is not None and activation is not None:
        each = np.broadcast_to(slope, emit.graph.constants[node.inputs[1]].shape[:1]).copy()
        inputs += [""] * (8 - len(inputs)) + [emit.constant(f"{activation.name}.slope", each)]
    elif activation is not None:
        table = code_table(function_of(emit.graph, activation), (scale_y, zero_y), emit.quant(out))
        inputs += [""] * (5 - len(inputs)) + [emit.constant(f"{activation.name}.table", table)]
    made = replace(node, op=f"quantized_{node.op}", inputs=tuple(inputs), outputs=(out,), attrs=attrs)
    if as_codes:
        emit.put_codes(made, out)
    else:
        emit.put_floats(made)


def put_pair(emit: Emitter, node: Node, activation: Node | None = None) -> None:
    """A sum or product of two coded values; a clip after it becomes bounds, a unary function a table."""
    out = activation.outputs[0] if activation is not None else node.outputs[0]
    is_clip = activation is not None and activation.op == "clip"
    scale_y, zero_y = emit.quant(out if is_clip else node.outputs[0])
    (scale_a, zero_a), (scale_b, zero_b) = (emit.quant(name) for name in node.inputs)
    attrs: dict[str, Attribute] = {"zero_point_a": zero_a, "zero_point_b": zero_b, "zero_point_y": zero_y}
    if node.op == "mul":
        attrs["multiplier"] = float(np.float32(scale_a * scale_b / scale_y))
    else:
        attrs["multiplier_a"] = float(np.float32(scale_a / scale_y))
        attrs["multiplier_b"] = float(np.float32(scale_b / scale_y))
    inputs = [emit.codes(name) for name in node.inputs]
    if activation is not None and is_clip:
        attrs |= _code_bounds(activation, ("min", "max"), scale_y, zero_y)
    elif activation is not None:
        table = code_table(function_of(emit.graph, activation), (scale_y, zero_y), emit.quant(out))
        inputs.append(emit.constant(f"{activation.name}.table", table))
    emit.put_codes(replace(node, op=f"quantized_{node.op}", inputs=tuple(inputs), outputs=(out,), attrs=attrs), out)


def put_average(emit: Emitter, node: Node) -> None:
    """An average pool on codes: exact sums, one rounding."""
    (scale_x, zero_x), (scale_y, zero_y) = emit.quant(node.inputs[0]), emit.quant(node.outputs[0])
    multiplier = float(np.float32(scale_x / scale_y))
    extra: dict[str, Attribute] = {"zero_point_x": zero_x, "multiplier": multiplier, "zero_point_y": zero_y}
    attrs = {**node.attrs, **extra, "output": "u8"}
    inputs = (emit.codes(node.inputs[0]),)
    emit.put_codes(replace(node, op=f"quantized_{node.op}", inputs=inputs, attrs=attrs), node.outputs[0])


def put_function(emit: Emitter, node: Node) -> None:
    """A function of one value from codes to codes: a table of 256, or one for each channel."""
    (x,) = operands(emit.graph, node)
    table = code_table(function_of(emit.graph, node), emit.quant(x), emit.quant(node.outputs[0]))
    inputs = (emit.codes(x), emit.constant(f"{node.name}.table", table))
    emit.put_codes(replace(node, op="lookup", inputs=inputs, attrs={}), node.outputs[0])


def put_carrier(emit: Emitter, node: Node) -> None:
    """An op that moves codes; inputs of another scale than its output are translated by a table first."""
    attrs = dict(node.attrs)
    out = node.outputs[0]
    if node.op == "pad":
        attrs["value"] = float(emit.quant(out)[1])
    inputs = [_translated(emit, name, node, place) for place, name in enumerate(node.inputs)]
    emit.put_codes(replace(node, inputs=tuple(inputs), attrs=attrs), out)


def _translated(emit: Emitter, value: str, node: Node, place: int) -> str:
    here, there = emit.quant(value), emit.quant(node.outputs[0])
    codes = emit.codes(value)
    if here == there:
        return codes
    key = (value, *there)
    if key in emit.translated:
        return emit.translated[key]
    name = f"{node.name}.input{place}"
    table = emit.constant(f"{name}.table", code_table(lambda x: x, here, there))
    emit.put(Node(op="lookup", name=name, inputs=(codes, table), outputs=(name,), source=node.source))
    emit.annotate(name, Quant(scale=there[0], zero_point=there[1]))
    emit.translated[key] = name
    return name


def _layer_constants(emit: Emitter, node: Node, layer: IntegerLayer, multiplier: float, bias: float) -> list[str]:
    codes = layer.codes
    # The scales of groups are in the sums already.
    scales = (np.ones(len(codes.codes)) if isinstance(codes, GroupCodes) else codes.scales) * codes.factors
    return [
        emit.constant(f"{node.name}.codes", codes.as_weight()),
        emit.constant(f"{node.name}.multiplier", (scales * multiplier).astype(np.float32)),
        emit.constant(f"{node.name}.bias", (layer.bias * bias).astype(np.float32)),
    ]


def _code_bounds(node: Node, names: tuple[str, str], scale: float, zero_point: int) -> dict[str, Attribute]:
    low, high = (
        round(node.number(name) / scale) + zero_point if name in node.attrs else end
        for name, end in zip(names, (0, 255), strict=True)
    )
    return {"lo": int(np.clip(low, 0, 255)), "hi": int(np.clip(high, 0, 255))}


def _float_bounds(node: Node) -> dict[str, Attribute]:
    return {name: node.attrs[bound] for name, bound in zip(("min", "max"), BOUNDS, strict=True) if bound in node.attrs}


def code_table(function: Callable[[Array], Array], x: tuple[float, int], y: tuple[float, int]) -> Array:
    """For each code of x (scale, zero point) the nearest code of f(x): u8. NaN becomes 0, infinity an end."""
    real = (np.arange(256) - x[1]) * x[0]
    with np.errstate(all="ignore"):
        codes = np.rint(np.nan_to_num(function(real.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf) / y[0])
    table: Array = np.clip(codes + y[1], 0, 255).astype(np.uint8)
    return table


# -------------------------------------------------------------------------------------------------------------- dynamic


def put_dynamic_layer(emit: Emitter, node: Node, layer: IntegerLayer, copies: tuple[int, ...] = ()) -> None:
    """A layer whose input's range is found at each call, per row of a linear layer, else per sample; makes floats.

    copies: values of its input that have one more code each, and so have their weights.

    before: conv2d(x, w, b, residual; activation_min 0)
    after:  dynamic_quantize(x) -> codes, scale, zero point -> quantized_conv2d -> add(residual) -> clip
            quantize_groups(x) -> codes, scales             -> quantized_linear, where the layer says so
    """
    attrs: dict[str, Attribute] = {key: node.attrs[key] for key in GEOMETRY if key in node.attrs}
    factors = layer.factors
    if copies:
        assert isinstance(layer.codes, Codes)
        factors = np.ones(layer.codes.codes.shape[1], np.float32) if factors is None else factors
        wide = np.concatenate([layer.codes.codes, layer.codes.codes[:, list(copies)]], axis=1)
        layer = replace(layer, codes=replace(layer.codes, codes=wide))
    if layer.activation_group_size:
        codes, *ranges = emit.group_codes(node.inputs[0], layer.activation_group_size, layer.factors)
        attrs[GROUP_SIZE] = layer.activation_group_size
    else:
        granularity = "row" if node.op == "linear" else "sample"
        codes, *ranges = emit.dynamic_codes(node.inputs[0], granularity, factors, copies)
    bounds = _float_bounds(node)
    inputs = (codes, *_layer_constants(emit, node, layer, 1.0, 1.0), "", "", *ranges)
    made = replace(node, op=f"quantized_{node.op}", inputs=inputs, attrs={**attrs, **bounds, "output": "f32"})
    if len(node.inputs) < 4 or not node.inputs[3]:
        return emit.put_floats(made)
    product, total = f"{node.name}.product", f"{node.name}.sum"
    emit.put(replace(made, outputs=(product,), attrs={**attrs, "output": "f32"}))
    last = replace(node, op="add", name=f"{node.name}.add", inputs=(product, emit.floats(node.inputs[3])), attrs={})
    if bounds:
        emit.put(replace(last, outputs=(total,)))
        last = replace(node, op="clip", name=f"{node.name}.clip", inputs=(total,), attrs=bounds)
    return emit.put_floats(last)
