"""torch.export with the sizes that callers vary left free: the batch, and the sequence of token inputs.

torch is asked for every such axis at once (`Dim.AUTO`) and answers with symbols, or with a number where the model's own
code fixes the size. Then, step by step, less is asked for: batch and sequence, the batch alone, nothing. What could not
be free is noted with torch's reason.
"""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary, StackSummary, extract_stack, extract_tb
from typing import Any

import sympy
import torch

from ..errors import InputError, UnsupportedError
from ..graph import dims
from ..torch_internals import GuardOnDataDependentSymNode, ShapeEnv, pytree, trace_of_export
from .asked import ASKED, asking, replaced
from .sizes import Axes, named_sizes, symbol_of, user_inputs

LIBRARIES = tuple(str(Path(module).parent) for module in (torch.__file__, __file__))


@dataclass(frozen=True, kw_only=True)
class Example:
    """One call's inputs, as `net(*args, **kwargs)` takes them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Free:
    """One axis to free. name: of its size. expected: whether callers will miss it, so that they must be told."""

    name: str
    expected: bool = True


Requests = list[dict[int, Free]]
"""For each leaf of (args, kwargs), the axes to free."""


def arguments(net: torch.nn.Module, call: Example) -> dict[str, Any]:
    """The inputs by parameter name, as torch.export's `dynamic_shapes` sees them.

    Args:
        net: The module.
        call: What it is called with.

    Returns:
        What each parameter is given.
    """
    return dict(inspect.signature(net.forward).bind(*call.args, **call.kwargs).arguments)


def named_axes(net: torch.nn.Module, call: Example, shapes: Any) -> Axes:
    """The names of free sizes in torch.export's own `dynamic_shapes`."""
    return named_sizes(arguments(net, call), shapes)


# ------------------------------------------------------------------------------------------------------ what is freed


def requests_of(net: torch.nn.Module, call: Example) -> Requests:
    """The axes to free: see the cases below. Sizes of one name are taken for one size."""
    paths, _ = pytree.tree_flatten_with_path((call.args, call.kwargs))
    parameters = list(inspect.signature(net.forward).parameters)
    named = _distinct([(_leaf_name(path, parameters), leaf) for path, leaf in paths])
    tensors = [leaf for _, leaf in named if isinstance(leaf, torch.Tensor) and leaf.dim() > 0]
    recurrent = [module for module in net.modules() if isinstance(module, torch.nn.RNNBase)]
    attends = any(isinstance(module, torch.nn.MultiheadAttention) for module in net.modules())
    batch = tensors[0].shape[0] if tensors else 0
    steps = [leaf for leaf in tensors if _is_steps(leaf)] if recurrent or attends else []
    masks = {name for name, leaf in named if attends and _is_mask(leaf, steps)}
    sequences = _sequences([(name, leaf) for name, leaf in named if name not in masks])
    requests: Requests = []
    for name, leaf in named:
        free: dict[int, Free] = {}
        requests.append(free)
        if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0:
            continue
        if leaf is not tensors[0] and _is_state(leaf, recurrent, batch):
            free[1] = Free(name="batch")
            continue
        if name in masks:  # torch knows which of its sizes are whose
            free.update({axis: Free(name=f"{name}_{axis}", expected=False) for axis in range(leaf.dim())})
            continue
        if leaf.shape[0] == batch:
            free[0] = Free(name="batch")
        elif leaf.dim() > 1:  # a batch of its own: so many images for so many texts
            free[0] = Free(name=f"{name}_batch", expected=False)
        elif recurrent and steps and leaf.shape[0] == steps[0].shape[1]:  # the lengths of [steps, batch, features]
            free[0] = Free(name=next(f"{other}_steps" for other, item in named if item is steps[0]), expected=False)
        if leaf.dim() == 2 and (_is_decoder(name), leaf.shape) in sequences:  # masks of floats too
            free[1] = Free(name=sequences[_is_decoder(name), leaf.shape])
        elif any(leaf is item for item in steps) and not sequences:  # the features of steps
            free[1] = Free(name=f"{name}_steps", expected=False)
    return requests


def _distinct(named: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The leaves with a name each: those of one list or of `*inputs` are numbered."""
    counts = Counter(name for name, _ in named)
    return [(f"{name}_{place}" if counts[name] > 1 else name, leaf) for place, (name, leaf) in enumerate(named)]


def _sequences(named: Sequence[tuple[str, Any]]) -> dict[tuple[bool, torch.Size], str]:
    """A name for the length of token inputs of one shape, on each side of an encoder and decoder."""
    found: dict[tuple[bool, torch.Size], str] = {}
    for name, leaf in named:
        if _is_tokens(leaf):
            request = "decoder_sequence" if _is_decoder(name) else "sequence"
            request = f"{name}_sequence" if request in found.values() else request
            found.setdefault((_is_decoder(name), leaf.shape), request)
    return found


def _leaf_name(path: Any, parameters: list[str]) -> str:
    """The parameter or key that a leaf hangs from."""
    keys = [str(getattr(key, "key", getattr(key, "idx", ""))) for key in path]
    if keys[0] == "0":
        position = min(int(keys[1]), len(parameters) - 1)
        keys[1] = parameters[position]
    return next((key for key in reversed(keys) if key.isidentifier()), "input")


def _is_tokens(leaf: Any) -> bool:
    """Whether it is a table of numbers of samples and steps, such as input_ids and attention_mask."""
    is_table = isinstance(leaf, torch.Tensor) and leaf.dim() == 2
    return is_table and not (leaf.dtype.is_floating_point or leaf.dtype.is_complex)


def _is_steps(leaf: torch.Tensor) -> bool:
    """Whether it may be the features of steps, [batch, steps, features] or [steps, batch, features]."""
    return leaf.dim() == 3 and leaf.dtype.is_floating_point


def _is_mask(leaf: Any, steps: Sequence[torch.Tensor]) -> bool:
    """Whether it has sizes of steps alone, as masks of attention have: [L, L], [batch, L], [batch * heads, L, L]."""
    if not isinstance(leaf, torch.Tensor) or leaf.dim() not in (2, 3) or any(leaf is item for item in steps[:1]):
        return False
    lengths = {size for item in steps for size in item.shape[:2]}
    return lengths.issuperset(leaf.shape[-2:])


def _is_state(leaf: torch.Tensor, layers: list[torch.nn.RNNBase], batch: int) -> bool:
    """Whether it is a recurrent layer's state [layers, batch, hidden]."""
    counts = {layer.num_layers * (2 if layer.bidirectional else 1) for layer in layers}
    return leaf.dim() == 3 and leaf.shape[0] in counts and leaf.shape[1] == batch


def _is_decoder(name: str) -> bool:
    return name.startswith(("decoder", "tgt", "target"))


def _repeated(call: Example, requests: Requests) -> Example:
    """The example with every free axis of size 1 repeated to 2: torch would take 1 for a constant."""
    leaves, spec = pytree.tree_flatten((call.args, call.kwargs))
    for index, request in enumerate(requests):
        for axis in request:
            if leaves[index].shape[axis] == 1:
                leaves[index] = torch.cat([leaves[index]] * 2, dim=axis)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return Example(args=args, kwargs=kwargs)


def _shapes(net: torch.nn.Module, call: Example, requests: Requests, hint: Any) -> Any:
    """The requests as torch.export's `dynamic_shapes`."""
    spec = pytree.tree_structure((call.args, call.kwargs))
    shapes = [dict.fromkeys(request, hint) or None for request in requests]
    args, kwargs = pytree.tree_unflatten(shapes, spec)
    return arguments(net, Example(args=args, kwargs=kwargs))


# ------------------------------------------------------------------------------------------------------------- export


def has_names(shapes: Any) -> bool:
    """Whether free sizes are given by name: {"x": {0: "batch", 1: "length"}}."""
    if isinstance(shapes, Mapping | tuple | list):
        return any(has_names(item) for item in (shapes.values() if isinstance(shapes, Mapping) else shapes))
    return isinstance(shapes, str)


def export_named(net: torch.nn.Module, call: Example, shapes: Any) -> tuple[torch.export.ExportedProgram, Axes]:
    """Export with the named sizes free, those of one name alike. Raises UnsupportedError where one cannot be."""
    found: dict[int, dict[int, Free]] = {}
    given = arguments(net, call)
    _match(given, shapes if isinstance(shapes, Mapping) else dict(zip(given, shapes, strict=False)), found)
    requests = [found.get(id(leaf), {}) for leaf in pytree.tree_leaves((call.args, call.kwargs))]
    exported = run_export(net, _repeated(call, requests), _shapes(net, call, requests, torch.export.Dim.AUTO))
    stuck = _stuck(exported, call, requests)
    if stuck:
        reason = _why_stuck(net, call, _only(requests, stuck))
        raise UnsupportedError(f"{', '.join(sorted(stuck))} cannot be free: {reason}")
    return exported, _requested_axes(exported, call, requests)


def _match(value: Any, shapes: Any, found: dict[int, dict[int, Free]]) -> None:
    """Collect the named axes of each tensor. Raises InputError for names that belong to none."""
    if isinstance(value, torch.Tensor):
        if not isinstance(shapes, Mapping | tuple | list | None):
            raise InputError(f"dynamic is {shapes!r} for an input; it must be {{axis: name}}, such as {{0: 'batch'}}")
        axes = dict(enumerate(shapes)) if isinstance(shapes, tuple | list) else dict(shapes or {})
        named = {axis: name for axis, name in axes.items() if name is not None}
        for axis, name in named.items():
            if axis not in range(value.dim()) or not isinstance(name, str) or not dims.is_symbol_name(name):
                raise InputError(f"{{{axis!r}: {name!r}}} names no axis of an input of shape {list(value.shape)}")
        found[id(value)] = {axis: Free(name=name) for axis, name in named.items()}
    elif isinstance(value, Mapping) and isinstance(shapes, Mapping):
        unknown = [key for key in shapes if key not in value]
        if unknown:
            raise InputError(f"dynamic names inputs {unknown}; there are {list(value)}")
        for key, item in shapes.items():
            _match(value[key], item, found)
    elif isinstance(value, tuple | list) and isinstance(shapes, tuple | list):
        for part, item in zip(value, shapes, strict=False):
            _match(part, item, found)


def export_free(
    net: torch.nn.Module, call: Example, notes: list[str], unfree: Mapping[str, str], told: Collection[str]
) -> tuple[torch.export.ExportedProgram, Axes]:
    """Export with as many of the requested axes free as the model lets be; notes (and warnings) say which are not.

    unfree: sizes that are known not to be, each with a reason. told: notes to warn of no more.
    """
    requests = requests_of(net, call)
    fixed: list[tuple[Requests, str]] = [(_only(requests, {name}), reason) for name, reason in unfree.items()]
    requests = _only(requests, _names(requests) - set(unfree))
    while True:
        try:
            exported = run_export(net, _repeated(call, requests), _shapes(net, call, requests, torch.export.Dim.AUTO))
        except UnsupportedError as error:
            fewer = _fewer(requests)
            if fewer is None or isinstance(error.__cause__, GuardOnDataDependentSymNode):
                raise
            fixed.append((_only(requests, _names(requests) - _names(fewer)), _reason(error)))
            requests = fewer
            continue
        stuck = _stuck(exported, call, requests)
        if not stuck:
            _tell(call, fixed, notes, told)
            return exported, _requested_axes(exported, call, requests)
        fixed.append((_only(requests, stuck), _why_stuck(net, call, _only(requests, stuck))))
        requests = _only(requests, _names(requests) - stuck)


def _only(requests: Requests, names: set[str]) -> Requests:
    return [{axis: free for axis, free in request.items() if free.name in names} for request in requests]


def _names(requests: Requests) -> set[str]:
    return {free.name for request in requests for free in request.values()}


def _fewer(requests: Requests) -> Requests | None:
    """The next smaller set of requests: first only the batch, then none; None if nothing is left to give up."""
    names = _names(requests)
    if not names:
        return None
    surplus = names - {"batch"}
    return _only(requests, names - (surplus or names))


def _placed(exported: torch.export.ExportedProgram, call: Example) -> list[Any]:
    """The placeholder of each leaf of (args, kwargs)."""
    args, kwargs = pytree.tree_unflatten(user_inputs(exported), exported.call_spec.in_spec)
    return pytree.tree_leaves((args, {name: kwargs[name] for name in call.kwargs}))


def _stuck(exported: torch.export.ExportedProgram, call: Example, requests: Requests) -> set[str]:
    """The names of which no axis is free, or some axis is an expression, such as a multiple of 4."""
    found: set[str] = set()
    free: set[str] = set()
    for node, request in zip(_placed(exported, call), requests, strict=True):
        for axis, item in request.items():
            size = node.meta["val"].shape[axis]
            if symbol_of(size) is not None:
                free.add(item.name)
            elif isinstance(size, torch.SymInt):
                return {item.name}
            else:
                found.add(item.name)
    return found - free


def _requested_axes(exported: torch.export.ExportedProgram, call: Example, requests: Requests) -> Axes:
    pairs = zip(_placed(exported, call), requests, strict=True)
    return {(node.name, axis): free.name for node, request in pairs for axis, free in request.items()}


def _tell(call: Example, fixed: list[tuple[Requests, str]], notes: list[str], known: Collection[str]) -> None:
    """Note, and warn of, sizes that are fixed, each with its reason; not of what is known."""
    leaves = pytree.tree_leaves((call.args, call.kwargs))
    for requests, reason in fixed:
        told: set[str] = set()
        for leaf, request in zip(leaves, requests, strict=True):
            for axis, free in request.items():
                if free.name in told:
                    continue
                told.add(free.name)
                size = f"the {free.name.replace('_', ' ')} is fixed to {leaf.shape[axis]}"
                notes.append(f"{size}: the model does not export with a free one ({reason})")
                if free.expected and notes[-1] not in known:
                    warnings.warn(notes[-1], stacklevel=8)


def _why_stuck(net: torch.nn.Module, call: Example, requests: Requests) -> str:
    """The line of code that fixes sizes, found by watching torch trace it once more."""
    if not any(free.expected for request in requests for free in request.values()):
        return "its code depends on it"
    example = _repeated(call, requests)
    with _specializations() as places, suppress(UnsupportedError):
        run_export(net, example, _shapes(net, call, requests, torch.export.Dim.AUTO))
    leaves = pytree.tree_leaves((example.args, example.kwargs))
    sizes = [leaf.shape[axis] for leaf, request in zip(leaves, requests, strict=True) for axis in request]
    place = next((places[size] for size in sizes if size in places), "")
    return f"its code specialized it to be a constant{place} (len(x) and int(...) do so, x.shape[0] stays free)"


_SPECIALIZES = "_set_replacement"
"""The method by which torch notes what a size must be; it logs that, too, but loggers may be disabled for all."""


@contextmanager
def _specializations() -> Iterator[dict[int, str]]:
    """Where the model's code is when torch finds that a size must be some number, by that number."""
    places: dict[int, str] = {}
    original = getattr(ShapeEnv, _SPECIALIZES, None)
    if original is None:  # torch's own business: without it, the message lacks the line
        yield places
        return

    def noted(env: ShapeEnv, size: sympy.Symbol, found: sympy.Expr, *reason: str) -> None:
        frame = _own(extract_stack()) if isinstance(found, sympy.Integer) else None
        if frame is not None:
            places.setdefault(int(found), f" at {Path(frame.filename).name}:{frame.lineno}: {frame.line}")
        original(env, size, found, *reason)

    setattr(ShapeEnv, _SPECIALIZES, noted)
    try:
        yield places
    finally:
        setattr(ShapeEnv, _SPECIALIZES, original)


def _reason(error: UnsupportedError) -> str:
    return " ".join(str(error).partition(": ")[2].partition("\n(")[0].split())


def run_export(net: torch.nn.Module, call: Example, shapes: Any) -> torch.export.ExportedProgram:
    """torch.export, its many kinds of failure made one; in the graph's `meta[ASKED]`, what code asked for."""
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet(), asking() as asked:
            warnings.simplefilter("ignore")
            exported = torch.export.export(net, call.args, call.kwargs, dynamic_shapes=shapes, strict=False)
        exported.graph_module.meta[ASKED] = asked
        return exported
    except UnsupportedError:
        raise
    except GuardOnDataDependentSymNode as error:
        raise UnsupportedError(
            f"{type(net).__name__} decides by the values of a tensor what to compute:\n{_place(error)}\n"
            "A converted model computes the same for all inputs. Choose with torch.where(condition, a, b) instead of "
            "`if`, take a fixed number of steps instead of a loop until something holds, and mask what is not needed; "
            "or convert the modules around this line, each by itself."
        ) from error
    except Exception as error:
        raise UnsupportedError(
            f"torch.export cannot capture {type(net).__name__}: {_first_lines(error)}\n"
            f"(If the model itself fails on these inputs, correct the inputs.{_scripted(net)})"
        ) from error


def _scripted(net: torch.nn.Module) -> str:
    """A hint where parts are TorchScript."""
    names = [name for name, module in net.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    return f" {names[0]!r} is TorchScript: use the nn.Module that it was made from." if names else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks and listings that torch logs, and prints, of a failure that is reported anyway."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with replaced(trace_of_export(), "print", lambda *lines, **options: None):
            yield
    finally:
        logger.setLevel(level)


def _first_lines(error: Exception) -> str:
    """What torch says without its advice to its own developers, and the line of the user's code."""
    text = str(error).strip()
    head = re.sub(r"\s*For more information, run with [^\n]*", "", text.partition("\n\n")[0]).strip()
    return "\n".join(part for part in (f"{type(error).__name__}: {head}", _place(error)) if part)


def _place(error: Exception) -> str:
    """The line of the model's own code that torch was tracing."""
    frame = _own(extract_tb(error.__traceback__))
    return f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n    {frame.line}' if frame else ""


def _own(stack: StackSummary) -> FrameSummary | None:
    """The innermost frame that is not torch's or lowbit's, of the person's own code if there is some."""
    first = next((i for i, frame in enumerate(stack) if frame.filename == __file__), 0)
    frames = [frame for frame in stack[first:] if not frame.filename.startswith((*LIBRARIES, "<"))]
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return own[-1] if own else None


@contextmanager
def without_cache(net: torch.nn.Module, call: Example, notes: list[str]) -> Iterator[None]:
    """transformers' `use_cache` off: a key-value cache is no tensor, and one call has no use for it."""
    configs = {
        id(config): config for module in net.modules() if (config := getattr(module, "config", None)) is not None
    }
    asked = any(call.kwargs.get(key) is not None for key in ("use_cache", "past_key_values"))
    caching = [config for config in configs.values() if getattr(config, "use_cache", False) is True and not asked]
    if caching:
        notes.append("use_cache is off: the model returns no past_key_values")
    for config in caching:
        config.use_cache = False
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True
