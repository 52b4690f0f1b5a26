"""Compiled low-bit inference on CPUs: convert a torch model once, run it fast without torch.

    model = lowbit.convert(net, example_inputs, calibration=loader)
    model.save("net.lowbit")
    session = lowbit.load("net.lowbit")

Names are imported when they are first used, so `import lowbit` costs next to nothing and never imports torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .backend import announce

if TYPE_CHECKING:
    from . import compress
    from .convert import convert
    from .errors import (
        AccuracyError,
        CalibrationError,
        EnvironmentVariableError,
        FormatError,
        GraphError,
        InputError,
        LowbitError,
        UnsupportedError,
    )
    from .in_place import quantize_
    from .loading import Model, load
    from .schemes import Scheme
    from .session import Session

    __version__: str

__all__ = [
    "convert",
    "load",
    "quantize_",
    "Model",
    "Session",
    "Scheme",
    "compress",
    "LowbitError",
    "AccuracyError",
    "CalibrationError",
    "EnvironmentVariableError",
    "FormatError",
    "GraphError",
    "InputError",
    "UnsupportedError",
    "__version__",
]

_HOMES = {
    "convert": "convert",
    "load": "loading",
    "quantize_": "in_place",
    "Model": "loading",
    "Session": "session",
    "Scheme": "schemes",
} | dict.fromkeys(__all__[7:-1], "errors")


class _Package(ModuleType):
    """Keeps `lowbit.convert` the function when the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "convert" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Import the module a public name lives in, at first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("lowbit")
    elif name == "compress":
        value = import_module(".compress", __name__)
    elif name in _HOMES:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


announce()
