"""`lowbit serve` speaks the Open Inference Protocol v2: tritonclient's calls, and what it does not send."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

import lowbit
import serving
import serving_calls
from lowbit.serve import messages
from serving_calls import CALLS, CLIENTS, HALF, IDS, ROW, ROWS, TWO, WEIGHTS, WIDTHS, Call, ask


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return serving_calls.models(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(files: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    with serving.running(log, *map(str, files.values()), "--max-batch=8", "--max-bytes=1000000") as found:
        yield found


def shapes(*tensors: tuple[str, str, list[int]]) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in tensors]


WIDTH_NAMES = ("UINT8", "INT8", "INT32", "INT64", "BOOL")
GIVEN_NAMES = ("UINT8", "INT8", "INT32", "BOOL")
METADATA = {
    "two": (
        shapes(("ids", "INT64", [-1, -1]), ("weights", "FP32", [-1, -1])),
        shapes(("logits", "FP32", [-1, 4]), ("is_large", "BOOL", [-1, 16])),
    ),
    "half": (shapes(("x", "FP16", [-1, 8])), shapes(("output", "FP16", [-1, 4]))),
    "widths": (
        shapes(*((name, datatype, [-1, -1]) for name, datatype in zip(WIDTHS, WIDTH_NAMES, strict=True))),
        shapes(*((f"output.{at}", datatype, [-1, -1]) for at, datatype in enumerate(("INT64", *GIVEN_NAMES)))),
    ),
}
ERRORS = {
    "metadata, unknown model": "not found",
    "metadata, unknown version": "not found",
    "unknown model": "not found",
    "unknown version": "not found",
    "statistics of an unknown model": "not found",
    "configuration of an unknown model": "not found",
    "unknown input": "invalid",
    "unknown output": "invalid",
    "missing input": "invalid",
    "other datatype": "invalid",
    "other size": "invalid",
    "other rank": "invalid",
}


def expected(name: str, call: Call, files: Mapping[str, Path]) -> Any:
    """What the file itself says, in this process."""
    if name in ERRORS:
        return "error", ERRORS[name]
    if call.method == "get_model_metadata":
        inputs, outputs = METADATA[call.model]
        return {"name": call.model, "versions": [1], "platform": "lowbit", "inputs": inputs, "outputs": outputs}
    if call.method != "infer":
        return True
    made = lowbit.Predictor(files[call.model], threads=1, outputs=call.outputs)(call.inputs)
    known = {"id": call.options.get("request_id", ""), "model_name": call.model, "model_version": "1"}
    datatypes = {
        np.dtype(key): value for key, value in {"f4": "FP32", "f2": "FP16", "?": "BOOL", "i8": "INT64", "i4": "INT32",
                                               "u1": "UINT8", "i1": "INT8"}.items()
    }  # fmt: skip
    return known | {name: (datatypes[it.dtype], [*it.shape], it.tobytes()) for name, it in made.items()}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", CALLS)
def test_calls(server: serving.Server, files: Mapping[str, Path], client: str, name: str) -> None:
    """Each call over each protocol gives what the file gives in this process, or the status that it should."""
    assert ask(client, server.address(client), CALLS[name]) == expected(name, CALLS[name], files)


def test_messages_are_the_protocols() -> None:
    """Names, numbers and types of all fields are those of other packages' stubs, in whose process they live."""

    def compare(mine: Any, theirs: Any) -> None:
        for own in mine.fields:
            other = theirs.fields_by_name[own.name]
            assert (own.number, own.type, own.is_repeated) == (other.number, other.type, other.is_repeated), (
                own.full_name
            )
            assert getattr(own.containing_oneof, "name", "") == getattr(other.containing_oneof, "name", "")
        for nested in mine.nested_types:
            compare(nested, theirs.nested_types_by_name[nested.name])

    made = messages.classes()
    assert len(made) > 30
    for name, kind in made.items():
        stubs = service_pb2 if hasattr(service_pb2, name) else model_config_pb2
        compare(kind.DESCRIPTOR, getattr(stubs, name).DESCRIPTOR)


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [*array.shape], "data": array.tolist(), **more}


ASKED = {"inputs": [tensor("input", ROWS)]}


def infer(server: serving.Server, body: Any, model: str = "linear", **headers: str) -> tuple[int, Any, Any]:
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    return server.request("POST", f"/v2/models/{model}/infer", body, given)


def test_json(server: serving.Server, files: Mapping[str, Path]) -> None:
    """Flat and nested numbers are the same input, and an answer's numbers are the model's bits."""
    right = lowbit.load(files["linear"])(ROWS)
    for data in (ROWS.tolist(), ROWS.ravel().tolist()):
        status, found, headers = infer(server, {"id": "ü", "inputs": [tensor("input", ROWS) | {"data": data}]})
        assert (status, headers["content-type"]) == (200, "application/json")
        assert found["id"] == "ü"
        (output,) = found["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("output", "FP32", [5, 4])
        assert np.array_equal(np.array(output["data"], np.float32).reshape(5, 4), right)
    status, found, _ = infer(server, {"inputs": [tensor("x", HALF, "FP16")]}, "half")
    assert status == 200
    assert np.array_equal(
        np.array(found["outputs"][0]["data"], np.float16).reshape(3, 4), lowbit.load(files["half"])(HALF)
    )


def test_binary_and_json_in_one_request(server: serving.Server, files: Mapping[str, Path]) -> None:
    """Each tensor is sent and asked for in its own way, at any offset."""
    right = lowbit.Predictor(files["two"])(TWO)
    for spaces in range(9):  # tensors start at every alignment
        raw = WEIGHTS.tobytes()
        entry = {"name": "weights", "datatype": "FP32", "shape": [2, 6], "parameters": {"binary_data_size": len(raw)}}
        asked = [{"name": "is_large", "parameters": {"binary_data": True}}, {"name": "logits"}]
        text = json.dumps({"inputs": [tensor("ids", IDS, "INT64"), entry], "outputs": asked}).encode() + b" " * spaces
        status, found, headers = infer(server, text + raw, "two", inference_header_content_length=str(len(text)))
        size = int(headers["inference-header-content-length"])
        assert (status, headers["content-type"]) == (200, "application/octet-stream")
        large, logits = json.loads(found[:size])["outputs"]
        assert large["parameters"]["binary_data_size"] == len(found) - size == 32
        assert found[size:] == right["is_large"].tobytes()
        assert np.array_equal(np.array(logits["data"], np.float32).reshape(2, 4), right["logits"])


def test_raw_bytes_without_json(server: serving.Server, files: Mapping[str, Path]) -> None:
    """The body of a model of one input may be its bytes; the free size follows from their number."""
    status, found, headers = infer(server, ROWS.tobytes(), inference_header_content_length="0")
    size = int(headers["inference-header-content-length"])
    assert status == 200
    assert json.loads(found[:size])["outputs"][0]["shape"] == [5, 4]
    assert found[size:] == lowbit.load(files["linear"])(ROWS).tobytes()
    assert infer(server, ROWS.tobytes()[:-1], inference_header_content_length="0")[0] == 400
    assert infer(server, b"", "two", inference_header_content_length="0")[0] == 400


EIGHT = b'{"inputs": [{"name": "input", "shape": [1, 8], "datatype": "FP32", "data": [%s, 0, 0, 0, 0, 0, 0, 0]}]}'
WRONG: dict[str, Any] = {
    "no JSON": b"{",
    "not UTF-8": b'{"inputs": "\xff"}',
    "a list": [],
    "a number": b"1",
    "no inputs": {},
    "inputs are a text": {"inputs": "input"},
    "an input is a number": {"inputs": [1]},
    "no name": {"inputs": [{"shape": [1, 8], "datatype": "FP32", "data": [0] * 8}]},
    "NaN": EIGHT % b"NaN",
    "beyond the datatype": {"inputs": [tensor("input", ROW) | {"data": [1e39] * 8}]},
    "beyond all": EIGHT % b"1e999",
    "texts": {"inputs": [tensor("input", ROW) | {"data": ["1"] * 8}]},
    "nulls": {"inputs": [tensor("input", ROW) | {"data": [None] * 8}]},
    "objects": {"inputs": [tensor("input", ROW) | {"data": [{}] * 8}]},
    "truth values for numbers": {"inputs": [tensor("input", ROW) | {"data": [True] * 8}]},
    "too few": {"inputs": [tensor("input", ROW) | {"data": [0.0] * 7}]},
    "lists of unequal lengths": {"inputs": [tensor("input", ROWS) | {"data": [[1.0], [1.0, 2.0]]}]},
    "lists of another shape": {"inputs": [tensor("input", ROWS) | {"data": ROWS.T.tolist()}]},
    "no list": {"inputs": [tensor("input", ROW) | {"data": 3}]},
    "no data": {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 8]}]},
    "twice": {"inputs": [tensor("input", ROW), tensor("input", ROW)]},
    "a size below zero": {"inputs": [tensor("input", ROW) | {"shape": [-1, 8]}]},
    "a size that is no integer": {"inputs": [tensor("input", ROW) | {"shape": [1.0, 8]}]},
    "a size that is a truth value": {"inputs": [tensor("input", ROW) | {"shape": [True, 8]}]},
    "a size beyond all": {"inputs": [tensor("input", ROW) | {"shape": [10**30, 8]}]},
    "a shape that is a text": {"inputs": [tensor("input", ROW) | {"shape": "18"}]},
    "parameters that are a list": {"inputs": [tensor("input", ROW, parameters=[])]},
    "binary data that is not there": {"inputs": [tensor("input", ROW, parameters={"binary_data_size": 32})]},
    "a binary size below zero": {"inputs": [tensor("input", ROW, parameters={"binary_data_size": -1})]},
    "shared memory": {"inputs": [tensor("input", ROW, parameters={"shared_memory_region": "x"})]},
    "classification": {**ASKED, "outputs": [{"name": "output", "parameters": {"classification": 2}}]},
    "an output without name": {**ASKED, "outputs": [{}]},
    "outputs that are a text": {**ASKED, "outputs": "output"},
    "an id that is a number": {**ASKED, "id": 3},
    "a timeout that is a text": {**ASKED, "parameters": {"timeout": "soon"}},
    "too many rows": {"inputs": [tensor("input", np.zeros((9, 8), np.float32))]},
    "very deep": b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deeper than arrays are": {"inputs": [tensor("input", ROW) | {"data": json.loads("[" * 30 + "1" + "]" * 30)}]},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(server: serving.Server, name: str) -> None:
    """Each is refused in one line that says what is wrong; the server answers the next one."""
    status, found, _ = infer(server, WRONG[name])
    assert status == 400, found
    assert found.keys() == {"error"}
    assert "Traceback" not in found["error"]
    assert 5 < len(found["error"]) < 500
    assert infer(server, ASKED)[0] == 200


def test_inputs_of_different_rows(server: serving.Server) -> None:
    """Are refused by themselves: two such requests could make up for each other in a batch."""
    inputs = [tensor("ids", IDS, "INT64"), tensor("weights", WEIGHTS[:1])]
    status, found, _ = infer(server, {"inputs": inputs}, "two")
    assert (status, found["error"]) == (400, "the inputs have different numbers of rows: {'ids': 2, 'weights': 1}")


@pytest.mark.parametrize("length", ["-1", "x", "1" * 30, "100000"])
def test_wrong_lengths_of_json(server: serving.Server, length: str) -> None:
    assert infer(server, ASKED, inference_header_content_length=length)[0] == 400


def test_other_refusals(server: serving.Server) -> None:
    """Paths, methods, encodings and sizes; nothing of the repository without `--admin`."""
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/linear/nothing", 404),
        ("GET", "/v2/models/linear/infer", 405),
        ("POST", "/v2/models/linear", 405),
        ("DELETE", "/v2", 405),
        ("POST", "/v2/health/ready", 405),
        ("POST", "/v2/repository/index", 404),
        ("POST", "/v2/repository/models/linear/unload", 404),
        ("POST", "/v2/models/../infer", 404),
        ("POST", "/v2/models/%00/infer", 404),
    ):
        found, answer, headers = server.request(method, path)
        assert (path, found) == (path, status)
        assert answer.keys() == {"error"}
        assert ("allow" in headers) == (status == 405)
    assert infer(server, ASKED, content_encoding="gzip")[0] == 415
    assert infer(server, b" " * 1_000_001)[0] == 413
    assert server.request("HEAD", "/v2/health/live")[0] == 200


def test_typed_contents(server: serving.Server, files: Mapping[str, Path]) -> None:
    """gRPC without raw bytes; FP16 has no typed field, and a number beyond a width is refused."""
    fields = {
        "a": "uint_contents",
        "b": "int_contents",
        "c": "int_contents",
        "d": "int64_contents",
        "keep": "bool_contents",
    }
    request = service_pb2.ModelInferRequest(model_name="widths")
    for name, array in WIDTHS.items():
        datatype = "BOOL" if name == "keep" else array.dtype.name.upper()
        entry = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        getattr(entry.contents, fields[name]).extend(array.ravel().tolist())
    right = lowbit.Predictor(files["widths"])(WIDTHS)
    with grpc.insecure_channel(server.address("grpc")) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        found = call(request)
        for output, raw in zip(found.outputs, found.raw_output_contents, strict=True):
            assert raw == right[output.name].tobytes()
        request.inputs[0].contents.uint_contents[0] = 256
        half = service_pb2.ModelInferRequest(model_name="half")
        half.inputs.add(name="x", datatype="FP16", shape=[1, 8]).contents.fp32_contents.extend([0] * 8)
        both = service_pb2.ModelInferRequest(model_name="linear", raw_input_contents=[ROW.tobytes()])
        both.inputs.add(name="input", datatype="FP32", shape=[1, 8]).contents.fp32_contents.extend([0] * 8)
        more = service_pb2.ModelInferRequest(model_name="linear", raw_input_contents=[ROW.tobytes()] * 2)
        more.inputs.add(name="input", datatype="FP32", shape=[1, 8])
        for wrong in (request, half, both, more):
            with pytest.raises(grpc.RpcError) as error:
                call(wrong)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_statistics_and_configuration(server: serving.Server) -> None:
    """Counts of answers and rows, and Triton's model configuration."""
    before, after = ({} for _ in range(2))
    for found in (before, after):
        _, answer, _ = server.request("GET", "/v2/models/linear/stats")
        found |= answer["model_stats"][0]
        infer(server, ASKED)
        infer(server, b"{")
    assert (after["name"], after["version"]) == ("linear", "1")
    assert after["inference_count"] == before["inference_count"] + 5
    assert after["execution_count"] == before["execution_count"] + 1
    stats = after["inference_stats"]
    assert stats["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert stats["fail"]["count"] == before["inference_stats"]["fail"]["count"] + 1
    assert stats["success"]["ns"] >= stats["compute_infer"]["ns"] > 0
    _, everything, _ = server.request("GET", "/v2/models/stats")
    assert [each["name"] for each in everything["model_stats"]] == ["linear", "two", "half", "widths"]
    _, config, _ = server.request("GET", "/v2/models/two/config")
    assert config["max_batch_size"] == 8
    assert config["input"] == [
        {"name": "ids", "data_type": "TYPE_INT64", "dims": [-1]},
        {"name": "weights", "data_type": "TYPE_FP32", "dims": [-1]},
    ]
    _, metadata, _ = server.request("GET", "/v2/")
    assert metadata["name"] == "lowbit"
    assert "model_repository" not in metadata["extensions"]
