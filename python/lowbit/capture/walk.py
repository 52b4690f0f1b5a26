"""The walk over torch's graphs: each operation to its lowering, and what is no operation (numbers, blocks, writes)."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch.fx import GraphModule
from torch.fx import Node as TorchNode

from ..errors import LowbitError
from ..graph import dims
from ..graph.ir import Condition, Dim
from ..torch_internals import HigherOrderOperator
from ..torch_internals import schema as schema_of
from .builder import REMEDY, Complex, Ref, Unlowerable
from .fallback import units
from .folding import fold, keep_codes
from .lowering import Lowering
from .registry import COMPLEX_LOWERINGS, LOWERINGS, is_random, lowering_of
from .sizes import dim_of
from .torch_segments import segment
from .writes import live_nodes, writes

_REALS = {
    "sym_float": "",
    "mul": "mul",
    "add": "add",
    "sub": "sub",
    "truediv": "div",
    "pow": "pow",
    "neg": "neg",
    "sqrt": "sqrt",
    "_sym_sqrt": "sqrt",
    "sym_sqrt": "sqrt",
}
"""Operators for functions of numbers that are computed from sizes."""
_WHOLE_NUMBER = (
    "it takes a whole number out of a tensor (.item(), int()), so that sizes or steps depend on the inputs' values",
    "pass the number as an argument of forward(), or keep the tensor and compute with it",
)
_CHECKS = ("_assert", "sym_constrain")
_BLOCK_REMEDY = "choose with torch.where between results, and take a fixed number of steps"
_WRAPPERS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Blocks to lower in place, and the number of their arguments before the block's graph."""


class Walk(Lowering):
    """A lowering that goes over whole graphs."""

    def lower_graph(self, module: GraphModule) -> list[Any]:
        """Lower one graph whose placeholders are in `env`; what it returns."""
        live = live_nodes(module)
        for unit in units(list(module.graph.nodes), self.in_torch.keys() & live):
            node = unit[0]
            if node.op == "output":
                results = list(self.resolve(node.args[0]))
            elif node.op == "get_attr":
                self.env[node] = operator.attrgetter(str(node.target))(module)
                if isinstance(self.env[node], torch.Tensor):
                    self.node = node
                    self.env[node] = self.known(self.env[node], str(node.target))
            elif node in self.in_torch:
                segment(self, unit, live)
            elif node.op == "call_function" and node in live:
                self.node = node
                self.env[node] = self.lower_node(node)
        return results

    def lower_node(self, node: TorchNode) -> Any:
        """What one operation yields: a Ref, a tuple of them, or a size."""
        value = node.meta.get("val")
        target = str(node.target)
        if self.reads_what_it_cannot(node):
            return self.refuse("it reads what torch runs", REMEDY, follows=True)
        if isinstance(value, torch.SymInt | int) and not isinstance(value, bool):
            return self.refuse(*_WHOLE_NUMBER) if _takes_number(node) else self.size(value)
        if any(word in target for word in _CHECKS):
            return None
        if isinstance(value, torch.SymFloat):
            return self.real(node)
        if node.target is operator.getitem:
            return self.item(node)
        if target in _WRAPPERS:
            return self.inline(node)
        try:
            self.check_size(value)
            folded = fold(self, node)
            if folded is not None and "quantized_decomposed.dequantize_per" in target:
                keep_codes(self, node, folded)
            if folded is None:
                self.refuse_foreign(node)
            result = folded if folded is not None else self.dispatch(node)
        except (Unlowerable, LowbitError) as error:
            return self.refuse(str(error), getattr(error, "remedy", REMEDY), sized=not getattr(error, "always", False))
        if writes(node) and isinstance(result, Ref | Complex):
            self.rebind(node, result)
        if self.limits.symbols:
            self.agree(value, result)
        return result

    def agree(self, value: Any, result: Any) -> None:
        """Where torch found a number for a size that is free here, as of x[:8], the rest of its trace rests on it."""
        if isinstance(value, tuple | list) and isinstance(result, tuple | list):
            for item, part in zip(value, result, strict=False):
                self.agree(item, part)
        elif isinstance(value, torch.Tensor) and isinstance(result, Ref) and result.rank == value.dim():
            for size, found in zip(value.shape, result.shape, strict=True):
                if isinstance(size, int) and isinstance(found, str):
                    self.assume(Condition(kind="zero", size=dims.sub(found, size)))

    def rebind(self, node: TorchNode, result: Ref | Complex) -> None:
        """Let every name of the tensor that `node` writes to stand for `result`."""
        base = node.args[0]
        assert isinstance(base, TorchNode)
        root = self.same.get(base, base)
        self.same[node] = root
        for other in (root, *(item for item, its in self.same.items() if its is root)):
            self.env[other] = result

    # Numbers that are computed from sizes.

    def size(self, value: Any) -> Dim | None:
        """A size; None (and a problem) where it is not arithmetic of the input's sizes."""
        try:
            self.check_size(value)
            return dims.simplify(dim_of(value, self.names), self.limits.symbols)
        except (Unlowerable, LowbitError) as error:
            self.refuse(str(error), getattr(error, "remedy", REMEDY))
            return None

    def real(self, node: TorchNode) -> Any:
        """A number computed from sizes, such as 1 / length: a scalar tensor."""
        op = _REALS.get(getattr(node.target, "__name__", ""))
        try:
            if _takes_number(node):
                return self.cast(self.reshape(self.resolve(node.args[0]), ()), "f32")
            if op is None:
                raise Unlowerable("lowbit does not compute this from sizes")
            operands = [self.operand(self.resolve(item), "f32") for item in node.args]
            if op == "":
                return operands[0]
            return self.emit("unary", *operands, kind=op) if op in ("neg", "sqrt") else self.emit(op, *operands)
        except (Unlowerable, LowbitError) as error:
            return self.refuse(str(error), getattr(error, "remedy", REMEDY))

    def reads_what_it_cannot(self, node: TorchNode) -> bool:
        """Whether an input has a size that depends on values: then the operation that made it is the problem."""
        try:
            for source in node.all_input_nodes:
                self.check_size(source.meta.get("val"))
        except Unlowerable:
            return True
        return False

    # Blocks, whose graphs hang off the module.

    def inline(self, node: TorchNode) -> tuple[Any, ...]:
        """A block such as `with torch.no_grad():`, whose graph hangs off the module."""
        module, *args = node.args[_WRAPPERS[str(node.target)] :]
        return self.block(module, args)

    def block(self, module: Any, args: Any) -> tuple[Any, ...]:
        """What a graph that hangs off the module gives."""
        graph_module = self.env[module]
        placeholders = [inner for inner in graph_module.graph.nodes if inner.op == "placeholder"]
        self.env.update(zip(placeholders, self.resolve(args), strict=True))
        return tuple(self.lower_graph(graph_module))

    def choose(self, node: TorchNode) -> tuple[Any, ...]:
        """torch.cond: both branches, and of their results those that the condition picks."""
        condition, yes, no, *operands = node.args
        branches = [self.block(module, operands[0] if operands else ()) for module in (yes, no)]
        self.node = node
        picks = self.resolve(condition)
        if not isinstance(picks, Ref):
            raise Unlowerable("the condition of torch.cond is no tensor", _BLOCK_REMEDY, always=True)
        picks = self.cast(self.reshape(picks, ()), "bool")
        results: list[Any] = []
        for a, b in zip(*branches, strict=True):
            if not (isinstance(a, Ref) and isinstance(b, Ref)):
                raise Unlowerable("a branch of torch.cond gives what is no real tensor", _BLOCK_REMEDY, always=True)
            results.append(self.emit("where", picks, a, b))
        return tuple(results)

    # Operations.

    def item(self, node: TorchNode) -> Any:
        """One of several results."""
        whole, position = self.resolve(node.args[0]), node.args[1]
        item = whole[position]
        if item is None:
            reason = "its secondary results are not supported"
            return self.refuse(reason, REMEDY, cast(TorchNode, node.args[0]))
        return item

    def dispatch(self, node: TorchNode) -> Any:
        """Find the lowering and call it with the arguments in schema order."""
        schema = schema_of(node.target)
        if str(node.target) == "cond":
            return self.choose(node)
        if isinstance(node.target, HigherOrderOperator):
            raise Unlowerable("lowbit runs no blocks that depend on values", _BLOCK_REMEDY, always=True)
        if is_random(node):
            raise Unlowerable("it draws random numbers", "draw them outside, and pass them to forward()", always=True)
        is_complex = self.is_complex(node)
        found = lowering_of(str(node.target).removeprefix("aten."), COMPLEX_LOWERINGS if is_complex else LOWERINGS)
        if found is None or schema is None:
            lacks = "lowbit has no operator for it" + (" on complex numbers" if is_complex else "")
            raise Unlowerable(lacks, always=True)
        function, count = found
        arguments: list[Any] = []
        for position, argument in enumerate(schema.arguments[:count]):
            if position < len(node.args):
                arguments.append(self.resolve(node.args[position]))
            else:
                arguments.append(self.resolve(node.kwargs.get(argument.name, argument.default_value)))
        return function(self, *arguments)

    def is_complex(self, node: TorchNode) -> bool:
        """Whether an operation takes or gives complex numbers."""
        value = node.meta.get("val")
        results = value if isinstance(value, tuple | list) else (value,)
        return (
            any(isinstance(item, torch.Tensor) and item.is_complex() for item in results)
            or any(isinstance(self.env[item], Complex) for item in node.all_input_nodes)
            or any(isinstance(item, complex) for item in node.args)
        )


def _takes_number(node: TorchNode) -> bool:
    """Whether it is .item(), which makes a Python number of a tensor."""
    return str(node.target) in ("aten.item.default", "aten._local_scalar_dense.default")
