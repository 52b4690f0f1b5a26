"""Requests that schemathesis draws from the protocol's OpenAPI document: no answer is other than the document says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lowbit
from open_inference import document
from serving import running

NOT_ASKED = {
    "positive_data_acceptance": "names, sizes and types that a model takes are the model's, and no schema's",
}
COMMAND = "import sys; from schemathesis.cli import schemathesis; schemathesis(sys.argv[1:])"


def test_answers_are_as_the_document_says(tmp_path: Path) -> None:
    """Statuses, content types, bodies, methods that are not allowed; of each path, with and without a version."""
    pytest.importorskip("schemathesis")
    net, said = tmp_path / "net.lowbit", tmp_path / "document.json"
    lowbit.convert(torch.nn.Linear(8, 4).eval(), torch.randn(1, 8)).save(net)
    asked = document("net", [{"name": "input", "shape": [1, 8], "datatype": "FP32", "data": [0.5] * 8}])
    said.write_text(json.dumps(asked))
    with running(tmp_path / "log", str(net)) as server:
        options = ["run", str(said), f"--url=http://{server.address()}", "--seed=1", "--max-examples=5", "--no-color"]
        options += ["--phases=examples,coverage,fuzzing", f"--exclude-checks={','.join(NOT_ASKED)}"]
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *options], capture_output=True, text=True, timeout=300, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert re.search(r"Tested: +9\b", done.stdout)
        assert server.process.poll() is None
        assert "Traceback" not in server.log.read_text()
