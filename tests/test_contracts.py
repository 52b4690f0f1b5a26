"""Who may know whom: imports between Python rooms, includes between C++ rooms, and what `import lowbit` costs."""

from __future__ import annotations

import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
CPP = ROOT / "cpp"
ROOMS = ("base", "simd", "kernels", "graph", "reader", "embedding", "bindings")
SOURCES = sorted(path for path in (*CPP.rglob("*.h"), *CPP.rglob("*.cpp")) if path.parent.name != "include")
MICRO_KERNELS = [
    path for path in SOURCES if path.parts[-3] == "kernels" and re.match(r"(x86|arm)_|scalar|tile|generic", path.name)
]


def includes(path: Path) -> list[str]:
    """What a file includes, without its quotes or brackets."""
    return re.findall(r'^\s*#\s*include\s+[<"]([^">]+)[">]', path.read_text(), re.M)


def test_python_rooms() -> None:
    """The import-linter contracts of pyproject.toml hold."""
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == 0


def test_no_module_imports_itself_by_others() -> None:
    """There is an order in which all modules could be loaded; imports in functions count, those for types do not."""
    graph = grimp.build_graph("lowbit", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) - {module} for module in graph.modules}
    assert {"lowbit.capture.lower", "lowbit.capture.operators"} <= imports.keys()
    TopologicalSorter(imports).prepare()


def test_there_are_sources() -> None:
    """The tests below look at something."""
    assert {path.relative_to(CPP).parts[0] for path in SOURCES} == set(ROOMS)
    assert MICRO_KERNELS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CPP)))
def test_cpp_rooms(path: Path) -> None:
    """A file includes headers of its own room and to the left in ROOMS."""
    room = path.relative_to(CPP).parts[0]
    for include in includes(path):
        if include.startswith(tuple(f"{name}/" for name in ROOMS)):
            assert ROOMS.index(include.split("/")[0]) <= ROOMS.index(room), f"{path.name} includes {include}"
        if include.startswith(("pybind11", "Python.h")):
            assert room == "bindings", f"{path.name} includes {include}: only bindings know Python"
        if include.startswith("nlohmann"):
            assert path == CPP / "reader" / "json.cpp", f"{path.name} includes {include}: one file knows that library"


def test_public_headers_need_no_others() -> None:
    """Those that programs include know the standard library alone."""
    for path in (CPP / "include").iterdir():
        assert all(re.fullmatch(r"[a-z_]+(\.h)?", include) for include in includes(path)), path.name


@pytest.mark.parametrize("path", MICRO_KERNELS, ids=lambda path: str(path.relative_to(CPP)))
def test_micro_kernels_know_only_numbers(path: Path) -> None:
    """A micro-kernel knows no graph, file, thread pool or allocation."""
    forbidden = {
        "base/threads.h",
        "base/buffer.h",
        "thread",
        "mutex",
        "memory",
        "vector",
        "string",
        "fstream",
        "iostream",
    }
    assert not forbidden & set(includes(path))


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_brings_no_torch() -> None:
    """`import lowbit` and `lowbit.load` do not import torch, nor the command line's packages."""
    others = ("torch", "rich", "typer", "grpc", "uvicorn", "lowbit.serve")
    code = f"import sys, lowbit; lowbit.load; print([m for m in {others} if m in sys.modules])"
    assert run(code) == "[]"
