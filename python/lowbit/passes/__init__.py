"""Rewrites of the graph, one file each: the float passes below, in the order they run, then quantization."""

from __future__ import annotations

from collections.abc import Callable

from ..graph.ir import Graph
from .count_signs import count_signs
from .drop_expands import drop_expands
from .fold_batchnorm import fold_batchnorm
from .fold_constants import fold_constants
from .fold_pad import fold_pad
from .fold_transpose import fold_transpose
from .fuse_activation import fuse_activation
from .fuse_attention import fuse_attention, share_heads
from .fuse_batchnorm import fuse_batchnorm
from .fuse_rms_norm import fuse_rms_norm
from .fuse_rotary import fuse_rotary
from .merge_views import merge_views, remove_identities
from .remove_dead import remove_dead
from .share_constants import share_constants
from .simplify_masks import simplify_masks
from .sink_reshapes import sink_reshapes

__all__ = ["FLOAT_PASSES", "optimize"]

FLOAT_PASSES: tuple[Callable[[Graph], Graph], ...] = (
    remove_dead,
    fold_constants,
    remove_identities,
    merge_views,
    simplify_masks,
    fold_transpose,
    fuse_attention,  # knows products by rows only, as fold_transpose leaves them
    share_heads,
    fuse_rms_norm,
    fuse_rotary,
    sink_reshapes,
    merge_views,
    remove_identities,  # an expand to the same shape hides the next one
    drop_expands,
    fold_pad,
    fold_batchnorm,
    fuse_batchnorm,  # what fold_batchnorm has left
    fuse_activation,
    count_signs,
    remove_identities,
    share_constants,
)


def optimize(graph: Graph) -> Graph:
    """Run all float passes, in the order of `FLOAT_PASSES`.

    Args:
        graph: A float32 graph.

    Returns:
        A graph that computes the same, within float32's rounding.

    Examples:
        >>> import torch
        >>> from lowbit.capture import capture
        >>> from lowbit.passes import optimize
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
        >>> graph = capture(net, torch.randn(1, 4)).graph
        >>> [node.op for node in graph], [node.op for node in optimize(graph)]
        (['linear', 'clip'], ['linear'])
    """
    for rewrite in FLOAT_PASSES:
        graph = rewrite(graph)
    return graph
