"""The command line: `plait lower | print | opt | verify | diff | why | run | compile | cache | predict`,
and `plait quantize | quant-report`.

Every command reads a file or `-` (IR text from standard input), prints a table on a
terminal and plain text in a pipe, takes `--json`, and exits with 2 and one clear
message when its input is wrong.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from plait import api
from plait.ir.inputs import dim_values

if TYPE_CHECKING:
    from plait.api import Graph
    from plait.backends.cache import CacheInfo

app = typer.Typer(
    name="plait",
    help="plait: one graph IR from PyTorch and ONNX to CPU code, A100 CUDA and predictions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="What plait keeps on disk: executables, machine code, emulated kernels.")
app.add_typer(cache_app, name="cache")
out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Source = Annotated[
    str, typer.Argument(help="A .onnx, .pt2 or .plait file, the name of an example, or - for IR text.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Dims = Annotated[list[str] | None, typer.Option("--dim", help="Value of a dim, B=8; may be repeated.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")]
UseCache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep and reuse what was compiled.")]
Isolate = Annotated[
    bool | None,
    typer.Option("--isolate/--in-process", help="Compile in a process of its own; by default if possible."),
]
Seed = Annotated[int, typer.Option(help="Seed of random weights and inputs.")]
Pipeline = Annotated[str | None, typer.Option("--passes", "-p", help="Pipeline, pass{option=value},pass.")]


# -- helpers ---------------------------------------------------------------------------
@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on a terminal while long work runs; nothing in a pipe."""
    if err.is_terminal:
        with err.status(what):
            yield
    else:
        yield


def read(source: str, *, dynamic: list[str] | None = None, seed: int = 0) -> Graph:
    """The graph that a command-line source names."""
    with working(f"lowering {source}"):
        if source == "-":
            return api.lower(sys.stdin.read())
        return api.lower(source, dynamic=_dynamic(dynamic), seed=seed)


def _dynamic(entries: list[str] | None) -> dict[str, dict[int, Any]] | None:
    """`image:0=B` or `image:0=B:1..64` as the `dynamic` argument of `lower`."""
    if not entries:
        return None
    found: dict[str, dict[int, Any]] = {}
    for entry in entries:
        place, equals, name = entry.partition("=")
        parameter, colon, axis = place.rpartition(":")
        symbol, _, span = name.partition(":")
        low, dots, high = span.partition("..")
        if not (
            equals and colon and axis.isdigit() and (not span or (dots and low.isdigit() and high.isdigit()))
        ):
            raise api.InputError(
                f"--dynamic {entry} is not understood",
                remedy="write INPUT:AXIS=NAME or INPUT:AXIS=NAME:LOW..HIGH",
            )
        found.setdefault(parameter, {})[int(axis)] = (symbol, int(low), int(high)) if span else symbol
    return found


def emit_json(data: Any) -> None:
    """Print data as JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def summary(graph: Graph) -> dict[str, Any]:
    """What `lower` and `verify` report about a graph."""
    return {
        "name": graph.name,
        "id": graph.id,
        "ops": len(graph),
        "constants": len(graph.constants),
        "dims": {name: str(allowed) for name, allowed in graph.dims.items()},
        "inputs": {value.name: str(value.type) for value in graph.inputs},
        "outputs": {value.name: str(value.type) for value in graph.outputs},
    }


def kernel_table(executable: Any) -> Table:
    """The kernels of an executable, one row each."""
    table = Table(title=f"{len(executable.kernels)} kernels for {executable.target.name}")
    columns = ["kernel", "calls", "method"]
    resources = ["registers", "shared_bytes", "spill_bytes", "grid", "block"]
    if executable.target.kind == "gpu":
        columns += ["registers", "shared bytes", "spills", "grid", "block"]
    else:
        resources = []
    columns.append("IR ops")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in executable.kernels:
        data = row.to_dict()
        cells = [data.get(k) for k in ("name", "calls", "method", *resources)]
        table.add_row(*("" if c is None else str(c) for c in cells), ", ".join(f"%{o}" for o in row.ops))
    return table


def write_sources(executable: Any, folder: Path) -> None:
    """One file of CUDA C per kernel.  Raises InputError for a target without such text."""
    from plait.ir.files import write_atomically

    if executable.target.kind != "gpu":
        raise api.InputError(
            f"target {executable.target.name} has no CUDA text",
            remedy="leave out --sources, or compile for a100",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for kernel in executable.kernels:
        with write_atomically(folder / f"{kernel.name}.cu") as stream:
            stream.write(kernel.source.encode())


def write_graph(graph: Graph, path: Path) -> None:
    """Write an archive, or an ONNX model where the name ends so."""
    if path.suffix == ".onnx":
        api.save_onnx(graph, path)
    else:
        graph.save(path)


# -- commands ---------------------------------------------------------------------------
@app.command("lower")
def lower_command(
    source: Source,
    output: Output = None,
    dynamic: Annotated[
        list[str] | None, typer.Option(help="INPUT:AXIS=NAME[:LOW..HIGH]; may be repeated.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Bring a model into the IR; write an archive (`.onnx`: an ONNX model) with -o, else print the dump."""
    graph = read(source, dynamic=dynamic, seed=seed)
    if output is not None:
        write_graph(graph, output)
    if as_json:
        emit_json({**summary(graph), **({"written": str(output)} if output else {"text": str(graph)})})
    elif output is not None:
        out.print(f"wrote {output}: {len(graph)} ops, {len(graph.constants)} constants, id {graph.id[:16]}")
    else:
        sys.stdout.write(str(graph))


@app.command("print")
def print_command(
    source: Source,
    cost: Annotated[bool, typer.Option(help="Append each op's cost as a comment.")] = False,
    locations: Annotated[bool, typer.Option(help="Print the loc section.")] = True,
    dim: Dims = None,
    as_json: AsJson = False,
) -> None:
    """Print the dump of a graph."""
    from plait.ir.text.printer import print_graph

    graph = read(source)
    annotate = None
    if cost:
        from plait.ir.bind import default_dims
        from plait.ir.cost import annotate_cost

        annotate = annotate_cost(graph, default_dims(graph, dim_values(dim), upper=True))
    text = print_graph(graph, locations=locations, annotate=annotate)
    if as_json:
        emit_json({**summary(graph), "text": text})
    else:
        sys.stdout.write(text)


@app.command("opt")
def opt_command(
    source: Source,
    passes: Pipeline = None,
    output: Output = None,
    dump_dir: Annotated[
        Path | None, typer.Option(help="Folder for the graph after each pass that changed it.")
    ] = None,
    stop_after: Annotated[str | None, typer.Option(help="Name of the last pass to run.")] = None,
    disable: Annotated[
        list[str] | None, typer.Option(help="Name of a pass to leave out; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run passes over a graph."""
    from plait.passes import optimize

    graph = read(source)
    options: dict[str, Any] = {
        "dump_dir": dump_dir,
        "stop_after": stop_after,
        "disable": tuple(disable or ()),
    }
    if passes is not None:
        options["pipeline"] = passes
    with working("running passes"):
        result, report = optimize(graph, **options)
    if output is not None:
        write_graph(result, output)
    if as_json:
        emit_json({**report.to_dict(), **summary(result), "text": None if output else str(result)})
        return
    if output is not None:
        out.print(str(report))
        out.print(f"wrote {output}: {len(result)} ops")
    else:
        err.print(str(report))
        sys.stdout.write(str(result))


@app.command("verify")
def verify_command(source: Source, as_json: AsJson = False) -> None:
    """Check all invariants of a graph."""
    graph = read(source)
    graph.verify()
    if as_json:
        emit_json({"valid": True, **summary(graph)})
    else:
        out.print(f"@{graph.name} is valid: {len(graph)} ops, id {graph.id[:16]}")


@app.command("diff")
def diff_command(before: Source, after: Source, as_json: AsJson = False) -> None:
    """Name the ops, constants and dims that make two graphs differ; exit code 1 when they do."""
    found = api.diff(read(before), read(after))
    if as_json:
        emit_json(found.to_dict())
    else:
        sys.stdout.write(f"{found}\n")
    if found:
        raise typer.Exit(1)


@app.command("why")
def why_command(
    source: Source,
    rule: Annotated[str, typer.Argument(help="A pass, or one of its rules.")],
    value: Annotated[str, typer.Argument(help="Name of a value, %conv1.")],
    as_json: AsJson = False,
) -> None:
    """Say why a rewrite rule does or does not apply at an op."""
    from plait.passes import why

    answer = why(read(source), rule, value)
    if as_json:
        emit_json({"rule": rule, "value": value, "answer": answer})
    else:
        sys.stdout.write(f"{answer}\n")


@app.command("run")
def run_command(
    source: Source,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="NAME=FILE.npy; others are random.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="cpu, a100 (emulated where there is no GPU), or interpreter.")
    ] = "cpu",
    check: Annotated[bool, typer.Option(help="Compare with the reference interpreter.")] = False,
    dim: Dims = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the results as .npz.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the CPU target.")] = None,
    cache: UseCache = True,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run a graph (or a compiled executable) and summarise its results."""
    import numpy as np

    from plait.ir.files import write_atomically
    from plait.ir.inputs import read_inputs

    found = (
        None if source == "-" or not Path(source).is_file() or source.endswith(".onnx") else api.load(source)
    )
    executable = found if found is not None and not isinstance(found, api.Graph) else None
    graph = executable.graph if executable is not None else read(source, seed=seed)
    dims = dim_values(dim)
    given = read_inputs(graph, inputs, dims, seed)
    if target == "interpreter":
        results = [t.detach().numpy() for t in api.interpret(graph, given)]
    else:
        if executable is None:
            with working(f"compiling for {target}"):
                # This process needs TVM to run the code: another one would only import it once more.
                executable = api.compile(
                    graph, target=target, dims=dims, threads=threads, isolate=False, cache=cache
                )
        call: Any = executable.emulate if executable.target.kind == "gpu" else executable
        raw = call(**given)
        results = list(raw) if isinstance(raw, tuple) else [raw]
    names = [value.name for value in graph.outputs]
    report = [
        {
            "name": n,
            "shape": list(r.shape),
            "dtype": str(r.dtype),
            "mean": float(np.mean(r)),
            "std": float(np.std(r)),
        }
        for n, r in zip(names, results)
    ]
    if check:
        reference = api.interpret(graph, given)
        for row, result, expected in zip(report, results, reference):
            row["max_abs_error"] = float(np.max(np.abs(result - expected.detach().numpy()), initial=0.0))
    if output is not None:
        with write_atomically(output) as stream:
            savez: Any = np.savez  # numpy's types take named arrays for flags
            savez(stream, **dict(zip(names, results)))
    if as_json:
        emit_json({"target": target, "results": report})
        return
    table = Table(title=f"@{graph.name} on {target}")
    for column in report[0]:
        table.add_column(column)
    for row in report:
        table.add_row(*(f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row.values()))
    out.print(table)


@app.command("compile")
def compile_command(
    source: Source,
    target: Annotated[str, typer.Option(help="cpu, a100 or a100-tf32.")] = "cpu",
    output: Output = None,
    dim: Dims = None,
    passes: Pipeline = None,
    sources: Annotated[Path | None, typer.Option(help="Folder for the CUDA text of each kernel.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the CPU target.")] = None,
    isolate: Isolate = None,
    cache: UseCache = True,
    timeout: Annotated[float, typer.Option(help="Seconds for a compiler in its own process.")] = 1800,
    report: Annotated[
        bool, typer.Option("--report", help="Report on the quality of the GPU kernels instead.")
    ] = False,
    tune: Annotated[
        float | None, typer.Option(help="Seconds to search for faster kernels first, on this machine's CPU.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compile for a target and show its kernels; write an executable with -o."""
    if report and target == "cpu":
        raise api.InputError(
            "--report is about GPU kernels", why="the target is cpu", remedy="add --target a100"
        )
    graph = read(source, seed=seed)
    start = time.perf_counter()
    with working(f"compiling for {target}"):
        executable = api.compile(
            graph,
            target=target,
            dims=dim_values(dim),
            pipeline=passes,
            threads=threads,
            isolate=isolate,
            cache=cache,
            timeout_s=timeout,
            tune_s=tune,
        )
    seconds = time.perf_counter() - start
    if output is not None:
        executable.save(output)
    if sources is not None:
        write_sources(executable, sources)
    if report:
        with working("reading the machine code"):
            found = executable.report(dim_values(dim) if executable.graph.dims else None)
        if as_json:
            emit_json(found.to_dict())
        else:
            sys.stdout.write(f"{found}\n")
        return
    if as_json:
        rows = [{key: v for key, v in k.to_dict().items() if key != "source"} for k in executable.kernels]
        emit_json({"target": target, "seconds": seconds, "kernels": rows})
        return
    out.print(kernel_table(executable))
    out.print(f"compiled in {seconds:.1f} s" + (f", wrote {output}" if output else ""))


@cache_app.command("info")
def cache_info_command(as_json: AsJson = False) -> None:
    """Show the folders, and how much is in them."""
    from plait.backends.cache import caches

    _show_caches([cache.info() for cache in caches()], "in use", as_json)


@cache_app.command("clear")
def cache_clear_command(as_json: AsJson = False) -> None:
    """Remove everything in them."""
    from plait.backends.cache import caches

    _show_caches([cache.clear() for cache in caches()], "removed", as_json)


def _show_caches(found: list[CacheInfo], word: str, as_json: bool) -> None:
    if as_json:
        emit_json([info.to_dict() for info in found])
        return
    table = Table()
    for column in ("cache", "entries", f"MB {word}", "MB allowed", "folder"):
        table.add_column(column, overflow="fold")
    for info in found:
        sizes = (f"{size / 1e6:,.1f}" for size in (info.bytes, info.limit_bytes))
        table.add_row(info.name, str(info.entries), *sizes, info.folder)
    out.print(table)


@app.command("predict")
def predict_command(
    source: Source,
    device: Annotated[
        str, typer.Option(help="Device record, for instance a100-sxm4-40gb.")
    ] = "a100-sxm4-40gb",
    dim: Dims = None,
    precision: Annotated[
        str | None, typer.Option(help="Arithmetic of matrix products: fp32, tf32, fp16 ...")
    ] = None,
    latency_target_ms: Annotated[
        float | None, typer.Option(help="Latency that a MIG slice must keep, in ms.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Predict latency, energy, memory and the MIG profile on a device."""
    graph = read(source, seed=seed)
    options: dict[str, Any] = {} if precision is None else {"precision": precision}
    if latency_target_ms is not None:
        options["latency_target_ms"] = latency_target_ms
    prediction = api.predict(graph, device=device, dims=dim_values(dim), **options)
    if as_json:
        emit_json(prediction.to_dict())
    else:
        sys.stdout.write(f"{prediction}\n")


# -- quantisation -----------------------------------------------------------------------
Data = Annotated[
    Path | None,
    typer.Option(help="Calibration data: .npz with an array of samples for each input; else random."),
]
Samples = Annotated[int, typer.Option(help="Samples to calibrate with at most.")]
BatchSize = Annotated[
    int, typer.Option("--batch", help="Samples of one batch, where the graph leaves it open.")
]
SchemeText = Annotated[
    str, typer.Option(help="int8, int8-weights, int4-weights, or a8w4, a8w4g32, w4g32 (g: group).")
]
RuleTexts = Annotated[
    list[str] | None,
    typer.Option("--rule", help="PATTERN=SCHEME or PATTERN=float; may be repeated, the last match wins."),
]
Observer = Annotated[str, typer.Option(help="min-max, moving-average, percentile, mse or entropy.")]
RoundingText = Annotated[str, typer.Option(help="Of weights: nearest, gptq or adaround.")]
Equalize = Annotated[bool, typer.Option("--equalize", help="Cross-layer equalisation first.")]
Smooth = Annotated[float | None, typer.Option(help="Exponent of SmoothQuant, 0..1.")]
Biases = Annotated[bool, typer.Option("--correct-biases", help="Take each layer's mean error off its bias.")]


def _quantized(
    source: str,
    data: Path | None,
    samples: int,
    batch: int,
    scheme: str,
    rules: list[str] | None,
    **options: Any,
) -> tuple[Any, list[dict[str, Any]]]:
    """A quantised model and the batches that it was calibrated with."""
    from plait.ir.inputs import random_batches, read_batches
    from plait.passes.quantize.parse import parse_rule, parse_scheme

    graph = read(source)
    chosen = {"scheme": parse_scheme(scheme), "rules": [parse_rule(text) for text in rules or ()]}
    if data is None:
        err.print("no --data: ranges come from random inputs and say nothing about real ones", style="yellow")
        batches = random_batches(graph, samples, batch)
    else:
        batches = read_batches(graph, data, samples, batch)
    with working("quantising"):
        return api.quantize(graph, batches, **chosen, **options), batches


@app.command("quantize")
def quantize_command(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the integer graph.")],
    data: Data = None,
    samples: Samples = 128,
    batch: BatchSize = 8,
    scheme: SchemeText = "int8",
    rule: RuleTexts = None,
    observer: Observer = "mse",
    rounding: RoundingText = "nearest",
    equalize: Equalize = False,
    smooth: Smooth = None,
    correct_biases: Biases = False,
    qdq: Annotated[
        bool, typer.Option("--qdq", help="Write the form with quantise-dequantise pairs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Quantise a model after training; write .plait, or .onnx with quantise-dequantise pairs."""
    options: dict[str, Any] = {"observer": observer, "rounding": rounding, "equalize": equalize}
    options |= {"smooth": smooth, "correct_biases": correct_biases}
    found, _ = _quantized(source, data, samples, batch, scheme, rule, **options)
    graph = found.qdq if qdq else found.graph
    write_graph(graph, output)
    if as_json:
        emit_json({**summary(graph), "remarks": list(found.remarks), "output": str(output)})
        return
    out.print(f"wrote {output}: {len(found.schemes)} ops quantised, {len(graph)} ops in all")


@app.command("quant-report")
def quant_report_command(
    source: Source,
    data: Data = None,
    samples: Samples = 128,
    batch: BatchSize = 8,
    scheme: SchemeText = "int8",
    rule: RuleTexts = None,
    observer: Observer = "mse",
    rounding: RoundingText = "nearest",
    equalize: Equalize = False,
    smooth: Smooth = None,
    correct_biases: Biases = False,
    as_json: AsJson = False,
) -> None:
    """Quantise, and report precision, size and noise op by op, and the first op that diverges."""
    options: dict[str, Any] = {"observer": observer, "rounding": rounding, "equalize": equalize}
    options |= {"smooth": smooth, "correct_biases": correct_biases}
    found, batches = _quantized(source, data, samples, batch, scheme, rule, **options)
    report = found.report(batches)
    if as_json:
        emit_json(report.to_dict())
    else:
        sys.stdout.write(f"{report}\n")


def fail(error: api.PlaitError, as_json: bool) -> NoReturn:
    """Print an error and exit with code 2."""
    if as_json:
        emit_json(error.to_dict())
    else:
        err.print(str(error), markup=False)
    sys.exit(2)


def main() -> None:
    """Entry point of the `plait` command."""
    try:
        app()
    except api.PlaitError as error:
        fail(error, "--json" in sys.argv)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
