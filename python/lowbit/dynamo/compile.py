"""The torch.compile backend: each graph that dynamo finds, converted; what lowbit lacks stays in torch, by segments.

dynamo hands over a graph whose inputs are the caller's tensors, sizes that vary, and the model's parameters and
buffers. The latter are frozen into the converted graph: a model that is trained further must be compiled again.
"""

from __future__ import annotations

import operator
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..capture import Example
from ..capture.fast_paths import without_fast_paths
from ..capture.sizes import dim_of, symbol_of
from ..conversion import convert
from ..converted_model import ConvertedModel
from ..errors import InputError, UnsupportedError
from ..graph import dims
from ..torch_internals import outside_of_tracing, version

Compiled = Callable[..., Any]
OPTIONS = {"scheme": "int8", "threads": None, "tune": False, "target": None, "fallback": "torch"}
"""What torch.compile's `options` may hold, with the defaults: `lowbit.convert`'s arguments of these names."""

_models: weakref.WeakValueDictionary[Any, ConvertedModel] = weakref.WeakValueDictionary()
"""Converted graphs: dynamo also compiles again what is the same but for guards, such as torch's own on batches."""


def compile_graph(module: torch.fx.GraphModule, inputs: Sequence[Any], **given: Any) -> Compiled:
    """Convert one of dynamo's graphs; `torch.compile(net, backend="lowbit")` calls it.

    Where the graph must stay in torch (gradients are wanted, an input is written to or is on another device, or
    torch.export cannot capture it), it does, and a warning says why, once.

    Args:
        module: The graph.
        inputs: Example inputs, which dynamo made.
        given: "options": those of torch.compile; `OPTIONS` lists them.

    Returns:
        A function that runs the graph.

    Raises:
        InputError: Unknown options.

    Examples:
        >>> import torch
        >>> fast = torch.compile(torch.nn.Linear(8, 4), backend="lowbit", options={"scheme": "int8"})
        >>> with torch.inference_mode():
        ...     fast(torch.randn(2, 8)).shape
        torch.Size([2, 4])
    """
    options = {**OPTIONS, **(given.get("options") or {})}
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise InputError(f"unknown options {unknown} for backend='lowbit'; there are {list(OPTIONS)}")
    reason = _stays(inputs)
    if reason:
        return _in_torch(module, reason)
    frame = Frame(without_fast_paths(module), inputs)
    if not frame.results or not frame.example or frame.is_empty:
        return _counted(module.forward)
    key = frame.key(options)
    try:
        model = _models.get(key) or frame.convert(options)
    except UnsupportedError as error:
        if options["fallback"] is None:
            raise
        return _in_torch(module, " ".join(str(error).split()[:60]))
    if model.meta.writes or model.graph.states:
        return _in_torch(module, "it writes to its inputs or buffers")
    _models[key] = model
    return frame.runner(model)


def _stays(inputs: Sequence[Any]) -> str:
    """Why a graph with these inputs must run in torch, or ""."""
    tensors = [item for item in inputs if isinstance(item, torch.Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "gradients are wanted: call it under torch.no_grad() or torch.inference_mode(), or freeze the parameters"
    other = next((str(tensor.device) for tensor in tensors if tensor.device.type != "cpu"), None)
    return f"an input is on {other}: lowbit runs on CPUs" if other else ""


_told: set[str] = set()


def _in_torch(module: torch.fx.GraphModule, reason: str) -> Compiled:
    if reason not in _told:
        _told.add(reason)
        warnings.warn(f"backend='lowbit' leaves a graph in torch: {reason}", stacklevel=2)
    return _counted(module.forward)


@contextmanager
def _outside_of_dynamo() -> Iterator[None]:
    """torch.export as if no compilation were under way."""
    with outside_of_tracing():
        yield


class Frame(torch.nn.Module):
    """dynamo's graph as a module of the caller's tensors alone: parameters are its own, sizes are read off tensors.

    example, axes: the tensors, and the name of each free size by axis. results: where the graph's tensors are among
    its results. A size of no tensor comes as the length of an empty one.
    """

    def __init__(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.module = module
        self.example: tuple[torch.Tensor, ...] = ()
        self.axes: list[dict[int, str]] = []
        self._taken: list[Callable[..., torch.Tensor]] = []
        self._held: list[torch.Tensor] = []
        self._names: dict[Any, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._places: list[tuple[str, Any]] = []
        nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
        for index, (node, value) in enumerate(zip(nodes, inputs, strict=True)):
            if not isinstance(value, torch.Tensor):
                self._places.append(("size", node.meta["example_value"]))
            elif _is_frozen(node, value):
                self.register_buffer(f"held_{index}", value.detach())
                self._held.append(value)
                self._places.append(("held", f"held_{index}"))
            else:
                self._places.append(("tensor", len(self.example)))
                self._take(value.detach(), node.meta["example_value"].shape, operator.itemgetter(index))
        for index, (kind, value) in enumerate(self._places):
            if kind == "size" and isinstance(value, torch.SymInt) and symbol_of(value) not in self._names:
                self._take(torch.empty(max(2, value.node.hint), 0), (value, 0), _Length(index))
        outputs = next(iter(reversed(module.graph.nodes))).args[0]
        self._outputs = [item.meta["example_value"] if isinstance(item, torch.fx.Node) else item for item in outputs]
        self.results = [i for i, item in enumerate(self._outputs) if isinstance(item, torch.Tensor)]
        self.eval()

    def _take(self, value: torch.Tensor, shape: Sequence[Any], take: Callable[..., torch.Tensor]) -> None:
        """A tensor of each call; `take` gets it from dynamo's arguments."""
        axes: dict[int, str] = {}
        for axis, size in enumerate(shape):
            symbol = symbol_of(size)
            if symbol is not None:
                axes[axis] = self._names.setdefault(symbol, f"s{len(self._names)}")
                self._sizes.setdefault(axes[axis], (len(self.example), axis))
        self._taken.append(take)
        self.axes.append(axes)
        self.example += (value,)

    @property
    def is_empty(self) -> bool:
        """Whether a tensor has no elements, so that there is nothing to compute."""
        pairs = zip(self.example, self._taken, strict=True)
        return any(not value.numel() and not isinstance(take, _Length) for value, take in pairs)

    def convert(self, options: Mapping[str, Any]) -> ConvertedModel:
        """The converted model. Raises UnsupportedError."""
        free = {"tensors": tuple(axes or None for axes in self.axes)} if any(self.axes) else None
        with _outside_of_dynamo(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert(self, Example(args=self.example, kwargs={}), dynamic=free, progress=False, **options)

    def key(self, options: Mapping[str, Any]) -> Any:
        """Equal for graphs that compute the same with the same parameters."""
        held = tuple((id(x), x.data_ptr(), x.is_inference() or version(x), x.shape) for x in self._held)
        given = tuple(
            (x.dtype, *(axes.get(i, n) for i, n in enumerate(x.shape)))
            for x, axes in zip(self.example, self.axes, strict=True)
        )
        return self.module.code, held, given, repr(options), tuple(map(str, self._outputs))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensor results."""
        sizes = {name: tensors[at].shape[axis] for name, (at, axis) in self._sizes.items()}
        arguments: list[Any] = []
        for kind, item in self._places:
            if kind == "tensor":
                arguments.append(tensors[item])
            elif kind == "held":
                arguments.append(getattr(self, item))
            else:
                arguments.append(sizes[self._names[symbol_of(item)]] if isinstance(item, torch.SymInt) else item)
        found = self.module(*arguments)
        return tuple(found[place] for place in self.results)

    def runner(self, model: ConvertedModel) -> Compiled:
        """Runs the converted model on dynamo's arguments."""
        taken, results, places = tuple(self._taken), tuple(self.results), self._sizes
        whole: list[Any] = [self._constant(item) for item in self._outputs]
        has_sizes = any(isinstance(item, str) for item in whole)

        def run(*arguments: Any) -> tuple[Any, ...]:
            tensors = [take(arguments) for take in taken]
            if _counts:
                _count(model, tensors)
            found = list(whole)
            if has_sizes:
                sizes = {name: tensors[at].shape[axis] for name, (at, axis) in places.items()}
                found = [dims.evaluate(item, sizes) if isinstance(item, str) else item for item in whole]
            for place, result in zip(results, model(*tensors), strict=True):
                found[place] = result
            return tuple(found)

        run.__dict__["held"] = self._held  # alive as long as the model: `key` knows them by their identity
        return run

    def _constant(self, value: Any) -> Any:
        """A result that is no tensor: a number, or a text for one that varies."""
        if isinstance(value, torch.SymInt):
            return dim_of(value, self._names)
        return None if isinstance(value, torch.Tensor) else value


@dataclass(frozen=True)
class _Length:
    """Makes the tensor that tells a size."""

    place: int

    def __call__(self, arguments: Sequence[Any]) -> torch.Tensor:
        return torch.empty(arguments[self.place], 0)


def _is_frozen(node: torch.fx.Node, value: torch.Tensor) -> bool:
    """Whether it is a parameter or buffer of the model."""
    marks: Any = node.meta.get("tensor_dict") or {}
    return isinstance(value, torch.nn.Parameter) or "_dynamo_static_input_type" in marks


# --------------------------------------------------------------------------------------------------------------- counts


@dataclass(kw_only=True)
class Count:
    """Operations of matrix products, convolutions, attention and recurrence; a multiply-add counts two.

    Args:
        lowbit: What ran on lowbit's kernels.
        torch: What ran in torch.

    Examples:
        >>> from lowbit.dynamo.compile import Count
        >>> Count(lowbit=3e9, torch=1e9).share
        0.75
    """

    lowbit: float = 0.0
    torch: float = 0.0

    @property
    def share(self) -> float:
        """Of all that was counted, what ran on lowbit's kernels."""
        return self.lowbit / max(self.lowbit + self.torch, 1.0)


PRODUCTS = ("conv", "linear", "matmul", "attention", "lstm", "gru", "rnn", "torch")
_counts: list[Count] = []
_lock = threading.Lock()


@contextmanager
def counting() -> Iterator[Count]:
    """Count where compiled models compute, while the context is open: each call is then run once more, with clocks.

    Returns:
        The count, which grows with each call.

    Examples:
        >>> import torch
        >>> from lowbit.dynamo.compile import counting
        >>> fast = torch.compile(torch.nn.Linear(8, 4), backend="lowbit")
        >>> with torch.inference_mode(), counting() as count:
        ...     _ = fast(torch.randn(2, 8))
        >>> count.share
        1.0
    """
    count = Count()
    with _lock:
        _counts.append(count)
    try:
        yield count
    finally:
        with _lock:
            _counts.remove(count)


def _count(model: ConvertedModel, tensors: Sequence[torch.Tensor]) -> None:
    rows = [row for row in model.profile(*tensors, repeats=1) if row.op.removeprefix("quantized_").startswith(PRODUCTS)]
    for count in _counts:
        count.torch += sum(row.operations for row in rows if row.op == "torch")
        count.lowbit += sum(row.operations for row in rows if row.op != "torch")


def _counted(function: Compiled) -> Compiled:
    """A graph in torch, counted when asked for."""

    def run(*arguments: Any) -> Any:
        if not _counts:
            return function(*arguments)
        with FlopCounterMode(display=False) as counter:
            found = function(*arguments)
        for count in _counts:
            count.torch += counter.get_total_flops()
        return found

    return run
