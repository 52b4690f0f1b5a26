"""The Kubernetes examples: what the cluster's schemas take, and what `lowbit serve` knows.

`kubernetes_schemas.json` has, for each kind, the names that Kubernetes' API (as its Python client 37.0 has it) and
KServe 0.20's CRDs know where the examples are, with the types of those that the examples use; what is not in there is
refused, as a server with `fieldValidation=Strict` does.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lowbit
from serving import running

jsonschema = pytest.importorskip("jsonschema")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "kubernetes"
SCHEMAS = json.loads(Path(__file__).with_name("kubernetes_schemas.json").read_text())
OBJECTS = {
    f"{file.stem} {each['kind']}": each
    for file in sorted(EXAMPLES.glob("*.yaml"))
    for each in yaml.safe_load_all(file.read_text())
}
KINDS = {
    "deployment Deployment",
    "deployment Service",
    "deployment ServiceMonitor",
    "deployment HorizontalPodAutoscaler",
    "kserve ClusterServingRuntime",
    "kserve InferenceService",
}


def problems(made: Any) -> list[str]:
    schema = SCHEMAS[f"{made['apiVersion']} {made['kind']}"]
    return [error.json_path for error in jsonschema.Draft202012Validator(schema).iter_errors(made)]


def test_all_of_them_are_there() -> None:
    assert set(OBJECTS) == KINDS


@pytest.mark.parametrize("name", OBJECTS)
def test_schemas_take_it(name: str) -> None:
    assert problems(OBJECTS[name]) == []


FREE = {"labels", "matchLabels", "annotations", "selector", "requests", "limits"}
"""Mappings whose keys are the user's."""


def mappings(made: Any, free: bool = False) -> Iterator[dict[str, Any]]:
    if isinstance(made, dict):
        if not free:
            yield made
        for key, value in made.items():
            yield from mappings(value, key in FREE and all(not isinstance(each, dict) for each in value.values()))
    elif isinstance(made, list):
        for value in made:
            yield from mappings(value)


@pytest.mark.parametrize("name", OBJECTS)
def test_schemas_refuse_a_key_that_they_do_not_know(name: str) -> None:
    """Anywhere, and a number where a text is."""
    made = copy.deepcopy(OBJECTS[name])
    missed = []
    for mapping in mappings(made):
        mapping["replicass"] = 1
        if not problems(made):
            missed.append(sorted(mapping))
        del mapping["replicass"]
    assert missed == []
    made["metadata"]["name"] = 7
    assert problems(made) == ["$.metadata.name"]


def containers() -> Iterator[tuple[Any, Any]]:
    """Each container that serves, and what holds it."""
    pod = OBJECTS["deployment Deployment"]["spec"]["template"]["spec"]
    yield pod, pod["containers"][0]
    runtime = OBJECTS["kserve ClusterServingRuntime"]["spec"]
    yield runtime, runtime["containers"][0]


def test_their_arguments_are_those_of_the_server() -> None:
    command = pytest.importorskip("lowbit.serve.command")
    for pod, container in containers():
        given = command.parser(command.serve).parse_args(container["args"])
        (file,) = given.files
        assert re.fullmatch(r"(net|\{\{\.Name\}\})=/\w+/models/\w+\.lowbit", file)
        assert given.drain + given.grace < pod.get("terminationGracePeriodSeconds", 30)
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        assert ports in ({}, {"http": given.http_port, "grpc": given.grpc_port})
        for probe in (value for key, value in container.items() if key.endswith("Probe")):
            port = probe["httpGet"]["port"]
            assert ports.get(port, port) == given.http_port


def test_probes_and_metrics_are_the_servers(tmp_path: Path) -> None:
    """Probes are answered without a token, metrics with it; the autoscalers ask for a metric that there is."""
    net, token = tmp_path / "net.lowbit", tmp_path / "token"
    lowbit.convert(torch.nn.Linear(8, 4).eval(), torch.randn(1, 8)).save(net)
    token.write_text("secret\n")
    with running(tmp_path / "log", f"net={net}", f"--token-file={token}") as server:
        paths = {
            value["httpGet"]["path"] for _, made in containers() for key, value in made.items() if key.endswith("Probe")
        }
        assert {server.request("GET", path)[0] for path in paths} == {200}
        endpoint = OBJECTS["deployment ServiceMonitor"]["spec"]["endpoints"][0]
        assert server.request("GET", endpoint["path"])[0] == 401
        status, text, _ = server.request("GET", endpoint["path"], headers={"Authorization": "Bearer secret"})
    assert status == 200
    asked = OBJECTS["deployment HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    query = OBJECTS["kserve InferenceService"]["spec"]["predictor"]["autoScaling"]["metrics"][0]["external"]["metric"]
    assert re.search(rf"^{asked} ", text.decode(), re.M)
    assert asked in query["query"]


def test_the_image_is_of_what_there_is() -> None:
    text = (EXAMPLES / "Dockerfile").read_text()
    assert {extra for found in re.findall(r"\[([\w,]+)\]\"", text) for extra in found.split(",")} == {"serve"}
    assert all((ROOT / name).exists() for name in re.findall(r"/src/(\S+)", text))
