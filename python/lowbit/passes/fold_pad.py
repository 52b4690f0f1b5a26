"""Folds explicit padding into the convolution or pool that reads it."""

from __future__ import annotations

from ..graph.ir import Graph, Node, replace
from ..ops import OPS, attributes
from .rewrite import Rewriter, rewrite

CONVOLUTIONS = ("conv2d", "conv3d")
POOLS = ("avg_pool2d", "max_pool2d")
LOWEST = -3.4e38
"""Padding at or below this never wins in max pooling."""


def fold_pad(graph: Graph) -> Graph:
    """Fold a pad of height and width into the padding of the convolution or pool after it.

    before: pad(0, 1, 0, 1) -> conv2d(padding 0)
    after:  conv2d(padding 0, 1, 0, 1)

    A convolution and an average (which then counts the padding) take zeros, max pooling takes minus infinity. Each
    reader takes the padding for itself; the pad disappears with its last one.
    """
    return rewrite(graph, _fold)


def _fold(r: Rewriter, node: Node) -> Node:
    pad = r.producer(node.inputs[0]) if node.op in (*CONVOLUTIONS, *POOLS) else None
    if pad is None or pad.op != "pad" or r.values[pad.inputs[0]].dtype != "f32":
        return node
    padded, own = attributes(OPS["pad"], pad), attributes(OPS[node.op], node)
    frame = padded["padding"]
    is_number = all(isinstance(side, int) for side in frame)
    if padded["mode"] != "constant" or not is_number or len(frame) != 4 + len(own["padding"]) or any(frame[:4]):
        return node
    total = tuple(a + b for a, b in zip(own["padding"], frame[4:], strict=True))
    attrs = {**node.attrs, "padding": total}
    if node.op == "avg_pool2d":
        attrs["count_include_pad"] = 1
    if not (
        _fits_conv(padded["value"]) if node.op in CONVOLUTIONS else _fits_pool(node.op, padded["value"], own, total)
    ):
        return node
    return replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attrs=attrs)


def _fits_conv(value: float) -> bool:
    return value == 0


def _fits_pool(op: str, value: float, own: dict[str, object], total: tuple[int, ...]) -> bool:
    """Windows lie as before (no ceil_mode), padding is narrower than the window, and stands for the same elements."""
    kernel, dilation = own["kernel"], own.get("dilation", (1, 1))
    assert isinstance(kernel, tuple)
    assert isinstance(dilation, tuple)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if own["ceil_mode"] or max(total[:2]) > reach[0] or max(total[2:]) > reach[1]:
        return False
    if op == "max_pool2d":
        return value <= LOWEST
    return value == 0 and (bool(own["count_include_pad"]) or own["padding"] == (0, 0, 0, 0))
