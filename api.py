"""The public functions: they join the rooms and hold no logic of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from plait.ir import archive
from plait.ir.diff import GraphDiff
from plait.ir.diff import diff as diff_graphs
from plait.ir.errors import (
    CompileError,
    InputError,
    LoweringError,
    PlaitError,
    PredictError,
    VerifyError,
    did_you_mean,
)
from plait.ir.graph import Graph
from plait.ir.text.parser import parse
from plait.passes.quantize.quantized import Quantized
from plait.passes.spike.conversion.result import Spiking

if TYPE_CHECKING:
    import nir
    import onnx
    import torch

    from plait.backends.executable import Executable
    from plait.backends.targets import Target
    from plait.passes.spike.density import DensityReport
    from plait.predictors.prediction import Prediction

#: `{"image": {0: "B"}}` or `{"image": {0: ("B", 1, 64)}}`: names of dynamic dims by input and axis.
Dynamic: TypeAlias = Mapping[str, Mapping[int, Any]]

#: The file that makes a zip archive an executable and not a graph.
EXECUTABLE_MANIFEST = "manifest.json"

__all__ = [
    "CompileError",
    "Dynamic",
    "Graph",
    "InputError",
    "LoweringError",
    "PlaitError",
    "PredictError",
    "VerifyError",
    "annotate_density",
    "compile",
    "diff",
    "interpret",
    "load",
    "lower",
    "optimize",
    "parse",
    "predict",
    "quantize",
    "save_onnx",
    "to_nir",
    "to_onnx",
    "to_spiking",
    "write_nir",
]


def lower(
    source: Any, inputs: Any = None, *, dynamic: Dynamic | None = None, name: str | None = None, seed: int = 0
) -> Graph:
    """Bring a model into the IR.

    Args:
        source: a `torch.nn.Module`, a `torch.export.ExportedProgram` or `.pt2` path, a DGL
            module (with a `DGLGraph` among its inputs), an `onnx.ModelProto` or `.onnx`
            path, a `keras.Model`, `tf.function`, ConcreteFunction or SavedModel folder, a
            `nir.NIRGraph` or `.nir` path (see `plait.frontends.nir`), a `.plait` path, IR text, the
            name of a family's example (`resnet18`), the result of `quantize` or `to_spiking`, or a
            `Graph`, which is returned as it is.
        inputs: example inputs of a torch or DGL module, a tuple or a dict by forward
            parameter; for ONNX and TensorFlow, arrays that fix shapes the model leaves open.
        dynamic: names (and ranges) of dims that stay symbolic, by input and axis.
        name: name of the graph.
        seed: of the random weights of a family's example.

    Raises:
        LoweringError: with all unsupported ops at once, or what the source lacks.
        InputError: when a file is missing or damaged.
        VerifyError: when IR text is wrong.
    """
    if isinstance(source, Graph):
        return source
    if isinstance(source, (Quantized, Spiking)):
        return source.graph
    kinds = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(source).__mro__]
    options: dict[str, Any] = {"dynamic": dynamic, **({"name": name} if name else {})}
    if {"torch.nn.modules.module.Module", "torch.export.exported_program.ExportedProgram"}.intersection(
        kinds
    ):
        from plait.frontends.dgl import holds_dgl_graph, lower_dgl
        from plait.frontends.pytorch import lower_torch

        return (lower_dgl if holds_dgl_graph(inputs) else lower_torch)(source, inputs, **options)
    if any(kind.startswith("onnx") and kind.endswith(".ModelProto") for kind in kinds):
        from plait.frontends.onnx import lower_onnx

        return lower_onnx(source, inputs, **options)
    if "nir.ir.graph.NIRGraph" in kinds:
        from plait.frontends.nir import lower_nir

        return lower_nir(source, inputs, **options)
    if any(kind.startswith(("keras.", "tensorflow.")) for kind in kinds):
        from plait.frontends.tensorflow import lower_tensorflow

        return lower_tensorflow(source, inputs, **options)
    if isinstance(source, (str, Path)):
        return _lower_text_or_path(source, inputs, options, seed)
    raise LoweringError(
        f"cannot lower a {type(source).__module__}.{type(source).__qualname__}",
        why="the sources are torch and DGL modules, exported programs, ONNX models, Keras models, "
        "tf.functions, SavedModels, NIR graphs, .plait files and IR text",
        remedy="export the model to ONNX, or pass the torch module with example inputs",
    )


def _lower_text_or_path(source: str | Path, inputs: Any, options: dict[str, Any], seed: int) -> Graph:
    text = str(source)
    if "\n" in text or text.lstrip().startswith("plait.ir"):
        return parse(text)
    path = Path(text)
    if path.suffix == ".onnx":
        from plait.frontends.onnx import lower_onnx

        return lower_onnx(path, inputs, **options)
    if path.suffix == ".nir":
        from plait.frontends.nir import lower_nir

        return lower_nir(path, inputs, **options)
    if path.suffix == ".pt2":
        from plait.frontends.pytorch import lower_torch, read_exported_program

        return lower_torch(read_exported_program(path), inputs, **options)
    if path.is_dir():
        from plait.frontends.tensorflow import lower_tensorflow

        return lower_tensorflow(path, inputs, **options)
    if path.suffix in (".plait", ".txt") or path.is_file():
        found = load(path)
        return found if isinstance(found, Graph) else found.graph
    from plait.frontends.families import example, examples

    if text not in examples():
        raise InputError(
            f"there is no file '{text}' and no example of that name{did_you_mean(text, examples())}",
            why="a source is a .onnx, .pt2, .nir or .plait file, a SavedModel folder, IR text, or an example",
            remedy=f"check the path; examples: {', '.join(sorted(examples()))}",
        )
    chosen = example(text)
    from plait.frontends.pytorch import lower_torch

    dynamic = chosen.dynamic if options["dynamic"] is None else options["dynamic"]
    given = chosen.inputs(2, seed) if inputs is None else inputs
    return lower_torch(chosen.build(seed), given, dynamic=dynamic, name=options.get("name", text))


def optimize(source: Any, pipeline: str | None = None, **options: Any) -> Graph:
    """A rewritten copy of a graph (or of what `lower` takes).

    Args:
        pipeline: passes and their options, `"fold-batch-norm,fuse-activation{kinds=[relu]}"`;
            by default the standard pipeline.
        **options: `dump_dir`, `stop_after`, `disable`, `verify_each` (see `plait.passes.manager`).
    """
    from plait.passes import optimize as run_pipeline

    arguments = {} if pipeline is None else {"pipeline": pipeline}
    graph, _ = run_pipeline(lower(source), **arguments, **options)
    return graph


def quantize(source: Any, data: Iterable[Any], **options: Any) -> Quantized:
    """Quantise a graph (or what `lower` takes) after training.

    Args:
        data: calibration batches: each a mapping by input, a sequence, or the sole input.
        **options: `scheme`, `rules`, `observer`, `equalize`, `smooth`, `rounding`, `correct_biases`,
            `dims`, `limit` (see `plait.passes.quantize.pipeline.quantize`).

    Returns:
        The integer graph and what it was made from; `compile` and `predict` take it as it is.

    Raises:
        InputError: data that is empty, not finite, or of a wrong shape, or a rule that selects nothing.
    """
    from plait.passes.quantize.pipeline import quantize as run_quantization

    return run_quantization(lower(source), data, **options)


def to_spiking(source: Any, data: Iterable[Any], *, steps: int, **options: Any) -> Spiking:
    """Convert a ReLU network (or what `lower` takes) to integrate-and-fire neurons with the same weights.

    Args:
        data: calibration batches: each a mapping by input, a sequence, or the sole input.
        steps: of time for one sample.
        **options: `percentile`, `coding`, `initial`, `pooling`, `seed`, `dims`, `limit`
            (see `plait.passes.spike.conversion.pipeline.to_spiking`).

    Returns:
        The graph over time, the float graph it was made from, and a report of scales, clipping and firing
        rates; `compile` and `predict` take it as it is.

    Raises:
        InputError: all ops without a spiking counterpart at once, a network without neurons, an option out
            of its range, or data that is empty, not finite, or of a wrong shape.
    """
    from plait.passes.spike.conversion.pipeline import to_spiking as convert

    return convert(lower(source), data, steps=steps, **options)


def annotate_density(source: Any, data: Iterable[Any], **options: Any) -> tuple[Graph, DensityReport]:
    """A graph (or what `lower` takes) whose spikes have the densities measured on data, and a report.

    Costs, predictions and `choose-spike-kernels` read them.

    Args:
        data: calibration batches: each a mapping by input, a sequence, or the sole input.
        **options: `limit`, `dims` (see `plait.passes.spike.density.annotate_density`).

    Raises:
        InputError: data that is empty, not finite, or of a wrong shape.
    """
    from plait.passes.spike.density import annotate_density as annotate

    return annotate(lower(source), data, **options)


def compile(
    source: Any,
    inputs: Any = None,
    *,
    target: str | Target = "cpu",
    dynamic: Dynamic | None = None,
    dims: Mapping[str, int] | None = None,
    pipeline: str | None = None,
    threads: int | None = None,
    isolate: bool | None = None,
    cache: bool | str | Path = True,
    timeout_s: float | None = 1800.0,
    tune_s: float | None = None,
) -> Executable:
    """Compile a graph (or what `lower` takes) for a target.

    Args:
        target: `"cpu"` (this machine), `"a100"` (sm_80; needs neither GPU nor system CUDA) or
            `"a100-tf32"` (the same, with products of f32 on tensor cores in TF32).
        dims: values of dims to fix before compiling, `{"B": 8}`; others stay symbolic.
        pipeline: passes that run first; `""` for none, by default the standard pipeline.
        threads: of the CPU target; by default one per core.
        isolate: compile in a worker process, which a crash of the code generator ends instead of this
            one; by default wherever possible, that is with a C++ compiler to link the result.
        cache: keep the executable, and take it from there the next time: in
            `$XDG_CACHE_HOME/plait/compile` (by default below `~/.cache`), or in the folder given.
        timeout_s: seconds after which the worker process is stopped; None for never.
        tune_s: for the CPU target, seconds to search for faster kernels first, by measuring on this
            machine; what is found goes to a tuning database (`$XDG_CACHE_HOME/plait/tuning`), which
            later compilations read.

    Raises:
        CompileError: with all ops the target cannot run, at once; or the code generator crashed or hung,
            with the ops it was at and the folder of a bundle that repeats it.
    """
    from plait.backends import compile_graph

    return compile_graph(
        lower(source, inputs, dynamic=dynamic),
        target,
        dims=dims,
        threads=threads,
        prepare=None if pipeline == "" else lambda graph: optimize(graph, pipeline),
        recipe="default" if pipeline is None else f"passes {pipeline}",
        isolate=isolate,
        cache=cache,
        timeout_s=timeout_s,
        tune_s=tune_s,
    )


def predict(
    source: Any,
    inputs: Any = None,
    *,
    device: str = "a100-sxm4-40gb",
    dims: Mapping[str, int] | None = None,
    **options: Any,
) -> Prediction:
    """Predict latency, energy, memory and the MIG profile of a graph (or of what `lower` takes).

    Args:
        device: a device record, for instance `"a100-sxm4-80gb"`.
        dims: values of the symbolic dims, `{"B": 8}`.
        **options: `precision`, `latency_target_ms` (see `plait.predictors`).

    Raises:
        PredictError: for an unknown device.
        InputError: for a dim without a value.
    """
    from plait.predictors import predict as run_predictor

    return run_predictor(lower(source, inputs), device, dims, **options)


def interpret(source: Any, inputs: Mapping[str, Any] | Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """Run a graph by the reference semantics of its ops, in torch: slow, differentiable, on any device."""
    from plait.ir.interpret import interpret as run_reference

    return run_reference(lower(source), inputs)


def to_onnx(source: Any, *, opset: int | None = None) -> onnx.ModelProto:
    """A graph (or what `lower` takes) as an ONNX model: the dense and quantised part of the IR.

    Raises:
        CompileError: with all ops that ONNX has no counterpart for, at once.
    """
    from plait.backends.onnx import to_onnx as export

    return export(lower(source), **({} if opset is None else {"opset": opset}))


def save_onnx(source: Any, path: str | Path, *, opset: int | None = None) -> None:
    """Write a graph (or what `lower` takes) as an ONNX file; above 1 GB its weights go to `<path>.data`.

    Raises:
        CompileError: with all ops that ONNX has no counterpart for, at once.
        InputError: the path is not writable.
    """
    from plait.backends.onnx import save_onnx as save

    save(lower(source), path, **({} if opset is None else {"opset": opset}))


def to_nir(source: Any) -> nir.NIRGraph:
    """The NIR graph that a graph (or what `lower` takes) came from, with the numbers of its constants.

    Raises:
        InputError: the graph did not come from NIR, or passes have rewritten it.
        LoweringError: `nir` is not installed.
    """
    from plait.frontends.nir import to_nir as export

    return export(lower(source))


def write_nir(source: Any, path: str | Path) -> None:
    """Write a graph that came from NIR as a `.nir` file; see `to_nir`.

    Raises:
        InputError: the graph cannot be written as NIR, or the path is not writable.
        LoweringError: `nir` is not installed.
    """
    from plait.frontends.nir import write_nir as write

    write(lower(source), path)


def load(path: str | Path) -> Graph | Executable:
    """Read a saved graph or a saved executable.  Raises InputError when the file is missing or damaged."""
    if EXECUTABLE_MANIFEST not in archive.entries(path):
        return archive.load(path)
    from plait.backends import load_executable

    return load_executable(path)


def diff(before: Any, after: Any) -> GraphDiff:
    """What makes two graphs (or things that `lower` takes) differ, op by op."""
    return diff_graphs(lower(before), lower(after))
