"""The converted model in a process with torch: called like the original module, compared with it, saved."""

from __future__ import annotations

import copy
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .capture import Example
from .capture import example as as_example
from .capture.export import DTYPE_NAMES, not_plain
from .capture.results import rebuilt
from .errors import InputError, LowbitError
from .graph.ir import Array, Graph, Node, Quant
from .quantization.calibrate import runner
from .runtime import calls, format
from .runtime.limits import OWN, Limits
from .runtime.meta import Meta
from .runtime.model import Model
from .runtime.profile import REPEATS, table
from .runtime.session import Session
from .runtime.timing import timed

if TYPE_CHECKING:
    from .report import Facts

DTYPES_BY_NAME = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one value of the converted graph is from the float graph's.

    Args:
        node: The node that makes it.
        op: The node's operator.
        value: The value's name.
        sqnr: Signal to quantization noise ratio, in dB.
        largest: The largest difference of an element.
    """

    node: str
    op: str
    value: str
    sqnr: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Node by node, how far the converted graph is from the float graph; prints as a table.

    SQNR = 10 log10(sum float^2 / sum (float - converted)^2), in dB; 6 dB are one bit.

    Args:
        rows: One for each node.
        outputs: One for each output.
    """

    rows: tuple[Difference, ...]
    outputs: tuple[Difference, ...]

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        lines: list[Sequence[str]] = [("node", "op", "SQNR dB", "largest difference")]
        for row in (*self.rows, *self.outputs):
            lines.append((row.node, row.op, f"{row.sqnr:.1f}", f"{row.largest:.3g}"))
        return table(lines, right=(2, 3))


class Decisions(list[dict[str, Any]]):
    """What convert decided for each layer: a list of dicts; prints as a table."""

    def __str__(self) -> str:
        lines: list[Sequence[str]] = [("node", "op", "scheme", "reason")]
        lines += [tuple(str(row.get(key, "")) for key in lines[0]) for row in self]
        return table(lines)


@dataclass(frozen=True, kw_only=True, eq=False)
class Conversion:
    """All that a converted model is made of.

    reference: the float graph whose values `graph` stands for; None in what was unpickled. classes: those of the
    module's outputs, by their names in `meta.output`.
    """

    graph: Graph
    reference: Graph | None
    meta: Meta
    classes: Mapping[str, type]
    threads: int | None = None
    limits: Limits = OWN
    example: Example | None = None
    """The inputs of the conversion, for reports."""
    module: Callable[[], torch.nn.Module | None] = lambda: None
    """What was converted, as long as it lives."""


class ConvertedModel(Model):
    """A converted model: torch tensors in give torch tensors out, NumPy arrays in give NumPy arrays out.

    `lowbit.convert` makes it. It is called as the module was (positional or keyword inputs) and returns the same
    structure, in the module's own classes. Any number of threads may call it at once. A model that was converted
    without example inputs is captured at its first call.

    A pickle holds the bytes of the file that `save` writes, and the outputs' classes by name; it brings no float graph,
    so `compare` is not for what was unpickled. As any pickle, it is to be trusted. Copies share the session.

    Args:
        made: All that it is made of, or what makes that of the inputs of the first call.

    Examples:
        >>> import torch
        >>> model = lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8))
        >>> model(torch.zeros(2, 8)).shape
        torch.Size([2, 4])
        >>> model.graph.symbols
        {'batch': Symbol(minimum=1, maximum=2147483647, multiple=1, remainder=0)}
    """

    def __init__(self, made: Conversion | Callable[[tuple[Any, ...], dict[str, Any]], Conversion]) -> None:
        self._lock = threading.Lock()
        self._make: Callable[[tuple[Any, ...], dict[str, Any]], Conversion] | None = None
        if isinstance(made, Conversion):
            self._adopt(made)
        else:
            self._make = made

    def _adopt(self, made: Conversion) -> None:
        self._conversion = made
        super().__init__(Session(made.graph, threads=made.threads, limits=made.limits, allow_torch=True), made.meta)
        self._make = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._make is not None:
            raise LowbitError("the model is captured at its first call, and can be pickled from then on: call it once")
        made = self._conversion
        classes = {name: kind for name, kind in made.classes.items() if "<" not in kind.__qualname__}
        return _unpickled, (format.dumps(made.graph, made.meta.document()), classes, made.threads, made.limits)

    def __copy__(self) -> Model:
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._lock = threading.Lock()
        return made

    def __getattr__(self, name: str) -> Any:
        if name in ("_conversion", "_convention", "session", "meta", "_file"):
            raise LowbitError(
                "the model is captured at its first call: call it once, or pass example_inputs to lowbit.convert"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __call__(self, *args: Any, check_finite: Any = False, **kwargs: Any) -> Any:
        """Run the model.

        Args:
            args: The inputs, as the module takes them: tensors or arrays in its structure.
            check_finite: Also refuse inputs that hold NaN or infinity, which int8 codes with ranges from calibration do
                not carry on. (Untyped, so that a type checker takes `model(**tensors)`.)
            kwargs: Inputs by name.

        Returns:
            The outputs, in the module's structure and classes; tensors on the device of the inputs.

        Raises:
            InputError: Inputs that do not fit, before anything is run.
            LimitError: They take more than the session may.
        """
        arrays, device = self._read_all(args, kwargs)
        if check_finite:
            self._require_finite(args, kwargs, arrays)
        outputs = self.session.run_list(arrays)
        if device is None:
            return calls.rebuild(self._convention.output, outputs, calls.write_array, self._object)

        def write(output: Array, dtype: str) -> Any:
            if dtype in calls.NUMBERS:
                return calls.write_array(output, dtype)
            tensor = torch.from_numpy(output)
            if not output.size:  # NumPy's strides are 0
                tensor = torch.empty(output.shape, dtype=tensor.dtype)
            if dtype in calls.COMPLEX:
                tensor = torch.view_as_complex(tensor)
            wanted = DTYPES_BY_NAME.get(dtype, tensor.dtype)
            same = tensor.dtype is wanted and device.type == "cpu"  # asked first: `to` costs microseconds
            return tensor if same else tensor.to(device=device, dtype=wanted)

        return calls.rebuild(self._convention.output, outputs, write, self._object)

    @property
    def graph(self) -> Graph:
        """The graph that runs."""
        return self._conversion.graph

    @property
    def reference(self) -> Graph:
        """The float32 graph whose values those of `graph` stand for, name by name.

        Raises:
            LowbitError: The model was unpickled, and has none.
        """
        if self._conversion.reference is None:
            raise LowbitError("a model that was unpickled has no float graph to compare with: convert the module again")
        return self._conversion.reference

    @property
    def decisions(self) -> Decisions:
        """What was decided for each layer, and why; prints as a table."""
        return Decisions(map(asdict, self.meta.decisions))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about the model as a whole, such as a batch size that it fixes."""
        return self.meta.notes

    def compare(self, *args: Any, **kwargs: Any) -> Comparison:
        """Measure the error of each node against the float graph.

        Args:
            args: The inputs of a call.
            kwargs: Inputs by name.

        Returns:
            SQNR in dB and the largest difference of each node and output; it prints as a table.

        Raises:
            InputError: Inputs that do not fit.
            LowbitError: The model was unpickled, and has no float graph.

        Examples:
            >>> import torch
            >>> model = lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8), scheme="float32")
            >>> [row.sqnr for row in model.compare(torch.randn(2, 8)).outputs]
            [inf]
        """
        return self._compare(self._read_all(args, kwargs)[0])

    def _compare(self, arrays: list[Array]) -> Comparison:
        graph, reference = self.graph, self.reference
        kept = {state.output for state in graph.states}
        made = [name for node in graph for name in node.outputs if name not in kept]
        names = [name for name in made if _is_comparable(graph, reference, name)]
        scales = {part for name in names for part in _parts(graph.values[name].quant)}
        feeds = dict(zip(self.session.graph.inputs, arrays, strict=True))
        found = runner(graph, sorted({*names, *scales}), self._conversion.threads)(feeds)
        expected = runner(reference, names, self._conversion.threads)(feeds)
        rows = {name: _difference(graph, name, found, expected[name]) for name in names}
        outputs = tuple(_output_row(rows[name]) for name in graph.outputs if name in rows)
        return Comparison(rows=tuple(rows.values()), outputs=outputs)

    def _facts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Facts:
        """With the float graph, the module itself and the errors, all timed in the same rounds."""
        from .report import OutputError, constants_of, steps_of

        given = bool(args or kwargs)
        if given and self._make is not None:
            self._read_all(args, kwargs)
        made = self._conversion
        call = Example(args=args, kwargs=kwargs) if given else made.example
        if call is None or made.reference is None:
            return super()._facts(args, kwargs)
        arrays = self._arrays(call.args, call.kwargs)
        reference = Session(made.reference, threads=made.threads, limits=made.limits, allow_torch=True)
        contestants: dict[str, Callable[[], object]] = {"this model": lambda: self.session.run_list(arrays)}
        if made.graph is not made.reference:
            contestants["lowbit float32"] = lambda: reference.run_list(arrays)
        if (eager := self._eager(call)) is not None:
            contestants["torch float32"] = eager
        with _threads(self.session.threads):
            times = timed(contestants)
        compared = self._compare(arrays)
        expected = dict(zip(reference.graph.outputs, reference.run_list(arrays), strict=True))
        return self._known(
            "the given inputs" if given else "the example inputs of the conversion",
            arrays,
            steps=steps_of(
                self.session.graph,
                self.session.profile_list(arrays, REPEATS),
                self.session.weights,
                {row.node: row.seconds for row in reference.profile_list(arrays, REPEATS)},
                {row.node: row.sqnr for row in compared},
                self._near(),
            ),
            times=times,
            float_bytes=sum(size for _, size in constants_of(made.reference, {}).values()),
            errors=tuple(
                OutputError(
                    name=row.value,
                    sqnr=row.sqnr,
                    largest=row.largest,
                    scale=float(np.abs(expected[row.value]).max(initial=0.0)),
                )
                for row in compared.outputs
            ),
        )

    def _eager(self, call: Example) -> Callable[[], object] | None:
        """A call of the module itself, if it is still there and in eval mode."""
        net = self._conversion.module()
        if net is None or any(module.training for module in net.modules()):
            return None

        def run() -> object:
            with torch.inference_mode():
                return net(*tensors.args, **tensors.kwargs)

        tensors = as_example(net, call)
        return run

    def save(self, path: str | os.PathLike[str], *, compress: bool | None = None) -> None:
        """Write a `.lowbit` file, for `lowbit.load`.

        Args:
            path: Where to write it. The file appears whole or not at all; the same model gives the same bytes.
            compress: Leave out what the frequencies of codes tell (zlib): 8 to 17 % of a file, for 8 ms more a
                megabyte when it is loaded. Nothing is rounded. The bytes then depend on the release of zlib, too.
                None: where a scheme chose codes for it (`Scheme.entropy`), of which it leaves out much more.

        Raises:
            OSError: The file cannot be written.
        """
        is_streamed = self.meta.wants_streams if compress is None else compress
        format.save(path, self.graph, self.meta.document(), compress=is_streamed)

    def _object(self, name: str, fields: dict[str, Any]) -> Any:
        """An output in the module's own class."""
        kind: Any = self._conversion.classes.get(name)
        if kind is None:  # a class that has no place of its own to be unpickled from
            return calls.Record(fields)
        if kind.__module__ == "torch.return_types":  # such as what topk gives
            return kind(tuple(fields.values()))
        return rebuilt(kind, fields)

    def _read_all(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Array], torch.device | None]:
        """The graph's inputs, and the device of the caller's tensors (None: there are only arrays)."""
        if self._make is not None:
            with self._lock:
                if self._make is not None:
                    self._adopt(self._make(args, kwargs))
        leaves = self._convention.bind(args, kwargs)
        devices = [leaf.value.device for leaf in leaves if isinstance(leaf.value, torch.Tensor)]
        arrays = {leaf.input: self._read(leaf) for leaf in leaves}
        return [arrays[name] for name in self.session.graph.inputs], devices[0] if devices else None

    def _arrays(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Array]:
        return self._read_all(tuple(args), dict(kwargs))[0]

    def _read(self, leaf: calls.Leaf) -> Array:
        expected = self.session.graph.values[leaf.input].dtype
        if isinstance(leaf.value, torch.Tensor):
            return array_of(leaf.value, leaf.dtype, expected, leaf.path)
        return calls.read_array(leaf, expected)

    def __repr__(self) -> str:
        if self._make is not None:
            return "<lowbit.Model, captured at the first call>"
        return super().__repr__()


def told(model: ConvertedModel, **facts: Any) -> ConvertedModel:
    """The model, with something else told of it: fields of its `Meta`."""
    made = copy.copy(model)
    made.meta = replace(model.meta, **facts)
    made._conversion = replace(model._conversion, meta=made.meta)
    return made


def _unpickled(data: bytes, classes: Mapping[str, type], threads: int | None, limits: Limits) -> ConvertedModel:
    graph, document = format.loads(data)
    meta = Meta.read(document)
    made = Conversion(graph=graph, reference=None, meta=meta, classes=classes, threads=threads, limits=limits)
    return ConvertedModel(made)


def array_of(tensor: torch.Tensor, dtype: str, expected: str, path: str) -> Array:
    """A tensor as the array of dtype `expected` the graph takes; `dtype` is the module's own. Raises InputError."""
    if (tensor.dtype is not DTYPES_BY_NAME[expected] and not_plain(tensor) is None) or dtype in calls.COMPLEX:
        if DTYPE_NAMES.get(tensor.dtype) != dtype:
            wanted = DTYPES_BY_NAME[dtype or expected]
            raise InputError(f"input {path} must be {wanted}, is {tensor.dtype}: use x.to({wanted})")
        if dtype in calls.COMPLEX:
            tensor = torch.view_as_real(tensor.resolve_conj())
        tensor = tensor.to(DTYPES_BY_NAME[expected])
    plain = tensor.detach() if tensor.requires_grad else tensor
    try:
        array: Array = (plain if plain.device.type == "cpu" else plain.cpu()).resolve_neg().contiguous().numpy()
    except (RuntimeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        problem = not_plain(tensor)
        if problem is None:
            if type(tensor) in (torch.Tensor, torch.nn.Parameter):
                raise
            problem = f"a {type(tensor).__name__} without values: {str(error).splitlines()[0]}"
        raise InputError(f"input {path} is {problem}") from None
    return array


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads for torch as a session uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -------------------------------------------------------------------------------------------------------------- compare


def _parts(quant: Quant | None) -> list[str]:
    """The values that hold a dynamic scale and zero point."""
    return [] if quant is None else [part for part in (quant.scale, quant.zero_point) if isinstance(part, str)]


def _is_comparable(graph: Graph, reference: Graph, name: str) -> bool:
    value, other = graph.values[name], reference.values.get(name)
    return other is not None and other.dtype == "f32" and (value.dtype == "f32" or value.quant is not None)


def _real(graph: Graph, name: str, found: Mapping[str, Array]) -> Array:
    """The numbers that a value stands for, float64."""
    quant, codes = graph.values[name].quant, found[name].astype(np.float64)
    if quant is None:
        return codes
    parts = [np.asarray(found[p] if isinstance(p, str) else p, np.float64) for p in (quant.scale, quant.zero_point)]
    rows = [part.reshape(_row_shape(part.size, codes.shape)) if part.ndim else part for part in parts]
    real: Array = (codes - rows[1]) * rows[0]
    return real


def _row_shape(size: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Scales of samples lie along axis 0, scales of rows along all axes but the last."""
    if shape and math.prod(shape[:-1]) == size:
        return (*shape[:-1], 1)
    return (size,) + (1,) * (len(shape) - 1)


def _difference(graph: Graph, name: str, found: Mapping[str, Array], expected: Array) -> Difference:
    real, wanted = _real(graph, name, found), expected.astype(np.float64)
    error = real - wanted
    noise, signal = float(np.sum(error * error)), float(np.sum(wanted * wanted))
    ratio = math.inf if noise == 0 else -math.inf if signal == 0 else 10 * math.log10(signal / noise)
    node = graph.producer(name)
    assert isinstance(node, Node)
    return Difference(node=node.name, op=node.op, value=name, sqnr=ratio, largest=float(np.abs(error).max(initial=0)))


def _output_row(row: Difference) -> Difference:
    return Difference(node=f"output {row.value}", op="", value=row.value, sqnr=row.sqnr, largest=row.largest)
