"""Which candidate each layer gets: the integer linear programme that minimizes one thing within budgets of others.

    minimize    sum over layers l, candidates c of  x[l, c] price[l, c]  +  sum over borders b of  z[b] price[b]
    subject to  sum over c of x[l, c] = 1,  the same sums of what has a budget <= its budget,  z[b] >= what x says of b

A border lies between a layer and one that reads what it makes: where the one works on codes and the other on floats,
there is a conversion. Solved by HiGHS through SciPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .candidates import Choice, Plan, Price, price_of

SECONDS, GAP = 4.0, 1e-3
"""What the solver may take, and how far its answer may be from the best, as a share."""
QUANTITIES = ("microseconds", "bytes", "noise")


@dataclass(frozen=True, kw_only=True)
class Border:
    """Microseconds where one of two neighbours works on codes.

    to_codes: where the second does, whose input is converted. to_float: where the first does, which then makes floats.
    """

    first: str
    second: str
    to_codes: float
    to_float: float


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What may be chosen. fixed: of each quantity, what is there whatever is chosen."""

    prices: Mapping[str, Sequence[Price]]
    borders: Sequence[Border] = ()
    fixed: Mapping[str, float]

    def state(self) -> dict[str, Any]:
        """In values that JSON knows."""
        return asdict(self)

    @staticmethod
    def of(state: Mapping[str, Any]) -> Problem:
        """The problem whose `state` that was."""
        return Problem(
            prices={layer: [price_of(each) for each in prices] for layer, prices in state["prices"].items()},
            borders=tuple(Border(**each) for each in state["borders"]),
            fixed=state["fixed"],
        )

    def plan(self, chosen: Mapping[str, Price]) -> Plan:
        """The plan of these prices, with what each layer might have been instead."""
        totals = {
            quantity: self.fixed.get(quantity, 0.0) + sum(float(getattr(price, quantity)) for price in chosen.values())
            for quantity in QUANTITIES
        }
        crossings = sum(_crossing(border, chosen) for border in self.borders)
        return Plan(
            choices={layer: _choice(price, self.prices[layer]) for layer, price in chosen.items()},
            microseconds=totals["microseconds"] + crossings,
            bytes=round(totals["bytes"]),
            noise=totals["noise"],
        )


def on_codes(price: Price) -> bool:
    """Whether a layer works on codes as that candidate."""
    return price.candidate.scheme not in ("float32", "int8-weights")


def _crossing(border: Border, chosen: Mapping[str, Price]) -> float:
    first, second = on_codes(chosen[border.first]), on_codes(chosen[border.second])
    return border.to_codes * (second and not first) + border.to_float * (first and not second)


def _choice(taken: Price, prices: Sequence[Price]) -> Choice:
    better = [price for price in prices if price.noise < taken.noise]
    cheaper = [
        price
        for price in prices
        if price != taken and (price.microseconds < taken.microseconds or price.bytes < taken.bytes)
        and price.noise >= taken.noise
    ]  # fmt: skip
    return Choice(
        taken=taken,
        better=max(better, key=lambda price: price.noise, default=None),
        cheaper=min(cheaper, key=lambda price: price.noise, default=None),
    )


def allocate(problem: Problem, minimize: Mapping[str, float], budgets: Mapping[str, float]) -> Plan | None:
    """The plan with the least weighted sum of quantities within the budgets; None: there is no such plan.

    minimize: a factor for each quantity: "microseconds", "bytes", "noise". budgets: of whole models, what is fixed
    included. Raises InputError without SciPy.
    """
    milp, constraint, bounds, sparse = _solver()
    pairs = [(layer, price) for layer, prices in problem.prices.items() for price in _undominated(prices)]
    if not pairs:
        return problem.plan({})
    borders = [border for border in problem.borders if border.to_codes > 0 or border.to_float > 0]
    places: dict[str, list[int]] = {}
    for place, (layer, _) in enumerate(pairs):
        places.setdefault(layer, []).append(place)
    count = len(pairs) + 2 * len(borders)
    amounts = {quantity: np.zeros(count) for quantity in QUANTITIES}
    for place, (_, price) in enumerate(pairs):
        for quantity in QUANTITIES:
            amounts[quantity][place] = getattr(price, quantity)
    for index, border in enumerate(borders):
        amounts["microseconds"][len(pairs) + 2 * index :][:2] = border.to_codes, border.to_float
    rows, low, high = sparse.lil_matrix((len(places) + 2 * len(borders) + len(budgets), count)), [], []
    for row, own in enumerate(places.values()):
        rows[row, own] = 1.0
        low.append(1.0)
        high.append(1.0)
    for index, border in enumerate(borders):
        for turn, (of, other) in enumerate(((border.second, border.first), (border.first, border.second))):
            row = len(low)
            rows[row, len(pairs) + 2 * index + turn] = 1.0  # z - (codes of one - codes of the other) >= 0
            for layer, sign in ((of, -1.0), (other, 1.0)):
                for place in places[layer]:
                    if on_codes(pairs[place][1]):
                        rows[row, place] = sign
            low.append(0.0)
            high.append(np.inf)
    for quantity, budget in budgets.items():
        left = budget - problem.fixed.get(quantity, 0.0)
        if left < 0:
            return None
        scale = max(left, 1e-300)
        rows[len(low), :] = amounts[quantity] / scale
        low.append(-np.inf)
        high.append(left / scale)
    objective = np.asarray(sum(factor * amounts[quantity] for quantity, factor in minimize.items()), np.float64)
    objective /= max(float(np.abs(objective).max()), 1e-300)
    whole = np.zeros(count)
    whole[: len(pairs)] = 1
    found = milp(
        objective,
        integrality=whole,
        bounds=bounds(0, 1),
        constraints=constraint(rows.tocsr(), np.array(low), np.array(high)),
        options={"time_limit": SECONDS, "mip_rel_gap": GAP},
    )
    if found.x is None:
        return None
    best = {layer: max(own, key=lambda place: float(found.x[place])) for layer, own in places.items()}
    return problem.plan({layer: pairs[place][1] for layer, place in best.items()})


def _undominated(prices: Sequence[Price]) -> list[Price]:
    """Those that no other one, of the same kind to its neighbours, is as good as in all and better in one."""
    kept: list[Price] = []
    for price in sorted(prices, key=lambda each: (each.microseconds, each.bytes, each.noise)):
        if not any(
            on_codes(other) == on_codes(price) and other.bytes <= price.bytes and other.noise <= price.noise
            for other in kept
        ):
            kept.append(price)
    return kept


def _solver() -> tuple[Any, Any, Any, Any]:
    """What is used of SciPy. Raises InputError without it."""
    try:
        from scipy import sparse
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError:
        raise InputError(
            'lowbit.optimize solves an integer programme with SciPy: pip install "lowbit[compress]"'
        ) from None
    return milp, LinearConstraint, Bounds, sparse
