"""The engines that are compared: each makes a NumPy function of a torch network, all with the same number of threads.

Exported and quantized models are kept in `cache`, so that a second run starts at once; they are made for one size of
batch, so each needs a `cache` of its own. int8 is each engine's own recommended static quantization, with weights per
channel and u8 activations: ONNX Runtime's QDQ, OpenVINO's by NNCF, torch's PT2E compiled by Inductor. An engine that is
not installed, or that cannot compile a network, raises `Missing` with its name and the reason.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils._pytree import tree_map

import lowbit
from lowbit.runtime.roofline import Limit

Array = npt.NDArray[np.float32]
Feeds = dict[str, npt.NDArray[Any]]
Run = Callable[[Array], Array]


class Missing(Exception):
    """A peer that is not installed, or that cannot run the network."""


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


def torch_float32(net: nn.Module, calibration: Sequence[Array], *, threads: int, batch: int, cache: Path) -> Run:
    """torch, eager, float32."""
    torch.set_num_threads(threads)

    def run(image: Array) -> Array:
        with torch.inference_mode():
            result: Array = net(torch.from_numpy(image)).numpy()
        return result

    return run


def torch_int8(net: nn.Module, calibration: Sequence[Array], *, threads: int, batch: int, cache: Path) -> Run:
    """torch's PT2E quantization for x86, compiled by Inductor with frozen weights and a C++ wrapper."""
    samples = list(_samples(calibration, batch))
    torch.set_num_threads(threads)
    with quiet(), needs("torch int8 with PT2E", "torchao.quantization.pt2e"):
        quantized = quantize_pt2e(net, samples)
        try:
            compiled = compile_pt2e(quantized, samples[0])
        except RuntimeError as error:  # all of dynamo's and Inductor's are: no C++ compiler, or one that fails
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise Missing(f"torch int8 with PT2E does not compile it ({reason})") from error

    def run(image: Array) -> Array:
        with torch.no_grad():
            result: Array = compiled(torch.from_numpy(image)).numpy()
        return result

    return run


def compile_pt2e(quantized: nn.Module, sample: Array) -> Callable[[torch.Tensor], torch.Tensor]:
    """By Inductor, for inputs like `sample`."""
    from torch._inductor import config

    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(quantized, dynamic=False)
    with torch.no_grad(), config.patch(freezing=True, cpp_wrapper=True):
        compiled(torch.from_numpy(sample))
    return compiled


def quantize_pt2e(net: nn.Module, samples: Sequence[Array]) -> nn.Module:
    """The network as torchao quantizes it for Inductor on x86: static, u8 activations, s8 weights per channel."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(net, (torch.from_numpy(samples[0]),)).module(), quantizer)
    with torch.no_grad():
        for sample in samples:
            prepared(torch.from_numpy(sample))
    quantized: nn.Module = convert_pt2e(prepared)
    return quantized


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A network that lowbit runs."""

    model: lowbit.Model

    def __call__(self, image: Array) -> Array:
        result: Array = self.model(image)
        return result

    def limit(self, image: Array) -> Limit:
        """What the machine allows its steps, all in all."""
        return self.model.profile(image, repeats=1).limit


def lowbit_int8(net: nn.Module, calibration: Sequence[Array], *, threads: int, batch: int, cache: Path) -> Run:
    """lowbit: converted with calibration, saved, loaded."""
    path = cache / "model.lowbit"
    examples = (torch.from_numpy(calibration[0][:1]),)
    batches = [torch.from_numpy(batch) for batch in calibration]
    lowbit.convert(net, examples, calibration=batches, threads=threads, progress=False).save(path)
    return Converted(model=lowbit.load(path, threads=threads))


def onnxruntime_int8(net: nn.Module, calibration: Sequence[Array], *, threads: int, batch: int, cache: Path) -> Run:
    """ONNX Runtime on a statically quantized QDQ model."""
    with needs("ONNX Runtime", "onnx", "onnxruntime", "onnxscript"):
        prepared = export_onnx(net, {"input": next(_samples(calibration, batch))}, cache / "prepared.onnx")
    samples = ({"input": sample} for sample in _samples(calibration, batch))
    path = cached(cache / "onnxruntime-qdq.onnx", lambda path: quantize_onnx(prepared, path, samples))
    session = onnx_session(path, threads)

    def run(image: Array) -> Array:
        result: Array = session.run(None, {"input": image})[0]
        return result

    return run


def openvino_int8(net: nn.Module, calibration: Sequence[Array], *, threads: int, batch: int, cache: Path) -> Run:
    """OpenVINO on a model quantized by NNCF."""
    samples = list(_samples(calibration, batch))
    fixed = {"input": list(samples[0].shape)}
    with needs("OpenVINO with NNCF", "openvino", "nncf"):
        path = cached(cache / "openvino.xml", lambda path: quantize_openvino(net, samples, path, fixed))
    request = openvino_request(path, threads)

    def run(image: Array) -> Array:
        result: Array = request.infer([image], share_inputs=True)[0]
        return result

    return run


Engine = Callable[..., Run]
ENGINES: dict[str, Engine] = {
    "lowbit int8": lowbit_int8,
    "torch float32": torch_float32,
    "torch int8": torch_int8,
    "ONNX Runtime int8": onnxruntime_int8,
    "OpenVINO int8": openvino_int8,
}
PACKAGES = {
    "lowbit int8": ("lowbit",),
    "torch float32": ("torch",),
    "torch int8": ("torchao",),
    "ONNX Runtime int8": ("onnxruntime", "onnx"),
    "OpenVINO int8": ("openvino", "nncf"),
}


def cached(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made first if it is not there; a model that failed half-way leaves nothing behind under that name."""
    if not path.exists():
        make(path)
    return path


# ----------------------------------------------------------------------------------- ONNX Runtime and OpenVINO, any net


class Reader:
    """ONNX Runtime's calibration protocol: one sample's inputs at a time, then None."""

    def __init__(self, samples: Iterable[Feeds]) -> None:
        self.samples = iter(samples)

    def get_next(self) -> Feeds | None:
        return next(self.samples, None)


def export_onnx(net: nn.Module, feeds: Feeds, path: Path, **options: Any) -> Path:
    """The network as ONNX, optimized as ONNX Runtime asks for before quantization; its inputs bear the feeds' names."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    def make(path: Path) -> None:
        exported = path.with_suffix(".float.onnx")
        inputs = tuple(torch.from_numpy(array) for array in feeds.values())
        with quiet():
            torch.onnx.export(
                net, inputs, str(exported), input_names=list(feeds), dynamo=True, external_data=False, **options
            )
            quant_pre_process(str(exported), str(path), skip_symbolic_shape=True)

    return cached(path, make)


def quantize_onnx(prepared: Path, path: Path, samples: Iterable[Feeds], method: str = "MinMax") -> None:
    """ONNX Runtime's static quantization: QDQ, u8 activations, s8 weights per channel."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with quiet():
        quantize_static(
            str(prepared),
            str(path),
            Reader(samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
        )


def quantize_onnx_nbits(prepared: Path, path: Path, *, kind: str, group_size: int) -> None:
    """ONNX Runtime's MatMulNBits: four-bit weights, activations of 8 bits found at run time (accuracy level 4).

    kind: "sym" and "asym" round to nearest, "hqq" refines the zero points (half-quadratic quantization).
    """
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    config = nbits.HQQWeightOnlyQuantConfig(block_size=group_size, bits=4) if kind == "hqq" else None
    with quiet():
        made = nbits.MatMulNBitsQuantizer(
            onnx.load(str(prepared)),
            block_size=group_size,
            is_symmetric=kind == "sym",
            accuracy_level=4,
            algo_config=config,
        )
        made.process()
        made.model.save_model_to_file(str(path))


def onnx_session(path: Path, threads: int) -> Any:
    """An ONNX Runtime session whose threads do not spin into others' turns."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def quantize_openvino(net: nn.Module, samples: Sequence[Any], path: Path, convert: Any = None, **options: Any) -> None:
    """OpenVINO's model after NNCF's post-training quantization; samples as the network takes them, NumPy arrays.

    convert: options of `openvino.convert_model`; options: of `nncf.quantize`.
    """
    import nncf
    import openvino as ov

    with quiet():
        model = ov.convert_model(net, example_input=tree_map(torch.from_numpy, samples[0]), **(convert or {}))
        ov.save_model(nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples), **options), str(path))


def compress_openvino(net: nn.Module, samples: Sequence[Any], path: Path, *, kind: str, group_size: int) -> None:
    """OpenVINO's model after NNCF's weight compression to four bits; the rest as for `quantize_openvino`.

    kind: "sym" or "asym" round to nearest; "asym-data" with AWQ and scale estimation, "asym-gptq" with GPTQ on the
    samples. NNCF keeps embeddings and the last layer at 8 bits.
    """
    import nncf
    import openvino as ov

    mode = nncf.CompressWeightsMode.INT4_SYM if kind == "sym" else nncf.CompressWeightsMode.INT4_ASYM
    with_data: dict[str, Any] = {"dataset": nncf.Dataset(samples), "subset_size": len(samples)}
    methods: dict[str, dict[str, Any]] = {
        "asym-data": {**with_data, "awq": True, "scale_estimation": True},
        "asym-gptq": {**with_data, "gptq": True},
    }
    with quiet():
        model = ov.convert_model(net, example_input=tree_map(torch.from_numpy, samples[0]))
        options = methods.get(kind, {})
        ov.save_model(
            nncf.compress_weights(model, mode=mode, group_size=group_size, ratio=1.0, **options),
            str(path),
            compress_to_fp16=False,
        )


def openvino_request(path: Path, threads: int) -> Any:
    """An inference request on a saved model, in OpenVINO's settings for latency."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    return ov.Core().compile_model(str(path), "CPU", settings).create_infer_request()


def _samples(calibration: Sequence[Array], batch: int) -> Iterator[Array]:
    """The calibration data in batches of `batch`; what is left over is left out."""
    images = np.concatenate(calibration)
    return (images[i : i + batch] for i in range(0, len(images) - batch + 1, batch))


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Exporters chat; only their errors are wanted."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
