"""The command line: what each command shows, and how it fails."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from lowbit import InputError, convert
from lowbit.cli import demo
from lowbit.cli.commands import app, console


def invoke(*arguments: str) -> str:
    """What a command prints; it must succeed."""
    console.width = 160
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def lowbit(*arguments: str, code: str = "from lowbit.__main__ import main; main()") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_info() -> None:
    """The CPU, the instruction sets and the threads."""
    printed = invoke("info")
    assert "scalar" in printed
    assert "threads" in printed


def test_inspect(small_file: Path) -> None:
    """Inputs, outputs and nodes of a file."""
    printed = invoke("inspect", str(small_file))
    assert small_file.name in printed
    assert "quantized_conv2d" in printed
    assert "f32[batch, 3, 16, 16]" in printed


def test_bench(small_file: Path) -> None:
    """The profile, the latency and how near they are to the machine's limits, at any batch size."""
    printed = invoke("bench", str(small_file), "--batch", "3", "--threads", "1", "--rounds", "2")
    assert "batch 3" in printed
    assert "quantized_conv2d" in printed
    assert "of limit" in printed
    assert re.search(r"limits of its steps add up to [\d.]+ ms: \d+ % \w+\n", printed)
    assert re.search(r"threads: 1: int8 [\d.]+ GOP/s, float32 [\d.]+ GFLOP/s; GB/s read: .*DRAM [\d.]+\n", printed)


def test_bench_names_the_layers_that_lose_here(small_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names and times, and what to do about it; whether there are any depends on the machine."""
    monkeypatch.setattr("lowbit.quantization.cost.slower_here", lambda *given: {"0": (7.5, 5.25)})
    printed = invoke("bench", str(small_file), "--rounds", "1")
    assert re.search(r"\b0 .*7\.5 .*5\.2", printed)
    assert "The file was made for avx512vnni" in " ".join(printed.split())


def test_a_foreign_file_is_one_line(tmp_path: Path) -> None:
    """An error of lowbit's is one line on standard error and exit status 1."""
    path = tmp_path / "foreign.lowbit"
    path.write_bytes(b"not a model" * 10)
    for command in ("inspect", "bench"):
        result = lowbit(command, str(path))
        assert result.returncode == 1
        assert result.stderr.startswith("lowbit: ")
        assert "Traceback" not in result.stderr


def test_a_missing_file() -> None:
    """A file that is not there is a usage error that names it."""
    result = lowbit("inspect", "nowhere.lowbit")
    assert result.returncode == 2
    assert "nowhere.lowbit" in result.stderr


@pytest.mark.parametrize(("module", "extra"), [("typer", "cli"), ("rich", "cli"), ("torch", "demo")])
def test_a_missing_extra_is_named(module: str, extra: str) -> None:
    """Without a package that a command needs, the message names the extra that brings it."""
    block = f"import sys; sys.modules[{module!r}] = None; from lowbit.__main__ import main; main()"
    result = lowbit("demo", code=block)
    assert result.returncode == 1
    assert f"pip install 'lowbit[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_python_m_lowbit() -> None:
    """`python -m lowbit` is the same program."""
    result = subprocess.run([sys.executable, "-m", "lowbit", "--help"], capture_output=True, text=True, check=True)
    assert all(command in result.stdout for command in ("demo", "info", "inspect", "bench"))


def test_demo(tmp_path: Path) -> None:
    """The main job, with one pass over the digits: int8 is within 0.2 points of float and the file is smaller."""
    summary = demo.run(tmp_path, epochs=1)
    assert summary.float_accuracy > 0.95
    assert abs(summary.int8_accuracy - summary.float_accuracy) <= 0.002 + 1e-9
    assert summary.int8_bytes == (tmp_path / demo.FILE).stat().st_size < summary.float_bytes / 3
    console = Console(record=True, width=120, quiet=True)
    demo.show(summary, console)


def test_draw() -> None:
    """A digit is seven lines of fourteen characters; each pixel is a dot."""
    image = np.zeros((28, 28), np.float32)
    image[0, 0] = image[27, 27] = 1
    lines = demo.draw(image).splitlines()
    assert [len(line) for line in lines] == [14] * 7
    assert lines[0][0] == "\u2801"
    assert lines[6][13] == "\u2880"
    assert sum(character != "\u2800" for line in lines for character in line) == 2


def test_bench_takes_other_free_sizes(tmp_path: Path) -> None:
    net = torch.nn.Conv2d(3, 4, 3, padding=1).eval()
    model = convert(net, torch.zeros(1, 3, 8, 8), dynamic={"input": {0: "batch", 2: "h"}}, progress=False)
    model.save(tmp_path / "net.lowbit")
    shown = invoke("bench", str(tmp_path / "net.lowbit"), "--rounds", "1", "--batch", "2", "--size", "h=9")
    assert "batch 2, h 9: " in shown
    for wrong in ("w=3", "h", "h=x", "batch=-1"):
        with pytest.raises(InputError, match=r"--size is NAME=N for a free size \(batch, h\), not "):
            invoke("bench", str(tmp_path / "net.lowbit"), "--size", wrong)
