"""The peers' layers with four-bit weights: floats in and out, the codes and scales of `int4_layers.py`.

ONNX Runtime's MatMulNBits with int8 activations (accuracy level 4), OpenVINO's compressed MatMul with its dynamic
quantization of activations, torch's `_weight_int4pack_mm_for_cpu`, which is what torchao's int4 weights run on: it
takes and gives bfloat16, for its other types run plain loops. A peer that is not installed raises `Missing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from int4_layers import Floats, Layer
from peers import needs


@dataclass(frozen=True, kw_only=True)
class Peer:
    """output: of the first copy. call: runs all copies."""

    output: Floats
    call: Callable[[], object]


def onnxruntime(layer: Layer, threads: int) -> Peer:
    """ONNX Runtime, on outputs that are bound once."""
    with needs("ONNX Runtime", "onnx", "onnxruntime"):
        import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(_onnx_model(layer), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", layer.x)
    outputs = [np.empty((layer.rows, layer.outputs), np.float32) for _ in range(layer.copies)]
    for copy, output in enumerate(outputs):
        binding.bind_output(f"y{copy}", "cpu", 0, np.float32, list(output.shape), output.ctypes.data)
    call = partial(_bound, session, binding, outputs)
    call()
    return Peer(output=outputs[0], call=call)


def _bound(session: Any, binding: Any, outputs: list[Floats]) -> None:
    """Run; the binding knows the outputs by their addresses alone, so they are kept here."""
    session.run_with_iobinding(binding)


def _onnx_model(layer: Layer) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    shape = {"K": layer.depth, "N": layer.outputs, "bits": 4, "block_size": layer.group, "accuracy_level": 4}
    nodes = []
    weights: dict[str, npt.NDArray[Any]] = {}
    for copy in range(layer.copies):
        codes = (layer.codes(copy) + 8).astype(np.uint8).reshape(layer.outputs, layer.groups, layer.group)
        weights[f"w{copy}"] = codes[..., 0::2] | codes[..., 1::2] << 4
        weights[f"s{copy}"] = layer.scales(copy).astype(np.float32).reshape(-1)
        inputs = ["x", f"w{copy}", f"s{copy}"]
        nodes.append(helper.make_node("MatMulNBits", inputs, [f"y{copy}"], domain="com.microsoft", **shape))
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.x.shape)],
        [
            helper.make_tensor_value_info(f"y{copy}", TensorProto.FLOAT, (layer.rows, layer.outputs))
            for copy in range(layer.copies)
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=domains, ir_version=9).SerializeToString()
    return model


def openvino(layer: Layer, threads: int) -> Peer:
    """OpenVINO, on weights written as NNCF compresses them: signed codes times half-float scales."""
    with needs("OpenVINO", "openvino"):
        import openvino as ov
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": layer.group,
    }
    held: list[Any] = []
    request = ov.Core().compile_model(_openvino_model(layer, held), "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(layer.x, shared_memory=True))
    request.infer()
    return Peer(output=np.array(request.get_output_tensor(0).data), call=request.infer)


def _openvino_model(layer: Layer, held: list[Any]) -> Any:
    """held: takes the weights, which the model only refers to until it is compiled."""
    import openvino as ov
    from openvino import opset13 as op

    x = op.parameter(list(layer.x.shape), np.float32)
    outputs = []
    for copy in range(layer.copies):
        codes = layer.codes(copy).reshape(layer.outputs, layer.groups, layer.group)
        held.append((codes[..., 0::2] & 15 | codes[..., 1::2] << 4).astype(np.uint8))
        packed = ov.Tensor(held[-1], codes.shape, ov.Type.i4)
        scales = op.constant(layer.scales(copy)[..., None])
        real = op.multiply(op.convert(op.constant(packed), np.float16), scales)
        matrix = op.convert(op.reshape(real, [layer.outputs, layer.depth], False), np.float32)
        outputs.append(op.matmul(x, matrix, False, True))
    return ov.Model(outputs, [x], "layer")


def torch_int4(layer: Layer, threads: int) -> Peer:
    """torch; a weight is (code - 8) * scale + zero there, with codes 0 .. 15."""
    torch.set_num_threads(threads)
    x = torch.from_numpy(layer.x).bfloat16()
    calls = []
    for copy in range(layer.copies):
        codes = torch.from_numpy(layer.codes(copy).astype(np.int32) + 8)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        scales = torch.from_numpy(layer.scales(copy).astype(np.float32).T.copy()).bfloat16()
        pairs = torch.stack([scales, torch.zeros_like(scales)], dim=-1).contiguous()
        calls.append(partial(torch.ops.aten._weight_int4pack_mm_for_cpu, x, packed, layer.group, pairs))
    with torch.inference_mode():
        output = calls[0]().float().numpy()
    return Peer(output=output, call=partial(_all, calls))


@torch.inference_mode()
def _all(calls: Sequence[Callable[[], torch.Tensor]]) -> None:
    for call in calls:
        call()


PEERS: Mapping[str, Callable[[Layer, int], Peer]] = {
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
    "torch": torch_int4,
}
