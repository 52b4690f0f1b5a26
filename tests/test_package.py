"""What is installed and what the README promises about it."""

from __future__ import annotations

import io
import re
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import lowbit
from lowbit.data import load_digits

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "bench" / "README.md",
]


@pytest.fixture(scope="module")
def installed() -> dict[str, Path]:
    """The installed files by their name in the wheel."""
    files = [file for file in metadata.files("lowbit") or [] if ".." not in file.parts and file.suffix != ".pyc"]
    if not any(file.name == "digits.npz" for file in files):
        pytest.skip("an editable install has no wheel to look at")
    return {str(file): Path(str(file.locate())) for file in files}


def test_contents(installed: dict[str, Path]) -> None:
    """The package, its types, its data, its extension module, the licence; no tests, no sources of the core."""
    inside = {name for name in installed if name.startswith("lowbit/")}
    assert {"lowbit/__init__.py", "lowbit/py.typed", "lowbit/_core.pyi", "lowbit/data/digits.npz"} <= inside
    modules = {name.split(".")[0] for name in inside if name.endswith(".so")}
    # The tests of single kernels ask for another one.
    assert modules - {"lowbit/_kernels"} == {"lowbit/_core", "lowbit/lib/liblowbit"}
    suffixes = {".py", ".pyi", ".so", ".npz", ".md", ".typed", ".css", ".html", ".proto", ".h", ".hpp", ".cmake", ".pc"}
    assert {Path(name).suffix for name in inside} <= suffixes
    headers = {name for name in inside if name.endswith((".h", ".hpp"))}
    assert headers == {"lowbit/include/lowbit.h", "lowbit/include/lowbit.hpp"}
    assert any(name.endswith("LICENSE") for name in installed)
    assert {name.split("/")[0] for name in installed} <= {"lowbit", f"lowbit-{lowbit.__version__}.dist-info"}


def test_size(installed: dict[str, Path]) -> None:
    """The wheel is smaller than 6 MB."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, path in installed.items():
            if not name.startswith("lowbit/_kernels."):
                wheel.write(path, name)
    assert len(archive.getvalue()) < 6_000_000


def test_requirements() -> None:
    """Running a model needs numpy and safetensors only."""
    needed = [line for line in metadata.requires("lowbit") or [] if "extra ==" not in line]
    assert sorted(re.split(r"[^a-z]", line)[0] for line in needed) == ["numpy", "safetensors"]
    extras = metadata.metadata("lowbit").get_all("Provides-Extra") or []
    assert {"torch", "cli", "demo", "bench", "test", "docs", "dev"} <= set(extras)


def test_version() -> None:
    """One version everywhere."""
    assert lowbit.__version__ == metadata.version("lowbit")
    assert f"## {lowbit.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_two_commands() -> None:
    """One fenced block of exactly two lines, each a command for a fresh machine."""
    section = (ROOT / "README.md").read_text().split("## Demo and tests\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```\w*\n(.*?)^```", section, re.S | re.M)
    assert len(blocks) == 1
    demo, test = blocks[0].splitlines()
    for line in (demo, test):
        assert line.startswith("python3 -m venv .venv && ")
        assert "-c constraints.txt" in line  # without it torch may come with gigabytes of GPU libraries
    assert demo.endswith("lowbit demo")
    assert test.endswith(".venv/bin/pytest -n auto --dist worksteal")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Relative links in the documentation lead somewhere."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_digits() -> None:
    """The demo's data: 8,000 and 2,000 real digits in 0..1."""
    training, held_out = load_digits()
    assert (training.images.shape, held_out.images.shape) == ((8000, 1, 28, 28), (2000, 1, 28, 28))
    for part in (training, held_out):
        assert set(part.labels.tolist()) == set(range(10))
        assert (float(part.images.min()), float(part.images.max())) == (0.0, 1.0)
