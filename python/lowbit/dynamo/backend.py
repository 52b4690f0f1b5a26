"""`torch.compile(net, backend="lowbit")`: torch finds an installed lowbit through its entry point, `entry` here.

Nothing is imported or registered before a program asks torch for the backend.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """`entry` is the backend, for torch, which asks for it when it is about to be used."""
    if name != "entry":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Before anything is traced for lowbit: else dynamo leaves LSTM, GRU and RNN layers outside of every graph.
    import_module("..torch_internals", __package__).allow_recurrent_layers()
    return import_module(f"{__package__}.compile").compile_graph
