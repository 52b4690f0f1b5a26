"""What nodes are called and where they come from; what could not be lowered, as one message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node as TorchNode

TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class Problem:
    """One operation that could not be lowered."""

    target: str
    reason: str
    remedy: str
    source: str
    sizes: frozenset[str] = frozenset()
    """The free sizes of what it reads and makes, if it might do without them."""


def node_name(node: TorchNode, op: str) -> str:
    """The module's path for a layer of torch.nn; with the operation's name after it for what a forward() computes."""
    path, kind = _module(node)
    if kind.startswith("torch.nn.modules.") and ".container." not in kind and path:
        return path
    function = re.sub(r"\.\w+$", "", str(node.target).removeprefix("aten.")).strip("_")
    function = function if re.fullmatch(r"\w+", function) else op
    return f"{path}.{function}" if path else function


def _module(node: TorchNode) -> tuple[str, str]:
    """Path and class of the innermost module."""
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    entries = [entry for key, entry in stack.items() if isinstance(entry, tuple) and not key.startswith("_empty")]
    if not entries:
        return "", ""
    path, kind = entries[-1]
    return str(path), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def source_of(node: TorchNode) -> str:
    """The module's path and the line of the model's code: `layer1.conv (net.py:12)`."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not frame[0].startswith((TORCH, "torch/"))] or frames
    path, _ = _module(node)
    line = f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""
    return f"{path} ({line})" if path and line else path or line


def describe(problems: list[Problem]) -> str:
    """All problems, alike ones together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for item in problems:
        groups.setdefault((item.target, item.reason, item.remedy), []).append(item.source)
    count = len(problems)
    lines = [f"{count} operation{'s are' if count > 1 else ' is'} not supported:"]
    for (target, reason, remedy), sources in groups.items():
        lines.append(f"  {target} ({len(sources)} time{'s' if len(sources) > 1 else ''}): {reason}")
        lines += [f"      at {source}" for source in dict.fromkeys(sources) if source]
        lines.append(f"      remedy: {remedy}")
    return "\n".join(lines)
