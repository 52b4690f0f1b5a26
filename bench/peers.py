"""The engines that are compared: each makes a NumPy function of a torch network, all with the same number of threads.

Exported and quantized models are kept in `cache`, so that a second run starts at once. int8 is each engine's own
recommended static quantization, per-channel weights and u8 activations: ONNX Runtime's QDQ, OpenVINO's by NNCF.
An engine that is not installed raises `Missing`, with its name.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import lowbit

Array = npt.NDArray[np.float32]
Run = Callable[[Array], Array]


class Missing(Exception):
    """A peer that is not installed."""


@contextlib.contextmanager
def needs(name: str, *modules: str) -> Iterator[None]:
    """Turn a missing module of the peer `name` into `Missing`."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"{name} is not installed ({error})") from error
    yield


def version(engine: str) -> str:
    """The releases behind an engine, for the record."""
    return ", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES[engine])


def torch_float32(net: nn.Module, calibration: Sequence[Array], *, threads: int, cache: Path) -> Run:
    """torch, eager, float32."""
    torch.set_num_threads(threads)

    def run(image: Array) -> Array:
        with torch.inference_mode():
            result: Array = net(torch.from_numpy(image)).numpy()
        return result

    return run


def lowbit_int8(net: nn.Module, calibration: Sequence[Array], *, threads: int, cache: Path) -> Run:
    """lowbit: converted with calibration, saved, loaded."""
    path = cache / "model.lowbit"
    examples = (torch.from_numpy(calibration[0][:1]),)
    batches = [torch.from_numpy(batch) for batch in calibration]
    lowbit.convert(net, examples, calibration=batches, threads=threads, progress=False).save(path)
    model = lowbit.load(path, threads=threads)

    def run(image: Array) -> Array:
        result: Array = model(image)
        return result

    return run


def onnxruntime_int8(net: nn.Module, calibration: Sequence[Array], *, threads: int, cache: Path) -> Run:
    """ONNX Runtime on a statically quantized QDQ model."""
    with needs("ONNX Runtime", "onnx", "onnxruntime", "onnxscript"):
        import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or they spin into others' turns
    path = cached(cache / "onnxruntime-qdq.onnx", lambda path: _quantize_onnx(net, calibration, path))
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Array) -> Array:
        result: Array = session.run(None, {name: image})[0]
        return result

    return run


def openvino_int8(net: nn.Module, calibration: Sequence[Array], *, threads: int, cache: Path) -> Run:
    """OpenVINO on a model quantized by NNCF."""
    with needs("OpenVINO with NNCF", "openvino", "nncf"):
        import openvino as ov

    path = cached(cache / "openvino.xml", lambda path: _quantize_openvino(net, calibration, path))
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()

    def run(image: Array) -> Array:
        result: Array = request.infer([image], share_inputs=True)[0]
        return result

    return run


Engine = Callable[..., Run]
ENGINES: dict[str, Engine] = {
    "lowbit int8": lowbit_int8,
    "torch float32": torch_float32,
    "ONNX Runtime int8": onnxruntime_int8,
    "OpenVINO int8": openvino_int8,
}
PACKAGES = {
    "lowbit int8": ("lowbit",),
    "torch float32": ("torch",),
    "ONNX Runtime int8": ("onnxruntime", "onnx"),
    "OpenVINO int8": ("openvino", "nncf"),
}


def cached(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made first if it is not there; a model that failed half-way leaves nothing behind under that name."""
    if not path.exists():
        make(path)
    return path


def _quantize_onnx(net: nn.Module, calibration: Sequence[Array], path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    exported, prepared = path.with_suffix(".float.onnx"), path.with_suffix(".prepared.onnx")
    with quiet():
        example = (torch.from_numpy(calibration[0][:1]),)
        torch.onnx.export(net, example, str(exported), input_names=["input"], dynamo=True, external_data=False)
        quant_pre_process(str(exported), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


class _Reader:
    """ONNX Runtime's calibration protocol: one sample at a time, then None."""

    def __init__(self, calibration: Sequence[Array]) -> None:
        self.samples = _samples(calibration)

    def get_next(self) -> dict[str, Array] | None:
        sample = next(self.samples, None)
        return None if sample is None else {"input": sample}


def _quantize_openvino(net: nn.Module, calibration: Sequence[Array], path: Path) -> None:
    import nncf
    import openvino as ov

    samples = list(_samples(calibration))
    with quiet():
        model = ov.convert_model(net, example_input=torch.from_numpy(samples[0]), input=list(samples[0].shape))
        quantized = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))
        ov.save_model(quantized, str(path))


def _samples(calibration: Sequence[Array]) -> Iterator[Array]:
    return (batch[i : i + 1] for batch in calibration for i in range(len(batch)))


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Exporters chat; only their errors are wanted."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            yield
    finally:
        logging.disable(before)
