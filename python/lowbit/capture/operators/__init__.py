"""The lowerings: for each aten operation the nodes that say the same. Arguments are in the order of its aten schema."""

from . import (
    activation,
    arithmetic,
    attention,
    convolution,
    creation,
    indexing,
    logic,
    normalization,
    pooling,
    products,
    quantized,
    recurrent,
    reduction,
    repetition,
    shape,
)

__all__ = [
    "activation",
    "arithmetic",
    "attention",
    "convolution",
    "creation",
    "indexing",
    "logic",
    "normalization",
    "pooling",
    "products",
    "recurrent",
    "quantized",
    "reduction",
    "repetition",
    "shape",
]
