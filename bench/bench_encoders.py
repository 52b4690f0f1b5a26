"""Encoders of text and images on one thread: lowbit beside the int8 of ONNX Runtime, OpenVINO, torch and CTranslate2.

    python bench/bench_encoders.py --prepare      quantizes all of it, which takes half an hour
    python bench/bench_encoders.py --nets minilm --batch 8 --isa avx2 [--engines dynamic] [--rounds 15] [--cache DIR]

The first makes what the second loads and times: quantized models and their errors stay in the cache, so that a part can
be timed alone, and what is missing is made. MiniLM has its weights, BERT-base and a ViT-small of Hugging Face's
defaults have random ones. Sequences have 128 tokens, all of them real; ranges are from calibration data, errors from
others: sqrt(sum |int8 - float|^2 / sum |float - mean|^2) over mean-pooled, normalized states (`bench_minilm.score`).
What random weights make of different inputs hardly differs, so their errors are large, and compare engines only. The
best peer is the fastest whose error is at most `MUCH` times lowbit's; `--isa avx2` holds all to AVX2 (`cap.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import bench_minilm as minilm
import cap
import lowbit
import peers
from lowbit.runtime.timing import interleave

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Run = Callable[[Feeds], Array]
"""Inputs by name to hidden states, float32 [batch, length, features]."""
OWN = "lowbit int8"
MUCH = 3.0
"""Times lowbit's error: beyond, a peer is much less accurate."""
CALIBRATION, TEST = 64, 200
"""Sentences, each alone in its batch; of images, a quarter as many."""
LENGTH = 128


class States(nn.Module):
    """The hidden states alone of a network of transformers, its inputs by position."""

    def __init__(self, net: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names = net, tuple(names)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.net(**dict(zip(self.names, inputs, strict=True))).last_hidden_state
        return states


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, where its files are, and its inputs.

    model: of transformers. feeds: a batch of full length for times. calibration and test: batches of one.
    """

    folder: Path
    model: Callable[[], nn.Module]
    feeds: Callable[[int], Feeds]
    calibration: Callable[[], list[Feeds]]
    test: Callable[[], list[Feeds]]

    @cached_property
    def net(self) -> nn.Module:
        with peers.quiet():
            return States(self.model(), [*self.feeds(1)]).eval()


def _texts(folder: Path, model: Callable[[], nn.Module]) -> Subject:
    def feeds(batch: int) -> Feeds:
        ids = np.random.default_rng(0).integers(1000, 20000, (batch, LENGTH))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def tokens(part: str, count: int) -> list[Feeds]:
        _, encode = minilm.encoder()
        return [encode(sentence) for sentence in minilm.sentences(part)[:count]]

    return Subject(
        folder=folder,
        model=model,
        feeds=feeds,
        calibration=partial(tokens, "calibration", CALIBRATION),
        test=partial(tokens, "test", TEST),
    )


def with_weights(folder: Path) -> Subject:
    """all-MiniLM-L6-v2."""
    from transformers import AutoModel

    return _texts(folder, lambda: AutoModel.from_pretrained(str(minilm.folder())))


def bert(folder: Path) -> Subject:
    """BERT-base; tokens are those of MiniLM, which has its vocabulary."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return _texts(folder, lambda: BertModel(BertConfig(position_embedding_type="absolute"), add_pooling_layer=False))


def vit(folder: Path) -> Subject:
    """A vision transformer of 12 layers of 384 features, for 196 patches of 16 x 16 pixels."""
    from transformers import ViTConfig, ViTModel

    def images(seed: int, count: int) -> list[Feeds]:
        """Of coarse squares with fine noise."""
        rng = np.random.default_rng(seed)
        coarse = rng.standard_normal((count, 1, 3, 14, 14)).repeat(16, 3).repeat(16, 4)
        noisy = (coarse + 0.3 * rng.standard_normal((count, 1, 3, 224, 224))).astype(np.float32)
        return [{"pixel_values": image} for image in noisy]

    def feeds(batch: int) -> Feeds:
        return {"pixel_values": np.concatenate([image["pixel_values"] for image in images(0, batch)])}

    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
    return Subject(
        folder=folder,
        model=lambda: ViTModel(ViTConfig(**sizes), add_pooling_layer=False),
        feeds=feeds,
        calibration=partial(images, 1, CALIBRATION // 4),
        test=partial(images, 2, TEST // 4),
    )


NETS: dict[str, Callable[[Path], Subject]] = {"minilm": with_weights, "bert": bert, "vit": vit}


# -------------------------------------------------------------------------------------------------------------- engines


def _tensors(feeds: Feeds) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.from_numpy, feeds.values()))


def _eager(net: nn.Module, threads: int) -> Run:
    torch.set_num_threads(threads)

    def run(feeds: Feeds) -> Array:
        with torch.inference_mode():
            return np.asarray(net(*_tensors(feeds)))

    return run


def with_torch(subject: Subject, threads: int) -> Run:
    """torch, eager."""
    return _eager(subject.net, threads)


def with_torch_dynamic(subject: Subject, threads: int) -> Run:
    """torch's own dynamic int8, weights per channel."""
    qconfig = torch.ao.quantization.per_channel_dynamic_qconfig
    with peers.quiet():
        net = torch.ao.quantization.quantize_dynamic(subject.net, {nn.Linear: qconfig})
    return _eager(net, threads)


def with_pt2e(subject: Subject, threads: int) -> Run:
    """torchao's PT2E for x86 with dynamic activations, compiled by Inductor for each shape."""
    torch.set_num_threads(threads)
    with peers.needs("torch int8 with PT2E", "torchao.quantization.pt2e"):
        from torch._inductor import config
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    made: dict[tuple[int, ...], Callable[..., torch.Tensor]] = {}

    def compiled(tensors: tuple[torch.Tensor, ...]) -> Callable[..., torch.Tensor]:
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=True))
        with peers.quiet(), torch.no_grad():
            prepared = prepare_pt2e(torch.export.export(subject.net, tensors).module(), quantizer)
            prepared(*tensors)
            found: Callable[..., torch.Tensor] = torch.compile(convert_pt2e(prepared), dynamic=False)
            with config.patch(freezing=True):
                found(*tensors)
        return found

    def run(feeds: Feeds) -> Array:
        tensors = _tensors(feeds)
        shape = tuple(tensors[0].shape)
        if shape not in made:
            made[shape] = compiled(tensors)
        with torch.no_grad():
            return made[shape](*tensors).numpy()

    return run


def with_lowbit(subject: Subject, threads: int, *, scheme: str) -> Run:
    """lowbit, from a file."""

    def make(path: Path) -> None:
        data = [_tensors(feeds) for feeds in subject.calibration()] if scheme == "int8" else None
        example = _tensors(subject.feeds(1))
        lowbit.convert(subject.net, example, calibration=data, scheme=scheme, threads=threads, progress=False).save(
            path
        )

    model = lowbit.load(peers.cached(subject.folder / f"{scheme}.lowbit", make), threads=threads)
    return lambda feeds: np.asarray(model(*feeds.values()))


def _onnx(subject: Subject) -> Path:
    path, feeds = subject.folder / "prepared.onnx", subject.feeds(2)
    if path.exists():
        return path
    batch, free = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    shapes = tuple({0: batch, 1: free} if array.ndim == 2 else {0: batch} for array in feeds.values())
    return peers.export_onnx(subject.net, feeds, path, dynamic_shapes=(shapes,))


def with_onnxruntime(subject: Subject, threads: int, *, kind: str) -> Run:
    """ONNX Runtime: static QDQ; or dynamic, per channel; or dynamic of its transformer optimizer's graph."""
    with peers.needs("ONNX Runtime", "onnx", "onnxruntime", "onnxscript"):
        from onnxruntime.quantization import QuantType, quantize_dynamic

    def make(path: Path) -> None:
        prepared = _onnx(subject)
        if kind == "static":
            peers.quantize_onnx(prepared, path, subject.calibration())
            return
        with peers.quiet():
            if kind == "fused":
                prepared = _fused(prepared, subject)
            quantize_dynamic(str(prepared), str(path), per_channel=True, weight_type=QuantType.QInt8)

    session = peers.onnx_session(peers.cached(subject.folder / f"ort-{kind}.onnx", make), threads)

    def run(feeds: Feeds) -> Array:
        states: Array = session.run(None, feeds)[0]
        return states

    return run


def _fused(prepared: Path, subject: Subject) -> Path:
    from onnxruntime.transformers.optimizer import optimize_model

    made: Any = subject.net.net
    kind = "vit" if made.config.model_type == "vit" else "bert"
    heads, features = made.config.num_attention_heads, made.config.hidden_size
    path = prepared.with_name("fused.onnx")
    optimize_model(
        str(prepared), model_type=kind, num_heads=heads, hidden_size=features, opt_level=0, use_gpu=False
    ).save_model_to_file(str(path))
    return path


def with_openvino(subject: Subject, threads: int) -> Run:
    """OpenVINO on NNCF's post-training quantization for transformers."""
    with peers.needs("OpenVINO with NNCF", "openvino", "nncf"):
        import nncf

    def make(path: Path) -> None:
        samples = [tuple(feeds.values()) for feeds in subject.calibration()]
        peers.quantize_openvino(subject.net, samples, path, model_type=nncf.ModelType.TRANSFORMER)

    request = peers.openvino_request(peers.cached(subject.folder / "openvino.xml", make), threads)
    return lambda feeds: np.array(request.infer(list(feeds.values()), share_inputs=True)[0])


def with_ctranslate2(subject: Subject, threads: int) -> Run:
    """CTranslate2, of text alone: weights of 8 bits by row, activations quantized at run time."""
    with peers.needs("CTranslate2", "ctranslate2"):
        import ctranslate2
    model: Any = subject.net.net
    if model.config.model_type != "bert":
        raise peers.Missing("CTranslate2 runs no encoder of images")

    def make(path: Path) -> None:
        from transformers import AutoTokenizer, BertModel

        source = path.with_name("transformers")
        with peers.quiet():
            whole = BertModel(model.config)  # it looks for a pooler, which it does not use
            whole.load_state_dict(model.state_dict(), strict=False)
            whole.save_pretrained(source)
            AutoTokenizer.from_pretrained(str(minilm.folder())).save_pretrained(source)
            ctranslate2.converters.TransformersConverter(str(source)).convert(str(path), quantization="int8")

    path = peers.cached(subject.folder / "ctranslate2", make)
    made = ctranslate2.Encoder(str(path), compute_type="int8", intra_threads=threads, inter_threads=1)

    def run(feeds: Feeds) -> Array:
        ids, mask = feeds.values()
        lengths = ctranslate2.StorageView.from_array(mask.sum(axis=1).astype(np.int32))
        tokens = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        return np.array(made.forward_batch(tokens, lengths=lengths).last_hidden_state)

    return run


ENGINES: dict[str, Callable[[Subject, int], Run]] = {
    OWN: partial(with_lowbit, scheme="int8"),
    "lowbit float32": partial(with_lowbit, scheme="float32"),
    "torch float32": with_torch,
    "torch dynamic": with_torch_dynamic,
    "torch PT2E, Inductor": with_pt2e,
    "ONNX Runtime static": partial(with_onnxruntime, kind="static"),
    "ONNX Runtime dynamic": partial(with_onnxruntime, kind="dynamic"),
    "ONNX Runtime dynamic, fused graph": partial(with_onnxruntime, kind="fused"),
    "OpenVINO int8": with_openvino,
    "CTranslate2 int8": with_ctranslate2,
}
SLOW = ("torch PT2E, Inductor",)
"""To be asked for by name: compiles anew in each process."""


# ----------------------------------------------------------------------------------------------------------- comparison


def engines_of(subject: Subject, threads: int, names: Sequence[str]) -> Iterator[tuple[str, Run]]:
    """The engines that can run it; the others are named on standard error."""
    subject.folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            run = ENGINES[name](subject, threads)
            run(subject.feeds(1))
        except Exception as error:  # whatever a peer throws is why it is left out
            print(f"skipped, {name}: {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
        else:
            yield name, run


def errors_of(subject: Subject, runs: Mapping[str, Run]) -> dict[str, float]:
    """Over the spread, of all that runs; those that are known are read."""
    path = subject.folder / "errors.json"
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = {name: run for name, run in runs.items() if name not in known and name not in SLOW}
    if missing:
        test = subject.test()

        def pooled(run: Run) -> Array:
            means = np.stack([run(feeds)[0].astype(np.float64).mean(axis=0) for feeds in test])
            vectors: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
            return vectors

        reference = pooled(with_torch(subject, torch.get_num_threads()))
        known |= {name: minilm.score(reference, pooled(run))["error"] for name, run in missing.items()}
        path.write_text(json.dumps(known), encoding="utf-8")
    return known


def compare(name: str, subject: Subject, runs: Mapping[str, Run], *, batch: int, rounds: int) -> None:
    """Print errors and times."""
    errors, feeds = errors_of(subject, runs), subject.feeds(batch)
    times = interleave({engine: partial(run, feeds) for engine, run in runs.items()}, rounds=rounds, seconds=0.02)
    own = times[OWN]
    for engine, timing in times.items():
        ratio = f"{timing.lowest / own.lowest:.2f} | {timing.median / own.median:.2f}"
        much = ", much less accurate" * (errors.get(engine, 0.0) > MUCH * errors[OWN])
        wide = ", not capped" * (cap.is_held() and cap.exceeds(partial(runs[engine], feeds)))
        error = f"{errors[engine]:.4f}" if engine in errors else "unknown"
        print(f"| {name}, batch {batch} | {engine}{wide} | {timing.lowest * 1e3:.2f} | {ratio} | {error}{much} |")
    rivals = [e for e in runs if "float32" not in e and e != OWN and errors.get(e, 0.0) <= MUCH * errors[OWN]]
    if not rivals:
        print(f"{name}, batch {batch}: all peers are much less accurate", flush=True)
    else:
        best = min(rivals, key=lambda engine: times[engine].lowest)
        ratio = f"{times[best].lowest / own.lowest:.2f}, by medians {times[best].median / own.median:.2f}"
        print(f"{name}, batch {batch}: the best peer, {best}, takes {ratio} times as long", flush=True)


def main() -> None:
    """Print the table, or make what it needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS), help=f"any of {', '.join(NETS)}")
    parser.add_argument("--engines", default="", help="parts of names, separated by commas; lowbit's is always there")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--prepare", action="store_true", help="make models and find errors, and time nothing")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent.parent / "build" / "bench" / "encoders")
    cap.add_option(parser)
    options = parser.parse_args()
    cap.hold(options.isa)
    parts = [part for part in options.engines.split(",") if part]
    engines = [
        name for name in ENGINES if name == OWN or (any(part in name for part in parts) if parts else name not in SLOW)
    ]
    torch.set_num_threads(options.threads)
    if not options.prepare:
        print(
            "| net | engine | lowest ms | time / lowbit's | by medians | error / spread |",
            "|---|---|---:|---:|---:|---:|",
            sep="\n",
        )
    for name in options.nets.split(","):
        subject = NETS[name](options.cache / f"{name}{'-avx2' * (options.isa is not None)}")
        runs = dict(engines_of(subject, options.threads, engines))
        if options.prepare:
            print(name, errors_of(subject, runs), flush=True)
        else:
            compare(name, subject, runs, batch=options.batch, rounds=options.rounds)


if __name__ == "__main__":
    main()
