"""The access log: for each request a line of JSON on the logger `lowbit.serve.access`, without values of inputs."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

log = logging.getLogger("lowbit.serve.access")
_LONGEST = 200


def record(protocol: str, path: str, status: int | str, seconds: float, **facts: Any) -> None:
    """Write a line, where somebody reads."""
    if log.isEnabledFor(logging.INFO):
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "protocol": protocol,
            "path": path[:_LONGEST],
            "status": status,
            "ms": round(seconds * 1e3, 3),
            **facts,
        }
        log.info("%s", json.dumps(line))
