"""The page for people at `/`: what is served, how it does, and a form to try it. One file, no request to elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

from .served import Models

_START = time.time()


@cache
def html() -> bytes:
    """The page; it fetches what it shows."""
    return Path(__file__).with_name("page.html").read_bytes()


def _policy() -> str:
    """Nothing may be loaded or run but what stands in the page."""
    text = html().decode()
    hashes = {
        kind: base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        for kind in ("script", "style")
        if (found := re.search(f"<{kind}>(.*?)</{kind}>", text, re.S))
    }
    return (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _policy().encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]


def status(models: Models, admin: bool) -> dict[str, Any]:
    """What the page shows, as JSON."""
    executor, settings = models.executor, models.settings
    return {
        **models.metadata(admin),
        "ready": models.ready,
        "uptime_s": round(time.time() - _START),
        "running": executor.running,
        "waiting": executor.waiting,
        "limits": {
            "calls at once": executor.workers,
            "threads of a call": settings.threads,
            "requests that wait": executor.queue,
            "rows of a request": settings.max_batch,
            "bytes of a request": settings.max_bytes,
            "seconds of a request": settings.timeout,
        },
        "models": [
            {
                **served.metadata(),
                "rows_a_batch": served.batch,
                "isa": served.model.session.isa,
                **models.figures[name].live(),
            }
            for name, served in models.served.items()
        ],
    }
