"""Programs in C and C++ against an installed lowbit: docs/embedding.md, command by command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lowbit
from c_library import library
from lowbit import _core, embedding

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "embedding.md").read_text()
INSTALLED = (Path(_core.__file__).resolve().parent / "lib").is_dir()
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def missing(*programs: str) -> pytest.MarkDecorator:
    lacking = [name for name in programs if shutil.which(name, path=PATH) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"not installed: {', '.join(lacking)}")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where lib/ and include/ are: in the installed package, or else installed from the build of this checkout."""
    if INSTALLED:
        return Path(_core.__file__).resolve().parent
    build = next(path for path in library().parents if (path / "CMakeCache.txt").exists())
    prefix = tmp_path_factory.mktemp("prefix")
    run(["cmake", "--install", str(build), "--prefix", str(prefix)], prefix)
    return prefix


@pytest.fixture(scope="module")
def place(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with examples/c, the page's model, and a `python` that prints the directories of the package."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(ROOT / "examples" / "c", folder / "examples" / "c")
    exec(
        compile(
            blocks("python")[0].replace('"net', f'"{folder}/net').replace('"image', f'"{folder}/image'), "p", "exec"
        )
    )
    lines = [f'  *" {option}") echo "{package / where}" ;;' for option, where in embedding.DIRECTORIES.items()]
    known = "\n".join(lines) if not INSTALLED else ""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in\n{known}\n  *) exec "{sys.executable}" "$@" ;;\nesac\n')
    python.chmod(0o755)
    return folder


def run(command: list[str] | str, folder: Path, status: int = 0) -> str:
    path = os.pathsep.join([str(folder), PATH])
    done = subprocess.run(
        command if isinstance(command, list) else ["bash", "-ec", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def check_classes(printed: str, folder: Path) -> None:
    scores = np.asarray(
        lowbit.load(folder / "net.lowbit")(np.fromfile(folder / "image.raw", np.float32).reshape(1, 3, 8, 8))
    )
    best = np.argsort(-scores[0], kind="stable")[:3]
    assert re.findall(r"class (\d+): (\S+)", printed) == [(str(each), f"{scores[0, each]:g}") for each in best]


@missing("cmake", "cc", "c++", "make")
def test_cmake(place: Path) -> None:
    configure, _, use = blocks("sh")
    run(configure, place)
    printed = run(use, place)
    check_classes(printed, place)
    assert "64 of 64 answers are the same bits" in printed
    assert "a request that does not fit" in printed
    assert "No such file" in run(["build/classify", "missing.lowbit", "image.raw"], place, status=1)
    assert "is not a lowbit file" in run(["build/classify", "image.raw", "image.raw"], place, status=1)
    assert "pool: missing.lowbit: No such file" in run(["build/pool", "missing.lowbit"], place, status=1)


@missing("make", "pkg-config", "cc", "c++")
def test_pkg_config(place: Path) -> None:
    run(blocks("sh")[1], place)
    check_classes(run(["examples/c/classify", "net.lowbit", "image.raw"], place), place)
    assert "8 of 8 answers" in run(["examples/c/pool", "net.lowbit", "2", "8"], place)


@missing("cmake", "cc", "c++", "make")
def test_another_version_is_not_found(place: Path) -> None:
    lists = place / "later" / "CMakeLists.txt"
    lists.parent.mkdir()
    lists.write_text("cmake_minimum_required(VERSION 3.21)\nproject(later C)\nfind_package(lowbit 99 REQUIRED)\n")
    printed = run("cmake -S later -B later/build -Dlowbit_DIR=$(python -m lowbit --cmake-dir)", place, status=1)
    assert f"version: {lowbit.__version__.split('+')[0]}" in printed


@missing("cc", "c++")
@pytest.mark.parametrize(
    "command",
    [
        "cc -std=c90 -x c -include lowbit.h",
        "c++ -std=c++17 -Wshadow -x c++ -include lowbit.hpp",
        "c++ -std=c++20 -x c++ -include lowbit.hpp",
    ],
)
def test_headers_are_clean(command: str, package: Path) -> None:
    strict = f"-pedantic-errors -Wall -Wextra -Werror -fsyntax-only -I {package / 'include'}"
    run(f"{command} {strict} /dev/null", package)


def test_nothing_of_others_is_asked_of_programs(package: Path) -> None:
    """Neither headers nor CMake's targets name what the library was built with."""
    for path in (*(package / "include").iterdir(), *(package / "lib" / "cmake" / "lowbit").iterdir()):
        assert not re.search(r"nlohmann|pybind|lowbit_objects", path.read_text()), path.name


def test_directories_of_the_command() -> None:
    for option, where in embedding.DIRECTORIES.items():
        done = subprocess.run([sys.executable, "-m", "lowbit", option], capture_output=True, text=True, check=False)
        if INSTALLED:
            assert Path(done.stdout.strip()) == Path(_core.__file__).resolve().parent / where
        else:
            assert "was not installed, only built" in done.stderr


def test_what_the_page_shows_stands_in_the_examples() -> None:
    example = {"c": "classify.c", "cpp": "pool.cpp"}
    for kind, name in example.items():
        text = (ROOT / "examples" / "c" / name).read_text()
        assert blocks(kind)
        assert [block for block in blocks(kind) if block not in text] == []
