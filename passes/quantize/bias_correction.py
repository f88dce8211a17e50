"""Bias correction: the mean error of a quantised layer is taken off its bias.

Rounding weights and activations shifts the mean of each output channel, and shifts add up from
layer to layer.  For y = W x + b and its rounded form y' = W' x' + b the shift is

    E[y'] - E[y] = W' E[x'] - W E[x],

which needs no more than the mean of what the layer reads (Nagel et al. 2019, arXiv 1906.04721,
section 4.2 and the empirical form of its appendix D).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from plait.ir import Constant, Graph, InputError
from plait.ir.ops import nn, quant
from plait.ir.reference.tensors import from_numpy
from plait.passes.constants import dense_data
from plait.passes.fold_batch_norm import bias_name
from plait.passes.quantize.calibrate import Batch, Item, batches_of, observe_values
from plait.passes.quantize.layers import CONVOLUTIONS, Convolved, Layer

NAME = "correct-biases"


def correct_biases(
    graph: Graph,
    quantised: Graph,
    data: Iterable[Item],
    dims: Mapping[str, int] | None = None,
    *,
    sequential: bool = True,
    limit: int | None = None,
) -> int:
    """Correct the biases of a graph in QDQ form, in place.

    Args:
        graph: the float graph.
        quantised: the same in QDQ form, ops under the same names.
        data: calibration batches, see `batches_of`.
        sequential: from front to back, each layer after those before it were corrected, for the
            whole shift E[y'] - E[y]; the graph runs up to each layer once.  Otherwise all at once,
            for the shift (W' - W) E[x] that the layer's own weights cause, which is cheaper but blind
            to what the layers before it do to x.

    Returns:
        How many biases changed; layers without one are given one.

    Raises:
        InputError: as `batches_of` and `observe_values` do, and where the quantised graph has no
            quantised layer that the float graph has under the same name.
    """
    pairs = _pairs(graph, quantised)
    batches = batches_of(graph, data, limit)
    means = _mean_columns(graph, [before for before, _ in pairs], batches, dims)
    weights = _weights(graph, [before for before, _ in pairs], batches, dims)
    rounded = _weights(quantised, [after for _, after in pairs], batches, dims)
    count = 0
    for before, after in pairs:
        name = before.op.name
        mean = _mean_columns(quantised, [after], batches, dims)[name] if sequential else means[name]
        shift = _product(after, rounded[name], mean) - _product(before, weights[name], means[name])
        count += _take_off(quantised, after.op, shift)  # type: ignore[arg-type]  # of those kinds
    return count


def _pairs(graph: Graph, quantised: Graph) -> list[tuple[Layer, Layer]]:
    """Layers whose weights or activations the quantised graph rounds, with the same in the float graph."""
    kinds = (*CONVOLUTIONS, nn.Linear)
    names = {op.name: op for op in graph.ops if isinstance(op, kinds)}
    found = [
        (Layer(names[op.name]), Layer(op))
        for op in quantised.ops
        if isinstance(op, kinds)
        and op.name in names
        and (not isinstance(op.w, Constant) or isinstance(op.x.producer, quant.Dequantize))
        and (op.b is None or dense_data(op.b) is not None)
    ]
    if not found:
        raise InputError(
            "there is no quantised convolution or dense layer to correct",
            where=f"graphs @{graph.name} and @{quantised.name}",
            why="layers of the QDQ form are paired with those of the float graph by name",
            remedy="pass the graph that insert_qdq was given, and what it gave back",
        )
    return found


def _mean_columns(
    graph: Graph, layers: Sequence[Layer], batches: Sequence[Batch], dims: Mapping[str, int] | None
) -> dict[str, torch.Tensor]:
    """E[C] [groups, taps] of what each layer reads, by name of the op."""
    readers: dict[str, list[Layer]] = {}
    for layer in layers:
        readers.setdefault(layer.x.name, []).append(layer)
    totals: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def visit(name: str, x: torch.Tensor) -> None:
        for layer in readers[name]:
            convolved = isinstance(layer.op, CONVOLUTIONS)
            samples = x.shape[0] if convolved else x.numel() // x.shape[-1]
            if not samples:
                continue
            wide = x.to(torch.float64)
            # The columns of a mean are the mean of the columns: one sample is unfolded, not all.
            mean = wide.mean(0, keepdim=True) if convolved else wide.reshape(-1, x.shape[-1]).mean(0)
            columns = layer.columns(mean)
            key = layer.op.name
            weight = samples * columns.shape[-1]
            totals[key] = totals.get(key, torch.zeros(())) + columns.mean(-1) * weight
            counts[key] = counts.get(key, 0) + weight

    observe_values(graph, batches, readers, visit, dims=dims)
    return {key: total / counts[key] for key, total in totals.items()}


def _weights(
    graph: Graph, layers: Sequence[Layer], batches: Sequence[Batch], dims: Mapping[str, int] | None
) -> dict[str, torch.Tensor]:
    """The weight that each layer multiplies by, in float64; dequantised ones are computed."""
    computed: dict[str, torch.Tensor] = {}
    names = {layer.w.name for layer in layers if not isinstance(layer.w, Constant)}
    observe_values(graph, batches[:1], names, lambda name, x: computed.update({name: x}), dims=dims)
    return {
        layer.op.name: (
            from_numpy(layer.w.data) if isinstance(layer.w, Constant) else computed[layer.w.name]
        ).to(torch.float64)
        for layer in layers
    }


def _product(layer: Layer, weight: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """W E[C] as one number for each output."""
    return (layer.matrix(weight) @ mean.unsqueeze(-1)).reshape(-1)


def _take_off(graph: Graph, op: Convolved | nn.Linear, shift: torch.Tensor) -> bool:
    """Subtract a shift from the bias of a layer; False where nothing changes."""
    old, held = dense_data(op.b), op.b
    total = (0.0 if old is None else old.astype(np.float64)) - shift.cpu().numpy()
    bias = total.astype(op.result.shaped.dtype.numpy)
    if old is not None and np.array_equal(bias, old):
        return False
    hint = held.name if held is not None else bias_name(op.name)
    constant = graph.add_constant(graph.free_name(f"{hint}.corrected"), bias)
    graph.replace(op, op.evolve(b=constant), loc=op.loc.via(NAME))
    if isinstance(held, Constant) and not held.users:
        graph.remove_constant(held)
    return True
