"""From a torch module to an `ir.Graph`: `export` (torch.export; calls as JSON), then `lower` with its `operators`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from ..errors import InputError, UnsupportedError
from ..graph.ir import Coded, Graph
from ..torch_internals import compile_lock, pytree
from . import caches as caches  # registers an operator of torch
from . import operators as operators  # each registers what it lowers
from .export import Program, dummy_inputs, example, example_of_item, export
from .free import Example, arguments
from .lower import Made, lower, subsets
from .sizes import user_inputs
from .states import paired, without_inputs, without_outputs
from .stored_codes import plain_weights

__all__ = ["Captured", "Example", "arguments", "capture", "dummy_inputs", "example", "example_of_item"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Captured:
    """A float32 graph, and what a call of it takes and returns (see `export`). `notes`: what was decided, and why.

    classes: those of the outputs, by their names in `output`. writes: the inputs and buffers that the module writes
    to, and calls of the graph do not.
    """

    graph: Graph
    signature: dict[str, Any]
    output: dict[str, Any]
    classes: Mapping[str, type]
    notes: tuple[str, ...]
    writes: tuple[str, ...]
    codes: tuple[Coded, ...] = ()
    """All weights that came quantized; the graph's `origins` say what is computed from which."""
    marks: Mapping[int, str] = field(default_factory=dict)
    """The values that `lowbit::mark` named, by its index."""


def capture(
    net: torch.nn.Module,
    inputs: Any,
    dynamic: Any = "auto",
    *,
    fallback: bool = False,
    states: Mapping[str, str] = MappingProxyType({}),
) -> Captured:
    """Capture a module in eval mode as a float32 graph; `net` is left as it is.

    Args:
        net: The module.
        inputs: An example: a tensor, a tuple (positional) or a dict (keywords).
        dynamic: "auto" frees the batch, and the sequence of token inputs; None fixes all sizes; else torch.export's
            `dynamic_shapes`.
        fallback: Let torch run what lowbit has no operator for, in segments.
        states: The arguments that are outputs of the last call, by paths (see `states.py`).

    Returns:
        The graph, and what a call of it takes and returns.

    Raises:
        InputError: Inputs that do not fit.
        UnsupportedError: Operations that lowbit lacks; the message lists all of them.

    Examples:
        >>> import torch
        >>> from lowbit.capture import capture
        >>> [node.op for node in capture(torch.nn.Linear(4, 4), torch.randn(1, 4)).graph]
        ['linear']
    """
    codes: list[Coded] = []
    notes: list[str] = []
    with compile_lock(), plain_weights(net, codes, notes):
        program, made = _fitting(net, inputs, dynamic, fallback, codes, states)
    pairs = paired(program.signature, program.output, states)
    output = without_outputs(program.output, pairs.values())
    assert output is not None
    return Captured(
        graph=made.graph,
        signature=without_inputs(program.signature, pairs),
        output=_renumber(output, made.positions),
        classes=program.classes,
        notes=(*notes, *program.notes, *made.notes, *map(_WRITES.format, made.writes)),
        writes=(*made.writes, *made.unkept),
        codes=made.codes,
        marks=made.marks,
    )


def _fitting(
    net: torch.nn.Module,
    inputs: Any,
    dynamic: Any,
    fallback: bool,
    codes: Sequence[Coded],
    states: Mapping[str, str],
) -> tuple[Program, Made]:
    """The program and its graph; of the sizes that "auto" frees, the ones that an operation needs fixed are."""

    def lowered(program: Program) -> Made:
        pairs = paired(program.signature, program.output, states)
        if without_outputs(program.output, pairs.values()) is None:
            raise InputError("all outputs of the module are states: there is nothing that a call would return")
        return lower(program, fallback=fallback, codes=codes, states=pairs)

    program = export(net, inputs, dynamic)
    refusal: UnsupportedError | None = None
    try:
        made = lowered(program)
        reasons = dict.fromkeys(_too_small(net, inputs, program, made.graph), "the example is smaller")
        trials = [reasons] if reasons else []
    except UnsupportedError as error:
        refusal = error
        reasons = {name: f"its code fits no other at {place}" for name, place in error.sizes.items()}
        trials = [{name: reasons[name] for name in names} for names in subsets(list(reasons))]
    for unfree in trials if isinstance(dynamic, str) else ():
        with suppress(UnsupportedError), warnings.catch_warnings(record=True) as told:
            fixed = export(net, inputs, dynamic, unfree=unfree, told=program.notes)
            made = lowered(fixed)
            program, refusal = fixed, None
            break
    else:
        told = []
    if refusal is not None:
        raise refusal
    for warning in told:
        warnings.warn(str(warning.message), warning.category, stacklevel=7)
    return program, made


def _too_small(net: torch.nn.Module, inputs: Any, program: Program, graph: Graph) -> set[str]:
    """The free sizes that are larger in every call than in the example."""
    call = example(net, inputs)
    tensors = [leaf for leaf in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(leaf, torch.Tensor)]
    names = [node.name for node in user_inputs(program.exported) if node.name in graph.inputs]
    found: set[str] = set()
    for name, tensor in zip(names, tensors, strict=True):
        dims = zip(map(str, graph.values[name].shape), tensor.shape, strict=not tensor.is_complex())
        found |= {dim for dim, size in dims if dim in graph.symbols and size < graph.symbols[dim].minimum}
    return found


_WRITES = "the module writes to its input {!r}; calls of the model leave the caller's as it is"


def _renumber(tree: dict[str, Any], positions: tuple[int, ...]) -> dict[str, Any]:
    """The output tree with the tensors counted as the graph's outputs are."""
    if "tensor" in tree:
        return {**tree, "tensor": positions[tree["tensor"]]}
    renumbered = dict(tree)
    for key, value in tree.items():
        if isinstance(value, list):
            renumbered[key] = [_renumber(item, positions) for item in value]
        elif isinstance(value, dict):
            renumbered[key] = {name: _renumber(item, positions) for name, item in value.items()}
    return renumbered
