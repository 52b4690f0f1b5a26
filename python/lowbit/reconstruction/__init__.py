"""Learned rounding: blocks of a graph in torch, their weights rounded so that what comes out stays what it is.

`blocks` cuts a graph, `examples` collects what a block meets, `torch_nodes` computes nodes with gradients, `adaround`
learns which way each weight goes. Needs torch, as nothing in `quantization` does: a `Quantizer` is handed the function.
"""
