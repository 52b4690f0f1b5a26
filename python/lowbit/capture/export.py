"""From a module and example inputs to torch's exported program, plus what a call of the model looks like.

`torch.export` runs the module once on shapes alone (nothing is computed, no parameter is copied or changed) and yields
its aten operations. What a caller may pass and what a call returns is kept as plain JSON (`signature`, `output`; see
`runtime/model.py`), so that a saved file can be called without torch and without the model's own classes.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import sympy
import torch
from torch.nn.utils.rnn import PackedSequence

from ..errors import InputError, UnsupportedError
from ..graph import dims
from ..graph.ir import Symbol
from ..graph.limits import Limits
from ..graph.limits import describe as describe_limit
from ..torch_internals import pytree
from .asked import ASKED, Asked
from .free import Example, export_free, export_named, has_names, named_axes, run_export, without_cache
from .recurrent import whole_layers
from .results import Parts, known_results
from .sizes import Need, decisions, example_sizes, symbol_bounds, symbol_names, user_inputs

FLOAT_NAMES = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16"}
DTYPE_NAMES = {
    **FLOAT_NAMES,
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "bool",
    torch.uint8: "u8",
    torch.int8: "s8",
    torch.complex64: "c64",
    torch.complex128: "c128",
}
"""torch's element types by lowbit's names. f64, f16, bf16, c64 and c128 occur only in calls of a model: graphs compute
in f32, with complex numbers as pairs."""


RESULTS: dict[str, Any] = {"TensorArgument": None, "SymIntArgument": "int", "SymFloatArgument": "float"}
"""What a graph can return, by torch's name for it: tensors, and numbers computed from sizes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """An exported module. `names`: torch's symbols to lowbit's; `notes`: what was decided on the way, and why.

    limits: which sizes are possible, by torch's bounds and by `needs`: what the module's code found true of sizes.
    """

    exported: torch.export.ExportedProgram
    signature: dict[str, Any]
    output: dict[str, Any]
    classes: Mapping[str, type]
    names: Mapping[sympy.Symbol, str]
    limits: Limits
    needs: tuple[Need, ...]
    notes: tuple[str, ...]

    @property
    def symbols(self) -> Mapping[str, Symbol]:
        """The free sizes."""
        return self.limits.symbols


# --------------------------------------------------------------------------------------------------------------- inputs


def parameters_of(net: torch.nn.Module) -> list[inspect.Parameter]:
    """The parameters of the module's `forward`, without self."""
    return list(inspect.signature(net.forward).parameters.values())


def example(net: torch.nn.Module, inputs: Any) -> Example:
    """One call's inputs from what a person passes.

    Args:
        net: The module.
        inputs: A tensor, a tuple or list (positional inputs), a dict (keyword inputs) or an `Example`.

    Returns:
        The call.

    Raises:
        InputError: `net.forward` would not take them.
    """
    leaves = pytree.tree_leaves(inputs, is_leaf=_is_packed)
    if any(map(_is_packed, leaves)):
        raise InputError(
            "an example input is a packed sequence; pass the padded batch and its lengths, and pack them in the "
            "module's forward"
        )
    if isinstance(inputs, Example):
        made = inputs
    elif isinstance(inputs, Mapping):
        made = Example(args=(), kwargs={str(key): value for key, value in inputs.items()})
    elif isinstance(inputs, tuple | list):
        made = Example(args=tuple(inputs), kwargs={})
    else:
        made = Example(args=(inputs,), kwargs={})
    made = Example(**_as_tensors({"args": made.args, "kwargs": made.kwargs}))
    try:
        inspect.signature(net.forward).bind(*made.args, **made.kwargs)
    except TypeError as error:
        raise InputError(
            f"the example inputs do not fit {type(net).__name__}.forward{inspect.signature(net.forward)}: {error}. "
            "Pass a tensor, a tuple of positional inputs, or a dict of keyword inputs."
        ) from None
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((made.args, made.kwargs))):
        raise InputError("the example inputs hold no tensor")
    return made


def _is_packed(value: Any) -> bool:
    return isinstance(value, PackedSequence)


def _as_tensors(tree: Any) -> Any:
    """NumPy arrays become tensors, and a tensor that is there twice two; everything else stays."""
    seen: set[int] = set()

    def leaf(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic) and not isinstance(value, bool | int | float | str):
            return _from_numpy(value)
        if isinstance(value, torch.Tensor) and id(value) in seen:  # torch would take both inputs for one
            return value.clone()
        seen.add(id(value))
        return value

    return pytree.tree_map(leaf, tree)


def _from_numpy(value: Any) -> torch.Tensor:
    """An array of any layout as a tensor. Raises InputError for what torch has no element type for."""
    array = np.array(value, order="C", copy=None)
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise InputError(f"an input array of {array.dtype} is not supported; use numbers or truth values") from None


def example_of_item(net: torch.nn.Module, item: Any) -> Example:
    """One call's inputs from an item of a DataLoader, before anything is known but `net.forward`.

    A tuple or list holds the positional inputs, as many as `forward` has parameters without a default (at least one);
    what follows them (the labels of `(x, y)`) is dropped. A dict loses the keys that `forward` has no parameter for.

    Args:
        net: The module.
        item: What the loader yields.

    Returns:
        The call.

    Raises:
        InputError: `net.forward` would not take it.
    """
    parameters = parameters_of(net)
    if isinstance(item, Mapping):
        known = {parameter.name for parameter in parameters}
        item = {key: value for key, value in item.items() if key in known}
    elif isinstance(item, tuple | list):
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        required = sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
        if item and isinstance(item[0], tuple | list | Mapping) and len(item) > max(required, 1):
            return example_of_item(net, item[0])
        item = tuple(item)[: max(required, 1)]
    return example(net, item)


def dummy_inputs(net: torch.nn.Module) -> Any | None:
    """The example that a module brings itself: `net.dummy_inputs`, transformers' convention.

    Args:
        net: The module.

    Returns:
        Its dummy inputs, if it has them and they are its main input's, else None.
    """
    inputs = getattr(net, "dummy_inputs", None)
    if not isinstance(inputs, Mapping):
        return None
    known = {parameter.name for parameter in parameters_of(net)}
    main = getattr(net, "main_input_name", None)  # transformers gives every model `input_ids`, vision models too
    return inputs if set(inputs) <= known and (main is None or main in inputs) else None


# --------------------------------------------------------------------------------------------------------------- export


def export(
    net: torch.nn.Module,
    inputs: Any,
    dynamic: Any = "auto",
    *,
    unfree: Mapping[str, str] = MappingProxyType({}),
    told: Collection[str] = (),
) -> Program:
    """Export `net` in eval mode without decomposition.

    inputs: see `example`. dynamic: "auto" frees the batch, and the sequence of token inputs (see `free.py`); None fixes
    every size; {input: {axis: name}} frees these, sizes of one name alike; else torch.export's `dynamic_shapes`.
    unfree: sizes that "auto" is to fix, each with a reason; told: the notes that warnings were given of.
    Raises InputError for inputs that do not fit and UnsupportedError where torch cannot export.
    """
    if isinstance(dynamic, str) and dynamic != "auto":
        raise InputError(f'dynamic must be "auto", None or torch.export\'s dynamic_shapes, not {dynamic!r}')
    call = example(net, inputs)
    _check_inputs(call)
    notes: list[str] = []
    if any(module.training for module in net.modules()) and not _is_exported(net):
        notes.append("the model was in train mode: converted as in eval mode")
        if notes[-1] not in told:
            warnings.warn("the model is in train mode; lowbit converts it as in eval mode (net.eval())", stacklevel=2)
    with _eval_mode(net), without_cache(net, call, notes), whole_layers(net, notes), known_results(net):
        if isinstance(dynamic, str):
            exported, axes = export_free(net, call, notes, unfree, told)
        elif has_names(dynamic):
            exported, axes = export_named(net, call, dynamic)
        else:
            exported, axes = run_export(net, call, dynamic), named_axes(net, call, dynamic)
    names = symbol_names(exported, axes)
    output, classes = _output(exported)
    asked: Asked = exported.graph_module.meta[ASKED]
    symbols = symbol_bounds(exported, names, dynamic)
    for symbol in asked.apart.keys() & names.keys():
        name = names[symbol]
        if symbols[name].minimum == 1:
            symbols[name] = replace(symbols[name], minimum=2)
            notes.append(
                f"the {name.replace('_', ' ')} is at least 2: code takes another way for 1: {asked.apart[symbol]}"
            )
    notes += asked.notes
    limits = Limits(symbols=symbols, example=example_sizes(exported, names))
    needs = [need for need in decisions(exported, names) if dims.holds(need[0], limits.example)]
    for condition, place in needs:
        known = limits
        limits = limits if limits.certain(condition) else limits.learn(condition)
        for name, free in limits.symbols.items():
            if free.maximum < known.symbols[name].maximum:
                size = f"the {name.replace('_', ' ')} is {describe_limit(free)}"
                notes.append(f"{size}: the code at {place} decides by it")
                if notes[-1] not in told:
                    warnings.warn(notes[-1], stacklevel=2)
    return Program(
        exported=exported,
        signature=_signature(net, call, exported),
        output=output,
        classes=classes,
        names=names,
        limits=limits,
        needs=tuple(needs),
        notes=tuple(notes),
    )


@contextmanager
def _eval_mode(net: torch.nn.Module) -> Iterator[None]:
    """eval() for a while, every submodule's own flag restored after."""
    flags = {module: module.training for module in net.modules()}
    with suppress(NotImplementedError):  # a graph from torch.export: its mode was fixed then
        net.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


def _is_exported(net: torch.nn.Module) -> bool:
    """Whether the module is a graph from torch.export: its flags say nothing, and its eval() may only raise."""
    return isinstance(net, torch.fx.GraphModule) and "eval" in vars(net)


def not_plain(tensor: torch.Tensor) -> str | None:
    """What a tensor is that holds no values in memory, element by element, and what to do; None for a plain one."""
    if tensor.is_nested:
        return "a nested tensor; pad it: torch.nested.to_padded_tensor(x, 0.0)"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {tensor.layout}; pass x.to_dense()"
    if tensor.is_quantized:
        return "a quantized tensor; pass x.dequantize()"
    if tensor.device.type == "meta":
        return "a meta tensor, which has no values"
    return None


def _check_inputs(call: Example) -> None:
    for leaf in pytree.tree_leaves((call.args, call.kwargs)):
        if isinstance(leaf, torch.Tensor):
            if (problem := not_plain(leaf)) is not None:
                raise InputError(f"an example input is {problem}")
            if leaf.dtype not in DTYPE_NAMES:
                raise InputError(
                    f"an input of {leaf.dtype} is not supported; use one of {', '.join(map(str, DTYPE_NAMES))}"
                )
            if leaf.dim() and leaf.shape[0] == 0:
                raise InputError(f"an example input of shape {list(leaf.shape)} is empty; pass at least one sample")
        elif not isinstance(leaf, int | float | str | type(None)):
            raise InputError(
                f"an input of type {type(leaf).__name__} is not supported; use tensors, numbers, text or None"
            )


# ------------------------------------------------------------------------------------------------------- calls, as JSON


def _signature(net: torch.nn.Module, call: Example, exported: torch.export.ExportedProgram) -> dict[str, Any]:
    """What a call may pass: {"parameters": [{"name", "kind", "tree"}]}, in the order of `forward`.

    kind: "positional" (or by keyword), "positional_only", "keyword". tree: {"tensor": input, "dtype"},
    {"constant": value}, {"tuple" | "list": [trees]} or {"dict": {key: tree}}. What was left out has its default.
    """
    nodes = pytree.tree_unflatten(user_inputs(exported), exported.call_spec.in_spec)
    args = [_input_tree(value, node) for value, node in zip(call.args, nodes[0], strict=True)]
    kwargs = {name: _input_tree(value, nodes[1][name]) for name, value in call.kwargs.items()}
    parameters: list[dict[str, Any]] = []
    for parameter in parameters_of(net):
        if parameter.kind is parameter.VAR_POSITIONAL:
            parameters += [_parameter(f"{parameter.name}_{i}", "positional_only", tree) for i, tree in enumerate(args)]
            args = []
        elif args and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            kind = "positional" if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else "positional_only"
            parameters.append(_parameter(parameter.name, kind, args.pop(0)))
        elif parameter.name in kwargs:
            kind = "positional" if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else "keyword"
            parameters.append(_parameter(parameter.name, kind, kwargs.pop(parameter.name)))
        elif isinstance(parameter.default, int | float | str | type(None)):
            kind = "positional" if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else "keyword"
            parameters.append(_parameter(parameter.name, kind, {"constant": parameter.default}))
    parameters += [_parameter(name, "keyword", tree) for name, tree in kwargs.items()]
    return {"parameters": parameters}


def _parameter(name: str, kind: str, tree: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "kind": kind, "tree": tree}


def _input_tree(value: Any, node: Any) -> dict[str, Any]:
    if type(value) in (tuple, list):
        return {type(value).__name__: [_input_tree(*pair) for pair in zip(value, node, strict=True)]}
    if isinstance(value, Mapping):
        return {"dict": {str(key): _input_tree(item, node[key]) for key, item in value.items()}}
    if isinstance(value, torch.Tensor):
        return {"tensor": node.name, "dtype": DTYPE_NAMES[value.dtype]}
    if isinstance(value, int | float | str | type(None)):
        return {"constant": value}
    raise UnsupportedError(
        f"an input of type {type(value).__name__} is not supported; pass tensors, tuples, lists and dicts"
    )


@dataclass(frozen=True)
class _Leaf:
    """Stands for a tensor or constant of the output while its tree is walked."""

    tree: dict[str, Any]


def _output(exported: torch.export.ExportedProgram) -> tuple[dict[str, Any], dict[str, type]]:
    """The tree that a call returns, and the classes in it; {"tensor": i, "dtype"} counts the tensors that are returned.

    Beside what `_signature` knows: {"namedtuple" | "object": {key: tree}, "class": "module:name"} for named tuples,
    dataclasses and dict subclasses such as transformers' ModelOutput.
    """
    tensors = {node.name: node.meta.get("val") for node in exported.graph.nodes}
    leaves: list[_Leaf] = []
    count = 0
    for spec in exported.graph_signature.output_specs:
        if spec.kind.name != "USER_OUTPUT":
            continue
        kind = type(spec.arg).__name__
        if kind == "ConstantArgument":
            leaves.append(_Leaf({"constant": cast(Any, spec.arg).value}))
        elif kind in RESULTS:
            dtype = RESULTS[kind] or tensors[spec.arg.name].dtype
            leaves.append(_Leaf({"tensor": count, "dtype": DTYPE_NAMES.get(dtype, str(dtype))}))
            count += 1
        else:
            raise UnsupportedError(f"the model returns {spec.arg.name}, a {kind}; return tensors and numbers only")
    if count == 0:
        raise UnsupportedError("the model returns no tensor, so there is nothing to compute")
    classes: dict[str, type] = {}
    tree = _output_tree(pytree.tree_unflatten(leaves, cast(Any, exported.call_spec.out_spec)), classes)
    return tree, classes


def _output_tree(value: Any, classes: dict[str, type]) -> dict[str, Any]:
    if isinstance(value, _Leaf):
        return value.tree
    if value is None:
        return {"constant": None}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_output_tree(item, classes) for item in value]}
    kind, fields = _fields(value)
    items = {str(key): _output_tree(item, classes) for key, item in fields.items()}
    if kind == "dict":
        return {"dict": items}
    of = value.kind if isinstance(value, Parts) else type(value)
    name = f"{of.__module__}:{of.__qualname__}"
    classes[name] = of
    return {kind: items, "class": name}


def _fields(value: Any) -> tuple[str, Mapping[Any, Any]]:
    """The kind of a structure with named parts, and the parts."""
    if isinstance(value, Parts):
        return "object", value.items
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return "namedtuple", value._asdict()
    if isinstance(value, tuple) and type(value).__module__ == "torch.return_types":
        return "namedtuple", dict(zip(cast(Any, type(value)).__match_args__, value, strict=True))
    if isinstance(value, Mapping):
        return "dict" if type(value) is dict else "object", value
    if dataclasses.is_dataclass(value):
        return "object", {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    raise UnsupportedError(f"the model returns a {name}; return tensors, tuples, lists, dicts or dataclasses")
