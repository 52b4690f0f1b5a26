"""Each command and program of docs/scaling.md runs; what needs an engine or a tool that is absent is skipped."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lowbit

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "scaling.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader stands: a directory that looks like the project's, and holds a file."""
    made = tmp_path_factory.mktemp("reader")
    for name in ("examples", "docs"):
        (made / name).symlink_to(ROOT / name)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    lowbit.convert(net.eval(), torch.randn(1, 3, 32, 32)).save(made / "cnn.lowbit")
    return made


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, folder: Path) -> None:
    words = shlex.split(command)
    if words[0] == "python":  # run with the engines, or with the other examples
        tests = [(Path(__file__).with_name(name)).read_text() for name in ("test_engines.py", "test_examples.py")]
        assert any(f'"{Path(words[1]).name}"' in text for text in tests)
    elif words[0] == "lowbit":
        printed = run(folder, sys.executable, "-m", *words)
        assert printed.split() == ["cnn:", "models/cnn/1", "net:", "models/net/1"]
        assert {path.name for path in (folder / "models" / "net" / "1").iterdir()} == {"model.py", "model.lowbit"}
    elif words[:2] == ["pip", "install"]:
        check_packages(words[2:])
    elif words[0] == "tritonserver":
        run_triton(folder, words[1:])
    else:
        named = [file for option, file in itertools.pairwise(words) if option == "-f"]
        assert named
        assert [file for file in named if not (ROOT / file).is_file()] == []
        check_reachable(words[0])
        run(ROOT, *words, *(["--dry-run=server"] if words[0] == "kubectl" else []))


def check_reachable(tool: str) -> None:
    """What it controls answers; schemas of what a cluster is given are tested without one (`test_kubernetes.py`)."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    asked = {"docker": ["docker", "info"], "kubectl": ["kubectl", "version", "--request-timeout=2s"]}[tool]
    if subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip(f"{tool} reaches nothing that it controls")


def check_packages(names: list[str]) -> None:
    """They are installed, or the extra is one of lowbit's."""
    for name in names:
        package, _, extras = name.rstrip("]").partition("[")
        if package == "lowbit":
            if sys.version_info < (3, 11):
                pytest.skip("tomllib: not in this Python")
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(extras.split(",")) <= set(known)
            continue
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed")


def run_triton(folder: Path, options: list[str]) -> None:
    """It serves what `lowbit repository` writes here."""
    from triton_server import bundle, triton

    bundle()
    (where,) = (option.removeprefix("--model-repository=") for option in options)
    run(folder, sys.executable, "-m", "lowbit", "repository", "cnn.lowbit", f"triton/{where}")
    work = folder / "triton" / "work"
    work.mkdir()
    with triton(folder / "triton" / where, work) as server:
        assert server.process


def test_program(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The predictor's."""
    monkeypatch.chdir(folder)
    shutil.copy("cnn.lowbit", "net.lowbit")
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
    images = np.zeros((5, 3, 32, 32), np.float32)
    space: dict[str, Any] = {"images": images}
    exec(program, space)
    assert capsys.readouterr().out == "('pixels',) ('output',)\n"
    np.testing.assert_array_equal(space["logits"], lowbit.load("net.lowbit")(images))


def test_tools_that_run_it_are_named() -> None:
    """No command is of a kind that no test knows."""
    kinds = {command.split()[0] for command in COMMANDS}
    assert kinds == {"pip", "python", "lowbit", "tritonserver", "docker", "kubectl"}
