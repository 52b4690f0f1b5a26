"""HTTP connections that cannot be held open by doing nothing: no header, no next request, no reading of an answer."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_BYTES = 64 << 10
"""The largest header of a request."""
CONNECTIONS = 512
"""Connections at once; those beyond are refused."""
KEEP_ALIVE = 75
"""Seconds that a connection without a request is kept."""


def guarded(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which gives a client so many seconds for a header, and for each pause in reading."""

    class Guarded(H11Protocol):
        _waits: asyncio.TimerHandle | None = None
        _stalls: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
            super().connection_made(transport)
            self._waits = self.loop.call_later(seconds, self._give_up)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._waits = _stop(self._waits)
            elif self._waits is None and self.conn.trailing_data[0]:
                self._waits = self.loop.call_later(seconds, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._waits, self._stalls = _stop(self._waits), _stop(self._stalls)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stalls is None:
                self._stalls = self.loop.call_later(seconds, self._give_up)

        def resume_writing(self) -> None:
            self._stalls = _stop(self._stalls)
            super().resume_writing()

        def _give_up(self) -> None:
            self.transport.abort()

    return Guarded


def _stop(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """None in a timer's place."""
    if timer is not None:
        timer.cancel()
    return None
