"""What a client is told instead of an answer: one line of text, and a status in both protocols."""

from __future__ import annotations

from enum import Enum

from ..errors import InputError, LimitError, LowbitError


class Status(Enum):
    """A status of HTTP, and the name of the one of gRPC that means the same."""

    INVALID = 400, "INVALID_ARGUMENT"
    NO_TOKEN = 401, "UNAUTHENTICATED"
    FORBIDDEN = 403, "PERMISSION_DENIED"
    NOT_FOUND = 404, "NOT_FOUND"
    NO_METHOD = 405, "UNIMPLEMENTED"
    SLOW_BODY = 408, "DEADLINE_EXCEEDED "
    TOO_LARGE = 413, "RESOURCE_EXHAUSTED"
    NO_CODING = 415, "UNIMPLEMENTED"
    INTERNAL = 500, "INTERNAL"
    FULL = 503, "RESOURCE_EXHAUSTED"
    NOT_READY = 503, "UNAVAILABLE"
    DEADLINE = 504, "DEADLINE_EXCEEDED"

    @property
    def http(self) -> int:
        """Of HTTP."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """The name of gRPC's."""
        return self.value[1].strip()


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: Why.
        text: What the client reads.
    """

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


def refusal(error: BaseException) -> Refused:
    """What a client is told of an error: of one that is not lowbit's, nothing but that there was one."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, InputError):
        return Refused(Status.INVALID, str(error))
    if isinstance(error, LimitError):
        late = "seconds" in str(error) and "took" in str(error)
        return Refused(Status.DEADLINE if late else Status.INVALID, str(error))
    if isinstance(error, LowbitError):
        return Refused(Status.INVALID, str(error))
    return Refused(Status.INTERNAL, "the server failed; its log says how")
