"""Which share of a model's multiply-adds runs on the tensor cores of an A100, and whether kernels spill.

Each model is compiled with f16 weights and inputs for `a100`, and with f32 ones.  An op counts as on tensor
cores when the machine code (SASS) of a kernel that computes it has HMMA instructions.  Ops whose
reduction and result channels divide by 8 are the ones that must be; depthwise convolutions
(as many groups as channels) have no product of matrices in them and are listed apart.  Modelled
times are those of the quality report (`plait compile --report`), from instruction counts, occupancy and
bandwidth; nothing is timed on a device.

Run: python bench/a100_tensor_cores.py [MODEL ...] [--batch N] [--json PATH]; all by default.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import write_results
from rich.console import Console
from rich.table import Table
from torch import nn

import plait
from plait.backends.cuda.sass import disassemble_images
from plait.backends.executable import Executable
from plait.frontends.families import example
from plait.ir import Graph, Op
from plait.ir.cost import op_cost
from plait.ir.ops import linalg
from plait.ir.ops import nn as layers

FAMILIES = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "efficientnet_b0",
    "densenet121",
    "vgg16",
    "convnext_tiny",
    "vit_tiny",
    "swin_tiny",
    "gpt2_small",
)
_CONVOLUTIONS = (layers.Conv1d, layers.Conv2d, layers.Conv3d)
_PRODUCTS = (*_CONVOLUTIONS, layers.Linear, linalg.Matmul, layers.Attention)
console = Console(highlight=False, width=150)


class Encoder(nn.Module):
    """A stack of transformer encoder layers of the size of BERT-base, on embedded tokens."""

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.encoder(tokens)
        return found


def perceptron(seed: int) -> nn.Module:
    """Three dense layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 16)
    )


def encoder(seed: int) -> nn.Module:
    """Twelve encoder layers."""
    torch.manual_seed(seed)
    return Encoder()


@dataclass(frozen=True)
class Model:
    """A model to compile: how it is built, and its inputs by batch size."""

    build: Callable[[int], nn.Module]
    inputs: Callable[[int, int], dict[str, torch.Tensor]]


MODELS: dict[str, Model] = {
    **{name: Model(example(name).build, example(name).inputs) for name in FAMILIES},
    "bert_base": Model(encoder, lambda batch, seed: {"tokens": torch.randn(batch, 128, 768)}),
    "mlp": Model(perceptron, lambda batch, seed: {"input": torch.randn(batch, 784)}),
}


def lowered(name: str, dtype: torch.dtype, batch: int) -> Graph:
    """The optimized graph of a model with all its numbers in `dtype`."""
    model = MODELS[name].build(0).eval().to(dtype)
    inputs = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in MODELS[name].inputs(batch, 0).items()
    }
    return plait.optimize(plait.lower(model, inputs, name=name))


def divides(op: Op) -> bool:
    """Whether the channels that a product reduces over, and those of its result, divide by 8."""
    if isinstance(op, _CONVOLUTIONS):
        outputs, channels = op.w.shaped.shape[:2]
        return channels % 8 == 0 and outputs // op.groups % 8 == 0
    if isinstance(op, layers.Linear):
        outputs, depth = op.w.shaped.shape
        return outputs % 8 == 0 and depth % 8 == 0
    if isinstance(op, linalg.Matmul):
        depth, columns = op.right.shaped.shape[-2:]
        return depth % 8 == 0 and columns % 8 == 0
    assert isinstance(op, layers.Attention)
    return op.q.shaped.shape[-1] % 8 == 0 and op.v.shaped.shape[-1] % 8 == 0


def is_depthwise(op: Op) -> bool:
    """Whether a convolution gives each channel a filter of its own."""
    return isinstance(op, _CONVOLUTIONS) and op.groups == op.x.shaped.shape[1] and op.groups > 1


def on_tensor_cores(executable: Executable, kernels: set[str]) -> set[str]:
    """Names of the ops all of whose products are in some of the kernels, those with HMMA instructions.

    Attention has a kernel for each of its two products; both must be.
    """
    counts: dict[str, int] = {}
    for kernel in executable.kernels:
        if kernel.name in kernels:
            for op in kernel.ops:
                counts[op] = counts.get(op, 0) + 1
    return {
        op.name
        for op in executable.graph.walk()
        if counts.get(op.name, 0) >= (2 if isinstance(op, layers.Attention) else 1)
    }


def measure(name: str, batch: int) -> dict[str, Any]:
    """One row: shares of multiply-adds on tensor cores in f16, spills and registers in f16 and f32."""
    started = time.perf_counter()
    executable = plait.compile(lowered(name, torch.float16, batch), target="a100", pipeline="")
    seconds = time.perf_counter() - started
    code = disassemble_images(executable.images)
    kernels = {name for name, held in code.items() if held.histogram()["HMMA"]}
    mapped = on_tensor_cores(executable, kernels)
    totals = executable.report().totals
    macs = {"divisible": [0, 0], "other": [0, 0], "depthwise": [0, 0]}
    missing = []
    for op in executable.graph.walk():
        if not isinstance(op, _PRODUCTS):
            continue
        count = int(op_cost(op, {}).macs or 0)
        kind = "depthwise" if is_depthwise(op) else "divisible" if divides(op) else "other"
        macs[kind][0] += count
        macs[kind][1] += count if op.name in mapped else 0
        if op.name not in mapped and kind == "divisible":
            missing.append(f"%{op.name}")
    full = plait.compile(lowered(name, torch.float32, batch), target="a100", pipeline="")
    return {
        "model": name,
        "batch": batch,
        "kernels": len(executable.kernels),
        "tensor_core_kernels": len(kernels),
        **{f"{kind}_macs": total for kind, (total, _) in macs.items()},
        **{f"{kind}_on_tensor_cores": found for kind, (_, found) in macs.items()},
        "missing": missing,
        "f16_spills": sum(kernel.spills or 0 for kernel in executable.kernels),
        "f16_registers": max(kernel.registers or 0 for kernel in executable.kernels),
        "f32_spills": sum(kernel.spills or 0 for kernel in full.kernels),
        "f32_registers": max(kernel.registers or 0 for kernel in full.kernels),
        "modelled_ms": totals.modelled_us / 1e3,
        "roofline_ms": totals.roofline_us / 1e3,
        "notes": sorted({note for kernel in executable.kernels for note in kernel.notes}),
        "compile_s": round(seconds, 1),
    }


def share(row: dict[str, Any], kind: str) -> str:
    """Percent of the multiply-adds of a kind that are on tensor cores."""
    total = row[f"{kind}_macs"]
    return f"{100 * row[f'{kind}_on_tensor_cores'] / total:.1f} %" if total else "none"


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title="multiply-adds on tensor cores, f16; registers and spills from the sm_80 assembler")
    for heading in (
        "model",
        "dims divide by 8",
        "other products",
        "depthwise GMAC",
        "kernels (HMMA)",
        "f16 spills",
        "f16 registers",
        "f32 spills",
        "f32 registers",
        "modelled / roofline ms",
        "ratio",
        "compile s",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        table.add_row(
            row["model"],
            share(row, "divisible"),
            share(row, "other"),
            f"{row['depthwise_macs'] / 1e9:.2f}",
            f"{row['kernels']} ({row['tensor_core_kernels']})",
            *(str(row[key]) for key in ("f16_spills", "f16_registers", "f32_spills", "f32_registers")),
            f"{row['modelled_ms']:.3f} / {row['roofline_ms']:.3f}",
            f"{row['modelled_ms'] / row['roofline_ms']:.2f}",
            str(row["compile_s"]),
        )
    console.print(table)


def main() -> None:
    """Measure the models named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/a100_tensor_cores.json")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        rows.append(measure(name, options.batch))
        write_results(options.json, "a100_tensor_cores", {"rows": rows})
        if rows[-1]["missing"]:
            console.print(f"{name}: not on tensor cores: {', '.join(rows[-1]['missing'])}")
    show(rows)


if __name__ == "__main__":
    main()
