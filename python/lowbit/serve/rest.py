"""REST: an ASGI application of the Open Inference Protocol v2, with metrics and a page for people.

It is written to ASGI itself: a request is one function call from the server to the model's queue, and its body is
never copied on the way to an array.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from ..errors import InputError, LowbitError
from . import access, documents, metrics, page
from .refusals import Refused, Status, refusal
from .served import Models

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
JSON = (b"content-type", b"application/json")
BODIES = 4
"""So many of the largest bodies may be held at once, by all requests together."""
LINGER = 1.0
"""Seconds in which the rest of a refused body is taken."""
log = logging.getLogger("lowbit.serve")


class Request:
    """What is known of a request while it is answered."""

    __slots__ = (
        "allowed",
        "batch",
        "headers",
        "held",
        "is_read",
        "method",
        "model",
        "path",
        "receive",
        "rows",
        "scope",
        "size",
        "start",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.method: str = scope["method"]
        path, root = scope["path"], scope.get("root_path", "")
        self.path: str = path[len(root) :] if root and path.startswith(root) else path
        self.start = time.perf_counter()
        self.held = self.size = 0
        self.is_read = self.method in ("GET", "HEAD")
        self.model = ""
        self.rows = self.batch = 0
        self.allowed = b"GET, HEAD"


class Answer:
    """A status, headers and a body in pieces."""

    __slots__ = ("headers", "pieces", "size", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], *pieces: bytes) -> None:
        self.status, self.pieces = status, pieces or (b"",)
        self.size = sum(map(len, pieces))
        self.headers = [*headers, (b"content-length", b"%d" % self.size)]


class Timer:
    """Cancels the task that it is made in, after so many seconds, unless it is stopped."""

    __slots__ = ("_handle", "_task", "rang")

    def __init__(self, seconds: float) -> None:
        self.rang = False
        self._task = asyncio.current_task()
        self._handle = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self.rang = True
        if self._task is not None:
            self._task.cancel()

    def stop(self) -> None:
        """It rings no more; what it did to the task is undone."""
        self._handle.cancel()
        if self.rang and self._task is not None and hasattr(self._task, "uncancel"):
            self._task.uncancel()


class App:
    """The application.

    Args:
        models: What is served.
        token: What requests must bring (`Authorization: Bearer ...`), but for those of health and the page.
        admin: Whether models may be loaded and unloaded.
    """

    def __init__(self, models: Models, token: str | None = None, admin: bool = False) -> None:
        self.models, self.admin = models, admin
        self._token = None if token is None else b"Bearer " + token.encode()
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._http(Request(scope, receive), send)

    async def _http(self, request: Request, send: Send) -> None:
        try:
            given = await self._within_time(request)
        except Exception as error:  # whatever it is, a client gets one line of JSON
            self._release(request)
            if not request.is_read:
                await _discard(request)
            given = self._refuse(request, error)
        finally:
            self._release(request)
        await send({"type": "http.response.start", "status": given.status, "headers": given.headers})
        *pieces, last = [b""] if request.method == "HEAD" else _joined(given.pieces)
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": last})
        self._log(request, given)

    def _release(self, request: Request) -> None:
        """Of what bodies hold, this one holds nothing more."""
        self._held -= request.held
        request.held = 0

    async def _within_time(self, request: Request) -> Answer:
        if request.path.startswith("/v2/repository/"):  # loading takes as long as it takes
            return await self._answer(request)
        timer = Timer(self.models.settings.timeout)
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            if not timer.rang:
                raise
            seconds = self.models.settings.timeout
            if not request.is_read:
                raise Refused(Status.SLOW_BODY, f"the body did not come within {seconds:g} s") from None
            raise Refused(Status.DEADLINE, f"there was no answer within {seconds:g} s (--timeout)") from None
        finally:
            timer.stop()

    def _refuse(self, request: Request, error: Exception) -> Answer:
        told = refusal(error)
        if told.status is Status.INTERNAL:
            log.error("a request for %s failed", request.path[:200], exc_info=error)
        headers = [JSON]
        if told.status in (Status.FULL, Status.NOT_READY):
            headers.append((b"retry-after", b"1"))
        if told.status is Status.NO_TOKEN:
            headers.append((b"www-authenticate", b"Bearer"))
        if told.status is Status.NO_METHOD:
            headers.append((b"allow", request.allowed))
        if not request.is_read:
            headers.append((b"connection", b"close"))
        if request.model:
            seconds = time.perf_counter() - request.start
            self.models.figures[request.model].failed("rest", told.status.name.lower(), seconds)
        return Answer(told.status.http, headers, json.dumps({"error": str(told)}).encode())

    def _log(self, request: Request, given: Answer) -> None:
        quiet = given.status == 200 and (request.path.startswith("/v2/health/") or request.path == "/metrics")
        if not quiet:
            client = request.scope.get("client")
            access.record(
                "rest",
                request.path,
                given.status,
                time.perf_counter() - request.start,
                method=request.method,
                peer=client[0] if client else "",
                bytes_in=request.size,
                bytes_out=given.size,
                **({"model": request.model, "rows": request.rows, "batch": request.batch} if request.model else {}),
            )

    async def _answer(self, request: Request) -> Answer:
        parts = request.path.strip("/").split("/")
        if parts[0] != "v2":
            return self._other(request)
        if parts[1:2] != ["health"]:
            self._authorize(request)
        match parts[1:]:
            case ["models", name, "infer"]:
                return await self._infer(request, name, "")
            case ["models", name, "versions", version, "infer"]:
                return await self._infer(request, name, version)
            case ["repository", *rest]:
                return await self._repository(request, rest)
            case rest:
                return self._look(request, rest)

    def _look(self, request: Request, parts: list[str]) -> Answer:
        """What is only read: health, metadata, configuration, statistics."""
        models = self.models
        match parts:
            case []:
                found: Any = models.metadata(self.admin)
            case ["health", "live"]:
                found = {"live": True}
            case ["health", "ready"]:
                _allow(request, "GET")
                ready = models.ready
                return _json({"live": True, "ready": ready}, Status.NOT_READY.http if not ready else 200)
            case ["models", "stats"]:
                found = {"model_stats": [models.statistics(name) for name in models.served]}
            case ["models", name, *rest]:
                version = ""
                if rest[:1] == ["versions"] and len(rest) > 1:
                    version, rest = rest[1], rest[2:]
                served = models.get(name, version)
                if rest == []:
                    found = served.metadata()
                elif rest == ["ready"]:
                    found = {"name": name, "ready": True}
                elif rest == ["config"]:
                    found = served.config()
                elif rest == ["stats"]:
                    found = {"model_stats": [models.statistics(name)]}
                else:
                    raise Refused(Status.NOT_FOUND, "there is nothing here")
            case _:
                raise Refused(Status.NOT_FOUND, "there is nothing here")
        _allow(request, "GET")
        return _json(found)

    def _other(self, request: Request) -> Answer:
        """The page, what it shows, and what Prometheus reads."""
        if request.path in ("", "/"):
            _allow(request, "GET")
            return Answer(200, page.HEADERS, page.html())
        if request.path not in ("/metrics", "/status"):
            raise Refused(Status.NOT_FOUND, "there is nothing here")
        self._authorize(request)
        _allow(request, "GET")
        if request.path == "/status":
            return _json(page.status(self.models, self.admin))
        text, kind = metrics.exposition(self.models)
        return Answer(200, [(b"content-type", kind.encode())], text)

    def _authorize(self, request: Request) -> None:
        """Raises Refused without the token, or for what a page of another site sends."""
        if self._token is not None and not hmac.compare_digest(request.headers.get(b"authorization", b""), self._token):
            raise Refused(Status.NO_TOKEN, "the header Authorization: Bearer TOKEN is missing or wrong")
        origin = request.headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != request.headers.get(b"host"):
            raise Refused(Status.FORBIDDEN, "requests of other sites' pages are not answered")

    async def _infer(self, request: Request, name: str, version: str) -> Answer:
        served = self.models.get(name, version)
        _allow(request, "POST")
        request.model = name
        executor, settings = self.models.executor, self.models.settings
        if executor.is_full:
            raise Refused(Status.FULL, f"{settings.queue} requests wait already (--queue): try again later")
        header = _number(request, b"inference-header-content-length")
        body = await self._body(request)
        asked = documents.read(served, body, header)
        seconds = settings.timeout if asked.seconds is None else min(asked.seconds, settings.timeout)
        job = self.models.job(served, asked.given, request.start + seconds)
        if asked.outputs is not None:
            served.check_outputs(name for name, _ in asked.outputs)
        request.rows = job.rows
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(_resolve, over)

        executor.submit(job, wake)
        late = None if asked.seconds is None else loop.call_later(seconds, _resolve, over)
        try:
            await over
        except asyncio.CancelledError:
            job.abandoned = True
            raise
        finally:
            if late is not None:
                late.cancel()
        if job.error is not None:
            raise job.error
        if not job.ended:
            job.abandoned = True
            raise Refused(Status.DEADLINE, f"there was no answer within {seconds:g} s, as the request asks")
        request.batch = job.batch
        pieces, size = documents.answer(served, asked, job.outputs)
        kind = [JSON] if size is None else [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", b"%d" % size),
        ]  # fmt: skip
        total = time.perf_counter() - request.start
        self.models.figures[name].answered(
            "rest", job.rows, total, job.started - job.entered, job.ended - job.started, job.entered - request.start
        )
        return Answer(200, kind, *pieces)

    async def _body(self, request: Request) -> bytes:
        """The body. Raises Refused where it is larger than it may be, by what it announces or by what comes."""
        most = self.models.settings.max_bytes
        coding = request.headers.get(b"content-encoding", b"identity")
        if coding.lower() != b"identity":
            raise Refused(Status.NO_CODING, "bodies are not compressed here: send it without Content-Encoding")
        announced = _number(request, b"content-length")
        if announced is not None and announced > most:
            raise Refused(Status.TOO_LARGE, f"a body has at most {most:,} bytes here (--max-bytes), not {announced:,}")
        pieces = []
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise InputError("the connection was closed before the body's end")
            piece: bytes = message.get("body", b"")
            request.size += len(piece)
            if request.size > most:
                raise Refused(Status.TOO_LARGE, f"a body has at most {most:,} bytes here (--max-bytes)")
            if self._held + len(piece) > BODIES * most:
                raise Refused(
                    Status.FULL, "bodies of other requests fill the memory there is for them: try again later"
                )
            self._held += len(piece)
            request.held += len(piece)
            if not message.get("more_body", False):
                break
            pieces.append(piece)
        request.is_read = True
        return b"".join((*pieces, piece)) if pieces else piece

    async def _repository(self, request: Request, parts: list[str]) -> Answer:
        """The extension `model_repository`: only with `admin`, and of no files but those that the server was given."""
        if not self.admin:
            raise Refused(Status.NOT_FOUND, "models are not loaded and unloaded here (--admin)")
        if self._token is None and not _is_address(request.headers.get(b"host", b"").decode("latin-1")):
            raise Refused(
                Status.FORBIDDEN, "without a token (--token-file), this is asked by localhost or an IP address"
            )
        match parts:
            case ["index"]:
                _allow(request, "POST")
                body = await self._body(request)
                asked = documents.parse(body) if body else {}
                return _json(self.models.index(isinstance(asked, dict) and asked.get("ready") is True))
            case ["models", name, "load" | "unload" as what]:
                _allow(request, "POST")
                body = await self._body(request)
                asked = documents.parse(body) if body else {}
                given = asked.get("parameters") if isinstance(asked, dict) else asked
                if what == "load" and given:
                    raise InputError("a model is loaded from the server's own file, without parameters")
                change = self.models.load if what == "load" else self.models.unload
                try:
                    await asyncio.get_running_loop().run_in_executor(None, change, name)
                except (LowbitError, OSError) as error:
                    raise Refused(Status.INVALID, f"{name[:128]} was not loaded: {error}") from None
                return Answer(200, [JSON])
            case _:
                raise Refused(Status.NOT_FOUND, "there is nothing here")


async def _discard(request: Request) -> None:
    """Take what comes of a body for a while: who still sends when a connection is closed does not see the answer."""
    if b"expect" in request.headers:
        return  # who asks first has sent nothing
    timer = Timer(LINGER)
    try:
        while not request.is_read:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                return
            request.is_read = not message.get("more_body", False)
    except asyncio.CancelledError:
        if not timer.rang:
            raise
    finally:
        timer.stop()


def _is_address(host: str) -> bool:
    """Whether a Host header is of no name that DNS could have led elsewhere before."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return name == "localhost" or name.startswith("[") or name.replace(".", "").isdigit()


def _allow(request: Request, method: str) -> None:
    if request.method != method and (method, request.method) != ("GET", "HEAD"):
        request.allowed = b"GET, HEAD" if method == "GET" else method.encode()
        raise Refused(Status.NO_METHOD, f"{request.method[:20]} is not possible here, {method} is")


def _number(request: Request, name: bytes) -> int | None:
    value = request.headers.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise InputError(f"the header {name.decode()} is no number of bytes")
    return int(value)


def _json(document: Any, status: int = 200) -> Answer:
    return Answer(status, [JSON], json.dumps(document).encode())


def _joined(pieces: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Small pieces as one: a write costs more than a copy of them."""
    small = len(pieces) > 1 and sum(map(len, pieces)) <= 1 << 16
    return (b"".join(pieces),) if small else pieces


def _resolve(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
