"""Each example runs as a reader would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file that convert_cnn.py saves, and what it prints."""
    path = tmp_path_factory.mktemp("examples") / "cnn.lowbit"
    return path, run("convert_cnn.py", str(path))


def test_every_example_is_run() -> None:
    """A new example needs a test here."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"convert_cnn.py", "run_without_torch.py", "serve.py"}


def test_convert(converted: tuple[Path, str]) -> None:
    """It saves a file and shows the profile."""
    path, printed = converted
    assert path.stat().st_size > 0
    assert "conv2d_i8" in printed


def test_run_without_torch(converted: tuple[Path, str]) -> None:
    """The same bits alone and in a batch, and no torch."""
    printed = run("run_without_torch.py", str(converted[0]))
    assert "the same bits in a batch and alone: True" in printed
    assert "torch imported: False" in printed


def test_serve(converted: tuple[Path, str]) -> None:
    """Concurrent requests get the right answers; a bad one is refused."""
    printed = run("serve.py", str(converted[0]), "40")
    assert "40 of 40 answers right" in printed
    assert "a bad request: 400" in printed
