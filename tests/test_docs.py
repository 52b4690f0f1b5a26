"""The documentation keeps its word: the quick start runs as written, and what the code knows is as the code has it."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

import serving

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """docs/tables.py."""
    pytest.importorskip("typer")
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date(tables: ModuleType) -> None:
    """`python docs/tables.py` has nothing to write."""
    stale = [page.name for page in tables.PAGES if tables.updated(page.read_text()) != page.read_text()]
    assert stale == [], "run: python docs/tables.py"


def test_one_line_width(tables: ModuleType) -> None:
    """Text and code of the pages; tables, what is generated, and commands to copy are as long as they are."""
    for page in tables.PAGES:
        lines = "".join(tables.PART.split(page.read_text())[::5]).splitlines()
        wide = [line for line in lines if len(line) > tables.WIDTH and not line.startswith(("|", "python3 -m venv"))]
        assert wide == [], page.name


def test_every_generated_part_is_on_a_page(tables: ModuleType) -> None:
    """No table is made for nothing."""
    used = {match[2] for page in tables.PAGES for match in tables.PART.finditer(page.read_text())}
    assert used == set(tables.TABLES)


def test_the_walk_through_is_its_example() -> None:
    """Each block of docs/optimize.md stands in examples/optimize_digits.py, which is run (`test_examples.py`)."""
    page, example = ((ROOT / name).read_text() for name in ("docs/optimize.md", "examples/optimize_digits.py"))
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    assert len(blocks) == 5
    assert [block for block in blocks if block not in example] == []


def test_quick_start(tmp_path: Path) -> None:
    """Its three programs convert a model, serve its file without torch, and get the answer that the page promises."""
    page = (ROOT / "docs" / "quickstart.md").read_text()
    for name, code in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", page, re.S | re.M):
        (tmp_path / name).write_text(code)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "LOWBIT_THREADS": "1",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = run("convert.py")
    exact, converted = map(float, re.findall(r"float32 ([\d.]+), converted ([\d.]+)", printed)[0])
    assert exact > 0.9
    assert converted >= exact - 0.01
    assert "conv2d   int8" in printed
    port = str(serving.free_ports(1)[0])
    no_torch = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path('serve.py')"
    with subprocess.Popen([sys.executable, "-c", no_torch, "serve.py", port], cwd=tmp_path, env=environment) as server:
        try:
            wait_for(port, server)
            answer = run("ask.py", port).strip()
        finally:
            server.kill()
    assert answer in page
    assert answer == '{"classes": [0, 2]}'


def wait_for(port: str, server: subprocess.Popen[bytes]) -> None:
    """Until the server listens."""
    deadline = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not listen")


HOUSE_WORDS = "home|wish|wishes|spot|walk|walks|rhythm|carrier|carriers|follower|followers|room"


def test_no_word_is_the_projects_own() -> None:
    """What the field does not say has an entry in the glossary."""
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    known = set(re.findall(r"\*\*(\w+)\*\*", glossary))
    sources = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for folder in ("docs", "python", "cpp", "bench", "examples"):
        sources += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".h", ".cpp")]
    used = {word.lower() for path in sources for word in re.findall(rf"\b(?:{HOUSE_WORDS})\b", path.read_text(), re.I)}
    assert {word.removesuffix("s") for word in used} <= known
