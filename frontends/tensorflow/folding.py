"""Partial evaluation: nodes on known numbers and dims are computed while lowering.

Nodes whose inputs are all numbers are computed by TensorFlow itself.  Shape
arithmetic on symbolic dims is computed here: each function takes arrays of Python
ints and dims and returns one, or None where dims cannot express the result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from plait.frontends.nodes import decide
from plait.frontends.nodes.arithmetic import comparison, pairwise
from plait.frontends.nodes.operand import object_array
from plait.frontends.tensorflow.attributes import output_count
from plait.frontends.tensorflow.call import Call
from plait.frontends.tensorflow.operand import Operand
from plait.frontends.tensorflow.slices import numpy_index
from plait.ir import Dim
from plait.ir import types as t
from plait.ir.types import dtype_of

Numbers = np.ndarray
Fold = Callable[[Call, "list[Numbers]"], "Numbers | list[Numbers] | None"]

#: Largest number of elements that an op which enlarges its input may give.
LIMIT = 4096
#: Largest number of elements of any folded input.
DATA_LIMIT = 1 << 24
_ENLARGING = {
    "BroadcastTo",
    "Fill",
    "LinSpace",
    "MatrixDiag",
    "MatrixDiagV3",
    "OneHot",
    "Pad",
    "PadV2",
    "Range",
    "Tile",
}
#: Rules that hand known numbers through themselves.
_TRANSPARENT = {
    "EnsureShape", "Identity", "IdentityN", "PreventGradient", "Snapshot", "StopGradient",
}  # fmt: skip
_FOLDS: dict[str, Fold] = {}


def folds(*op_types: str) -> Callable[[Fold], Fold]:
    """Decorator that registers the evaluation of ops on dims."""

    def register(function: Fold) -> Fold:
        _FOLDS.update(dict.fromkeys(op_types, function))
        return function

    return register


def folds_dims(op_type: str) -> bool:
    """Whether an op can be evaluated on dims."""
    return op_type in _FOLDS


def fold(call: Call) -> list[Operand] | None:
    """The outputs of a node as known numbers; None where it has to be lowered to ops."""
    operands = [item for item in call.inputs if isinstance(item, Operand)]
    if not operands or len(operands) != len(call.inputs) or call.op_type in _TRANSPARENT:
        return None
    numbers = [operand.numbers for operand in operands if operand.numbers is not None]
    if len(numbers) != len(operands):
        return None
    if not any(operand.symbolic for operand in operands):
        return _evaluate(call, numbers)
    function = _FOLDS.get(call.op_type)
    if function is None or any(
        operand.numbers is not None and operand.numbers.size > LIMIT for operand in operands
    ):
        return None
    found = function(call, numbers)
    if found is None:
        return None
    element = _element(call)
    return [Operand.known(n, element) for n in (found if isinstance(found, list) else [found])]


def _element(call: Call) -> t.DType:
    if call.op_type in _COMPARISONS:
        return t.boolean
    if call.op_type == "Cast":
        return call.element_attribute("DstT")
    return call.element(1 if call.op_type in ("Select", "SelectV2", "Fill") else 0)


# -- numbers only -------------------------------------------------------------------
def _evaluate(call: Call, numbers: list[Numbers]) -> list[Operand] | None:
    """The node computed by TensorFlow; movement of elements keeps the name of a constant."""
    import tensorflow as tf
    from tensorflow.python.eager.context import context
    from tensorflow.python.eager.execute import quick_execute

    if sum(n.size for n in numbers) > DATA_LIMIT or not _worth_it(call, numbers):
        return None
    definition = call.lowering.definition(call.op_type)
    if definition is None or definition.is_stateful or any(a.type == "func" for a in definition.attr):
        return None
    if any(
        tf.dtypes.as_dtype(a.type or tf.float32) in (tf.variant, tf.resource, tf.string)
        for a in definition.output_arg
    ):
        return None
    attributes: list[Any] = []
    for name, given in call.attributes.items():
        if isinstance(given, Operand) or given is None:
            return None
        attributes += [name, given]
    try:
        found = quick_execute(
            call.op_type,
            sum(output_count(argument, call.attributes) for argument in definition.output_arg),
            [tf.constant(n) for n in numbers],
            tuple(attributes),
            context(),
        )
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise call.error(
            "its inputs do not fit the op", why=str(error).splitlines()[0], remedy="run the model once"
        ) from error
    results = [np.asarray(r) for r in found]
    name = call.operand(0).name if call.op_type in _MOVEMENT else ""
    return [Operand.known(n, dtype_of(n.dtype), name or call.name) for n in results]


#: Ops that keep the elements; constants keep their names through them.
_MOVEMENT = {"Cast", "ExpandDims", "Reshape", "Squeeze", "Transpose"}


def _worth_it(call: Call, numbers: list[Numbers]) -> bool:
    if any(n.dtype.kind not in "fiubV" and n.dtype.kind != "c" for n in numbers):
        return False
    if call.op_type not in _ENLARGING:
        return True
    sizes = {"Fill": 0, "BroadcastTo": 1, "Tile": 1}
    if call.op_type in sizes:
        count = float(np.prod(numbers[sizes[call.op_type]], dtype=np.float64))
        return count * (numbers[0].size if call.op_type == "Tile" else 1) <= LIMIT
    if call.op_type == "Range":
        start, limit, delta = (n.reshape(()).item() for n in numbers)
        return bool(delta) and abs((limit - start) / delta) <= LIMIT
    return sum(n.size for n in numbers) <= LIMIT


# -- elementwise on dims ----------------------------------------------------------------
_COMPARISONS = {
    "Equal": "==",
    "NotEqual": "!=",
    "Less": "<",
    "LessEqual": "<=",
    "Greater": ">",
    "GreaterEqual": ">=",
}


@folds(*_COMPARISONS)
def _compare(call: Call, numbers: list[Numbers]) -> Numbers | None:
    return pairwise(numbers[0], numbers[1], comparison(_COMPARISONS[call.op_type], call.ranges))


@folds(
    "Add",
    "AddV2",
    "Sub",
    "Mul",
    "FloorDiv",
    "Div",
    "RealDiv",
    "FloorMod",
    "Maximum",
    "Minimum",
)
def _binary(call: Call, numbers: list[Numbers]) -> Numbers | None:
    ranges = call.ranges

    def divide(a: Any, b: Any) -> Any:
        if isinstance(b, int) and b == 0:
            return None
        if call.op_type == "FloorDiv" or (call.op_type == "Div" and call.element(0).is_integer):
            return a // b
        return a // b if (a // b) * b == a else None

    table: dict[str, Callable[[Any, Any], Any]] = {
        "Add": operator.add,
        "AddV2": operator.add,
        "Sub": operator.sub,
        "Mul": operator.mul,
        "FloorDiv": divide,
        "Div": divide,
        "RealDiv": divide,
        "FloorMod": lambda a, b: None if b == 0 else a % b,
        "Maximum": lambda a, b: decide.larger(a, b, ranges),
        "Minimum": lambda a, b: decide.smaller(a, b, ranges),
    }
    return pairwise(numbers[0], numbers[1], table[call.op_type])


@folds("Neg")
def _negative(call: Call, numbers: list[Numbers]) -> Numbers:
    return -numbers[0]


@folds("Cast")
def _cast(call: Call, numbers: list[Numbers]) -> Numbers | None:
    element = call.element_attribute("DstT")
    return numbers[0] if element.is_integer or element.is_float else None


@folds("Floor", "Ceil", "Round", "Rint")
def _rounded(call: Call, numbers: list[Numbers]) -> Numbers:
    return numbers[0]  # dims are whole


@folds("Select", "SelectV2")
def _select(call: Call, numbers: list[Numbers]) -> Numbers | None:
    if numbers[0].dtype == object:
        return None
    return np.where(numbers[0], numbers[1].astype(object), numbers[2].astype(object))


# -- reductions -----------------------------------------------------------------------
@folds("Prod", "Sum", "Max", "Min")
def _reduce(call: Call, numbers: list[Numbers]) -> Numbers | None:
    x, ranges = numbers[0], call.ranges
    pair: dict[str, Callable[[Any, Any], Any]] = {
        "Prod": operator.mul,
        "Sum": operator.add,
        "Max": lambda a, b: decide.larger(a, b, ranges),
        "Min": lambda a, b: decide.smaller(a, b, ranges),
    }
    axes = [int(n) for n in numbers[1].reshape(-1)]
    if not axes:
        return x
    if x.ndim > 1:
        return None
    total = x.reshape(-1)[0]
    for element in x.reshape(-1)[1:]:
        total = pair[call.op_type](total, element)
    return object_array([total]).reshape((1,) * x.ndim if call.flag("keep_dims") else ())


# -- movement ---------------------------------------------------------------------------
@folds("GatherV2", "Gather")
def _gather(call: Call, numbers: list[Numbers]) -> Numbers | None:
    if numbers[1].dtype == object or call.integer("batch_dims"):
        return None
    axis = int(numbers[2].reshape(())) if len(numbers) > 2 else 0
    return np.asarray(np.take(numbers[0], numbers[1].astype(np.int64), axis=axis), dtype=object)


@folds("ConcatV2")
def _concat(call: Call, numbers: list[Numbers]) -> Numbers:
    parts = [array.astype(object) for array in numbers[:-1]]
    return np.concatenate(parts, axis=int(numbers[-1].reshape(())))


@folds("Pack")
def _pack(call: Call, numbers: list[Numbers]) -> Numbers:
    return np.stack([array.astype(object) for array in numbers], axis=call.integer("axis"))


@folds("Unpack")
def _unpack(call: Call, numbers: list[Numbers]) -> list[Numbers]:
    moved = np.moveaxis(numbers[0], call.integer("axis"), 0)
    return [np.asarray(part, dtype=object) for part in moved]


@folds("Split", "SplitV")
def _split(call: Call, numbers: list[Numbers]) -> list[Numbers] | None:
    if call.op_type == "Split":
        return np.split(numbers[1], call.integer("num_split"), axis=int(numbers[0].reshape(())))
    if numbers[1].dtype == object:
        return None
    return np.split(numbers[0], np.cumsum(numbers[1])[:-1].tolist(), axis=int(numbers[2].reshape(())))


@folds("StridedSlice")
def _strided_slice(call: Call, numbers: list[Numbers]) -> Numbers | None:
    if any(n.dtype == object for n in numbers[1:]):
        return None
    return np.asarray(numbers[0][numpy_index(call)], dtype=object)


@folds("Slice")
def _slice(call: Call, numbers: list[Numbers]) -> Numbers | None:
    if any(n.dtype == object for n in numbers[1:]):
        return None
    starts, sizes = numbers[1].tolist(), numbers[2].tolist()
    return numbers[0][tuple(slice(a, None if n < 0 else a + n) for a, n in zip(starts, sizes, strict=True))]


@folds("Reshape")
def _reshape(call: Call, numbers: list[Numbers]) -> Numbers | None:
    return (
        None if numbers[1].dtype == object else numbers[0].reshape([int(n) for n in numbers[1].reshape(-1)])
    )


@folds("Squeeze")
def _squeeze(call: Call, numbers: list[Numbers]) -> Numbers:
    return np.squeeze(numbers[0], axis=call.integers("squeeze_dims") or None)


@folds("ExpandDims")
def _expand_dims(call: Call, numbers: list[Numbers]) -> Numbers:
    return np.expand_dims(numbers[0], int(numbers[1].reshape(())))


@folds("ReverseV2")
def _reverse(call: Call, numbers: list[Numbers]) -> Numbers:
    return np.flip(numbers[0], axis=tuple(int(n) for n in numbers[1]))


@folds("Fill", "BroadcastTo", "Tile")
def _stretch(call: Call, numbers: list[Numbers]) -> Numbers | None:
    shape, x = (numbers[0], numbers[1]) if call.op_type == "Fill" else (numbers[1], numbers[0])
    if shape.dtype == object or float(np.prod(shape, dtype=np.float64)) * x.size > LIMIT:
        return None
    if call.op_type == "Tile":
        return np.tile(x, shape.tolist())
    return np.broadcast_to(x, tuple(int(n) for n in shape)).copy()


@folds("BroadcastArgs")
def _broadcast_shapes(call: Call, numbers: list[Numbers]) -> Numbers:
    left, right = (list(n.reshape(-1)) for n in numbers)
    rank = max(len(left), len(right))
    pairs = zip([1] * (rank - len(left)) + left, [1] * (rank - len(right)) + right, strict=True)
    return object_array([b if not isinstance(a, Dim) and a == 1 else a for a, b in pairs])
