"""`lowbit serve`: a process that listens, reloads on SIGHUP, and ends cleanly on SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_type_hints

from ..errors import InputError
from . import needs_extra
from .served import Models, Settings, named

log = logging.getLogger("lowbit.serve")


def serve(
    files: Annotated[list[str], "FILE or NAME=FILE: .lowbit files, and what requests call them."],
    host: Annotated[str, "The address to listen on."] = "127.0.0.1",
    http_port: Annotated[int, "Of REST, metrics and the page; 0: off."] = 8080,
    grpc_port: Annotated[int, "Of gRPC; 0: off."] = 8081,
    threads: Annotated[int, "Of one call of a model."] = 1,
    concurrency: Annotated[int | None, "Calls at once. Absent: as many as this process has threads for."] = None,
    queue: Annotated[int, "Requests that wait for one of these; those beyond are refused."] = 64,
    max_batch: Annotated[int, "Rows of a request, and of a batch that is made of several."] = 256,
    max_bytes: Annotated[int, "Of a request's body, and of a message."] = 64 << 20,
    timeout: Annotated[float, "Seconds that a request may take."] = 30.0,
    drain: Annotated[float, "Seconds from SIGTERM, not ready any more, until the server stops listening."] = 2.0,
    grace: Annotated[float, "Seconds that requests have from then on."] = 10.0,
    token_file: Annotated[Path | None, "Holds the token that requests must bring (Authorization: Bearer)."] = None,
    tls_cert: Annotated[Path | None, "The certificate chain, in PEM; with --tls-key."] = None,
    tls_key: Annotated[Path | None, "Its key, in PEM."] = None,
    admin: Annotated[bool, "Let requests load and unload these models."] = False,
) -> None:
    """Serve models over the Open Inference Protocol v2, REST and gRPC. SIGHUP reloads files that have changed."""
    for name, value in (("drain", drain), ("grace", grace)):
        if not 0 <= value < 2**31:
            raise InputError(f"--{name} is a number of seconds, not {value!r}")
    for name, port in (("http", http_port), ("grpc", grpc_port)):
        if not 0 <= port < 1 << 16:
            raise InputError(f"--{name}-port is a port, at most 65535, or 0; not {port}")
    if (tls_cert is None) != (tls_key is None):
        raise InputError("--tls-cert and --tls-key belong together")
    if not http_port and not grpc_port:
        raise InputError("with --http-port 0 and --grpc-port 0 there is nothing to listen on")
    token = None if token_file is None else _token(token_file)
    settings = Settings(
        threads=threads,
        concurrency=concurrency,
        queue=queue,
        max_batch=max_batch,
        max_bytes=max_bytes,
        timeout=timeout,
    )
    _log_to_streams()
    with needs_extra():
        process = Process(host, http_port, grpc_port, drain, grace, token, tls_cert, tls_key, admin)
    _warn(host, token, admin)
    try:
        models = Models(named(files), settings)
    except OSError as error:
        raise InputError(f"a file cannot be read: {error}") from None
    asyncio.run(process.run(models))
    if process.is_stuck:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)  # a call of a model is still running, whose thread would be waited for


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file: {error}") from None
    if not token or not token.isascii() or not token.isprintable():
        raise InputError(f"--token-file: {path} holds no token of printable ASCII characters")
    return token


def _warn(host: str, token: str | None, admin: bool) -> None:
    if _is_loopback(host) or token is not None:
        return
    more = ", and load and unload its models" if admin else ""
    told = f"{host} is no loopback address, and there is no --token-file: whoever reaches it may use this server{more}"
    log.warning("%s", told)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _log_to_streams() -> None:
    """The access log to standard output, a line of JSON each; all else to standard error."""
    for name, stream, form in (
        ("lowbit.serve.access", sys.stdout, "%(message)s"),
        ("lowbit.serve", sys.stderr, "lowbit serve: %(message)s"),
        ("uvicorn.error", sys.stderr, "lowbit serve: %(message)s"),
    ):
        logger, handler = logging.getLogger(name), logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(form))
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING if name.startswith("uvicorn") else logging.INFO)


class Process:
    """What listens, and how it ends; arguments as `serve` has them."""

    def __init__(
        self,
        host: str,
        http_port: int,
        grpc_port: int,
        drain: float,
        grace: float,
        token: str | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        admin: bool,
    ) -> None:
        import grpc
        import uvicorn

        from . import rest, rpc

        self._grpc, self._uvicorn, self._rest, self._rpc = grpc, uvicorn, rest, rpc
        self._host, self._ports = host, (http_port, grpc_port)
        self._drain, self._grace = drain, grace
        self._token, self._admin = token, admin
        self._tls = None if tls_cert is None or tls_key is None else (tls_cert, tls_key)
        self._signals = 0
        self.is_stuck = False
        """Whether a call outlived its grace."""

    async def run(self, models: Models) -> None:
        """Serve until a signal ends it. Raises InputError where it cannot listen."""
        loop, end, now = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        def ask_to_end(drain: bool) -> None:
            if end.is_set() or not drain:
                now.set()
            end.set()

        loop.add_signal_handler(signal.SIGTERM, ask_to_end, True)
        loop.add_signal_handler(signal.SIGINT, ask_to_end, False)
        changed = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, changed.set)
        reloads = loop.create_task(self._reload(models, changed))
        http_port, grpc_port = self._ports
        server = self._http(models) if http_port else None
        listening = asyncio.create_task(server.serve([self._socket(http_port)])) if server is not None else None
        if listening is not None:
            listening.add_done_callback(lambda _: end.set())
        calls = self._start_grpc(models, grpc_port) if grpc_port else None
        self._announce(models)
        await end.wait()
        models.draining = True
        log.info("not ready any more; listening for %g s, then %g s for what runs", self._drain, self._grace)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(now.wait(), self._drain or 0.001)
        now.clear()
        ended = None if calls is None else calls.stop(self._grace)
        if server is not None:
            server.should_exit = True
        await self._within_grace(listening, ended, now)
        reloads.cancel()
        models.close()
        self.is_stuck |= models.executor.running > 0

    async def _within_grace(self, listening: asyncio.Task[None] | None, ended: Any, now: asyncio.Event) -> None:
        waited: list[asyncio.Future[Any]] = [] if listening is None else [listening]
        if ended is not None:
            waited.append(asyncio.get_running_loop().run_in_executor(None, ended.wait, self._grace + 1))
        everything: asyncio.Future[Any] = asyncio.gather(*waited)
        hurry: asyncio.Future[Any] = asyncio.ensure_future(now.wait())
        await asyncio.wait([everything, hurry], timeout=self._grace + 1, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not everything.done():
            everything.cancel()
            self.is_stuck = True

    async def _reload(self, models: Models, changed: asyncio.Event) -> None:
        """One reload at a time; signals that come meanwhile ask for one more."""
        while await changed.wait():
            changed.clear()
            for problem in await asyncio.get_running_loop().run_in_executor(None, models.reload):
                log.error("%s", problem)

    def _http(self, models: Models) -> Any:
        """uvicorn's server of the application, with every limit explicit."""
        from . import connections

        chain, key = self._tls or (None, None)
        seconds = models.settings.timeout
        config = self._uvicorn.Config(
            self._rest.App(models, self._token, self._admin),
            http=connections.guarded(seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=connections.CONNECTIONS,
            h11_max_incomplete_event_size=connections.HEADER_BYTES,
            timeout_keep_alive=connections.KEEP_ALIVE,
            timeout_graceful_shutdown=self._grace,  # type: ignore[arg-type] # asyncio takes parts of seconds, too
            ssl_certfile=chain,
            ssl_keyfile=key,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            raise InputError(f"--tls-cert, --tls-key: {error}") from None

        class Server(self._uvicorn.Server):  # type: ignore[name-defined,misc] # imported with the extra
            """Signals are this process's business."""

            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        return Server(config)

    def _socket(self, port: int) -> socket.socket:
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                self._host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            made = socket.socket(family, kind, socket.IPPROTO_TCP)  # named, or asyncio sets no TCP_NODELAY
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot listen on {self._host} port {port}: {error}") from None
        return made

    def _start_grpc(self, models: Models, port: int) -> Any:
        from concurrent.futures import ThreadPoolExecutor

        most = models.executor.workers + models.executor.queue + 16
        server = self._grpc.server(
            ThreadPoolExecutor(most, thread_name_prefix="lowbit-grpc"),
            maximum_concurrent_rpcs=most,
            options=[
                ("grpc.max_receive_message_length", models.settings.max_bytes + (64 << 10)),
                ("grpc.max_metadata_size", 16 << 10),
                ("grpc.server_handshake_timeout_ms", 20_000),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._rpc.add(models, server, self._token, self._admin)
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            if self._tls is None:
                server.add_insecure_port(f"{host}:{port}")
            else:
                chain, key = (path.read_bytes() for path in self._tls)
                server.add_secure_port(f"{host}:{port}", self._grpc.ssl_server_credentials([(key, chain)]))
        except (RuntimeError, OSError) as error:
            raise InputError(f"cannot listen on {self._host} port {port}: {error}") from None
        server.start()
        return server

    def _announce(self, models: Models) -> None:
        http_port, grpc_port = self._ports
        scheme = "http" if self._tls is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        places = [f"{scheme}://{host}:{http_port}"] if http_port else []
        places += [f"gRPC {host}:{grpc_port}"] if grpc_port else []
        for name, served in models.served.items():
            log.info(
                "%s: %s", name, f"batches of up to {served.batch} rows" if served.batch > 1 else "each request alone"
            )
        log.info("listening on %s", ", ".join(places))


def parser(function: Callable[..., None]) -> argparse.ArgumentParser:
    """A parser of the arguments of a function whose annotations say what they are for."""
    made = argparse.ArgumentParser(prog=f"lowbit {function.__name__}", description=inspect.getdoc(function))
    for name, hint in get_type_hints(function, include_extras=True).items():
        if name == "return":
            continue
        kind, text = get_args(hint)
        default = inspect.signature(function).parameters[name].default
        option = f"--{name.replace('_', '-')}"
        told = text if default in (None, False, inspect.Parameter.empty) else f"{text} (%(default)s)"
        if kind is bool:
            made.add_argument(option, action="store_true", help=text)
        elif default is inspect.Parameter.empty:
            made.add_argument(name, nargs="+", metavar="FILE", help=told)
        else:
            plain = (
                next(each for each in get_args(kind) if each is not type(None)) if isinstance(kind, UnionType) else kind
            )
            made.add_argument(option, type=plain, default=default, help=told)
    return made


def main(arguments: Sequence[str]) -> None:
    """Run `lowbit serve`. Raises LowbitError."""
    serve(**vars(parser(serve).parse_args(arguments)))
