"""The peers' int8 kernels for the layers of `layers.py`: u8 codes in and out, s8 weights per output, bias, zero points.

oneDNN is called through torch and tells its kernels' own times (its verbose mode). Of ONNX Runtime's and OpenVINO's
calls those of a tiny layer are subtracted, measured in the same rounds. A peer that is not installed raises `Missing`.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from layers import SLICE, ZERO, Case, product, repetitions
from lowbit.runtime.timing import Timing, timer
from peers import needs

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """output: of the first copy. turn: seconds of a copy. empty: a turn of a tiny layer, to be subtracted."""

    output: Codes
    turn: Callable[[], float]
    empty: Callable[[], float] | None = None


def kernel_time(whole: Timing, empty: Timing | None) -> Timing:
    """What is left for the kernel."""
    if empty is None:
        return whole
    return Timing(lowest=max(whole.lowest - empty.lowest, 1e-9), median=max(whole.median - empty.median, 1e-9))


# --------------------------------------------------------------------------------------------------------------- oneDNN


def onednn(case: Case, threads: int) -> Contestant:
    """oneDNN through torch's quantized operators, weights packed before; images are channels-last."""
    torch.set_num_threads(threads)
    x = torch.from_numpy(case.codes)
    x = x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
    make = _onednn_linear if case.op == "quantized_linear" else _onednn_conv
    calls = [make(case, x, torch.from_numpy(case.copy(number))) for number in range(case.copies)]
    output = calls[0]().contiguous().numpy()
    return Contestant(output=output, turn=partial(_onednn_seconds, calls, _onednn_repeats(calls)))


def _onednn_linear(case: Case, x: torch.Tensor, weights: torch.Tensor) -> Callable[[], torch.Tensor]:
    packed = torch.ops.onednn.qlinear_prepack(weights, list(case.x))
    scales, zeros, bias = _parameters(case)
    activation: tuple[Any, ...] = (1.0, ZERO, torch.uint8, "none", [], "")
    return partial(torch.ops.onednn.qlinear_pointwise, x, 1.0, ZERO, packed, scales, zeros, bias, *activation)


def _onednn_conv(case: Case, x: torch.Tensor, weights: torch.Tensor) -> Callable[[], torch.Tensor]:
    scales, zeros, bias = _parameters(case)
    window = (list(case.pair("stride")), list(case.pair("padding")), list(case.pair("dilation")), case.attrs["groups"])
    packed = torch.ops.onednn.qconv_prepack(weights, scales, 1.0, ZERO, *window, list(case.x))
    activation: tuple[Any, ...] = (1.0, ZERO, torch.uint8, "none", [], "")
    return partial(torch.ops.onednn.qconv2d_pointwise, x, 1.0, ZERO, packed, scales, zeros, bias, *window, *activation)


def _parameters(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scales and zero points of the weights, and the bias: codes count as real numbers."""
    zeros = torch.zeros(case.w[0], dtype=torch.int32)
    return torch.from_numpy(case.multiplier), zeros, torch.from_numpy(case.bias)


def _onednn_repeats(calls: list[Callable[[], torch.Tensor]]) -> int:
    _onednn_seconds(calls, 3)
    return repetitions(len(calls) * _onednn_seconds(calls, 3))


def _onednn_seconds(calls: list[Callable[[], torch.Tensor]], repeats: int) -> float:
    """The mean of the middle half of the kernels' times: oneDNN tells them in steps of up to a microsecond."""
    with captured() as lines, torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        for _ in range(repeats):
            for call in calls:
                call()
    told = [float(line.rsplit(",", 1)[1]) / 1e3 for line in lines if ",exec,cpu," in line]
    if len(told) != repeats * len(calls):
        raise RuntimeError(f"oneDNN told of {len(told)} kernels in {repeats * len(calls)} calls")
    middle = sorted(told)[len(told) // 4 : len(told) - len(told) // 4]
    return statistics.fmean(middle)


@contextmanager
def captured() -> Iterator[list[str]]:
    """The lines that libraries print on standard output meanwhile; the list is filled at the end."""
    lines: list[str] = []
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    before = os.dup(1)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield lines
        finally:
            flush(None)
            os.dup2(before, 1)
            os.close(before)
        file.seek(0)
        lines.extend(file)


# ----------------------------------------------------------------------------------------------- ONNX Runtime, OpenVINO


def onnxruntime(case: Case, threads: int) -> Contestant:
    """ONNX Runtime's QGemm."""
    with needs("ONNX Runtime", "onnx", "onnxruntime"):
        call, output = _onnxruntime_call(case, threads)
        empty, _ = _onnxruntime_call(TINY, threads)
    return _called(case, call, output, empty)


def _onnxruntime_call(case: Case, threads: int) -> tuple[Callable[[], object], Codes]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(_onnx_model(case), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input("x", case.codes)
    outputs = [np.empty(case.y, np.uint8) for _ in range(case.copies)]
    for copy, output in enumerate(outputs):
        binding.bind_output(f"y{copy}", "cpu", 0, np.uint8, list(case.y), output.ctypes.data)
    session.run_with_iobinding(binding)
    return partial(_bound, session, binding, outputs), outputs[0]


def _bound(session: Any, binding: Any, outputs: list[Codes]) -> None:
    """Run; the binding knows the outputs by their addresses alone, so they are kept here."""
    session.run_with_iobinding(binding)


def _onnx_model(case: Case) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    one, zero, zeros = np.float32(1), np.uint8(ZERO), np.zeros(case.w[0], np.int8)
    shared = {"one": one, "zero": zero, "scales": case.multiplier, "zeros": zeros}
    shared["bias"] = np.rint(case.bias / case.multiplier).astype(np.int32)
    shared |= {f"w{copy}": np.ascontiguousarray(case.copy(copy).T) for copy in range(case.copies)}
    names = [("x", "one", "zero", f"w{copy}", "scales", "zeros", "bias", "one", "zero") for copy in range(case.copies)]
    nodes = [helper.make_node("QGemm", name, [f"y{i}"], domain="com.microsoft") for i, name in enumerate(names)]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, case.x)],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.UINT8, case.y) for i in range(case.copies)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in shared.items()],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=domains, ir_version=9).SerializeToString()
    return model


def openvino(case: Case, threads: int) -> Contestant:
    """OpenVINO's quantized MatMul, written as NNCF does: dequantized codes and weights, a fake quantization behind."""
    with needs("OpenVINO", "openvino"):
        call, output = _openvino_call(case, threads)
        empty, _ = _openvino_call(TINY, threads)
    return _called(case, call, output, empty)


def _openvino_call(case: Case, threads: int) -> tuple[Callable[[], object], Codes]:
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(_openvino_model(case), "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(case.codes, shared_memory=True))
    request.infer()
    return request.infer, np.array(request.get_output_tensor(0).data)


def _openvino_model(case: Case) -> Any:
    import openvino as ov
    from openvino import opset13 as op

    def constant(value: Any) -> Any:
        return op.constant(np.asarray(value, np.float32))

    step = np.float32(1 / 16)  # a scale of 1 would be left out, and the pattern of a dequantization not be recognized
    x = op.parameter(list(case.x), np.uint8)
    real = op.multiply(op.subtract(op.convert(x, np.float32), constant(ZERO)), constant(step))
    scales = constant(case.multiplier[:, None] / step)
    outputs = []
    for number in range(case.copies):
        weights = op.multiply(op.convert(op.constant(case.copy(number)), np.float32), scales)
        sums = op.add(op.matmul(real, weights, False, True), constant(case.bias[None]))
        ends = (constant(-ZERO), constant(255 - ZERO), constant(0), constant(255))
        outputs.append(op.convert(op.fake_quantize(sums, *ends, 256), np.uint8))
    return ov.Model(outputs, [x], "layer")


def _called(case: Case, call: Callable[[], object], output: Codes, empty: Callable[[], object]) -> Contestant:
    whole = timer(call, SLICE)
    return Contestant(
        output=output, turn=lambda: whole() / case.copies, empty=_shared(timer(empty, SLICE), case.copies)
    )


def _shared(turn: Callable[[], float], copies: int) -> Callable[[], float]:
    return lambda: turn() / copies


TINY = product(1, 16, 16)
"""A layer that takes no time."""
PEERS: Mapping[str, Callable[[Case, int], Contestant]] = {
    "oneDNN": onednn,
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
}
