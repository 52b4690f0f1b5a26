"""The commands: one function each. Errors and missing extras are `__main__`'s business."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import lowbit
from lowbit import _core
from lowbit.cli.arguments import with_options
from lowbit.cli.tables import heading, profile_table
from lowbit.graph import limits
from lowbit.graph.ir import Graph, Value, Weight
from lowbit.graph.weights import stored
from lowbit.ops.interpreter import bind
from lowbit.passes.note_sparsity import sparse_layers
from lowbit.report.optimized import CHOICE, TRIAL, asked, choice_row, trial_row
from lowbit.report.training import told
from lowbit.runtime import compression
from lowbit.runtime import format as lowbit_format
from lowbit.runtime import repository as lowbit_repository
from lowbit.runtime.meta import Decision, Meta, Trained
from lowbit.runtime.targets import this_level
from lowbit.runtime.timing import interleave
from lowbit.serve.command import serve

app = typer.Typer(
    name="lowbit",
    help="Quantized inference on compiled SIMD kernels, without torch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

SHOWN = 1000
"""Rows of a kind that `inspect` shows: what prints a table takes a millisecond for each."""
FAMILIES = {
    "gemm_i8": "int8 matrix product, convolution",
    "spmm_i8": "the same with weights mostly zero",
    "winograd_i8": "int8 convolution of 3x3 windows, by fewer products",
    "gemm_i4": "four-bit matrix product, convolution",
    "gemm_i2": "two-bit matrix product, convolution",
    "gemm_i1": "matrix product, convolution of signs",
    "gemm_s8": "matrix product, its input in groups",
    "dwconv_i8": "int8 depthwise convolution",
    "gemm_f32": "float32 matrix product, convolution",
    "dwconv_f32": "float32 depthwise convolution",
    "attention": "softmax of attention",
    "pool": "pooling",
    "norm": "normalization",
    "rnn": "recurrent cells",
    "blend": "resizing, sampling",
    "gather": "embedding of codes",
    "eltwise": "elementwise, conversions, copies",
    "peak": "the machine's limits",
}

File = Annotated[Path, typer.Argument(help="A .lowbit file.", exists=True, dir_okay=False, show_default=False)]


@app.command()
def demo(
    directory: Annotated[Path | None, typer.Option(help="Keep digits.lowbit here.", show_default=False)] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the 8,000 training digits.", min=1)] = 4,
) -> None:
    """Train a network on real digits, convert it, run it without torch, compare the two."""
    from lowbit.cli import demo as job

    summary = job.run(directory, epochs=epochs, console=console)
    job.show(summary, console)
    if directory:
        console.print(f"\nKept {directory / job.FILE}; try: lowbit inspect {directory / job.FILE}")


@app.command()
def info() -> None:
    """This machine: the CPU, the instruction sets, the threads, the kernels that would run."""
    cpu = _core.cpu()
    table = Table(show_header=False, title="This machine", title_justify="left")
    table.add_row("lowbit", lowbit.__version__)
    table.add_row("CPU", cpu["model"])
    table.add_row("instruction sets", ", ".join(cpu["isas"]))
    table.add_row("used", f"{cpu['default_isa']} (LOWBIT_ISA caps it)")
    table.add_row("threads", f"{cpu['threads']} (LOWBIT_THREADS sets it)")
    console.print(table)
    console.print(_kernels(cpu["isas"][: cpu["isas"].index(cpu["default_isa"]) + 1]))


def _kernels(usable: Sequence[str]) -> Table:
    """The families' rows that `usable` instruction sets may run, best first."""
    table = heading("Kernels, best first", ("family", "kernels"))
    for family, rows in _core.kernels().items():
        names = [row["name"] for row in rows if row["available"] and row["isa"] in usable]
        table.add_row(FAMILIES.get(family, family), ", ".join(names))
    return table


@app.command()
def inspect(file: File) -> None:
    """What a file holds: inputs, outputs, nodes, weights, how it was trained, optimized, and why each layer is so."""
    graph, document = lowbit_format.load(file)
    meta = Meta.read(document)
    console.print(_summary(file, graph, meta))
    console.print(_nodes(graph))
    _print_left_out(len(graph.nodes), "nodes")
    if meta.training:
        console.print(_training(meta.training[:SHOWN]))
        _print_left_out(len(meta.training), "things done in training")
    if meta.trials or meta.choices or meta.sizes:
        _print_optimized(meta)
    if meta.decisions:
        console.print(_decisions(meta.decisions[:SHOWN]))
        _print_left_out(len(meta.decisions), "decisions")


def _print_optimized(meta: Meta) -> None:
    """What `lowbit.optimize` was asked for, the models that it scored, what each layer became, and sizes."""
    if text := asked(meta.goal or {}, meta.max_drop):
        console.print(f"Asked for: {text}", highlight=False)
    for name, columns, rows in (
        ("Models that were scored", TRIAL, map(trial_row, map(asdict, meta.trials[:SHOWN]))),
        ("What each layer became, as predicted", CHOICE, map(choice_row, map(asdict, meta.choices[:SHOWN]))),
        ("Size, step by step", ("step", "bytes"), ((row.step, f"{row.bytes:,.0f}") for row in meta.sizes[:SHOWN])),
    ):
        if cells := list(rows):
            table = heading(name, columns)
            for line in cells:
                table.add_row(*map(escape, line))
            console.print(table)
    _print_left_out(max(map(len, (meta.trials, meta.choices, meta.sizes))), "rows")


def _print_left_out(count: int, what: str) -> None:
    if count > SHOWN:
        console.print(f"and {count - SHOWN:,} more {what}")


@app.command()
def bench(
    file: File,
    batch: Annotated[int, typer.Option(help="How many samples a call has.", min=1)] = 1,
    size: Annotated[list[str] | None, typer.Option(help="NAME=N of another free size.", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help="Absent: as many as this process may use.", min=1)] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of about 0.1 s.", min=1)] = 15,
    report: Annotated[Path | None, typer.Option(help="Write all of it to a page of HTML.", show_default=False)] = None,
    allow_torch: Annotated[bool, typer.Option("--allow-torch", help="Let torch run what it must.")] = False,
) -> None:
    """How long a file takes on this machine, as a whole and node by node, on random inputs."""
    model = lowbit.load(file, threads=threads, limits=lowbit.Limits(batch=None), allow_torch=allow_torch)
    graph = model.session.graph
    inputs = model.session.made_up({**_leading(graph, batch), **_sizes(graph, size or [])})
    sizes = bind(graph, dict(zip(graph.inputs, inputs, strict=True)))
    time = interleave({"model": lambda: model(*inputs)}, rounds=rounds)["model"]
    profile = model.profile(*inputs)
    console.print(profile_table(profile))
    sizes_shown = f"batch {batch}{_others(graph, sizes)}"
    console.print(
        f"{file.name}, {sizes_shown}: {time.median * 1e3:.3f} ms (median of {rounds} rounds; lowest "
        f"{time.lowest * 1e3:.3f} ms), {batch / time.median:,.0f} samples/s"
    )
    limit = profile.limit
    console.print(f"The limits of its steps add up to {limit.seconds * 1e3:.3f} ms: {limit.of(time.median)}")
    console.print(f"{profile.roofline}", highlight=False)
    _print_slower(file, sizes, model.session.threads)
    if report is not None:
        model.report(report, *inputs)
        console.print(f"Wrote {report}")


@app.command()
def repository(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="FILE or NAME=FILE.", show_default=False)],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The repository.", file_okay=False)],
    threads: Annotated[int, typer.Option(help="Of one call.", min=1)] = 1,
    instances: Annotated[int, typer.Option(help="Processes a model, each with weights of its own.", min=1)] = 1,
    python_path: Annotated[
        list[str] | None,
        typer.Option(help="Where Triton's Python finds lowbit and NumPy; absent: where they are here."),
    ] = None,
) -> None:
    """Write a model repository for NVIDIA Triton. A model that is there already gets a further version."""
    models = lowbit_repository.named(files)
    written = lowbit_repository.write(models, directory, threads=threads, instances=instances, python_path=python_path)
    for name, version in written.items():
        console.print(f"{name}: {version}", highlight=False, soft_wrap=True)


app.command()(with_options(serve))


def _leading(graph: Graph, batch: int) -> dict[str, int]:
    """The free first axes of the inputs, at this size."""
    first = {str(graph.values[name].shape[0]) for name in graph.inputs if graph.values[name].shape}
    return {name: batch for name in graph.symbols if name in first}


def _sizes(graph: Graph, given: Sequence[str]) -> dict[str, int]:
    """Of `NAME=N`; raises InputError for others."""
    found = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in graph.symbols or not number.isdecimal():
            raise lowbit.InputError(
                f"--size is NAME=N for a free size ({', '.join(graph.symbols) or 'none'}), not {text}"
            )
        found[name] = int(number)
    return found


def _others(graph: Graph, sizes: Mapping[str, int]) -> str:
    """The free sizes that are no batch, as a person reads them."""
    others = {name: size for name, size in sizes.items() if name not in _leading(graph, 1)}
    return "".join(f", {name} {size}" for name, size in others.items())


def _print_slower(file: Path, sizes: Mapping[str, int], threads: int) -> None:
    """The layers that this machine would run faster in float32, each timed alone."""
    from lowbit.quantization.cost import slower_here

    graph, document = lowbit_format.load(file)
    slower = slower_here(graph, sizes, threads)
    if not slower:
        console.print("No layer is slower on codes than in float32 here.")
        return
    table = heading("Slower on codes than in float32 here", ("layer", "us", "us in float32"))
    for name, (coded, floats) in slower.items():
        table.add_row(escape(name), f"{coded:.1f}", f"{floats:.1f}")
    console.print(table)
    level, target = this_level(), Meta.read(document).target or "an unknown CPU"
    console.print(
        escape(
            f"Timed alone, without activations and conversions. The file was made for {target}; a model that is "
            f"converted with target={level!r}, or here with tune=True, leaves them in float32 where that gains."
        )
    )


def _summary(file: Path, graph: Graph, meta: Meta) -> Table:
    table = Table(show_header=False, title=escape(file.name), title_justify="left")
    size, left_out = file.stat().st_size, compression.left_out(file)
    table.add_row("size", f"{size:,} bytes" + (f", {size + left_out:,} uncompressed" if left_out else ""))
    table.add_row("made for", escape(meta.target or "unknown"))
    for kind, names in (("input", graph.inputs), ("output", graph.outputs)):
        for name in names[:SHOWN]:
            table.add_row(kind, escape(f"{name}: {_type(graph.values[name])}"))
        if len(names) > SHOWN:
            table.add_row(kind, f"and {len(names) - SHOWN:,} more")
    for name, symbol in graph.symbols.items():
        table.add_row("free", f"{escape(name)}: {limits.describe(symbol)}")
    for condition in graph.conditions:
        table.add_row("free", escape(limits.sentence(condition)))
    table.add_row("weights", _weights(graph))
    counts = Counter(node.op for node in graph)
    table.add_row("nodes", ", ".join(f"{count} {op}" for op, count in counts.most_common()))
    return table


def _weights(graph: Graph) -> str:
    """How many there are, by their bits, and what they take each, scales included."""
    weights = [constant for constant in graph.constants.values() if isinstance(constant, Weight)]
    lines = []
    for bits in sorted({weight.bits for weight in weights}):
        same = [weight for weight in weights if weight.bits == bits]
        count, size = sum(math.prod(weight.shape) for weight in same), sum(stored(weight).bytes for weight in same)
        lines.append(f"{count:,} in int{bits}" + (f", {8 * size / count:.3f} bits each" if bits < 8 else ""))
    return ", ".join(lines) or "none quantized"


def _nodes(graph: Graph) -> Table:
    sparse = {row.node: f"{row.density:.1%} in {row.pattern}" for row in sparse_layers(graph)}
    kept = ("weights kept",) if sparse else ()
    table = heading("Nodes", ("node", "operator", "output", "scale", "zero point", *kept, "from"))
    for node in graph.nodes[:SHOWN]:
        value = graph.values[node.outputs[0]]
        quant = value.quant
        scale = "" if quant is None else f"{quant.scale:.4g}" if isinstance(quant.scale, float) else str(quant.scale)
        zero_point = "" if quant is None else str(quant.zero_point)
        cells = (node.name, node.op, _type(value), scale, zero_point, *(sparse.get(node.name, "") for _ in kept))
        table.add_row(*map(escape, (*cells, node.source)))
    return table


def _decisions(decisions: Iterable[Decision]) -> Table:
    keys = ("node", "op", "scheme", "reason")
    table = heading("Decisions", keys)
    for decision in decisions:
        table.add_row(*(escape(getattr(decision, key)) for key in keys))
    return table


def _training(trained: Iterable[Trained]) -> Table:
    table = heading("How it was trained", ("what", "how"))
    for each in trained:
        table.add_row(escape(each.kind), escape("\n".join(told(each.facts))))
    return table


def _type(value: Value) -> str:
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
