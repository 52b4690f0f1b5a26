"""From a module and example inputs to torch's exported program, plus what a call of the model looks like.

`torch.export` runs the module once on shapes alone (nothing is computed, no parameter is copied or changed) and yields
its aten operations. What a caller may pass and what a call returns is kept as plain JSON (`signature`, `output`; see
`session.py`), so that a saved file can be called without torch and without the model's own classes.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import sympy  # type: ignore[import-untyped]
import torch
from torch.utils import _pytree as pytree

from .. import dims
from ..errors import InputError, UnsupportedError
from ..ir import Dim, Symbol

FLOAT_NAMES = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16"}
DTYPE_NAMES = {
    **FLOAT_NAMES,
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "bool",
    torch.uint8: "u8",
    torch.int8: "s8",
}
"""torch's element types by lowbit's names. f64, f16 and bf16 occur only in calls of a model: graphs compute in f32."""

MAXIMUM = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Example:
    """One call's inputs, as `net(*args, **kwargs)` takes them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """An exported module. `names`: torch's symbols to lowbit's; `notes`: what was decided on the way, and why."""

    exported: torch.export.ExportedProgram
    signature: dict[str, Any]
    output: dict[str, Any]
    classes: Mapping[str, type]
    names: Mapping[sympy.Symbol, str]
    symbols: Mapping[str, Symbol]
    notes: tuple[str, ...]


# --------------------------------------------------------------------------------------------------------------- inputs


def parameters_of(net: torch.nn.Module) -> list[inspect.Parameter]:
    """The parameters of the module's `forward`, without self."""
    return list(inspect.signature(net.forward).parameters.values())


def example(net: torch.nn.Module, inputs: Any) -> Example:
    """One call's inputs from what a person passes: a tensor; a tuple or list (positional); a dict (keywords).

    Raises InputError when `net.forward` would not take them.
    """
    if isinstance(inputs, Example):
        made = inputs
    elif isinstance(inputs, Mapping):
        made = Example(args=(), kwargs={str(key): value for key, value in inputs.items()})
    elif isinstance(inputs, tuple | list):
        made = Example(args=tuple(inputs), kwargs={})
    else:
        made = Example(args=(inputs,), kwargs={})
    made = Example(args=_as_tensors(made.args), kwargs=_as_tensors(made.kwargs))
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


def _as_tensors(tree: Any) -> Any:
    """NumPy arrays become tensors; everything else stays."""

    def leaf(value: Any) -> Any:
        return (
            torch.from_numpy(value)
            if type(value).__module__ == "numpy" and hasattr(value, "__array_interface__")
            else value
        )

    return pytree.tree_map(leaf, tree)


def example_of_item(net: torch.nn.Module, item: Any) -> Example:
    """One call's inputs from an item of a DataLoader, before anything is known but `net.forward`.

    A tuple or list holds the positional inputs, as many as `forward` has parameters without a default (at least one);
    what follows them (the labels of `(x, y)`) is dropped. A dict loses the keys that `forward` has no parameter for.
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
    """`net.dummy_inputs` (transformers' convention) if the module has them and they are its main input's, else None."""
    inputs = getattr(net, "dummy_inputs", None)
    if not isinstance(inputs, Mapping):
        return None
    known = {parameter.name for parameter in parameters_of(net)}
    main = getattr(net, "main_input_name", None)  # transformers gives every model `input_ids`, vision models too
    return inputs if set(inputs) <= known and (main is None or main in inputs) else None


# --------------------------------------------------------------------------------------------------------------- export


def export(net: torch.nn.Module, inputs: Any, dynamic: Any = "auto") -> Program:
    """Export `net` in eval mode without decomposition.

    inputs: see `example`. dynamic: "auto" frees the batch (dim 0 of the first tensor, and of every tensor input that
    has the same size there); None fixes every size; anything else is torch.export's `dynamic_shapes`.
    Raises InputError for inputs that do not fit and UnsupportedError where torch cannot export.
    """
    if isinstance(dynamic, str) and dynamic != "auto":
        raise InputError(f'dynamic must be "auto", None or torch.export\'s dynamic_shapes, not {dynamic!r}')
    call = example(net, inputs)
    _check_inputs(call)
    notes: list[str] = []
    if any(module.training for module in net.modules()):
        notes.append("the model was in train mode: converted as in eval mode")
        warnings.warn("the model is in train mode; lowbit converts it as in eval mode (net.eval())", stacklevel=2)
    with _eval_mode(net):
        if isinstance(dynamic, str):
            exported, named = _export_batch(net, call, notes)
        else:
            exported, named = _export(net, call, dynamic), _dims_by_input(net, call, dynamic)
    names = _symbol_names(exported, named)
    output, classes = _output(exported)
    return Program(
        exported=exported,
        signature=_signature(net, call, exported),
        output=output,
        classes=classes,
        names=names,
        symbols={name: _bounds(exported.range_constraints.get(symbol)) for symbol, name in names.items()},
        notes=tuple(notes),
    )


@contextmanager
def _eval_mode(net: torch.nn.Module) -> Iterator[None]:
    """eval() for a while, every submodule's own flag restored after."""
    flags = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


def _check_inputs(call: Example) -> None:
    for leaf in pytree.tree_leaves((call.args, call.kwargs)):
        if isinstance(leaf, torch.Tensor):
            if leaf.dtype not in DTYPE_NAMES:
                raise InputError(
                    f"an input of {leaf.dtype} is not supported; use one of {', '.join(map(str, DTYPE_NAMES))}"
                )
            if leaf.numel() == 0:
                raise InputError(f"an example input of shape {list(leaf.shape)} is empty; pass at least one sample")
        elif not isinstance(leaf, int | float | str | type(None)):
            raise InputError(
                f"an input of type {type(leaf).__name__} is not supported; use tensors, numbers, text or None"
            )


def _export(net: torch.nn.Module, call: Example, shapes: Any) -> torch.export.ExportedProgram:
    """torch.export, its many kinds of failure made one."""
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            return torch.export.export(net, call.args, call.kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise UnsupportedError(
            f"torch.export cannot capture {type(net).__name__}: {_first_lines(error)}\n"
            "(A Python `if` or loop over a tensor's values cannot be exported: rewrite it with torch.where, or convert "
            "the parts around it. If the model itself fails on these inputs, correct the inputs.)"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks and listings that torch logs of a failure that is reported anyway."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_lines(error: Exception) -> str:
    """What torch says without its advice to its own developers, and the line of the user's code."""
    text = str(error).strip()
    call = text.partition("The following call raised this error:\n")[2].partition("\n\n")[0].rstrip()
    head = re.sub(r"\s*For more information, run with [^\n]*", "", text.partition("\n\n")[0]).strip()
    return "\n".join(part for part in (f"{type(error).__name__}: {head}", call) if part)


def _arguments(net: torch.nn.Module, call: Example) -> dict[str, Any]:
    """The inputs by parameter name, as torch.export's `dynamic_shapes` sees them."""
    return dict(inspect.signature(net.forward).bind(*call.args, **call.kwargs).arguments)


def _export_batch(
    net: torch.nn.Module, call: Example, notes: list[str]
) -> tuple[torch.export.ExportedProgram, Mapping[tuple[str, int], str]]:
    """Export with the batch free; where the model fixes it, with the sizes of the example, and say so."""
    arguments = _arguments(net, call)
    sizes = [leaf.shape[0] for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if not sizes:
        return _export(net, call, None), {}
    batch = sizes[0]

    def shares(leaf: Any) -> bool:
        return isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch

    dim = torch.export.Dim("batch", min=1)
    shapes = pytree.tree_map(lambda leaf: {0: dim} if shares(leaf) else None, arguments)
    # A size of 1 would be taken for a constant, so one sample is repeated to two.
    args, kwargs = pytree.tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if batch == 1 and shares(leaf) else leaf, (call.args, call.kwargs)
    )
    try:
        return _export(net, Example(args=args, kwargs=kwargs), shapes), {}
    except UnsupportedError as error:
        reason = " ".join(str(error).partition(": ")[2].partition("\n(A Python")[0].split())
    exported = _export(net, call, None)
    notes.append(f"the batch is fixed to {batch}: the model does not export with a free one ({reason})")
    warnings.warn(notes[-1], stacklevel=3)
    return exported, {}


def _dims_by_input(net: torch.nn.Module, call: Example, shapes: Any) -> Mapping[tuple[str, int], str]:
    """The names a person gave in `dynamic_shapes`, by (parameter, axis), for tensors that are parameters themselves."""
    arguments = _arguments(net, call)
    if isinstance(shapes, tuple | list):
        shapes = dict(zip(arguments, shapes, strict=False))
    found: dict[tuple[str, int], str] = {}
    for name, spec in shapes.items() if isinstance(shapes, Mapping) else ():
        axes = spec.items() if isinstance(spec, Mapping) else enumerate(spec) if isinstance(spec, tuple | list) else ()
        for axis, dim in axes:
            text = getattr(dim, "__name__", "")
            if isinstance(axis, int) and isinstance(text, str) and dims.is_symbol_name(text):
                found[name, axis] = text
    return found


# -------------------------------------------------------------------------------------------------------------- symbols


def user_inputs(exported: torch.export.ExportedProgram) -> list[Any]:
    """The placeholders of the caller's inputs, in the order of the flattened (args, kwargs)."""
    names = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    return [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]


def _symbol_names(
    exported: torch.export.ExportedProgram, named: Mapping[tuple[str, int], str]
) -> dict[sympy.Symbol, str]:
    """A readable name for each free size: the caller's own, else "batch" for a first axis, else input_axis."""
    names: dict[sympy.Symbol, str] = {}
    for node in user_inputs(exported):
        tensor = node.meta.get("val")
        for axis, size in enumerate(tensor.shape if isinstance(tensor, torch.Tensor) else ()):
            symbol = size.node.expr if isinstance(size, torch.SymInt) else None
            if isinstance(symbol, sympy.Symbol) and symbol not in names:
                wish = named.get((node.name, axis)) or ("batch" if axis == 0 else f"{node.name}_{axis}")
                taken = set(names.values())
                names[symbol] = next(n for n in (wish, *(f"{wish}_{i}" for i in range(2, 99))) if n not in taken)
    return names


def _bounds(constraint: Any) -> Symbol:
    """Inclusive bounds; torch's lower bound of 2 only says that 0 and 1 were not traced apart."""
    lower, upper = getattr(constraint, "lower", 0), getattr(constraint, "upper", None)
    minimum = int(lower) if isinstance(lower, int | sympy.Integer) else 1
    maximum = int(upper) if isinstance(upper, int | sympy.Integer) else MAXIMUM
    return Symbol(minimum=1 if minimum <= 2 else minimum, maximum=min(maximum, MAXIMUM))


def dim_of(size: Any, names: Mapping[sympy.Symbol, str]) -> Dim:
    """A torch size (int, SymInt or sympy expression) as a Dim. Raises UnsupportedError for what a Dim cannot say."""
    if isinstance(size, int):
        return size
    return dims.simplify(_text(size.node.expr if isinstance(size, torch.SymInt) else size, names))


def _text(expr: Any, names: Mapping[sympy.Symbol, str]) -> str:
    if isinstance(expr, sympy.Symbol) and expr in names:
        return names[expr]
    if isinstance(expr, sympy.Integer):
        return f"({int(expr)})"
    args = [_text(arg, names) for arg in expr.args]
    match type(expr).__name__:
        case "Add":
            return f"({' + '.join(args)})"
        case "Mul" if all(not isinstance(arg, sympy.Rational) or isinstance(arg, sympy.Integer) for arg in expr.args):
            return f"({' * '.join(args)})"
        case "FloorDiv" | "CleanDiv":
            return f"({args[0]} // {args[1]})"
        case "Mod" | "PythonMod":
            return f"({args[0]} % {args[1]})"
        case "CeilDiv":
            return f"(-((-{args[0]}) // {args[1]}))"
        case "Max":
            return functools.reduce("max({}, {})".format, args)
        case "Min":
            return functools.reduce("min({}, {})".format, args)
        case "Pow" | "PowByNatural" if isinstance(expr.args[1], sympy.Integer) and 0 < int(expr.args[1]) < 9:
            return f"({' * '.join([args[0]] * int(expr.args[1]))})"
    raise UnsupportedError(f"the size {expr} depends on more than the input's sizes by whole-number arithmetic")


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
        if type(spec.arg).__name__ == "TensorArgument":
            dtype = tensors[spec.arg.name].dtype
            leaves.append(_Leaf({"tensor": count, "dtype": DTYPE_NAMES.get(dtype, str(dtype))}))
            count += 1
        elif type(spec.arg).__name__ == "ConstantArgument":
            leaves.append(_Leaf({"constant": cast(Any, spec.arg).value}))
        else:
            raise UnsupportedError(
                f"the model returns a size ({spec.arg.name}); return tensors only, and read sizes from their shapes"
            )
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
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    classes[name] = type(value)
    return {kind: items, "class": name}


def _fields(value: Any) -> tuple[str, Mapping[Any, Any]]:
    """The kind of a structure with named parts, and the parts."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return "namedtuple", value._asdict()
    if isinstance(value, Mapping):
        return "dict" if type(value) is dict else "object", value
    if dataclasses.is_dataclass(value):
        return "object", {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    raise UnsupportedError(f"the model returns a {name}; return tensors, tuples, lists, dicts or dataclasses")
