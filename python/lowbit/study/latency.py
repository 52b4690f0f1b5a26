"""How long a candidate takes, before it is trained: converted, and timed on this CPU."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from ..conversion import convert
from ..converted_model import ConvertedModel
from ..errors import InputError
from ..graph.ir import Weight
from ..quantization.schemes import Scheme
from ..runtime.timing import interleave
from .space import plain

Schemes = str | Scheme | Mapping[str, str | Scheme]


@dataclass(frozen=True, eq=False)
class Latency:
    """How candidates of `compress.search` are converted and timed.

    Args:
        example: What a call takes: a tensor, a tuple or a dict.
        limit_ms: Milliseconds a call; a candidate above is pruned and not trained. None: no limit.
        scheme: As `lowbit.convert` takes it, or a function from the configuration to it, for bits that are searched.
        calibration: Data for `lowbit.convert`.
        convert: A function from a net and its configuration to a converted model, for candidates that are prepared
            first, such as by zeros; None: `lowbit.convert` with the arguments above.
        measure: A function from a converted model to milliseconds, such as one that asks another device; None: time
            calls with `example` here. Models of equal graphs, whatever their weights, are measured once.
        threads: Of a call.
        rounds: How often it is timed; the lowest counts.
        seconds: How long a round takes, about.

    Examples:
        >>> import torch
        >>> latency = lowbit.compress.Latency(torch.randn(1, 64), limit_ms=2.0)
        >>> net = torch.nn.Linear(64, 10)
        >>> latency.milliseconds(latency.model(net, {})) < 2.0
        True
    """

    example: Any
    _: KW_ONLY
    limit_ms: float | None = None
    scheme: Schemes | Callable[[Any], Schemes] = "int8"
    calibration: Iterable[Any] | None = None
    convert: Callable[[nn.Module, Any], ConvertedModel] | None = None
    measure: Callable[[ConvertedModel], float] | None = None
    threads: int = 1
    rounds: int = 7
    seconds: float = 0.01

    def __post_init__(self) -> None:
        limit = self.limit_ms
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
            raise InputError(f"limit_ms must be milliseconds above zero, or None for no limit, is {limit!r}")
        if isinstance(self.example, int | float | str | None):
            raise InputError(
                f"latency needs an example input to time calls with, not {self.example!r}: "
                "latency=compress.Latency(images[:1], limit_ms=2.0)"
            )
        for name in ("threads", "rounds"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"{name} must be a whole number from 1 on, is {getattr(self, name)!r}")
        if not 0 < self.seconds < math.inf:
            raise InputError(f"seconds must be above zero, is {self.seconds!r}")

        if iter(self.calibration or ()) is self.calibration:  # it can be read only once, and there are many candidates
            object.__setattr__(self, "calibration", tuple(self.calibration or ()))

    def model(self, net: nn.Module, config: Any) -> ConvertedModel:
        """Convert a candidate.

        Args:
            net: The net, trained or not.
            config: Its configuration.

        Returns:
            The model.

        Raises:
            LowbitError: It cannot be converted.
        """
        modes = [(module, module.training) for module in net.modules()]
        net.eval()
        try:
            if self.convert is not None:
                return _model(self.convert(net, config))
            scheme = self.scheme(config) if callable(self.scheme) else self.scheme
            return convert(
                net, self.example, calibration=self.calibration, scheme=scheme, threads=self.threads, progress=False
            )
        finally:
            for module, mode in modes:
                module.training = mode

    def milliseconds(self, model: ConvertedModel) -> float:
        """Time a model: the lowest of several rounds' medians, so that a busy moment does not count.

        Args:
            model: The converted candidate.

        Returns:
            Milliseconds a call.

        Raises:
            InputError: `measure` gave no such number.
        """
        return self.timed(model)[0]

    def timed(self, model: ConvertedModel) -> tuple[float, float]:
        """Time a model, and in the same rounds a fixed piece of work: by it, busy moments are known.

        Args:
            model: The converted candidate.

        Returns:
            Milliseconds a call, and those of the work (0 where `measure` is asked).

        Raises:
            InputError: `measure` gave no such number.
        """
        if self.measure is not None:
            told = float(self.measure(model))
            if not 0 < told < math.inf:
                raise InputError(f"measure gave {told}; milliseconds must be a number above zero")
            return told, 0.0
        args, kwargs = _call(self.example)
        calls = {"model": lambda: model(*args, **kwargs), "work": _work()}
        found = interleave(calls, rounds=self.rounds, seconds=self.seconds)
        return 1e3 * found["model"].lowest, 1e3 * found["work"].lowest


def asked(latency: Latency) -> dict[str, Any]:
    """What a study must have been begun with to go on."""
    scheme = latency.scheme
    return {
        "limit_ms": latency.limit_ms,
        "scheme": plain(scheme) if isinstance(scheme, str | Mapping) else _name(scheme),
        "calibration": latency.calibration is not None,
        "convert": _name(latency.convert),
        "measure": _name(latency.measure),
        "threads": latency.threads,
    }


@cache
def _work() -> Callable[[], object]:
    """What takes the same time each time, on an idle CPU."""
    inputs = torch.linspace(-1, 1, 4 * 256).reshape(4, 256)
    net = nn.Linear(256, 256, bias=False).eval()
    with torch.no_grad():
        net.weight.copy_(torch.linspace(-1, 1, 256 * 256).reshape(256, 256))
    return partial(convert(net, inputs, threads=1, progress=False), inputs)


def graph_key(model: ConvertedModel) -> str:
    """Equal for models that take equal times: the same operators on the same sizes, with as many zeros in patterns."""
    graph = model.graph
    values = {name: (value.dtype, [str(dim) for dim in value.shape]) for name, value in graph.values.items()}
    nodes = [(node.op, node.inputs, node.outputs) for node in graph.nodes]
    weights = {
        name: (each.bits, each.group_size, each.sparsity, each.sparsity and round(float((each.codes != 0).mean()), 2))
        for name, each in graph.constants.items()
        if isinstance(each, Weight)
    }
    return hashlib.sha256(repr((values, nodes, weights)).encode()).hexdigest()[:16]


def _model(made: Any) -> ConvertedModel:
    if not isinstance(made, ConvertedModel):
        raise InputError(f"convert must return what lowbit.convert returns, gave {type(made).__name__}")
    return made


def _call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def _name(thing: Any) -> str | None:
    if isinstance(thing, Scheme):
        return thing.name
    return None if thing is None else str(getattr(thing, "__qualname__", None) or type(thing).__name__)
