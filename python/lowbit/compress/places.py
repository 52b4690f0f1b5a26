"""Where a module's values are made while it runs, and hooks there.

A place is who runs, what it calls, and how often that was called before: (path of the module whose forward runs,
path of the module or name of the torch function that is called, turn). So the residual sum of a block has a place as
the output of a module has, a module that is called twice has two, and they are the same in training and in eval.
The inputs of the whole module are called by nobody: ("", "input", turn).

Functions of torch are seen by a `TorchFunctionMode`, which is entered by the outermost module that runs (of a block
that is computed once more for its gradients, that is the block). Copies of the module have hooks of their own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from ..torch_internals import pytree


class Place(NamedTuple):
    """Where a value is made."""

    scope: str
    called: str
    turn: int


INPUT = "input"
Act = Callable[[Place, Tensor], Tensor]


class Hooks:
    """Lets `act` change the float values of a module, each as soon as it is made.

    act: from a place and a value to what takes its place. functions: whether functions of torch are looked at; modules
    alone cost less.
    """

    def __init__(self, net: nn.Module, act: Act, *, functions: bool) -> None:
        self._act, self._functions = act, functions
        self._running = _Running()
        hidden = {id(part) for each in net.modules() if isinstance(each, parametrize.ParametrizationList)
                  for part in each.modules()}  # fmt: skip
        self._paths = {module: path for path, module in net.named_modules() if id(module) not in hidden}
        self._handles = [
            handle
            for module in self._paths
            for handle in (
                module.register_forward_pre_hook(self._enter, with_kwargs=True),
                module.register_forward_hook(self._leave, with_kwargs=True, always_call=True),
            )
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        path = self._paths[module]
        if path == "":
            self._reset()
            args, kwargs = self._changed((args, kwargs), "", INPUT)
        if not self._scopes and self._functions:
            self._running.mode.enter_context(_Functions(self))
        self._scopes.append(_Scope(path, is_leaf=_is_leaf(module)))
        return args, kwargs

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if self._scopes:
            self._scopes.pop()
        if not self._scopes:
            self._reset()
            return output
        return self._changed(output, self._scopes[-1].path, self._paths[module])

    def _reset(self) -> None:
        self._scopes.clear()
        self._running.mode.close()

    @property
    def _scopes(self) -> list[_Scope]:
        return self._running.scopes

    def called(self, name: str, result: Any) -> Any:
        """What a function of torch gave, changed."""
        if not self._scopes or self._scopes[-1].is_leaf:
            return result
        return self._changed(result, self._scopes[-1].path, name)

    def _changed(self, values: Any, scope: str, called: str) -> Any:
        counts = self._scopes[-1].counts if self._scopes else Counter[str]()

        def leaf(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_floating_point() or isinstance(value, nn.Parameter):
                return value
            place = Place(scope, called, counts[called])
            counts[called] += 1
            return self._act(place, value)

        return pytree.tree_map(leaf, values)


class _Running(threading.local):
    """What runs in a thread, the outermost first; what waits there for its end. A copy has none."""

    def __init__(self) -> None:
        self.scopes: list[_Scope] = []
        self.mode = ExitStack()

    def __reduce__(self) -> tuple[type[_Running], tuple[()]]:
        return _Running, ()


class _Scope:
    """A module that runs."""

    def __init__(self, path: str, *, is_leaf: bool) -> None:
        self.path, self.is_leaf = path, is_leaf
        self.counts: Counter[str] = Counter()


class _Functions(TorchFunctionMode):
    def __init__(self, hooks: Hooks) -> None:
        super().__init__()
        self._hooks = hooks

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        return self._hooks.called(getattr(func, "__name__", ""), result)


def _is_leaf(module: nn.Module) -> bool:
    """Whether it is one of torch's own modules, of which the output is all that is looked at."""
    kind = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
    return kind.__module__.startswith("torch.nn.modules") and not isinstance(
        module, nn.Sequential | nn.ModuleList | nn.ModuleDict
    )
