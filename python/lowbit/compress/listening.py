"""What a module computes on the way, by hooks: outputs and attention maps of the modules in it.

A hook is no part of the module. A copy of the module (deepcopy, a moving average, a pickle) has hooks that do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

SOFTMAX = (torch.softmax, Tensor.softmax, nn.functional.softmax, torch.special.softmax)


class Listener:
    """Hears the last forward pass of a module: what it returned, and what the named modules in it did.

    Args:
        net: The module.
        outputs: Paths of modules whose outputs are kept: `heard[path]`, one tensor a call.
        attention: Paths of modules whose attention maps are kept: `maps[path]`, one tensor [..., queries, keys] each.
        grads: Whether passes without gradients, such as those of an evaluation, are left unheard.
    """

    def __init__(self, net: nn.Module, outputs: Iterable[str], attention: Iterable[str], *, grads: bool) -> None:
        self._grads = grads
        self._handles: list[RemovableHandle] = []
        self._modes: list[AbstractContextManager[Any]] = []
        self.owner: object = None  # who lives as long as the hooks do
        self.result: Any = None
        self.heard: dict[str, list[Tensor]] = {}
        self.maps: dict[str, list[Tensor]] = {}
        self._add(net.register_forward_pre_hook, self._clear)
        for path in dict.fromkeys(attention):
            module = net.get_submodule(path)
            self._add(module.register_forward_pre_hook, partial(self._enter, path))
            self._add(partial(module.register_forward_hook, always_call=True), self._leave)
        for path in dict.fromkeys(outputs):
            self._add(net.get_submodule(path).register_forward_hook, partial(self._keep, path))
        self._add(net.register_forward_hook, self._finish)

    def forget(self) -> None:
        """Let go of all tensors."""
        self.result, self.heard, self.maps = None, {}, {}

    def close(self) -> None:
        """Take the hooks off."""
        self.forget()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _add(self, register: Callable[[Any], RemovableHandle], function: Callable[..., None]) -> None:
        self._handles.append(register(_Hook(function)))

    @property
    def _listens(self) -> bool:
        return torch.is_grad_enabled() or not self._grads

    def _clear(self, module: nn.Module, inputs: Any) -> None:
        if self._listens:
            self.forget()

    def _keep(self, path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        found = first_tensor(output)
        if self._listens and found is not None:  # a clone, since what follows may write into it: ReLU(inplace=True)
            self.heard.setdefault(path, []).append(found.clone())

    def _finish(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._listens:
            self.result = output

    def _enter(self, path: str, module: nn.Module, inputs: Any) -> None:
        mode = _Attention(self.maps.setdefault(path, [])) if self._listens else nullcontext()
        self._modes.append(mode)
        mode.__enter__()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._modes.pop().__exit__(None, None, None)


class _Hook:
    """A hook whose copies do nothing."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        self._function(*args)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> _Hook:
        return _Hook(_nothing)

    def __reduce__(self) -> tuple[type[_Hook], tuple[Callable[..., None]]]:
        return _Hook, (_nothing,)


def _nothing(*args: Any) -> None:
    return None


def first_tensor(output: Any) -> Tensor | None:
    """Of an output: itself, or the first of a tuple, list or mapping; transformers' layers return such."""
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return next((found for each in output if (found := first_tensor(each)) is not None), None)
    return output if isinstance(output, Tensor) else None


# ----------------------------------------------------------------------------------------------------- attention maps


class _Attention(TorchFunctionMode):
    """Notes each attention map while it is entered, before dropout: of torch's own functions, and of softmax."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self._maps = maps

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is nn.functional.scaled_dot_product_attention:
            self._maps.append(attention_map(*args, **kwargs))
        elif func is nn.functional.multi_head_attention_forward:
            asked = {"need_weights": True, "average_attn_weights": False, "training": False}
            self._maps.append(cast(Tensor, func(*args, **{**kwargs, **asked})[1]))
        elif func in SOFTMAX and isinstance(result, Tensor) and result.ndim > 2:
            self._maps.append(result)
        return result


def attention_map(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query key^T scale + mask): what `scaled_dot_product_attention` multiplies its values by.

    Args:
        query: [..., queries, width]; key and value: [..., keys, width].
        key: See there.
        value: Not read.
        attn_mask: True or 0 where a query sees a key.
        dropout_p: Not read.
        is_causal: Whether a query sees no later key.
        scale: None: 1 / sqrt(width).
        enable_gqa: Whether several heads of queries share one of keys.

    Returns:
        [..., queries, keys]
    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -math.inf)
    if attn_mask is not None:
        hidden = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if hidden else scores + attn_mask
    return scores.softmax(-1)
