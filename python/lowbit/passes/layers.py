"""Which nodes are layers (a weight with a scale an output channel, a bias, perhaps a residual, bounds), or tables."""

from __future__ import annotations

CONVOLUTIONS = ("conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d")
"""Weights are [filters, channels of a group, ...], channels axis 1 of what they read and make."""
LAYERS = (*CONVOLUTIONS, "linear")
TABLES = ("take", "embedding_bag")
"""Read rows of their first input."""
