"""What a layer's numbers become: bits, granularity and how ranges are chosen, as one frozen value with a name.

`Rules` say which scheme each node of a graph has, by patterns over module paths.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from ..errors import InputError, UnsupportedError
from ..graph.ir import Node
from ..graph.weights import few_bits

RANGES = ("minmax", "percentile", "mse")
ACTIVATIONS = ("auto", "static", "dynamic")
VALUES = ("pow2", "nf4", "kmeans")
"""Tables of 16 values (`code_tables.py`)."""
METHODS = ("auto", "nearest", "hqq", "gptq", "reconstruct")
FROM_DATA = ("gptq", "reconstruct")
"""Methods that ask for calibration data."""


_TYPES: dict[str, Any] = {"str": str, "int": int, "float": int | float, "bool": bool}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How to quantize a layer.

    Args:
        name: For people.
        weight_bits: 8, 4, 3, 2, 1 (signs, where groups are symmetric), or 32 for float32.
        activation_bits: 8, or 32 with `weight_bits` 32 or 8: of these, only a file has codes, and layers compute in
            float32.
        granularity: Of weight scales: "channel" (one for each output channel) or, with fewer than eight bits, "group".
        group_size: How many adjacent weights of a channel share a scale, a multiple of 8 from 16 on. A layer takes the
            largest such divisor of its depth that is not above it, and keeps 8 bits where there is none.
        range_method: Of static activations: "minmax", "percentile" (`percentile` % of the values on each side) or "mse"
            (least squared error).
        percentile: In (50, 100].
        equalize: Balance the channel ranges of successive layers (Nagel et al. 2019, section 4.1).
        correct_bias: Take the mean error of a layer's output out of its bias (Nagel et al. 2019, section 4.2).
        compensate: Round weights so that their errors cancel on calibration data (Frantar et al. 2022, "GPTQ"); without
            data each goes to its nearest code.
        method: How weights of few bits are rounded: "nearest"; "hqq" (nearest, in groups with refined scales: Badri and
            Shaji 2023); with calibration data "gptq" (see `compensate`), or "reconstruct" (then learned block by block,
            which takes minutes: Nagel et al. 2020, "AdaRound"); "auto": with data "gptq", and without "hqq" where
            groups are not symmetric, else "nearest".
        symmetric: Whether groups of few bits do without an offset (a half-float; a zero point with method "nearest").
        levels: 3: of two bits only the codes -1, 0 and 1 are used, so that a file holds a weight in 1.6 bits; 0: all.
        values: The table of 16 values that a layer's weights are among, times a scale a channel, with codes of four
            bits: "pow2" (powers of two), "nf4" (quantiles of a bell curve), "kmeans" (learned for each layer); "":
            there is none.
        entropy: How many bits of information a code of eight bits holds, about, from 2 to 7: steps are so much wider
            that a file, which then keeps codes by their frequencies, takes no more than that (Gish and Pierce 1968).
            A layer runs as any in eight bits. 0: steps are those of least error.
        seed: Of what "reconstruct" draws.
        keep_ends: In a network of more than two layers, keep 8 bits in those that no layer or embedding comes before,
            and those that none comes after, for they lose most and weigh little.
        keep_small: The smallest layers keep 8 bits, too, as many as hold this share of a network's weights of few bits:
            convolutional networks lose most in their first layers, which weigh next to nothing. And tables of less than
            2^18 weights, such as those of positions, stay float32, unless the share is 0.
        activations: Of linear layers: "static" (one range from calibration data), "dynamic" (a range for each row,
            found at run time) or "auto" (what measures better).
        activation_group_size: Of linear layers with dynamic activations: how many adjacent values of a row share a
            scale, a multiple of 8 from 16 on; 0: one range for the whole row. Groups of a layer's input divide those of
            its weights: where they do not, they are the same. -1: as the weights', 128 at most, in layers that
            `quantize_` replaces and in those whose weights came with codes (language models mostly); else 0.
        smooth: Let dynamic rows be multiplied by factors that even out their channels (Xiao et al. 2023).

    Raises:
        InputError: Values of the wrong type, or outside their ranges.
        UnsupportedError: Bits and granularities that no kernel computes.

    Examples:
        >>> affine = lowbit.Scheme(name="affine", weight_bits=4, granularity="group", group_size=32, symmetric=False)
        >>> affine.is_float
        False
    """

    name: str
    weight_bits: int = 8
    activation_bits: int = 8
    granularity: str = "channel"
    group_size: int = 0
    range_method: str = "mse"
    percentile: float = 99.99
    equalize: bool = True
    correct_bias: bool = True
    compensate: bool = True
    method: str = "auto"
    symmetric: bool = True
    keep_ends: bool = True
    keep_small: float = 0.01
    activations: str = "auto"
    activation_group_size: int = -1
    smooth: bool = True
    levels: int = 0
    entropy: float = 0.0
    seed: int = 0
    values: str = ""

    def __post_init__(self) -> None:
        for each in fields(self):
            value, wanted = getattr(self, each.name), _TYPES[str(each.type)]
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                raise InputError(f"{each.name} of a scheme is of type {each.type}, not {type(value).__name__}")
        if self.range_method not in RANGES:
            raise InputError(f"range_method must be one of {', '.join(RANGES)}, not {self.range_method!r}")
        if self.activations not in ACTIVATIONS:
            raise InputError(f"activations must be one of {', '.join(ACTIVATIONS)}, not {self.activations!r}")
        if not 0 <= self.keep_small <= 1:
            raise InputError(f"keep_small must be in [0, 1], not {self.keep_small}")
        if self.method not in METHODS:
            raise InputError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if self.method in FROM_DATA and not self.compensate:
            raise InputError(
                f"method {self.method!r} compensates: drop compensate=False, or ask for 'nearest' or 'hqq'"
            )
        if not 50 < self.percentile <= 100:
            raise InputError(f"percentile must be in (50, 100], not {self.percentile}")
        if self.activation_group_size not in (-1, 0) and not _is_group(self.activation_group_size):
            raise InputError(
                "activation_group_size must be -1, 0, or a multiple of 8 from 16 to 65536, not "
                f"{self.activation_group_size}"
            )
        if self.activation_group_size > 0 and self.activations == "static":
            raise InputError(
                "static activations have one range for all rows: activation_group_size is for dynamic ones"
            )
        if self.levels != 0 and (self.levels, self.weight_bits, self.symmetric) != (3, 2, True):
            raise InputError(f"levels are 0, or 3 with two symmetric bits; scheme {self.name!r} has {self.levels}")
        if self.entropy and not (2 <= self.entropy <= 7 and (self.weight_bits, self.activation_bits) == (8, 8)):
            raise InputError(
                f"entropy is 0, or from 2 to 7 with eight bits; scheme {self.name!r} has {self.entropy} with "
                f"{self.weight_bits} and {self.activation_bits}"
            )
        if self.values and (self.values not in VALUES or (self.weight_bits, self.granularity) != (4, "channel")):
            raise InputError(
                f"values are one of {', '.join(VALUES)}, with four bits a channel; scheme {self.name!r} has "
                f"{self.values!r}"
            )
        bits = (self.weight_bits, self.activation_bits)
        grouped = self.granularity == "group" and self.group_size >= 16 and self.group_size % 8 == 0
        by_channel = self.granularity == "channel" and self.group_size == 0
        known = {
            (8, 8): by_channel,
            (8, 32): by_channel,
            (32, 32): by_channel,
            **{(few, 8): by_channel or grouped for few in few_bits()},
        }
        if not known.get(bits, False):
            few = " or ".join(map(str, few_bits()))
            raise UnsupportedError(
                f"scheme {self.name!r} asks for {self.weight_bits}-bit weights, {self.activation_bits}-bit "
                f"activations, granularity {self.granularity!r}, group_size {self.group_size}; available are 8 and 8 "
                f"bits, 8 and 32, or 32 and 32 (float32), with a scale per channel, and {few} and 8 bits with a scale "
                "per channel or per group of 16, 24, 32, ..."
            )

    @property
    def is_float(self) -> bool:
        """Whether layers and their weights stay in float32."""
        return self.weight_bits == 32

    @property
    def computes_floats(self) -> bool:
        """Whether layers compute in float32, whatever a file holds of their weights."""
        return self.activation_bits == 32

    def compensates(self, *, few: bool) -> bool:
        """Whether weights are rounded for what their layer reads, where that is known.

        Args:
            few: Of layers with weights of few bits; else of those with eight.

        Returns:
            Whether the scheme says so.
        """
        return self.compensate and self.method in (("auto", *FROM_DATA) if few else ("auto", "hqq", *FROM_DATA))

    @property
    def refines(self) -> bool:
        """Whether groups have half-quadratic scales, and offsets instead of zero points."""
        return self.method == "hqq" or (self.method != "nearest" and not self.symmetric)


def _is_group(size: int) -> bool:
    return 16 <= size <= 2**16 and size % 8 == 0


def _few(name: str, bits: int, **kind: Any) -> Iterator[Scheme]:
    """Few bits in groups of 128, of others, and a channel."""
    for tail, size in ("", 128), ("-g64", 64), ("-g32", 32):
        yield Scheme(name=f"{name}{tail}", weight_bits=bits, granularity="group", group_size=size, **kind)
    yield Scheme(name=f"{name}-channel", weight_bits=bits, **kind)


SCHEMES = {
    "int8": Scheme(name="int8"),
    "int8-weights": Scheme(name="int8-weights", activation_bits=32),
    **{f"int8-e{bits:g}": Scheme(name=f"int8-e{bits:g}", entropy=bits) for bits in (7, 6, 5.5, 5, 4.5, 4, 3.5, 3)},
    "float32": Scheme(name="float32", weight_bits=32, activation_bits=32),
    **{scheme.name: scheme for scheme in (*_few("int4", 4), *_few("int3", 3, symmetric=False))},
    **{scheme.name: scheme for scheme in (*_few("int2", 2, symmetric=False), *_few("ternary", 2, levels=3))},
    **{scheme.name: scheme for scheme in _few("binary", 1)},
    **{name: Scheme(name=name, weight_bits=4, values=name) for name in VALUES},
}


def resolve(scheme: str | Scheme) -> Scheme:
    """The scheme of that name, or the scheme itself. Raises InputError."""
    if isinstance(scheme, Scheme):
        return scheme
    if not isinstance(scheme, str):
        raise InputError(f"a scheme is a name or a lowbit.Scheme, not a {type(scheme).__name__}")
    if scheme not in SCHEMES:
        raise InputError(f"there is no scheme {scheme!r}; use one of {', '.join(SCHEMES)}")
    return SCHEMES[scheme]


# ---------------------------------------------------------------------------------------------------------------- rules

DEFAULT = "int8"
"""The scheme of a node that no pattern matches."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """(pattern, scheme) in order: the first pattern that matches a node's module path gives its scheme.

    A pattern is a glob (`*` matches dots, too), and what matches a module holds for all in it. A node that nothing
    matches has the scheme `DEFAULT`. nodes: of single nodes, by name, before any pattern.
    """

    rules: tuple[tuple[str, Scheme], ...]
    nodes: Mapping[str, Scheme] = field(default_factory=dict)

    def with_method(self, method: str | None) -> Rules:
        """With that method in all schemes but float32; None: as they are. Raises InputError for an unknown one."""
        if method is None:
            return self
        given = [
            (pattern, scheme if scheme.is_float else replace(scheme, method=method)) for pattern, scheme in self.rules
        ]
        return Rules(rules=tuple(given))

    def pattern(self, node: Node) -> str | None:
        """The pattern that decides about a node."""
        return next((pattern for pattern, _ in self.rules if _matches(pattern, _paths(node))), None)

    def paths(self, node: Node) -> tuple[str, ...]:
        """What a pattern may match of a node: its name, its module's path, and the modules around it."""
        return _paths(node)

    def of(self, node: Node) -> Scheme:
        """The scheme of a node."""
        if node.name in self.nodes:
            return self.nodes[node.name]
        found = self.pattern(node)
        return SCHEMES[DEFAULT] if found is None else dict(self.rules)[found]

    def reason(self, node: Node) -> str:
        """Why the node has its scheme, for people."""
        found, name = self.pattern(node), self.of(node).name
        return f"the scheme is {name}" if found in (None, "*") else f"the scheme of {found!r} is {name}"

    @property
    def is_float(self) -> bool:
        """Whether no node can be low-bit."""
        schemes = [scheme for pattern, scheme in self.rules]
        return all(scheme.is_float for scheme in schemes) and any(pattern == "*" for pattern, _ in self.rules)

    @property
    def name(self) -> str:
        """The scheme, or the patterns with theirs."""
        if len(self.rules) == 1 and self.rules[0][0] == "*":
            return self.rules[0][1].name
        return ", ".join(f"{pattern}: {scheme.name}" for pattern, scheme in self.rules)

    def check(self, nodes: Iterable[Node], modules: Iterable[str] = ()) -> list[str]:
        """Notes about patterns that never decide. Raises InputError for patterns that match nothing at all.

        modules: paths that are known beside those of the nodes, such as of modules that were folded into others.
        """
        every = list(nodes)
        known = [_paths(node) for node in every]
        others = [ancestors(path) for path in modules]
        used = {self.pattern(node) for node in every}
        unknown, idle = [], []
        for pattern, _ in self.rules:
            if pattern in used or pattern == "*":
                continue
            if any(_matches(pattern, paths) for paths in known):
                idle.append(f"scheme pattern {pattern!r} decides nothing: an earlier pattern takes all that it matches")
            elif any(_matches(pattern, paths) for paths in others):
                idle.append(f"scheme pattern {pattern!r} decides nothing: what it matches has no operation of its own")
            else:
                unknown.append(f"{pattern!r}{_hint(pattern, (*known, *others))}")
        if unknown:
            raise InputError(f"scheme: no module or operation matches {', '.join(unknown)}")
        return idle


def rules(scheme: str | Scheme | Mapping[str, str | Scheme] | Rules) -> Rules:
    """What a person passes as scheme. Raises InputError or UnsupportedError as `resolve` does."""
    if isinstance(scheme, Rules):
        return scheme
    if not isinstance(scheme, Mapping):
        return Rules(rules=(("*", resolve(scheme)),))
    if not scheme:
        raise InputError('scheme is an empty dict; pass {pattern: scheme}, such as {"head": "float32", "*": "int8"}')
    for pattern in scheme:
        if not isinstance(pattern, str) or not pattern:
            raise InputError(f"scheme: a pattern must be a text such as 'encoder.*', is {pattern!r}")
    return Rules(rules=tuple((pattern, resolve(value)) for pattern, value in scheme.items()))


def ancestors(path: str) -> tuple[str, ...]:
    """`a.b.c` -> `a.b.c`, `a.b`, `a`."""
    parts = path.split(".")
    return tuple(".".join(parts[:count]) for count in range(len(parts), 0, -1))


def _paths(node: Node) -> tuple[str, ...]:
    """What a pattern may match: the node's name, its module's path, and the modules around it."""
    module = re.sub(r" ?\([^()]*\)$", "", node.source)
    module = "" if re.fullmatch(r"[^ ]+:\d+", module) else module
    return tuple(dict.fromkeys((*ancestors(node.name), *(ancestors(module) if module else ()))))


def _matches(pattern: str, paths: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for path in paths)


def _hint(pattern: str, known: Iterable[tuple[str, ...]]) -> str:
    close = difflib.get_close_matches(pattern, {path for paths in known for path in paths}, n=2)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
