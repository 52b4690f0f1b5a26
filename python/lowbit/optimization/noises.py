"""How much each candidate of each layer moves the model's outputs.

In itself, a layer is off by  e = tr(D G D^T) / tr(W G W^T):  W are its weights, D is what rounding and zeros change of
them, and G = E[x x^T] is what they meet on calibration data (without data the identity: the weights' distribution
alone). What the outputs make of it is measured with the layer alone on codes (`quantization.sensitivity`), in eight
bits and in four: the first is mostly the noise of codes of activations, the second shows what e of the weights is
worth. Other candidates lie on the line through these two. Noises of layers add up, nearly.

Of weights that are left out, e is that of the best other numbers for those that are kept, found for a sample of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..graph.blocks import PATTERNS
from ..graph.ir import Array
from ..passes.layers import TABLES
from ..progress import Reporter
from ..quantization.schemes import SCHEMES
from ..quantization.sensitivity import sensitivity
from .candidates import Candidate
from .workshop import FEW, FLOAT, INT8, SPARSE, STORED, Workshop

PIECES = 2
"""Of the data, of eight samples at most, that outputs are compared on; of single samples, eight times as many."""
ROWS = 8
"""Rows of blocks for which zeros are tried."""
DAMPING = 1e-2
"""Of the mean of G's diagonal."""


def noises(workshop: Workshop, report: Reporter) -> dict[str, dict[Candidate, float]]:
    """The noise of each candidate that is offered of each layer: a share of the outputs' squares."""
    measured = {
        scheme: _measured(workshop, scheme, report)
        for scheme in ("int8", "int8-weights", *(each.scheme for each in FEW))
    }
    errors = _errors(workshop, report)
    return {
        name: _of_layer(
            {scheme: sum(found.get(node.name, 0.0) for node in layer.nodes) for scheme, found in measured.items()
             if all(node.name in found for node in layer.nodes)},
            errors.get(name, {}),
            workshop.offers[name],
        )
        for name, layer in workshop.layers.items()
    }  # fmt: skip


def _measured(workshop: Workshop, scheme: str, report: Reporter) -> dict[str, float]:
    """Of nodes, alone; of schemes in few bits, of tables and of layers that no scheme before it measured."""
    request, quantizer = workshop.request, workshop.form(scheme)
    candidate = Candidate(scheme=scheme)
    chosen = [layer for name, layer in workshop.layers.items() if candidate in workshop.offers[name]]
    if candidate in FEW:
        chosen = [
            layer for layer in chosen if layer.nodes[0].op in TABLES or _first_four(workshop, layer.name) == candidate
        ]
    names = [node.name for layer in chosen for node in layer.nodes]
    if not names:
        return {}
    if candidate != STORED:  # rounds all in one pass over the data
        quantizer.make(given={node.name: "" for layer in chosen for node in layer.nodes if node.op not in TABLES})
    data = workshop.prepared.samples()
    first = next(iter(data))
    rows = max((len(array) for array in first.values() if array.ndim), default=1)
    pieces = PIECES if rows > 1 else 8 * PIECES
    return sensitivity(quantizer, names, data, pieces=pieces, threads=request.threads, progress=report)


def _first_four(workshop: Workshop, layer: str) -> Candidate | None:
    """The candidate of few bits that is measured of a layer, the mildest."""
    offered = workshop.offers[layer]
    order = [Candidate(scheme=name) for name in ("int4-g32", "int4", "kmeans")]
    return next((each for each in order if each in offered), None)


def _of_layer(
    measured: Mapping[str, float], errors: Mapping[Candidate, float], offers: Sequence[Candidate]
) -> dict[Candidate, float]:
    found: dict[Candidate, float] = {FLOAT: 0.0}
    found |= {Candidate(scheme=scheme): noise for scheme, noise in measured.items()}
    if INT8 not in offers:
        return {each: found.get(each, 0.0) for each in offers}
    eight = found.get(INT8, 0.0)
    four = next((each for each in FEW if each in found and each in errors), None)
    base, gain = errors.get(INT8, 0.0), 1.0
    if four is not None and errors[four] > base:
        gain = max(found[four] - eight, 0.0) / (errors[four] - base)
    elif base > 0:
        gain = eight / base
    for each in offers:
        if each not in found:
            found[each] = eight + gain * max(errors.get(each, 0.0) - (0 if each.pattern else base), 0.0)
    return {each: found[each] for each in offers}


def _errors(workshop: Workshop, report: Reporter) -> dict[str, dict[Candidate, float]]:
    """What each layer is off by in itself."""
    layers = {
        layer.nodes[0].name: name
        for name, layer in workshop.layers.items()
        if layer.nodes[0].op not in TABLES and len(workshop.offers[name]) > 3
    }
    schemes = [SCHEMES[each.scheme] for each in (INT8, *FEW)]
    found: dict[str, dict[Candidate, float]] = {}
    if not layers:
        return found
    for node, weight, moments, rounded in workshop.quantizer.rounded(list(layers), schemes):
        report("weigh candidates", len(found), len(layers))
        name = layers[node.name]
        rows = weight.reshape(len(weight), -1)
        gram = np.eye(rows.shape[1]) if moments is None else moments[0]
        whole = max(_squares(rows, gram), 1e-300)
        own = {
            Candidate(scheme=scheme): _squares(rows - made.reshape(rows.shape), gram) / whole
            for scheme, made in rounded.items()
        }
        sparse = [each for each in SPARSE if each in workshop.offers[name]]
        found[name] = own | left_out(weight, gram, sparse)
    return found


def _squares(rows: Array, gram: Array) -> float:
    """tr(D G D^T)."""
    return float(np.vdot(rows @ gram, rows))


def left_out(weight: Array, gram: Array, candidates: Sequence[Candidate]) -> dict[Candidate, float]:
    """What a layer is off by without the least of its weights, the others refit: weight [O, I, ...], gram [K, K]."""
    if not candidates:
        return {}
    order = np.moveaxis(np.arange(weight[0].size).reshape(weight.shape[1:]), 0, -1).ravel()
    rows, gram = weight.reshape(len(weight), -1)[:, order], gram[np.ix_(order, order)]
    gram = gram + DAMPING * max(float(gram.diagonal().mean()), 1e-300) * np.eye(len(gram))
    worth = np.square(rows) * gram.diagonal()
    found: dict[Candidate, float] = {}
    for each in candidates:
        high, wide = PATTERNS[each.pattern]
        scores = worth.reshape(len(rows) // high, high, -1, wide).sum(axis=(1, 3))
        kept = np.ones(scores.size, bool)
        kept[np.argsort(scores.ravel(), kind="stable")[: round(each.sparsity * scores.size)]] = False
        masks = np.repeat(kept.reshape(scores.shape), wide, axis=1)
        chosen = np.unique(np.linspace(0, len(masks) - 1, min(len(masks), ROWS)).round().astype(int))
        lost = total = 0.0
        for block in chosen:
            part, mask = rows[block * high : (block + 1) * high], masks[block]
            total += _squares(part, gram)
            lost += _least(part, gram, mask)
        found[each] = lost / max(total, 1e-300)
    return found


def _least(part: Array, gram: Array, kept: Array) -> float:
    """The least tr(D G D^T) where what is not kept is zero: w_z (G_zz - G_zk G_kk^-1 G_kz) w_z^T."""
    gone = part[:, ~kept]
    if not kept.any():
        return _squares(part, gram)
    across = gone @ gram[np.ix_(~kept, kept)]
    own = float(np.vdot(gone @ gram[np.ix_(~kept, ~kept)], gone))
    return max(own - float(np.vdot(across, np.linalg.solve(gram[np.ix_(kept, kept)], across.T).T)), 0.0)


def noises_state(found: Mapping[str, Mapping[Candidate, float]]) -> dict[str, Any]:
    """In values that JSON knows."""
    return {layer: [[asdict(each), noise] for each, noise in own.items()] for layer, own in found.items()}


def noises_of(state: Mapping[str, Any]) -> dict[str, dict[Candidate, float]]:
    """Those whose state that was."""
    return {layer: {Candidate(**each): noise for each, noise in own} for layer, own in state.items()}
