"""Forward passes of many batches in step: all arrive at a layer before any goes on, so the layer can be changed there.

torch has no way to stop a forward pass and go on later but to leave it where it is: each runs in a thread of its own,
one at a time. What is held is what the batches hold at one layer, and the net is run through once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_OWN = threading.local()


class Walk:
    """A call in a thread of its own, which stops at each call of the modules that `stopping` knows.

    `at` is the name of the module before which it stands, `x` that module's input; None: it has ended.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self.at: str | None = None
        self.x: Tensor | None = None
        self._call = call
        self._error: BaseException | None = None
        self._is_left = False
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """To the next stop. Raises what the call raises."""
        self.at = self.x = None
        self._go.release()
        self._stands.acquire()
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        """End the call where it stands."""
        self._is_left = True
        self._go.release()
        self._thread.join()

    def stop(self, name: str, x: Tensor) -> None:
        """Stand here until `go_on`; called within the call."""
        self.at, self.x = name, x
        self._stands.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        if self._is_left:
            raise _Left

    def _run(self) -> None:
        _OWN.walk = self
        try:
            self._wait()
            with torch.no_grad():
                self._call()
        except _Left:
            return
        except BaseException as error:  # raised where the walk is asked to go on
            self._error = error
        self._stands.release()


class _Left(BaseException):
    """Unwinds a call that is left."""


@contextmanager
def stopping(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Walks stop before calls of these modules."""

    def hook(name: str) -> Callable[..., None]:
        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            walk = getattr(_OWN, "walk", None)
            if walk is not None:
                walk.stop(name, args[0] if args else kwargs["input"])

        return stop

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(hook(name), with_kwargs=True).remove)
        yield


@contextmanager
def walking(calls: list[Callable[[], object]]) -> Iterator[list[Walk]]:
    """A walk a call, each at its first stop; those that have not ended are left."""
    walks = [Walk(call) for call in calls]
    try:
        for walk in walks:
            walk.go_on()
        yield walks
    finally:
        for walk in walks:
            walk.leave()
