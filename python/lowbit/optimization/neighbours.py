"""Plans beside a plan: what `convert` would come to, and the same model in fewer bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ..converted_model import ConvertedModel
from ..progress import Reporter
from ..quantization.budget import Search
from .allocate import Problem, allocate, on_codes
from .candidates import Candidate, Plan
from .workshop import FLOAT, INT8, Workshop

MORE_NOISE = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03)
"""What fewer bytes may add to a plan's noise, as a share of it: the most is tried first."""
AS_FAST = 1.01
"""How much slower a call may be to be called as fast."""


def returned(
    workshop: Workshop, score: Callable[[ConvertedModel], float], reference: float, max_drop: float, report: Reporter
) -> dict[str, Candidate]:
    """What `convert` makes of each layer with that budget: those that lose most compute in float32."""
    search = Search(lambda made: score(ConvertedModel(workshop.prepared.conversion(made))), report)
    search.compare_with(reference)
    found = search.hold(
        workshop.quantizer, max_drop, workshop.prepared.samples(), threads=workshop.request.threads
    ).best.made
    floats = {row.node for row in found.decisions if row.scheme == "float32"}
    return {
        name: FLOAT if INT8 not in workshop.offers[name] or any(node.name in floats for node in layer.nodes) else INT8
        for name, layer in workshop.layers.items()
    }


def planned(problem: Problem, candidates: dict[str, Candidate]) -> Plan:
    """The plan in which layers become these."""
    prices = {
        name: next(price for price in problem.prices[name] if price.candidate == candidate)
        for name, candidate in candidates.items()
    }
    return problem.plan(prices)


def smaller(problem: Problem, plan: Plan) -> Iterator[Plan]:
    """Plans of fewer bytes that compute on the same codes and floats, as fast, with little more noise."""
    alike = {
        name: [price for price in prices if on_codes(price) == on_codes(plan.choices[name].taken)]
        for name, prices in problem.prices.items()
    }
    seen = {tuple(plan.items())}
    for share in MORE_NOISE:
        budgets = {"microseconds": AS_FAST * plan.microseconds, "noise": (1 + share) * plan.noise}
        found = allocate(replace(problem, prices=alike), {"bytes": 1.0}, budgets)
        if found is not None and found.bytes < plan.bytes and tuple(found.items()) not in seen:
            seen.add(tuple(found.items()))
            yield problem.plan({name: choice.taken for name, choice in found.choices.items()})
