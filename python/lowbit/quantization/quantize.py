"""Decides which layers run on 8-bit codes and rewrites the graph so.

With calibration data: residual additions move into their layers, channels are equalized, the cost model picks the
layers for int8, pools and activations between them follow, each value that is stored as codes gets its range, and
weights are rounded against what the layers really see. Linear layers for which one range is too coarse find one a
row at run time (`row_ranges.py`). Without: all layers find their inputs' ranges at run time; between them is float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InputError
from ..graph.ir import Graph
from . import schemes
from .calibrate import Feeds, Progress
from .plan import all_float
from .quantizer import Quantized, Quantizer, Reconstruct
from .rehearse import measure
from .settle import WORSE

UNUSED = "as without calibration data, with which the outputs are noisier and the model is hardly faster"


def quantize(
    graph: Graph,
    *,
    scheme: str | schemes.Scheme | Mapping[str, str | schemes.Scheme] | schemes.Rules = "int8",
    calibration: Iterable[Feeds] | None = None,
    tune: bool = False,
    target: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    reconstruct: Reconstruct | None = None,
) -> Quantized:
    """The graph with its layers on 8-bit codes where that is faster.

    graph: optimized float32. scheme: of all nodes, or of those that a pattern matches. calibration: batches of {input
    name: array}, read several times; None: dynamic. tune: measure the layers instead of estimating them for `target`,
    an instruction set (None: this CPU's). reconstruct: learns the rounding of layers, see `Quantizer`. Raises
    CalibrationError for data that are empty, not finite or unfit.

    before: x -> conv2d(clip 0..6) -> conv2d -> y
    after:  x -> quantize -> quantized_conv2d(codes) -> quantized_conv2d(float) -> y
    """
    rules = schemes.rules(scheme)
    if rules.is_float:
        return Quantized(graph=graph, reference=graph, decisions=all_float(graph, rules))
    options = {"tune": tune, "target": target, "threads": threads, "progress": progress, "reconstruct": reconstruct}
    return quantizer_of(graph, rules, calibration, **options).make()


def quantizer_of(graph: Graph, rules: schemes.Rules, calibration: Iterable[Feeds] | None, **options: Any) -> Quantizer:
    """What quantizes the graph: without the data where outputs are noisier with them, and no speed is gained."""
    wanted = [scheme for _, scheme in rules.rules if scheme.method in schemes.FROM_DATA]
    if wanted and calibration is None:
        raise InputError(
            f"method {wanted[0].method!r} of scheme {wanted[0].name!r} needs calibration data: pass calibration=, or "
            "ask for method 'hqq' or 'nearest'"
        )
    made = Quantizer(graph, rules, calibration, **options)
    if calibration is None or wanted or not made.has_choice() or made.settled().note:
        return made
    without = Quantizer(graph, rules, None, note=UNUSED, **options)
    if made.settled().without_data:
        return without
    noise = measure(graph, calibration, options.get("threads"))
    if noise is None:
        return made
    is_worse = noise(made.make().graph) > (1 + WORSE) * noise(without.make().graph)
    return without if is_worse.any() else made
