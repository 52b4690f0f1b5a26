"""The one owner of what stands between a parameter and the weight that its layer computes with.

    parametrizations.weight.original -> mask -> rounding -> module.weight

A link is a parametrization (`torch.nn.utils.parametrize`) with a place of its own in the chain, so the order is the
same whoever comes first: what is masked is rounded, and a rounded zero is zero. The parameter stays the same object
all along, and optimizers hold on to it. Weights that other parametrizations compute are nobody's here.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import InputError

NAME = "weight"


class Link(nn.Module):
    """One step from the parameter to the weight. `place`: where in the chain it stands, from the parameter on."""

    place: ClassVar[int]
    keeps_zeros: bool = True
    """Whether zeros come out of it as zeros."""

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """What `module.weight = ...` stores: the number as it is given."""
        return weight

    def facts(self) -> dict[str, Any]:
        """What is recorded of it when the chain is finalized, in plain values, with its `kind`."""
        return {}

    def finalize(self, module: nn.Module, weight: torch.Tensor) -> None:
        """Put what the chain gave in the place of the chain, which is gone already.

        module: has the parameter again. weight: what the last link made of it.
        """
        getattr(module, NAME).copy_(weight)


def is_free(module: nn.Module) -> bool:
    """Whether nothing but links computes a module's weight."""
    return not parametrize.is_parametrized(module, NAME) or all(isinstance(each, Link) for each in _list(module))


def links(module: nn.Module) -> tuple[Link, ...]:
    """The chain of a module's weight, from the parameter on."""
    if not parametrize.is_parametrized(module, NAME):
        return ()
    return tuple(each for each in _list(module) if isinstance(each, Link))


def original(module: nn.Module) -> torch.Tensor:
    """The parameter that is trained: float, and not zero where it is masked."""
    return _list(module).original if parametrize.is_parametrized(module, NAME) else getattr(module, NAME)


def attach(module: nn.Module, link: Link) -> None:
    """Put a link at its place in the chain of a module's weight.

    Raises InputError where a mask would meet a rounding that has no zero.
    """
    chain = (*links(module), link)
    if any(not each.keeps_zeros for each in chain) and any(each.place == 0 for each in chain):
        raise InputError("its weights would be masked, and be rounded to numbers without zero, such as signs")
    if not links(module):
        parametrize.register_parametrization(module, NAME, link)
    else:
        _list(module).insert(sum(each.place < link.place for each in links(module)), link)
    link.train(module.training)


def detach(module: nn.Module, link: Link) -> None:
    """Take a link out again; the parameter keeps its numbers."""
    chain = _list(module)
    if len(chain) > 1:
        del chain[list(chain).index(link)]
    else:
        _restore(module)


def finalize_weight(module: nn.Module) -> list[dict[str, Any]]:
    """Write what the chain of a module's weight gives into the module, and take the chain off; the links' facts."""
    chain = links(module)
    if not chain:
        return []
    with torch.no_grad():
        weight = getattr(module, NAME).detach().clone()
        facts = [found for link in chain if (found := link.facts())]
        _restore(module)
        chain[-1].finalize(module, weight)
    return facts


def _list(module: nn.Module) -> parametrize.ParametrizationList:
    found = module.get_submodule(f"parametrizations.{NAME}")
    assert isinstance(found, parametrize.ParametrizationList)
    return found


def _restore(module: nn.Module) -> None:
    """Remove the chain, which puts the weight behind the other parameters; these then follow it."""
    others = [name for name, _ in module.named_parameters(recurse=False)]
    kind = type(module)  # copies of the module share it, and removing takes its property `weight` away from them all
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, own)
    parametrize.remove_parametrizations(module, NAME, leave_parametrized=False)
    for name in others:
        parameter = getattr(module, name)
        delattr(module, name)
        module.register_parameter(name, parameter)
