"""Compiled low-bit inference on CPUs: convert a torch model once, run it fast without torch.

    model = lowbit.convert(net, example_inputs, calibration=loader)
    model.save("net.lowbit")
    session = lowbit.load("net.lowbit")

Names are imported when they are first used, so `import lowbit` costs next to nothing and never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import compress, importers, serve
    from .conversion import convert
    from .eager.in_place import quantize_
    from .errors import (
        AccuracyError,
        CalibrationError,
        EnvironmentVariableError,
        FormatError,
        GraphError,
        InputError,
        LimitError,
        LowbitError,
        UnsupportedError,
    )
    from .optimization.loop import optimize
    from .quantization.schemes import Scheme
    from .runtime.limits import Limits
    from .runtime.model import Model, load
    from .runtime.predictor import Predictor
    from .runtime.session import Session

    __version__: str

__all__ = [
    "convert",
    "optimize",
    "load",
    "quantize_",
    "Model",
    "Predictor",
    "Session",
    "Scheme",
    "Limits",
    "compress",
    "importers",
    "serve",
    "LowbitError",
    "AccuracyError",
    "CalibrationError",
    "EnvironmentVariableError",
    "FormatError",
    "GraphError",
    "InputError",
    "LimitError",
    "UnsupportedError",
    "__version__",
]

_ROOMS = {
    "convert": "conversion",
    "optimize": "optimization.loop",
    "load": "runtime.model",
    "quantize_": "eager.in_place",
    "Model": "runtime.model",
    "Predictor": "runtime.predictor",
    "Session": "runtime.session",
    "Scheme": "quantization.schemes",
    "Limits": "runtime.limits",
} | dict.fromkeys(__all__[__all__.index("LowbitError") : -1], "errors")


def __getattr__(name: str) -> Any:
    """Import the module a public name lives in, at first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("lowbit")
    elif name in ("compress", "importers", "serve", "transformers"):
        value = import_module(f".{name}", __name__)
    elif name in _ROOMS:
        value = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
