"""Writes operators.inc: what python/lowbit/ops says of each operator's inputs and attributes, for the reader in C++.

`python cpp/reader/operators.py` writes it anew; `tests/test_embedding.py` fails where it is not up to date.
"""

from __future__ import annotations

import json
from pathlib import Path

from lowbit.ops import OPS, Attr, Input
from lowbit.ops.integer import MAX_BIAS, MAX_MULTIPLIER
from lowbit.ops.spec import Op

TABLE = Path(__file__).resolve().parent / "operators.inc"


def text(value: object) -> str:
    """A C++ literal of what JSON says of it."""
    return json.dumps(value if isinstance(value, str) else json.dumps(value))


def of_input(each: Input) -> str:
    flags = [("false", "true")[flag] for flag in (each.optional, each.constant, each.weight)]
    return f"{{{text(each.name)}, {text('|'.join(each.dtypes))}, {', '.join(flags)}}}"


def of_attribute(name: str, attr: Attr) -> str:
    fallback = "nullptr" if attr.default is None else text(json.dumps(attr.default))
    numbers = f"{float(attr.minimum)!r}, {float(attr.maximum)!r}, {-1 if attr.count is None else attr.count}"
    return (
        f"{{{text(name)}, Kind::{attr.kind + '_' * (attr.kind in ('int', 'float'))}, {fallback}, "
        f"{str(attr.optional).lower()}, {numbers}, {attr.longest}, {text('|'.join(attr.choices))}}}"
    )


def of_operator(op: Op) -> str:
    inputs = ", ".join(map(of_input, op.inputs))
    attributes = ",\n     ".join(of_attribute(*item) for item in op.attrs.items())
    return f"{{{text(op.name)}, {str(op.variadic).lower()}, {op.outputs},\n    {{{inputs}}},\n    {{{attributes}}}}},\n"


def table() -> str:
    """The file's text."""
    operators = "".join(of_operator(OPS[name]) for name in sorted(OPS))
    limits = f"constexpr double kMostMultiplier = {MAX_MULTIPLIER!r}, kMostBias = {MAX_BIAS!r};\n"
    return f"// Written by operators.py.\n{limits}const std::vector<Operator> kOperators = {{\n{operators}}};\n"


if __name__ == "__main__":
    TABLE.write_text(table())
