"""The result of quantisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait.ir import Graph
from plait.passes.quantize.scheme import Grid, OpScheme

if TYPE_CHECKING:
    from plait.passes.quantize.mixed_precision import MixedPrecision
    from plait.passes.quantize.report import QuantizationReport


@dataclass(frozen=True)
class Quantized:
    """A quantised model and what it was made from.

    Attributes:
        graph: with integer arithmetic.
        qdq: the same computed on rounded floating-point numbers, with quantise-dequantise pairs.
        float_graph: what was quantised: optimised, and equalised or smoothed where that was asked for.
        schemes: what was requested, by name of the op in `float_graph`.
        grids: of activations, by name of the value.
        choice: the widths that a budget led to, with the sensitivity of each layer.
        remarks: what was done on the way, and what was left alone.
    """

    graph: Graph
    qdq: Graph
    float_graph: Graph
    schemes: Mapping[str, OpScheme]
    grids: Mapping[str, Grid]
    remarks: tuple[str, ...] = ()
    choice: MixedPrecision | None = field(default=None, compare=False)

    def report(self, data: Iterable[Any], dims: Mapping[str, int] | None = None) -> QuantizationReport:
        """Requested and effective precision per op, sizes, and signal-to-noise ratios on the first batch.

        Raises InputError when the data is empty.
        """
        from plait.passes.quantize.report import report_on

        return report_on(self, data, dims)
