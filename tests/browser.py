"""Chromium without a window, told what to do through a pipe (the DevTools protocol)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. problems: what the page's console told of errors."""

    def __init__(self, commands: int, events: int) -> None:
        self._commands, self._events = os.fdopen(commands, "wb", 0), os.fdopen(events, "rb")
        self._rest, self._count, self._session = b"", 0, ""
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **given: Any) -> Any:
        """The result of a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while (found := self._next()).get("id") != self._count:
            if found.get("method") == "Runtime.exceptionThrown":
                self.problems.append(found["params"]["exceptionDetails"]["text"])
            elif found.get("method") == "Log.entryAdded" and found["params"]["entry"]["level"] == "error":
                self.problems.append(found["params"]["entry"]["text"])
        assert "error" not in found, found
        return found["result"]

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            piece = self._events.read1(65536)
            assert piece, "the browser ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def value(self, script: str) -> Any:
        """Of an expression in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """The value of an expression, once it is true."""
        return self.value(
            f"new Promise((good, bad) => {{ const end = Date.now() + 30000; (function look() {{ const found = {script};"
            " if (found) good(found); else if (Date.now() > end) bad(new Error('it did not come to be'));"
            " else setTimeout(look, 20); })(); })"
        )


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A browser that keeps its files in a folder."""
    assert CHROMIUM is not None
    (takes, commands), (events, gives) = os.pipe(), os.pipe()
    options = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
    script = f'exec "$0" {options} "--user-data-dir=$1" 3</dev/fd/{takes} 4>/dev/fd/{gives}'
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        ["sh", "-c", script, CHROMIUM, str(folder)], pass_fds=(takes, gives), stdin=quiet, stdout=quiet, stderr=quiet
    )
    os.close(takes)
    os.close(gives)
    try:
        yield Browser(commands, events)
    finally:
        process.kill()
        process.wait()
