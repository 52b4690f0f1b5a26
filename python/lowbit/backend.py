"""`torch.compile(net, backend="lowbit")`: makes the name known to torch, at no cost until it is used.

torch finds an installed lowbit through its entry point, `entry`. A source tree has none: there, whichever of the two is
imported first, the name is registered when both are.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

REGISTRY = "torch._dynamo.backends.registry"


def backend(module: Any, inputs: Any, **options: Any) -> Any:
    """Compiles one of dynamo's graphs; see `compile.py`."""
    return import_module(f"{__package__}.compile").compile_graph(module, inputs, **options)


def __getattr__(name: str) -> Any:
    """`entry` is the backend, for torch, which asks for it when it is about to be used."""
    if name != "entry":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _prepare()
    return backend


def _prepare() -> None:
    """Before anything is traced for lowbit: else dynamo leaves LSTM, GRU and RNN layers outside of every graph."""
    config: Any = import_module("torch._dynamo.config")
    config.allow_rnn = True


def _register(registry: Any) -> None:
    """Add the backend, where no entry point does, and see when it is asked for."""
    if registry._BACKENDS.get("lowbit") is None and "lowbit" not in registry._COMPILER_FNS:
        registry.register_backend(backend, name="lowbit")
    find = registry.lookup_backend

    def lookup_backend(compiler_fn: Any) -> Any:
        if isinstance(compiler_fn, str) and compiler_fn == "lowbit":
            _prepare()
        return find(compiler_fn)

    registry.lookup_backend = lookup_backend


class _Watch:
    """Sees torch's registry of backends being imported, and registers there."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The registry's own spec, with a step after its loading; nothing of any other module."""
        if name != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                _register(module)

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def announce() -> None:
    """Register now, or when torch's registry is imported."""
    if REGISTRY in sys.modules:
        _register(sys.modules[REGISTRY])
    else:
        sys.meta_path.insert(0, _Watch())
