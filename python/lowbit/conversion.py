"""The main job in one function: a trained torch module in, a compiled low-bit model out."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from .capture import Captured, Example, arguments, capture, dummy_inputs, example, example_of_item
from .compress.finalize import is_rounding
from .compress.records import recorded
from .converted_model import Conversion, ConvertedModel, array_of
from .errors import AccuracyError, CalibrationError, InputError
from .graph.ir import Array, Graph
from .graph.weights import few_bits
from .ops import interpreter
from .ops.interpreter import without_states
from .passes import optimize
from .passes.drop_channels import Left, drop_channels
from .passes.note_sparsity import note_sparsity, sparse_layers
from .passes.share_constants import share_constants
from .progress import Progress, reporter
from .quantization import schemes
from .quantization.adopt_quantization import adopt_quantization, is_quantized
from .quantization.budget import Outcome, Search
from .quantization.calibrate import Feeds
from .quantization.cost import target_of
from .quantization.known_weights import KnownWeights
from .quantization.plan import all_float
from .quantization.quantize import quantizer_of
from .quantization.quantizer import Quantized, Quantizer
from .reconstruction.adaround import reconstruct
from .runtime import calls
from .runtime.limits import OWN, Limits, checked
from .runtime.meta import Decision, Meta, Trained

DIVISOR = 32
"""Of what stays of a layer's channels where weights have four bits, so that groups divide them."""


def convert(
    net: torch.nn.Module,
    example_inputs: Any = None,
    *,
    calibration: Iterable[Any] | None = None,
    scheme: str | schemes.Scheme | Mapping[str, str | schemes.Scheme] = "int8",
    method: str | None = None,
    dynamic: Any = "auto",
    states: Mapping[str, str] | None = None,
    evaluate: Callable[[Any], float] | None = None,
    max_drop: float | None = None,
    fallback: str | None = None,
    tune: bool = False,
    target: str | None = None,
    threads: int | None = None,
    limits: Limits | None = None,
    progress: bool = True,
) -> ConvertedModel:
    """Convert a trained module to a model that runs on low-bit kernels; `net` itself is left as it is.

    Args:
        net: The module. It is captured in eval mode.
        example_inputs: A tensor, a tuple (positional inputs) or a dict (keyword inputs), of any sizes that the module
            takes. Without them, the first item of `calibration`, the module's `dummy_inputs`, or the inputs of the
            first call.
        calibration: Inputs as the model will meet them, for fixed activation ranges (fastest): any iterable of what
            `example_inputs` may be. Of the tuples of a DataLoader the first items are taken, as many as the model has
            inputs, so `y` of `(x, y)` is dropped; of dicts, the model's inputs. An iterator that can be read only once
            is held in memory. Without data, activations are quantized by their own range, sample by sample.
        scheme: "int8", "int4" (weights of four bits in groups of 128; also "int4-g64", "int4-g32", "int4-channel"),
            "int3", "int2", "ternary" and "binary" (three bits, two, -1, 0, 1, and signs; with the same endings), "nf4",
            "kmeans" and "pow2" (one of 16 values), "int8-weights" (in the file alone: layers compute in float32),
            "float32", a `Scheme`, or `{pattern: one of these}`: the first glob that matches a module's path decides
            about it and all in it; what none matches is int8.
        method: How weights of few bits are rounded, of all schemes; see `Scheme`, which says it otherwise.
        dynamic: Which sizes stay free. "auto": the batch, and the sequence of token inputs; None: no size; `{input:
            {axis: name}}`: these, and sizes of one name are equal; or torch.export's `dynamic_shapes`.
        states: The arguments of `net` that are outputs of its last call: `{"h0": "h_n"}`, `{"hx": "1"}` (by position),
            `{"cache": "cache[0]"}`. Calls of the model leave both out; `model.session.state()` holds them from one call
            to the next. Buffers that `net` writes to become states by themselves.
        evaluate: A function from a model to its score, higher is better. It is called with the float32 and with low-bit
            models, which are called as `net` is.
        max_drop: How far the score may fall below float32's, in the score's own unit. Layers that cost most accuracy
            return from four bits to eight, or to float32, until it holds; `model.meta.evaluations` has every trial.
        fallback: "torch" lets torch run what lowbit has no operator for; such a file loads with `allow_torch=True`
            only.
        tune: Measure layers here, instead of estimating by the cost model, to decide which are worth quantizing.
        target: The instruction set for which that is decided: "scalar", "avx2", "avxvnni" or "avx512vnni"; None: this
            CPU's best, as LOWBIT_ISA caps it. The model runs anywhere and gives the same bits; with a target given,
            every CPU makes the same model.
        threads: Of one call, at most; None: as many as the process may use.
        limits: What the model may take of memory, work and time; None: what this process may use of memory, and any
            work and time, since the module is your own.
        progress: Show a progress bar on a terminal.

    Returns:
        The model. It takes and returns torch tensors or NumPy arrays, in the structure of the module's calls.

    Raises:
        InputError: Arguments or inputs that do not fit.
        UnsupportedError: Operations that lowbit lacks; the message lists all of them with their source lines.
        CalibrationError: Calibration data that are empty, not finite or of the wrong shape.
        AccuracyError: No model with low-bit layers stays within `max_drop`; the best one found is attached.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
        >>> data = torch.randn(64, 256)
        >>> model = lowbit.convert(net, data[:1], calibration=data.split(16), target="avx2")
        >>> model(data).shape
        torch.Size([64, 10])
        >>> [decision["node"] for decision in model.decisions]
        ['0', '2']
    """
    check_module(net, "lowbit.convert")
    if fallback is not None and not (isinstance(fallback, str) and fallback == "torch"):
        raise InputError(f'fallback must be None or "torch", is {fallback!r}')
    for name, flag in (("tune", tune), ("progress", progress)):
        if not isinstance(flag, bool | int):
            raise InputError(f"{name} must be True or False, is {flag!r}")
    check_budget(evaluate, max_drop)
    request = Request(
        net=net,
        data=reiterable(calibration),
        rules=schemes.rules(scheme).with_method(method),
        dynamic=dynamic,
        states=checked_states(states),
        fallback=fallback is not None,
        tune=tune,
        target=target_of(target),
        threads=threads,
        limits=checked(limits, OWN),
        evaluate=evaluate,
        max_drop=max_drop,
    )

    def make(inputs: Any) -> Conversion:
        with reporter(progress) as report:
            return _convert(request, inputs, report)

    if example_inputs is None:
        example_inputs = inputs_of(net, request.data)
    if example_inputs is None:
        return ConvertedModel(lambda args, kwargs: make(Example(args=args, kwargs=kwargs)))
    return ConvertedModel(make(example(net, example_inputs)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What `convert` was asked for, checked; the same for every example input."""

    net: torch.nn.Module
    data: Iterable[Any] | None
    rules: schemes.Rules
    dynamic: Any
    states: Mapping[str, str]
    fallback: bool
    tune: bool
    target: str
    threads: int | None
    limits: Limits
    evaluate: Callable[[Any], float] | None
    max_drop: float | None


def check_module(net: Any, function: str) -> None:
    """Refuse what is no module that could be converted, in the name of a public function."""
    if not isinstance(net, torch.nn.Module):
        raise InputError(f"{function} takes a torch.nn.Module, not a {type(net).__name__}")
    if isinstance(net, torch.jit.ScriptModule):
        raise InputError(
            f"{function} takes no TorchScript (torch.jit.trace, torch.jit.script, torch.jit.load): "
            "convert the nn.Module that it was made from"
        )
    if is_rounding(net):
        raise InputError(
            "the module is still rounded in training: call lowbit.compress.finalize(net) first, or on a copy "
            "(copy.deepcopy(net)) to go on with it"
        )


def inputs_of(net: torch.nn.Module, data: Iterable[Any] | None) -> Any:
    """Example inputs where none are given: the first of the data, else the module's own; None: there are none."""
    return dummy_inputs(net) if data is None else example_of_item(net, _first(data))


def checked_states(states: Any) -> Mapping[str, str]:
    """The paths of states. Raises InputError for what are none."""
    if states is None:
        return {}
    if not isinstance(states, Mapping) or not all(isinstance(path, str) for pair in states.items() for path in pair):
        raise InputError(f"states are {{argument: output}}, by their paths as texts, not {states!r}")
    return dict(states)


def check_budget(evaluate: Any, max_drop: Any) -> None:
    if evaluate is not None and not callable(evaluate):
        raise InputError(f"evaluate must be a function from a model to its score, not a {type(evaluate).__name__}")
    if max_drop is None:
        return
    if evaluate is None:
        raise InputError("max_drop needs evaluate: a function from a model to its score, higher is better")
    if isinstance(max_drop, bool) or not isinstance(max_drop, int | float) or not 0 <= max_drop < math.inf:
        raise InputError(f"max_drop must be a number from 0 on (how far the score may fall), is {max_drop!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A captured module that can be made into models in any forms.

    graph: float32, rewritten. floats: the float32 model. adopted: of a module that is quantized already, the model.
    quantizer: of any other one, unless no scheme has codes. data: for calibration, None without. given: the inputs that
    it was captured with.
    """

    request: Request
    captured: Captured
    graph: Graph
    floats: Quantized
    adopted: Quantized | None
    quantizer: Quantizer | None
    data: CalibrationData | None
    given: Example
    meta: Meta
    left: Mapping[str, Left]

    def samples(self) -> Iterable[Feeds]:
        """What outputs may be compared on: the calibration data, else the inputs that the module was captured with."""
        return [self.feeds()] if self.data is None else self.data

    def feeds(self) -> dict[str, Array]:
        """The inputs that the module was captured with."""
        return CalibrationData(self.captured, []).of_call(self.given)

    def conversion(self, made: Quantized, **more: Any) -> Conversion:
        """What a converted model is made of. more: fields of its `Meta`."""
        noted = note_sparsity(made.graph)
        decisions = tuple(_with_left(decision, self.left) for decision in made.decisions)
        return Conversion(
            graph=share_constants(replace(noted, origins={})),  # a layer that is called twice has its codes once
            reference=made.reference,
            meta=replace(self.meta, decisions=decisions, sparsity=sparse_layers(noted), **more),
            classes=self.captured.classes,
            threads=self.request.threads,
            limits=self.request.limits,
            example=self.given,
            module=weakref.ref(self.request.net),
        )


def prepare(request: Request, inputs: Any, report: Progress) -> Prepared:
    """Capture a module, rewrite its graph, and learn what its quantization needs to know."""
    net, rules = request.net, request.rules
    report("capture", 0, None)
    captured = capture(net, inputs, request.dynamic, fallback=request.fallback, states=request.states)
    report("optimize", 0, None)
    graph, left = _without_channels(optimize(captured.graph), captured, rules)
    notes = rules.check(graph, _module_paths(net, captured.graph))
    feeds = None if request.data is None else CalibrationData(captured, request.data)
    floats = Quantized(graph=graph, reference=graph, decisions=all_float(graph, rules))
    adopted = quantizer = None
    if is_quantized(graph) and not rules.is_float:
        adopted = adopt_quantization(graph, captured.codes)
        floats = replace(adopted, graph=adopted.reference)
    elif not rules.is_float:
        quantizer = quantizer_of(
            graph,
            rules,
            feeds,
            coded=captured.codes,
            tune=request.tune,
            target=request.target,
            threads=request.threads,
            progress=report,
            reconstruct=reconstruct,
        )
        notes = [*notes, *quantizer.lost()]
    for note in notes:
        warnings.warn(note, stacklevel=5)
    meta = Meta(
        producer=_producer(),
        name=type(net).__name__,
        scheme=rules.name,
        target=request.target,
        signature=captured.signature,
        output=captured.output,
        training=tuple(_trained(net)),
        notes=(*captured.notes, *notes, *(f"{name} is {each}" for name, each in left.items())),
        writes=captured.writes,
    )
    return Prepared(
        request=request,
        captured=captured,
        graph=graph,
        floats=floats,
        adopted=adopted,
        quantizer=quantizer,
        data=feeds,
        given=_passed(net, example(net, inputs), captured),
        meta=meta,
        left=left,
    )


def _passed(net: torch.nn.Module, call: Example, captured: Captured) -> Example:
    """The call as the model takes it: without the arguments that are states."""
    if not captured.graph.states:
        return call
    names = {parameter["name"] for parameter in captured.signature["parameters"]}
    return Example(args=(), kwargs={name: value for name, value in arguments(net, call).items() if name in names})


def _convert(request: Request, inputs: Any, report: Progress) -> Conversion:
    """Prepare, quantize, evaluate."""
    made = prepare(request, inputs, report)
    quantizer, adopted = made.quantizer, made.adopted
    if request.evaluate is None:
        return made.conversion(adopted or (quantizer.make() if quantizer is not None else made.floats))
    evaluate = request.evaluate
    search = Search(lambda each: evaluate(ConvertedModel(made.conversion(each))), report)
    search.reference(made.floats)
    limit = math.inf if request.max_drop is None else request.max_drop
    if adopted is not None:
        outcome = search.check(adopted, limit)
    elif quantizer is not None:
        outcome = search.hold(quantizer, limit, made.samples(), threads=request.threads)
    else:
        return made.conversion(made.floats, evaluations=tuple(search.history))
    found = made.conversion(outcome.best.made, evaluations=outcome.history, max_drop=request.max_drop)
    if not outcome.holds:
        raise _missed(outcome, limit, ConvertedModel(found))
    return found


def _trained(net: torch.nn.Module) -> Iterator[Trained]:
    for facts in recorded(net):
        yield Trained(kind=facts["kind"], facts={key: value for key, value in facts.items() if key != "kind"})


def _without_channels(graph: Graph, captured: Captured, rules: schemes.Rules) -> tuple[Graph, dict[str, Left]]:
    """The graph of smaller layers, and what left which; codes that came with a weight stay whole."""
    if is_quantized(graph):
        return graph, {}
    known = KnownWeights(captured.codes)
    few = any(scheme.weight_bits in few_bits() for _, scheme in rules.rules)
    made, left = drop_channels(graph, keeps=lambda name: known.of(graph, name) is not None, step=DIVISOR if few else 1)
    return made, {each.node: each for each in left}


def _with_left(decision: Decision, left: Mapping[str, Left]) -> Decision:
    """The decision, with what left its layer."""
    found = left.get(decision.node)
    return decision if found is None else replace(decision, reason=f"{decision.reason}; {found}")


def _missed(outcome: Outcome, max_drop: float, model: ConvertedModel) -> AccuracyError:
    best = outcome.best
    return AccuracyError(
        f"no model with low-bit layers holds max_drop={max_drop:g}: of {len(outcome.history) - 1} evaluated, the best "
        f"scores {best.score:g}, {best.drop:g} below float32, with low-bit layers: {best.coded}. Allow that drop, "
        "calibrate with more representative data, or convert with scheme='float32'; the best model is this error's "
        "`model`.",
        model=model,
        score=best.score,
        drop=best.drop,
    )


def _module_paths(net: torch.nn.Module, graph: Graph) -> list[str]:
    """What a scheme's pattern may name although no node of the optimized graph bears it."""
    return [*(path for path, _ in net.named_modules() if path), *(node.name for node in graph)]


def _producer() -> str:
    try:
        return f"lowbit {version('lowbit')}"
    except PackageNotFoundError:
        return "lowbit"


# ---------------------------------------------------------------------------------------------------------- calibration


class CalibrationData:
    """Calibration data as arrays by graph input, checked while they are read; may be read again and again.

    Raises CalibrationError that names the batch (counted from 0) for items that do not fit or are not finite, and for
    data without any.
    """

    def __init__(self, captured: Captured, data: Iterable[Any]) -> None:
        self._graph = without_states(captured.graph)
        self._data = data
        meta = Meta(signature=captured.signature, output=captured.output)
        self._convention = calls.convention(meta, self._graph.inputs, len(self._graph.outputs))

    def __iter__(self) -> Iterator[dict[str, Array]]:
        index = -1
        for index, item in enumerate(self._data):
            try:
                yield self._feeds(item)
            except InputError as error:
                raise CalibrationError(f"calibration batch {index}: {error}") from None
        if index < 0:
            raise CalibrationError(_EMPTY)

    def __len__(self) -> int:
        """How many batches there are; TypeError where the data do not say."""
        return len(self._data)  # type: ignore[arg-type]

    def of_call(self, call: Example) -> dict[str, Array]:
        """The inputs of one call. Raises InputError for what does not fit."""
        return self._arrays(call.args, call.kwargs)

    def _feeds(self, item: Any) -> dict[str, Array]:
        return self._arrays(*self._call(item))

    def _arrays(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Array]:
        feeds = {leaf.input: self._array(leaf) for leaf in self._convention.bind(args, kwargs)}
        for name, array in feeds.items():
            if array.size == 0:
                raise InputError(f"input {name!r} is empty (shape {list(array.shape)})")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InputError(
                    f"input {name!r} has {int((~np.isfinite(array)).sum())} values that are NaN or infinite"
                )
        interpreter.bind(self._graph, feeds)
        return feeds

    def _call(self, item: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs in an item; what else a data set yields, such as labels, is left out."""
        parameters = self._convention.parameters
        positional = sum(parameter.kind != "keyword" for parameter in parameters)
        if isinstance(item, Mapping):
            known = {parameter.name for parameter in parameters}
            missing = [each.name for each in parameters if each.name not in item and not calls.is_constant(each.tree)]
            if missing:
                raise InputError(f"missing: {missing}; the item holds {[*item]}")
            return (), {key: value for key, value in item.items() if key in known}
        if not isinstance(item, tuple | list):
            return (item,), {}
        first = next(iter(parameters), None)
        if item and first is not None and isinstance(item[0], tuple | list | Mapping) and "tensor" in first.tree:
            return self._call(item[0])  # ((x1, x2), y)
        return tuple(item[:positional]), {}

    def _array(self, leaf: calls.Leaf) -> Array:
        expected = self._graph.values[leaf.input].dtype
        if isinstance(leaf.value, torch.Tensor):
            return array_of(leaf.value, leaf.dtype, expected, leaf.path)
        return calls.read_array(leaf, expected)


_EMPTY = "calibration holds no batch; pass at least one batch of representative inputs, or leave it out"


def reiterable(calibration: Iterable[Any] | None) -> Iterable[Any] | None:
    """What can be read several times: an iterator becomes a list, a single tensor or dict is refused."""
    if calibration is None:
        return None
    if isinstance(calibration, torch.Tensor | Mapping | str) or not hasattr(calibration, "__iter__"):
        raise CalibrationError(
            "calibration must be an iterable of batches, such as a DataLoader or a list, "
            f"not a {type(calibration).__name__}"
        )
    return list(calibration) if iter(calibration) is calibration else calibration


def _first(data: Iterable[Any]) -> Any:
    for item in data:
        return item
    raise CalibrationError(_EMPTY)
