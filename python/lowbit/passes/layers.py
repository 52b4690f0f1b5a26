"""Which nodes are layers (a weight with a scale a channel, a bias, perhaps a residual, bounds), tables or scans."""

from __future__ import annotations

from ..graph.ir import Node, replace

CONVOLUTIONS = ("conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d")
"""Weights are [filters, channels of a group, ...], channels axis 1 of what they read and make."""
LAYERS = (*CONVOLUTIONS, "linear")
TABLES = ("take", "embedding_bag")
"""Read rows of their first input."""
SCANS = ("lstm", "gru", "rnn")
"""Multiply their state by their second input at each step."""


def state_layer(scan: Node) -> Node:
    """What a scan is as a linear layer: its weight meets the states that it makes."""
    return replace(scan, inputs=(scan.outputs[0], scan.inputs[1]))
