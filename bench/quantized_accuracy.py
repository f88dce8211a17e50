"""Accuracy after post-training quantisation of three trained networks, and integer results bit for bit.

A convnet, a residual net and a small vision transformer (`trained_networks.py`) are
quantised in several ways with some of their training images, compiled for the CPU, and
tested.  Of the integer graphs, all values that are integers (quantised tensors and 32-bit
sums) are made outputs of a copy, which the executable and the reference interpreter compute;
what integer ops compute must be equal.

Run: python bench/quantized_accuracy.py [--networks NETWORK ...] [--mnist FOLDER] [--json PATH]
Networks that are named replace their rows in the results and leave the others.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_results
from rich.table import Table
from trained_networks import NETWORKS, Images, accuracy, console, load, train

import plait
from plait.ir import Graph, QuantType, TensorType, Value
from plait.ir.cost import op_cost
from plait.ir.interpret import interpret
from plait.ir.ops import quant
from plait.ir.types import i32
from plait.passes.quantize.insert import CONTRACTIONS
from plait.passes.quantize.pipeline import quantize
from plait.passes.quantize.quantized import Quantized
from plait.passes.quantize.report import constant_bytes
from plait.passes.quantize.scheme import INT8, INT8_WEIGHT_ONLY, OpScheme, Scheme
from plait.passes.quantize.select import Rule

#: Percentage points that 8 bits may cost.
ALLOWED_LOSS = 0.5
#: Calibration batches of 32 images.
BATCHES = 8
A4 = Scheme(4, symmetric=False)
W4 = Scheme(4, axis=0, narrow=True)
W3 = Scheme(3, axis=0, narrow=True)


@dataclass(frozen=True)
class Way:
    """One way to quantise.

    Attributes:
        label: as shown.
        scheme: of all ops that can be quantised.
        options: of `quantize`.
        exact: compare all integers with the interpreter.
    """

    label: str
    scheme: OpScheme
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False


WAYS: tuple[Way, ...] = (
    Way("int8", INT8, exact=True),
    Way("int8, min-max", INT8, {"observer": "min-max"}),
    Way("int8, moving average", INT8, {"observer": "moving-average"}),
    Way("int8, percentile", INT8, {"observer": "percentile"}),
    Way("int8, entropy", INT8, {"observer": "entropy"}),
    Way("int8, equalised, biases corrected", INT8, {"equalize": True, "correct_biases": True}),
    Way("int8, smoothed 0.5", INT8, {"smooth": 0.5}),
    Way("int8 weights", INT8_WEIGHT_ONLY),
    Way("int4 weights", OpScheme(None, W4)),
    Way("int4 weights, GPTQ", OpScheme(None, W4), {"rounding": "gptq"}),
    Way("int4 weights, AdaRound", OpScheme(None, W4), {"rounding": "adaround"}),
    Way("int3 weights", OpScheme(None, W3)),
    Way("int3 weights, GPTQ", OpScheme(None, W3), {"rounding": "gptq"}),
    Way("int8 x int4", OpScheme(weight=W4), exact=True),
    Way("int8 x int4, GPTQ", OpScheme(weight=W4), {"rounding": "gptq"}),
    Way("int4 x int4", OpScheme(A4, W4), exact=True),
    Way("int4 x int4, GPTQ, biases", OpScheme(A4, W4), {"rounding": "gptq", "correct_biases": True}),
    Way(
        "int8 weights, int4 in groups of 32 in dense layers",
        INT8_WEIGHT_ONLY,
        {"rules": (Rule("op:nn.linear", OpScheme(None, Scheme(4, group=32))),)},
    ),
)  # fmt: skip


def executable_of(graph: Graph) -> Any:
    """The graph compiled for the CPU."""
    return plait.compile(graph, target="cpu", isolate=False, cache=False, threads=1)


def integers_of(graph: Graph) -> list[Value]:
    """The results of ops that are stored integers or sums of them."""
    return [
        value
        for op in graph.ops
        for value in op.results
        if isinstance(value.type, QuantType)
        or (isinstance(value.type, TensorType) and value.type.dtype is i32)
    ]


def with_outputs(graph: Graph, names: Iterable[str]) -> Graph:
    """A copy of a graph that returns the named values."""
    copy = graph.clone()
    copy.set_outputs([copy.value(f"%{name}") for name in names])
    return copy


def roundings_of(graph: Graph) -> list[Value]:
    """The integers that are rounded from floating-point numbers: where integer arithmetic begins."""
    return [op.result for op in graph.ops if isinstance(op, quant.Quantize)]


def without_roundings(graph: Graph) -> Graph:
    """A copy of a graph in which the results of `roundings_of` are inputs, behind the others."""
    copy = graph.clone()
    for value in roundings_of(copy):
        assert value.producer is not None
        given = copy.add_input(copy.free_name(f"{value.name}.given"), value.type)
        copy.replace_uses(value, given)
        copy.erase(value.producer)
    return copy


def compare_integers(graph: Graph, images: torch.Tensor) -> dict[str, Any]:
    """How many integers of a graph its executable and the interpreter compute, and how many differ.

    The interpreter is given what the executable rounded from floating-point numbers, such
    as the results of softmax, whose last bits depend on the order of sums; all integers that
    follow must be equal.

    Returns:
        `values` and `elements` that integer ops computed, `differing` elements, and the `first` value
        with one, by name, or None.  `rounded`: of the integers that were rounded from floats, the
        `elements`, how many are `differing` from those of the interpreter's own run, and by how much at most.
    """
    rounded = [value.name for value in roundings_of(graph)]
    names = [value.name for value in integers_of(graph) if value.name not in rounded]
    copy = with_outputs(graph, [*rounded, *names])
    found = executable_of(copy)(images.numpy())
    arrays = [np.asarray(array) for array in (found if isinstance(found, tuple) else (found,))]
    given = [torch.from_numpy(array) for array in arrays[: len(rounded)]]
    own = interpret(with_outputs(graph, rounded), [images]) if rounded else ()
    gaps = [(a.int() - b.int()).abs() for a, b in zip(given, own, strict=True)]
    exact = interpret(with_outputs(without_roundings(graph), names), [images, *given])
    differing = {
        name: int((array != wanted.numpy()).sum())
        for name, array, wanted in zip(names, arrays[len(rounded) :], exact, strict=True)
    }
    return {
        "values": len(names),
        "elements": sum(wanted.numel() for wanted in exact),
        "differing": sum(differing.values()),
        "first": next((name for name, count in differing.items() if count), None),
        "rounded": {
            "elements": sum(gap.numel() for gap in gaps),
            "differing": sum(int((gap > 0).sum()) for gap in gaps),
            "largest": max((int(gap.max()) for gap in gaps), default=0),
        },
    }


def integer_share(graph: Graph) -> float:
    """Share of the multiply-adds that are products of integers, 0..1."""
    total: float = 0
    integer: float = 0
    environment = dict.fromkeys(graph.dims, 1)
    for op in graph.ops:
        if isinstance(op, CONTRACTIONS):
            macs = op_cost(op, environment).macs or 0
            total += macs
            integer += macs if all(isinstance(value.type, QuantType) for value in op.operands[:2]) else 0
    return integer / total if total else 0.0


def measure(name: str, images: Images, seed: int, ways: Iterable[Way]) -> dict[str, Any]:
    """One network: trained, compiled in f32, and quantised in all ways."""
    trained = train(name, images, seed)
    example = images.test[:2]
    graph = plait.lower(trained.model, (example,), dynamic={"image": {0: "B"}}, name=name)
    reference = executable_of(graph)
    base = accuracy(reference, images)
    row: dict[str, Any] = {
        "network": name,
        "training_s": round(trained.seconds, 1),
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "f32_accuracy": base,
        "ways": [],
    }
    for way in ways:
        try:
            found = quantize(graph, images.batches(BATCHES), scheme=way.scheme, **way.options)
        except plait.PlaitError as problem:  # a way that does not suit a network leaves the others
            row["ways"].append({"way": way.label, "failure": str(problem).splitlines()[0]})
            continue
        row["ways"].append(entry(way, found, images, base))
        console.print(f"{name}: {row['ways'][-1]}")
    return row


def entry(way: Way, found: Quantized, images: Images, base: float) -> dict[str, Any]:
    """The figures of one way: accuracy in per cent, loss in points, sizes, and integers compared."""
    reached = accuracy(executable_of(found.graph), images)
    figures: dict[str, Any] = {
        "way": way.label,
        "accuracy": reached,
        "loss": round(base - reached, 4),
        "integer_macs": round(integer_share(found.graph), 4),
        "bytes": constant_bytes(found.graph),
        "bytes_f32": constant_bytes(found.float_graph),
    }
    if way.exact:
        figures["integers"] = compare_integers(found.graph, images.test[:16])
    return figures


def known_rows(options: argparse.Namespace, images: Images) -> dict[str, dict[str, Any]]:
    """The rows that stay, by network: those on the same data in the file where networks are named."""
    if options.networks is None or not options.json.is_file():
        return {}
    record = json.loads(options.json.read_text())
    same = (record["data"], record["seed"]) == (images.name, options.seed)
    return {row["network"]: row for row in record["rows"]} if same else {}


def faults(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is not as it must be: 8 bits that cost too much, or integers that differ."""
    found = []
    for row in rows:
        for way in row["ways"]:
            place = f"{row['network']}, {way['way']}"
            if way["way"] == WAYS[0].label and way.get("loss", 100.0) > ALLOWED_LOSS:
                found.append(f"{place}: " + (way.get("failure") or f"a loss of {way['loss']:.2f} points"))
            integers = way.get("integers")
            if integers and integers["differing"]:
                found.append(
                    f"{place}: {integers['differing']} integers differ, first in %{integers['first']}"
                )
    return found


def show(rows: Iterable[Mapping[str, Any]], images: Images) -> None:
    """The table on the terminal."""
    table = Table(title=f"{images.name}: accuracy in %, {len(images.test)} test images")
    for heading in ("network", "way", "accuracy", "loss", "integer MACs", "bytes", "integers = interpreter"):
        table.add_column(heading, justify="left" if heading in ("network", "way") else "right")
    for row in rows:
        table.add_row(row["network"], "f32", f"{row['f32_accuracy']:.2f}", "", "", "", "")
        for way in row["ways"]:
            if "failure" in way:
                table.add_row("", way["way"], way["failure"])
                continue
            integers = way.get("integers")
            same = "" if integers is None else f"{integers['elements'] - integers['differing']:,}"
            table.add_row(
                "",
                way["way"],
                f"{way['accuracy']:.2f}",
                f"{way['loss']:+.2f}",
                f"{way['integer_macs']:.1%}",
                f"1/{way['bytes_f32'] / way['bytes']:.2f}",
                same if integers is None else f"{same} of {integers['elements']:,}",
            )
    console.print(table)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="by default all")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's t10k files; by default digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=[way.label for way in WAYS], metavar="WAY")
    default = Path(__file__).parent / "results" / "quantized_accuracy.json"
    parser.add_argument("--json", type=Path, default=default)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # torch.export's own
    torch.set_num_threads(1)
    images = load(options.mnist)
    ways = [way for way in WAYS if options.ways is None or way.label in options.ways]
    known = known_rows(options, images)
    rows: list[dict[str, Any]] = []
    for name in options.networks or NETWORKS:
        known[name] = measure(name, images, options.seed, ways)
        rows = [known[each] for each in NETWORKS if each in known]
        record = {"data": images.name, "train": len(images.train), "test": len(images.test)}
        record |= {"seed": options.seed, "calibration_images": BATCHES * 32}
        write_results(options.json, "quantized_accuracy", {**record, "rows": rows})
    show(rows, images)
    wrong = faults(rows)
    if wrong:
        raise SystemExit("\n".join(wrong))
    console.print(f"details in {options.json}")


if __name__ == "__main__":
    main()
