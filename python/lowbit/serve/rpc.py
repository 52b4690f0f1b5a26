"""gRPC: the service of the Open Inference Protocol v2 as generic handlers of a synchronous server.

Each call has a thread of its own already, so a model runs in it where no other request waits.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from ..errors import InputError, LowbitError
from ..graph.ir import Array
from . import access, documents, messages
from .refusals import Refused, Status, refusal
from .served import VERSION, Models, Served
from .tensors import CONTENTS, Tensor

OPEN = ("ServerLive", "ServerReady")
"""Methods that need no token."""
log = logging.getLogger("lowbit.serve")


class Service:
    """The methods.

    Args:
        models: What is served.
        token: What calls must bring (metadata `authorization: Bearer ...`).
        admin: Whether models may be loaded and unloaded.
    """

    def __init__(self, models: Models, token: str | None = None, admin: bool = False) -> None:
        self._models, self._admin = models, admin
        self._token = None if token is None else b"Bearer " + token.encode()
        self._made = messages.classes()

    def handlers(self) -> Any:
        """For `grpc.Server.add_generic_rpc_handlers`."""
        return grpc.method_handlers_generic_handler(
            f"{messages.PACKAGE}.{messages.SERVICE}",
            {
                name: grpc.unary_unary_rpc_method_handler(
                    partial(self._call, name, getattr(self, name)),
                    request_deserializer=taken.FromString,
                    response_serializer=given.SerializeToString,
                )
                for name, (taken, given) in messages.methods().items()
                if self._admin or not name.startswith("Repository")
            },
        )

    def _call(self, name: str, method: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
        """One call, with what all have in common: the token, refusals, figures, the log."""
        start = time.perf_counter()
        status, facts = "OK", dict[str, Any]()
        try:
            if self._token is not None and name not in OPEN:
                self._authorize(context)
            if name == "ModelInfer":
                return self._infer(request, context, start, facts)
            return method(request, context)
        except Exception as error:  # whatever it is, a client gets a status and one line
            told = refusal(error)
            status = told.status.grpc
            if told.status is Status.INTERNAL:
                log.error("a call of %s failed", name, exc_info=error)
            if "model" in facts:
                self._models.figures[facts["model"]].failed(
                    "grpc", told.status.name.lower(), time.perf_counter() - start
                )
            context.set_code(getattr(grpc.StatusCode, status))
            context.set_details(str(told))
            return messages.methods()[name][1]()
        finally:
            if name not in OPEN or status != "OK":
                access.record("grpc", name, status, time.perf_counter() - start, peer=context.peer(), **facts)

    def _authorize(self, context: Any) -> None:
        given = dict(context.invocation_metadata()).get("authorization", "")
        given = given.encode() if isinstance(given, str) else given
        if not hmac.compare_digest(given, self._token or b""):
            raise Refused(Status.NO_TOKEN, "the metadata authorization: Bearer TOKEN is missing or wrong")

    def ServerLive(self, request: Any, context: Any) -> Any:
        """Whether the server runs."""
        return self._made["ServerLiveResponse"](live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:
        """Whether requests are welcome."""
        return self._made["ServerReadyResponse"](ready=self._models.ready)

    def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether a model is served."""
        self._models.get(request.name, request.version)
        return self._made["ModelReadyResponse"](ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        """The server's name, version and extensions."""
        return self._made["ServerMetadataResponse"](**self._models.metadata(self._admin))

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        """A model's inputs and outputs."""
        served = self._models.get(request.name, request.version)
        return self._made["ModelMetadataResponse"](**served.metadata())

    def ModelConfig(self, request: Any, context: Any) -> Any:
        """A model's configuration."""
        served = self._models.get(request.name, request.version)
        return self._made["ModelConfigResponse"](config=served.config())

    def ModelStatistics(self, request: Any, context: Any) -> Any:
        """Figures of a model, or of all."""
        names = [self._models.get(request.name, request.version).name] if request.name else [*self._models.served]
        return self._made["ModelStatisticsResponse"](model_stats=[*map(self._models.statistics, names)])

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """The files that the server was given."""
        return self._made["RepositoryIndexResponse"](models=self._models.index(request.ready))

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Load a file, again or after it was unloaded."""
        if request.parameters:
            raise InputError("a model is loaded from the server's own file, without parameters")
        return self._change(self._models.load, request.model_name, self._made["RepositoryModelLoadResponse"])

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Serve a model no more."""
        return self._change(self._models.unload, request.model_name, self._made["RepositoryModelUnloadResponse"])

    def _change(self, change: Callable[[str], None], name: str, response: Any) -> Any:
        try:
            change(name)
        except (LowbitError, OSError) as error:
            raise Refused(Status.INVALID, f"{name[:128]} was not loaded: {error}") from None
        return response()

    def ModelInfer(self, request: Any, context: Any) -> Any:
        """An answer; `_call` comes here by another way, which counts."""
        return self._infer(request, context, time.perf_counter(), {})

    def _infer(self, request: Any, context: Any, start: float, facts: dict[str, Any]) -> Any:
        served = self._models.get(request.model_name, request.model_version)
        facts["model"] = served.name
        documents.check_parameters(request.parameters, "the request")
        for asked in request.outputs:
            documents.check_parameters(asked.parameters, "an output")
        wanted = [asked.name for asked in request.outputs] or None
        if wanted is not None:
            served.check_outputs(wanted)
        job = self._models.job(served, _inputs(served, request), start + self._seconds(request, context))
        facts["rows"] = job.rows
        self._models.executor.run(job)
        if job.error is not None:
            raise job.error
        facts["batch"] = job.batch
        answer = self._made["ModelInferResponse"](model_name=served.name, model_version=VERSION, id=request.id)
        for tensor, array in served.give(job.outputs, wanted):
            answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        total = time.perf_counter() - start
        self._models.figures[served.name].answered(
            "grpc", job.rows, total, job.started - job.entered, job.ended - job.started, job.entered - start
        )
        return answer

    def _seconds(self, request: Any, context: Any) -> float:
        """What a request has: by the server, by the call's deadline, by its parameter."""
        limits: list[float | None] = [self._models.settings.timeout, context.time_remaining()]
        if "timeout" in request.parameters:
            given = request.parameters["timeout"]
            limits.append(documents.seconds_of(getattr(given, given.WhichOneof("parameter_choice") or "int64_param")))
        return min(limit for limit in limits if limit is not None)


def _inputs(served: Served, request: Any) -> dict[str, Array]:
    """The tensors of a request, raw or typed. Raises InputError."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"there are {len(request.inputs)} inputs, and raw contents of {len(raw)}")
    given: dict[str, Array] = {}
    for index, entry in enumerate(request.inputs):
        name = entry.name
        tensor = served.inputs.get(name)
        if tensor is None:
            raise InputError(f"the model has no input {name[:80]!r}; it has {', '.join(map(repr, served.inputs))}")
        if name in given:
            raise InputError(f"input {name!r} is given twice")
        if entry.parameters:
            documents.check_parameters(entry.parameters, f"input {name!r}")
        if raw:
            if entry.HasField("contents"):
                raise InputError(f"input {name!r} has contents of its own beside raw contents")
            given[name] = tensor.from_bytes(entry.datatype, entry.shape, raw[index])
        else:
            given[name] = _typed(tensor, entry)
    return given


def _typed(tensor: Tensor, entry: Any) -> Array:
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise InputError(f"input {tensor.name!r} is {tensor.datatype}, which is sent as raw contents only")
    return tensor.from_values(entry.datatype, entry.shape, getattr(entry.contents, field))


def add(models: Models, server: Any, token: str | None = None, admin: bool = False) -> None:
    """Put the service into a `grpc.Server`."""
    server.add_generic_rpc_handlers((Service(models, token, admin).handlers(),))
