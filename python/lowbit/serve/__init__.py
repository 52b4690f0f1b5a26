"""Serving models over the Open Inference Protocol v2: REST and gRPC, in a process of its own or in yours.

    lowbit serve net.lowbit                                        # the command
    app = lowbit.serve.app("net.lowbit")                           # an ASGI application: uvicorn, FastAPI, Ray Serve
    lowbit.serve.add_to_server({"net": "net.lowbit"}, grpc_server)

`tensors`, `documents` (REST) and `messages` (gRPC) are the protocol; `served`, `batching` and `executor` run it; `rest`
and `rpc` are its two faces, with `metrics`, `access` and `page`; `command` is the process, and `connections` guards it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UnsupportedError

if TYPE_CHECKING:
    import grpc

    from .rest import App
    from .served import Models, Sources

__all__ = ["app", "add_to_server", "models"]

PACKAGES = {
    "uvicorn": "uvicorn",
    "h11": "h11",
    "grpc": "grpcio",
    "google": "protobuf",
    "prometheus_client": "prometheus-client",
}
"""What the extra brings, by what is imported."""


@contextmanager
def needs_extra() -> Iterator[None]:
    """Within it, a missing package of the extra is an UnsupportedError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name not in PACKAGES:
            raise
        raise UnsupportedError(
            f'serving needs {PACKAGES[name]}, which is not installed: pip install "lowbit[serve]"'
        ) from None


def models(sources: Sources, **limits: Any) -> Models:
    """Load models that `app` and `add_to_server` serve together, with one queue.

    Args:
        sources: As `app` has them.
        limits: As `app` has them, but for `token` and `admin`.

    Returns:
        The models, for both.

    Raises:
        InputError: Names or limits that are not possible.
        LowbitError, OSError: A file that cannot be loaded.

    Examples:
        >>> import torch
        >>> lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8)).save("net.lowbit")
        >>> both = lowbit.serve.models("net.lowbit", max_batch=1)
        >>> application = lowbit.serve.app(both)
        >>> [*both.served]
        ['net']
        >>> both.close()
    """
    from .served import Models, Settings

    if isinstance(sources, Models):
        if limits:
            raise InputError(f"these models have their limits already: {', '.join(limits)} cannot be set")
        return sources
    unknown = [name for name in limits if name not in Settings.__dataclass_fields__]
    if unknown:
        raise InputError(
            f"there is no limit {', '.join(unknown)}; there are {', '.join(Settings.__dataclass_fields__)}"
        )
    return Models(sources, Settings(**limits))


def app(sources: Sources, *, token: str | None = None, admin: bool = False, **limits: Any) -> App:
    """Make an ASGI application that serves models over REST.

    `lowbit serve` guards its connections, too: where another server runs the application, slow clients, headers and the
    number of connections are that server's business.

    Args:
        sources: A file, several of them, or {name: file}; without a name it is the file's, less its ending. A
            `lowbit.Model` may stand in for a file; so may what `lowbit.serve.models` gives, for all of it.
        token: What requests must bring, as `Authorization: Bearer TOKEN`; None: nothing.
        admin: Whether models may be loaded and unloaded by requests.
        limits: threads (of a call, 1), concurrency (calls at once, as many as there are threads for), queue (requests
            that wait, 64), max_batch (rows of a request, 256), max_bytes (of a body, 64 MiB), timeout (seconds of a
            request, 30).

    Returns:
        The application. It can be pickled, and loads its files again where it is unpickled.

    Raises:
        InputError: Names or limits that are not possible.
        UnsupportedError: The extra "serve" is not installed.
        LowbitError, OSError: A file that cannot be loaded.

    Examples:
        >>> import torch
        >>> lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8)).save("net.lowbit")
        >>> application = lowbit.serve.app({"net": "net.lowbit"}, max_batch=16, timeout=5)
        >>> application.models.get("net").metadata()["inputs"]
        [{'name': 'input', 'datatype': 'FP32', 'shape': [-1, 8]}]
    """
    with needs_extra():
        from .rest import App
    return App(models(sources, **limits), token, admin)


def add_to_server(
    sources: Sources, grpc_server: grpc.Server, *, token: str | None = None, admin: bool = False, **limits: Any
) -> None:
    """Add the service of the Open Inference Protocol v2 to a synchronous gRPC server.

    Args:
        sources: As `app` has them.
        grpc_server: The server, before it is started.
        token: What calls must bring, as metadata `authorization: Bearer TOKEN`; None: nothing.
        admin: Whether models may be loaded and unloaded by calls.
        limits: As `app` has them; how large a message may be is the server's own option.

    Raises:
        InputError: Names or limits that are not possible.
        UnsupportedError: The extra "serve" is not installed.
        LowbitError, OSError: A file that cannot be loaded.

    Examples:
        >>> import grpc, torch
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> lowbit.convert(torch.nn.Linear(8, 4), torch.randn(1, 8)).save("net.lowbit")
        >>> server = grpc.server(ThreadPoolExecutor(8))
        >>> lowbit.serve.add_to_server("net.lowbit", server, timeout=5)
    """
    with needs_extra():
        from .rpc import add
    add(models(sources, **limits), grpc_server, token, admin)
