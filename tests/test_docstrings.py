"""Docstrings of public names: their examples are run, and they say what is taken, returned and raised."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lowbit
import lowbit.capture
import lowbit.compress
import lowbit.converted_model
import lowbit.ops
import lowbit.passes
import lowbit.report
import lowbit.serve
from lowbit.dynamo import compile
from lowbit.runtime import meta, profile, roofline

SOURCE = Path(lowbit.__file__).parent
MODULES = sorted(
    ".".join(("lowbit", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if ">>> " in path.read_text()
)
RESULTS = (
    lowbit.converted_model.ConvertedModel,
    lowbit.converted_model.Comparison,
    profile.Profile,
    roofline.Roofline,
    roofline.measure,
    compile.compile_graph,
    compile.counting,
    compile.Count,
    meta.Decision,
    meta.Kept,
    meta.Evaluation,
)
"""What public functions return, or help to read."""


def public() -> Iterator[tuple[str, Any]]:
    """Classes and functions, by name, with the public methods that these classes define."""
    rooms = (lowbit, lowbit.compress, lowbit.capture, lowbit.passes, lowbit.ops, lowbit.report, lowbit.serve)
    found = [(f"{room.__name__}.{name}", getattr(room, name)) for room in rooms for name in room.__all__]
    found += [(f"{each.__module__}.{each.__name__}", each) for each in RESULTS]
    for name, item in found:
        if inspect.isroutine(item) or (inspect.isclass(item) and item.__module__.startswith("lowbit")):
            yield name, item
        for method in vars(item).values() if inspect.isclass(item) and item.__module__.startswith("lowbit") else ():
            inherited = not inspect.getdoc(method)  # from a protocol
            if (
                inspect.isfunction(method)
                and not inherited
                and (not method.__name__.startswith("_") or method.__name__ == "__call__")
            ):
                yield f"{name}.{method.__name__}", method


PUBLIC = dict(public())
FACE = {name: item for name, item in PUBLIC.items() if name.count(".") == 1 or name.startswith("lowbit.compress.")}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They print what they say, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWBIT_THREADS", "1")
    failed, tried = doctest.testmod(importlib.import_module(name), extraglobs={"lowbit": lowbit})
    assert tried > 0
    assert failed == 0


def sections(item: Any) -> dict[str, str]:
    """The parts of a docstring by their headings; the text before them is ""."""
    parts = re.split(r"^(Args|Returns|Raises|Examples):$", inspect.getdoc(item) or "", flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def is_called(item: Any) -> bool:
    """Whether a person makes instances of a class: not of protocols, errors, and what capture and operators are of."""
    internal = item.__module__.startswith(("lowbit.ops", "lowbit.capture"))
    return not (internal or issubclass(item, BaseException) or getattr(item, "_is_protocol", False))


@pytest.mark.parametrize("name", PUBLIC)
def test_arguments_and_results(name: str) -> None:
    """Every argument of a public function has a line, and so has its result."""
    item = PUBLIC[name]
    found = sections(item)
    assert found[""].strip()
    if inspect.isclass(item) and "Args" not in found and not is_called(item):
        return
    taken = {parameter for parameter in inspect.signature(item).parameters if parameter != "self"}
    assert set(re.findall(r"^    (\w+): ", found.get("Args", ""), re.M)) == taken
    result = inspect.signature(item).return_annotation if inspect.isroutine(item) else None
    assert ("Returns" in found) == (result not in (None, "None", inspect.Signature.empty))


@pytest.mark.parametrize("name", [name for name, item in FACE.items() if "." not in item.__qualname__])
def test_the_face_has_examples(name: str) -> None:
    """Each class and function of `lowbit` and `lowbit.compress`."""
    assert ">>> " in sections(FACE[name]).get("Examples", "")
