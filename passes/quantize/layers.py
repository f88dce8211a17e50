"""Convolutions and dense layers as matrix products, and rounding their weights one by one.

A layer with weights is y = W @ C for each of its groups, where W is [outputs, taps] and the
columns C [taps, samples] hold what each output position reads.  Methods that choose how to
round weights see this form only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from plait.ir import Constant, Graph, Op, Value
from plait.ir.ops import linalg, nn
from plait.ir.reference.nn_conv import pad_axes, split_pads
from plait.ir.reference.tensors import from_numpy
from plait.passes.quantize.calibrate import Batch, Item, batches_of, observe_values
from plait.passes.quantize.insert import weights_to_quantise
from plait.passes.quantize.scheme import Grid, OpScheme, Scheme, grid_of_weight

Convolved = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS: tuple[type[Convolved], ...] = get_args(Convolved)
#: Elements of C that are held at once.
_CHUNK = 1 << 24

#: Makes the grid of a weight from its scheme, its data and its name.
WeightGrid = Callable[[Scheme, np.ndarray, str], Grid]


@dataclass(frozen=True)
class Layer:
    """An op with a constant weight, as a matrix product."""

    op: Op

    @property
    def x(self) -> Value:
        """The activations that it reads."""
        return self.op.left if isinstance(self.op, linalg.Matmul) else self.op.x  # type: ignore[attr-defined]

    @property
    def w(self) -> Value:
        """The weight that it reads."""
        return self.op.right if isinstance(self.op, linalg.Matmul) else self.op.w  # type: ignore[attr-defined]

    @property
    def groups(self) -> int:
        return self.op.groups if isinstance(self.op, CONVOLUTIONS) else 1

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight, or a tensor of its shape, as [groups, outputs, taps]."""
        if isinstance(self.op, linalg.Matmul):
            return weight.T.unsqueeze(0)
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def weight(self, matrix: torch.Tensor) -> torch.Tensor:
        """The inverse of `matrix`."""
        if isinstance(self.op, linalg.Matmul):
            return matrix.squeeze(0).T
        return matrix.reshape([int(dim) for dim in self.w.shaped.shape])  # type: ignore[call-overload]

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        """C [groups, taps, samples] for activations x; samples are batch times output positions."""
        op = self.op
        if not isinstance(op, CONVOLUTIONS):
            return x.reshape(-1, x.shape[-1]).T.unsqueeze(0)
        taps = self.w.shaped.shape[2:]
        x = pad_axes(x, *split_pads(op.pad, op.spatial))
        for axis, (size, stride, dilation) in enumerate(zip(taps, op.stride, op.dilation, strict=True)):
            assert isinstance(size, int)
            x = x.unfold(2 + axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
        # [batch, channels, positions.., taps..] -> [groups, channels/groups * taps, batch * positions]
        batch, channels, *rest = x.shape
        positions, kernel = rest[: op.spatial], rest[op.spatial :]
        x = x.reshape(batch, op.groups, channels // op.groups, *positions, *kernel)
        order = (1, 2, *range(3 + op.spatial, 3 + 2 * op.spatial), 0, *range(3, 3 + op.spatial))
        return x.permute(order).reshape(op.groups, channels // op.groups * math.prod(kernel), -1)

    def chunks(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Activations in parts along the first axis whose columns fit in memory."""
        if not isinstance(self.op, CONVOLUTIONS):
            x = x.reshape(-1, x.shape[-1])
        growth = math.prod(map(int, self.w.shaped.shape[2:])) if isinstance(self.op, CONVOLUTIONS) else 1  # type: ignore[arg-type]
        each = max(1, x[:1].numel() * growth)
        yield from x.split(max(1, _CHUNK // each))


def layers_of(graph: Graph, schemes: Mapping[str, OpScheme]) -> list[tuple[Layer, Constant, Scheme]]:
    """The layers whose weights are quantised, with weight and scheme, but for stacks of matrices."""
    return [
        (Layer(op), weight, scheme)
        for op, weight, scheme in weights_to_quantise(graph, schemes)
        if not isinstance(op, linalg.Matmul) or weight.shaped.rank == 2
    ]


def elementwise(grid: Grid, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of each element of a tensor, in float64."""
    spread = (np.broadcast_to(grid.spread(p, len(shape)), shape) for p in (grid.scale, grid.zero_point))
    scale, zero = (torch.from_numpy(array.astype(np.float64)) for array in spread)
    return scale, zero


def stored_array(stored: torch.Tensor, scheme: Scheme) -> np.ndarray:
    """Whole numbers as the int8 or uint8 array that a scheme stores."""
    return stored.cpu().numpy().astype(np.int8 if scheme.signed else np.uint8)


class Rounding(ABC):
    """Chooses the stored integers of the weight of one layer from what the layer reads."""

    #: Whether `see` wants the activations of the float graph too.
    wants_reference = False

    @abstractmethod
    def see(self, x: torch.Tensor, reference: torch.Tensor) -> None:
        """Take in activations, and those of the float graph (or the same once more)."""

    @abstractmethod
    def stored(self) -> np.ndarray:
        """The stored integers, of the shape of the weight."""


def round_in_order(
    graph: Graph,
    schemes: Mapping[str, OpScheme],
    data: Iterable[Item],
    make: Callable[[Layer, Constant, Grid], Rounding],
    *,
    weight_grid: WeightGrid = grid_of_weight,
    dims: Mapping[str, int] | None = None,
    limit: int | None = None,
) -> tuple[dict[str, Grid], dict[str, np.ndarray]]:
    """Round the weights of all layers from front to back.

    Each layer sees the activations that come out of the layers rounded before it, so that it
    makes up for their errors.  Activations themselves stay unrounded.  The graph runs, up to
    the layer, once for each group of layers that read one value.

    Returns:
        Grids and stored integers by name of the op, as `insert_qdq` takes them.

    Raises InputError as `batches_of` and `observe_values` do.
    """
    batches = batches_of(graph, data, limit)
    replaced: dict[str, torch.Tensor] = {}
    grids: dict[str, Grid] = {}
    stored: dict[str, np.ndarray] = {}
    done: dict[tuple[str, Scheme], str] = {}
    together: dict[Value, list[tuple[Layer, Constant, Scheme]]] = {}
    for entry in layers_of(graph, schemes):
        together.setdefault(entry[0].x, []).append(entry)
    for value, entries in together.items():
        pending: list[tuple[Layer, Constant, Rounding]] = []
        for layer, weight, scheme in entries:
            name, key = layer.op.name, (weight.name, scheme)
            if key in done:  # one weight that several layers read is stored once
                grids[name], stored[name] = grids[done[key]], stored[done[key]]
                continue
            grids[name] = weight_grid(scheme, weight.data, str(weight))
            done[key] = name
            pending.append((layer, weight, make(layer, weight, grids[name])))
        wants_reference = any(rounding.wants_reference for *_, rounding in pending)
        for batch in batches if pending else ():
            x = _taken(graph, batch, value, replaced, dims)
            apart = wants_reference and replaced
            reference = _taken(graph, batch, value, None, dims) if apart else x
            for *_, rounding in pending:
                rounding.see(x, reference)
        for layer, weight, rounding in pending:
            name = layer.op.name
            stored[name] = rounding.stored()
            if weight.name not in replaced:
                real = grids[name].dequantise(stored[name]).astype(weight.data.dtype)
                replaced[weight.name] = from_numpy(real)
    return grids, stored


def _taken(
    graph: Graph,
    batch: Batch,
    value: Value,
    constants: Mapping[str, torch.Tensor] | None,
    dims: Mapping[str, int] | None,
) -> torch.Tensor:
    """The tensor that a value outside of loops takes on a batch."""
    found: list[torch.Tensor] = []

    def visit(_: str, x: torch.Tensor) -> None:
        found.append(x)

    observe_values(graph, [batch], [value.name], visit, constants=constants, dims=dims)
    return found[0]
