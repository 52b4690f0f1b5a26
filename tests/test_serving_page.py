"""docs/serving.md keeps its word: its programs and commands are run in their order, and print what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import serving

PAGE = (Path(__file__).parent.parent / "docs" / "serving.md").read_text()
PORTS = ("8080", "8081", "8090", "8091", "8180", "8280")


def test_what_to_install_is_an_extra() -> None:
    """The only command that is not run."""
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert re.findall(r"^pip install .*", PAGE, re.M) == ['pip install "lowbit[serve]"']
    assert re.search(r"^serve = \[.*grpcio.*\]$", project, re.M)


def test_every_option_is_told() -> None:
    """Those of the command stand on the page."""
    from lowbit.serve.command import parser, serve

    options = re.findall(r"--[a-z-]+", parser(serve).format_usage())
    assert [option for option in options if option not in PAGE] == []


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="there is no curl, or no bash")
def test_the_commands(tmp_path: Path) -> None:
    """One shell runs them all, at ports that are free; what each block prints stands behind it."""
    names = dict(zip(PORTS, map(str, serving.free_ports(len(PORTS))), strict=True))

    def moved(text: str) -> str:
        return re.sub("|".join(PORTS), lambda found: names[found[0]], text)

    for name, code in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, re.S | re.M):
        (tmp_path / name).write_text(moved(code))
    blocks = re.findall(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", PAGE, re.S | re.M)
    script = ["set -e", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    for command, _ in blocks:
        script += [] if command.startswith("pip") else [f"{{\n{command}}} > printed; cat printed; echo; echo '====='"]
    used = moved("\n".join(script))
    ports = f"--http-port {names['8080']} --grpc-port {names['8081']}"  # in the defaults' place
    used = used.replace("serve net.lowbit > access.log", f"serve net.lowbit {ports} > access.log")
    for name, module in (("lowbit", "-m lowbit"), ("uvicorn", "-m uvicorn"), ("python", "")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", used], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    printed = ["\n".join(map(str.rstrip, part.strip().splitlines())) for part in done.stdout.split("=====")][:-1]
    assert printed == [output.strip() for command, output in blocks if not command.startswith("pip")]
