"""A decoder of transformers as the one graph that prompts and steps run: what it takes, gives and keeps.

    logits, length' = forward(input_ids, count, wanted, length)

input_ids [batch, steps] are the next tokens of each row, of which `count` [batch] are real and the rest padding on the
right. `length` [batch] is a state, and so are the keys and values of each layer (`attention.py`): the rows that a call
begins with. `wanted` [batch, k] are the steps whose logits [batch, k, vocabulary] are asked for: the head, which in
small models is a third of all weights, is computed for these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.asked import replaced
from ..errors import UnsupportedError
from .attention import Caches, attending

SIZES = {
    "input_ids": {0: "batch", 1: "steps"},
    "count": {0: "batch"},
    "wanted": {0: "batch", 1: "wanted"},
    "length": {0: "batch"},
}
"""The free sizes of a call."""


def example() -> dict[str, Tensor]:
    """The arguments of one call; all its sizes differ."""
    shapes = {"input_ids": (2, 5), "count": (2,), "wanted": (2, 3), "length": (2,)}
    return {name: torch.ones(shape, dtype=torch.int64) for name, shape in shapes.items()}


@contextmanager
def as_decoder(net: Any, capacity: int, dtype: str) -> Iterator[None]:
    """For a while, `net` is called as said above; its caches hold `capacity` positions of that dtype.

    Its modules keep their names, so that patterns of schemes mean what they mean for the model.
    """
    forward: Callable[..., Any] = net.forward

    def decode(input_ids: Tensor, count: Tensor, wanted: Tensor, length: Tensor) -> dict[str, Tensor]:
        positions = length[:, None] + torch.arange(input_ids.shape[1])
        caches = Caches(length=length, capacity=capacity, dtype=dtype)
        with attending(net, caches), _head_of(net, wanted):
            logits = forward(input_ids=input_ids, position_ids=positions, use_cache=False, return_dict=True).logits
        _check_layers(net, caches)
        return {"logits": logits.float(), "length": length + count}

    with replaced(net, "forward", decode):
        yield


@contextmanager
def _head_of(net: Any, wanted: Tensor) -> Iterator[None]:
    """For a while, the head sees these steps alone [batch, k]; what follows it (scales, soft caps) stays."""

    def pick(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        batch, steps, features = hidden.shape
        rows = torch.arange(batch)[:, None] * steps + wanted
        return hidden.reshape(batch * steps, features)[rows], *inputs[1:]

    handle = net.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def _check_layers(net: Any, caches: Caches) -> None:
    """Raises UnsupportedError for a model whose layers attend in another way."""
    config = net.config.get_text_config(decoder=True)
    layers = int(config.num_hidden_layers)
    if len(caches.layers) != layers:
        raise UnsupportedError(
            f"{type(net).__name__} has {layers} layers, of which {len(caches.layers)} attend by transformers' "
            "AttentionInterface: lowbit keeps keys and values of such layers alone"
        )
