"""From a float graph to the quantise-dequantise (QDQ) form: where grids go, and writing them there.

Every quantised activation is followed by `quant.quantize` and `quant.dequantize`, and the
quantised readers read the latter; weights become constants of stored integers.  The graph still
computes in floating point, on rounded numbers.  ONNX's QDQ models have this form, and
`raise-quantized` turns it into integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from plait.ir import Constant, Graph, InputError, Loc, Op, QuantType, TensorType, Value
from plait.ir.errors import did_you_mean
from plait.ir.ops import core, linalg, nn, quant
from plait.passes.quantize.scheme import Grid, OpScheme, Scheme, grid_of_weight

#: Ops that multiply: their activations, and their constant weights, are quantised.
CONTRACTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, linalg.Matmul)
#: Ops that are quantised where a quantised op reads their result.
CARRIERS = (core.Add, core.Mean, core.Concat, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
#: Ops that give back elements of their operand: the result has the operand's grid.
MOVES = (core.Reshape, core.Broadcast, core.Transpose, core.Slice, core.Flip, nn.MaxPool2d)
#: What a rule may select.
ABLE: tuple[type[Op], ...] = (*CONTRACTIONS, *CARRIERS)

NAME = "insert-qdq"


def weight_of(op: Op) -> Constant | None:
    """The constant weight of a contraction, or None where it has none."""
    value = op.right if isinstance(op, linalg.Matmul) else getattr(op, "w", None)
    return value if isinstance(value, Constant) and isinstance(value.type, TensorType) else None


def weight_scheme(op: Op, scheme: Scheme) -> Scheme:
    """A weight's scheme with its axis of outputs: the first, or the last of a matrix product's operand."""
    if isinstance(op, linalg.Matmul) and scheme.axis == 0:
        assert weight_of(op) is not None
        return replace(scheme, axis=op.right.shaped.rank - 1)
    return scheme


def activations_of(op: Op) -> list[Value]:
    """The computed floating-point operands of an op that quantisation rounds; none where it cannot."""
    if isinstance(op, linalg.Matmul):
        values: tuple[Value, ...] = (op.left, op.right)
    elif isinstance(op, CONTRACTIONS):
        values = op.operands[:1]
    else:
        values = op.operands
    computed = [value for value in values if not isinstance(value, Constant)]
    if isinstance(op, CARRIERS) and len(computed) < len(values):
        return []  # a constant summand has no grid
    floats = [v for v in computed if isinstance(v.type, TensorType) and v.type.dtype.is_float]
    return floats if len(floats) == len(computed) else []


@dataclass(frozen=True)
class Placement:
    """Which values get a grid.

    Attributes:
        schemes: by name of the value.
        moved: values that share the grid of another, by name: results of moves.
        readers: names of the ops that read quantised values.
    """

    schemes: dict[str, Scheme]
    moved: dict[str, str] = field(default_factory=dict)
    readers: frozenset[str] = frozenset()

    def source(self, name: str) -> str:
        """The value whose grid a value has."""
        while name in self.moved:
            name = self.moved[name]
        return name

    @property
    def measured(self) -> dict[str, Scheme]:
        """The values whose range must be known, with their schemes."""
        return {name: scheme for name, scheme in self.schemes.items() if name not in self.moved}


def joined(left: Scheme | None, right: Scheme) -> Scheme:
    """The scheme of a value that readers want in two: the wider, symmetric and signed if either is."""
    if left is None or left == right:
        return right
    return replace(
        left if left.bits >= right.bits else right,
        symmetric=left.symmetric or right.symmetric,
        signed=left.signed or right.signed,
    )


def place(graph: Graph, schemes: Mapping[str, OpScheme]) -> Placement:
    """Which values to quantise so that the chosen ops read quantised operands.

    Contractions ask for their activations; sums, means, pooling and concatenation do where
    what reads their result is quantised; moves hand the wish on to their operand.  Both operands of a
    product of two activations are symmetric and signed: their zero points would cost two more sums.

    Args:
        schemes: by name of the op.  Only ops outside of regions are placed.
    """
    wanted: dict[str, Scheme] = {}
    moved: dict[str, str] = {}
    readers: set[str] = set()
    for op in reversed(list(graph.ops)):
        chosen = schemes.get(op.name)
        if isinstance(op, MOVES) and op.name in wanted:
            source = op.operands[0]
            if not isinstance(source, Constant):
                wanted[source.name] = joined(wanted.get(source.name), wanted[op.name])
                moved[op.name] = source.name
                readers.add(op.name)
            continue
        if chosen is None or chosen.activation is None:
            continue
        if isinstance(op, CARRIERS) and op.name not in wanted:
            continue
        if isinstance(op, CONTRACTIONS) and not isinstance(op, linalg.Matmul) and weight_of(op) is None:
            continue
        values = activations_of(op)
        scheme = chosen.activation
        if isinstance(op, linalg.Matmul) and len(values) > 1:
            scheme = replace(scheme, symmetric=True, signed=True)
        for value in values:
            wanted[value.name] = joined(wanted.get(value.name), scheme)
        if values:
            readers.add(op.name)
    for name, source_name in moved.items():
        wanted[name] = wanted[source_name]
    return Placement(wanted, moved, frozenset(readers))


def weights_to_quantise(
    graph: Graph, schemes: Mapping[str, OpScheme]
) -> Iterator[tuple[Op, Constant, Scheme]]:
    """The contractions whose constant weights are quantised, with the weight and its scheme."""
    for op in graph.ops:
        chosen = schemes.get(op.name)
        weight = weight_of(op) if isinstance(op, CONTRACTIONS) else None
        if chosen is not None and chosen.weight is not None and weight is not None:
            yield op, weight, weight_scheme(op, chosen.weight)


def weight_grids_of(graph: Graph, schemes: Mapping[str, OpScheme]) -> dict[str, Grid]:
    """The grid of each weight, from its smallest to its largest element, by name of the op."""
    return {
        op.name: grid_of_weight(scheme, weight.data, str(weight))
        for op, weight, scheme in weights_to_quantise(graph, schemes)
    }


def insert_qdq(
    graph: Graph,
    schemes: Mapping[str, OpScheme],
    activation_grids: Mapping[str, Grid],
    weight_grids: Mapping[str, Grid] | None = None,
    stored: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """A copy of a graph in QDQ form.

    Args:
        schemes: how each op is quantised, by the name of its result.
        activation_grids: by name of the value; those that `place(graph, schemes).measured` names.
        weight_grids: by name of the op; by default from the smallest to the largest weight.
        stored: the weights' stored integers by name of the op; by default the nearest.

    A value %v gives %v.quantized and %v.dequantized, a weight @w gives @w.quantized.

    Raises InputError for a grid that is missing, or one whose value the graph does not have.
    """
    placement = place(graph, schemes)
    missing = [name for name in placement.measured if name not in activation_grids]
    if missing:
        raise InputError(
            f"there is no grid for %{missing[0]}",
            where=f"graph @{graph.name}",
            why=f"{len(missing)} of {len(placement.measured)} quantised values lack one",
            remedy="calibrate the values that place(graph, schemes).measured names",
        )
    names = {value.name for value in graph.values()}
    for name in activation_grids:
        if name not in names:
            raise InputError(f"the graph has no value %{name}{did_you_mean(name, names)}")
    copy = graph.clone()
    grids = {**weight_grids_of(graph, schemes), **(weight_grids or {})}
    _quantise_activations(copy, placement, activation_grids)
    _quantise_weights(copy, schemes, grids, stored or {})
    copy.verify()
    return copy


def _quantise_activations(graph: Graph, placement: Placement, grids: Mapping[str, Grid]) -> None:
    ops = list(graph.ops)
    following = dict(zip(ops, [*ops[1:], None], strict=True))
    rounded: dict[Value, Value] = {}
    for value in [*graph.inputs, *(result for op in ops for result in op.results)]:
        if value.name not in placement.schemes:
            continue
        producer = value.producer
        before = following[producer] if producer is not None else ops[0]
        readers = [user for user in value.users if isinstance(user, Op)]
        loc = producer.loc if producer is not None else readers[0].loc if readers else Loc()
        grid = grids[placement.source(value.name)]
        kind = grid.scheme.type_of(value.shaped.shape, shortest(grid.scale), int(grid.zero_point))
        options = {"loc": loc.via(NAME), "before": before}
        stored = graph.emit(quant.Quantize(value, out=kind), name=f"{value.name}.quantized", **options)
        rounded[value] = graph.emit(quant.Dequantize(stored), name=f"{value.name}.dequantized", **options)
    for op in ops:
        if op.name in placement.readers:
            taken = set(activations_of(op) if isinstance(op, ABLE) else op.operands[:1])
            _exchange(op, {value: rounded[value] for value in taken if value in rounded})


def _exchange(op: Op, by: Mapping[Value, Value]) -> None:
    """Let an op read other values."""
    op.set_operands(lambda value: by.get(value, value))


def _quantise_weights(
    graph: Graph,
    schemes: Mapping[str, OpScheme],
    grids: Mapping[str, Grid],
    stored: Mapping[str, np.ndarray],
) -> None:
    made: dict[tuple[str, bytes], Constant] = {}
    for op, weight, _ in list(weights_to_quantise(graph, schemes)):
        grid = grids[op.name]
        array = np.ascontiguousarray(stored.get(op.name, grid.quantise(weight.data)))
        key = (weight.name, array.tobytes() + grid.scale.tobytes())
        constant = made.get(key)
        if constant is None:
            kind = _weight_type(graph, weight, grid)
            name = graph.free_name(f"{weight.name}.quantized")
            constant = made[key] = graph.add_constant(name, array, kind)
        loc = op.loc.via(NAME)
        real: Value = graph.emit(
            quant.Dequantize(constant), name=f"{weight.name}.dequantized", loc=loc, before=op
        )
        if weight.shaped.dtype.name != "f32":
            kind_of_op = TensorType(weight.shaped.dtype, weight.shaped.shape)
            cast = core.Cast(real, out=kind_of_op)
            real = graph.emit(cast, name=f"{weight.name}.cast", loc=loc, before=op)
        _exchange(op, {weight: real})
        if not weight.users:
            graph.remove_constant(weight)


def _weight_type(graph: Graph, weight: Constant, grid: Grid) -> QuantType:
    """The quantised type of a weight; scales per slice are added as constants."""
    shape = weight.shaped.shape
    if grid.scale.ndim == 0:
        return grid.scheme.type_of(shape, shortest(grid.scale), int(grid.zero_point))
    scale = graph.add_constant(graph.free_name(f"{weight.name}.scale"), grid.scale)
    zero: int | str = int(grid.zero_point.reshape(-1)[0])
    if np.any(grid.zero_point != zero):
        zero = graph.add_constant(graph.free_name(f"{weight.name}.zero_point"), grid.zero_point).name
    return grid.scheme.type_of(shape, scale.name, zero)


def shortest(scale: np.ndarray) -> float:
    """A float32 number as the float with the fewest digits that rounds to it."""
    return float(str(np.float32(scale)))
