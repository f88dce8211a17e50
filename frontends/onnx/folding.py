"""Partial evaluation of shape arithmetic: nodes on known numbers and dims are computed while lowering.

Each function computes one operator on known numbers and returns an array, or
None where the result depends on dim values in a way that dims cannot express.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from plait.frontends.nodes import decide
from plait.frontends.nodes.arithmetic import comparison, pairwise
from plait.frontends.nodes.operand import object_array
from plait.frontends.onnx.call import Call
from plait.frontends.onnx.operand import Operand
from plait.ir import Dim, DType, IntLike
from plait.ir import types as t

Numbers = np.ndarray
Fold = Callable[[Call, "list[Numbers]"], "Numbers | list[Numbers] | None"]

#: Largest number of elements that is folded; larger tensors are data, not shapes.
LIMIT = 4096
#: The same for floating point, where only scalars such as scales belong to shape arithmetic.
FLOAT_LIMIT = 16

_FOLDS: dict[str, Fold] = {}
_COMPARISONS = {"Equal": "==", "Less": "<", "LessOrEqual": "<=", "Greater": ">", "GreaterOrEqual": ">="}


def folds(*op_types: str) -> Callable[[Fold], Fold]:
    """Decorator that registers the evaluation of operators."""

    def register(function: Fold) -> Fold:
        _FOLDS.update(dict.fromkeys(op_types, function))
        return function

    return register


def fold(call: Call) -> list[Operand] | None:
    """The outputs of a node as known numbers; None where it has to be lowered to ops."""
    if call.domain not in ("", "ai.onnx"):
        return None
    function = _FOLDS.get(call.op_type)
    if function is None or not call.inputs:
        return None
    numbers = []
    for given in call.inputs:
        if given is not None and (given.numbers is None or not _small(given)):
            return None
        numbers.append(None if given is None else given.numbers)
    found = function(call, numbers)  # type: ignore[arg-type]  # absent inputs are None; the functions check
    if found is None:
        return None
    arrays = found if isinstance(found, list) else [found]
    element = _element(call)
    if any(array.size > LIMIT for array in arrays):
        return None
    return [Operand.known(array, element, name) for array, name in zip(arrays, call.outputs, strict=False)]


def _small(operand: Operand) -> bool:
    assert operand.numbers is not None
    if operand.element.is_float and not operand.symbolic:
        return operand.numbers.size <= FLOAT_LIMIT
    return operand.element.kind != "complex" and operand.numbers.size <= LIMIT


def _element(call: Call) -> DType:
    if call.op_type in _COMPARISONS:
        return t.boolean
    if call.op_type == "Cast":
        return call.element_of(call.integer("to", 1))
    if call.op_type == "Where":
        return call.element(1)
    return call.element(0)


# -- elementwise --------------------------------------------------------------------
def _pairwise(
    left: Numbers, right: Numbers, plain: Callable[..., Any], symbolic: Callable[[Any, Any], Any]
) -> Numbers | None:
    """`plain` on numpy arrays, or `symbolic` on each pair where dims are among the elements."""
    if left.dtype != object and right.dtype != object:
        with np.errstate(all="ignore"):
            return np.asarray(plain(left, right))
    return pairwise(left, right, symbolic)


def _truncated_quotient(left: Numbers, right: Numbers) -> Numbers:
    if left.dtype.kind == "f":
        return left / right
    quotient = np.abs(left) // np.abs(right)
    return quotient * np.sign(left) * np.sign(right)


@folds("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max")
def _arithmetic(call: Call, numbers: list[Numbers]) -> Numbers | None:
    ranges, real = call.ranges, call.element(0).is_float

    def divide(a: IntLike, b: IntLike) -> IntLike | None:
        if isinstance(b, int) and b == 0:
            return None
        if real:  # a quotient of floats is a dim only where nothing is left over
            return a // b if (a // b) * b == a else None
        return a // b

    symbolic: dict[str, Callable[[Any, Any], Any]] = {
        "Add": operator.add,
        "Sub": operator.sub,
        "Mul": operator.mul,
        "Div": divide,
        "Mod": operator.mod,
        "Min": lambda a, b: decide.smaller(a, b, ranges),
        "Max": lambda a, b: decide.larger(a, b, ranges),
    }
    plain: dict[str, Callable[..., Any]] = {
        "Add": np.add,
        "Sub": np.subtract,
        "Mul": np.multiply,
        "Div": _truncated_quotient,
        "Mod": np.fmod if call.integer("fmod", 0) else np.mod,
        "Min": np.minimum,
        "Max": np.maximum,
    }
    if call.op_type in ("Div", "Mod") and not real and np.any(numbers[1] == 0):
        return None
    total: Numbers | None = numbers[0]
    for other in numbers[1:]:
        if total is not None:
            total = _pairwise(total, other, plain[call.op_type], symbolic[call.op_type])
    return total


@folds(*_COMPARISONS)
def _compare(call: Call, numbers: list[Numbers]) -> Numbers | None:
    plain: dict[str, Callable[..., Any]] = {
        "Equal": np.equal,
        "Less": np.less,
        "Greater": np.greater,
        "LessOrEqual": np.less_equal,
        "GreaterOrEqual": np.greater_equal,
    }
    symbolic = comparison(_COMPARISONS[call.op_type], call.ranges)
    return _pairwise(numbers[0], numbers[1], plain[call.op_type], symbolic)


@folds("And", "Or", "Xor")
def _logic(call: Call, numbers: list[Numbers]) -> Numbers:
    plain = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}
    return np.asarray(plain[call.op_type](numbers[0], numbers[1]))


@folds("Not")
def _not(call: Call, numbers: list[Numbers]) -> Numbers:
    return np.logical_not(numbers[0])


@folds("Neg", "Abs", "Sqrt", "Floor", "Ceil", "Round", "Sign", "Reciprocal", "Identity")
def _unary(call: Call, numbers: list[Numbers]) -> Numbers | None:
    x = numbers[0]
    if call.op_type == "Identity":
        return x
    if x.dtype != object:
        plain: dict[str, Callable[..., Any]] = {
            "Neg": np.negative,
            "Abs": np.abs,
            "Sqrt": np.sqrt,
            "Floor": np.floor,
            "Ceil": np.ceil,
            "Round": np.rint,
            "Sign": np.sign,
            "Reciprocal": np.reciprocal,
        }
        with np.errstate(all="ignore"):
            return np.asarray(plain[call.op_type](x))
    if call.op_type in ("Floor", "Ceil", "Round"):
        return x  # dims are whole
    return _pairwise(np.asarray(0), x, np.subtract, operator.sub) if call.op_type == "Neg" else None


@folds("Cast")
def _cast(call: Call, numbers: list[Numbers]) -> Numbers | None:
    element = _element(call)
    if numbers[0].dtype == object:
        return numbers[0] if element.is_integer or element.is_float else None
    if element.bits < 8 or element.is_minifloat or element.kind == "complex":
        return None
    if call.element(0).is_minifloat:
        return None
    with np.errstate(all="ignore"):
        return numbers[0].astype(element.numpy)


@folds("Where")
def _where(call: Call, numbers: list[Numbers]) -> Numbers:
    condition, x, y = numbers
    if x.dtype == object or y.dtype == object:
        x, y = x.astype(object), y.astype(object)
    return np.where(condition, x, y)


# -- reductions -----------------------------------------------------------------------
@folds("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduce(call: Call, numbers: list[Numbers]) -> Numbers | None:
    x = numbers[0]
    given = numbers[1] if len(numbers) > 1 else None
    axes = call.integers("axes") if given is None else tuple(int(n) for n in given.reshape(-1))
    if not axes:
        if call.integer("noop_with_empty_axes", 0):
            return x
        axes = tuple(range(x.ndim))
    keep = bool(call.integer("keepdims", 1))
    ranges = call.ranges
    if x.dtype != object:
        plain: dict[str, Callable[..., Any]] = {
            "ReduceProd": np.prod,
            "ReduceSum": np.sum,
            "ReduceMax": np.max,
            "ReduceMin": np.min,
        }
        if not x.size:
            return None
        return np.asarray(plain[call.op_type](x, axis=axes, keepdims=keep))
    pair: dict[str, Callable[[Any, Any], Any]] = {
        "ReduceProd": operator.mul,
        "ReduceSum": operator.add,
        "ReduceMax": lambda a, b: decide.larger(a, b, ranges),
        "ReduceMin": lambda a, b: decide.smaller(a, b, ranges),
    }
    if x.ndim != 1:
        return None
    total = x[0]
    for element in x[1:]:
        total = pair[call.op_type](total, element)
    return object_array([total]) if keep else object_array([total]).reshape(())


# -- movement ---------------------------------------------------------------------------
@folds("Gather")
def _gather(call: Call, numbers: list[Numbers]) -> Numbers:
    return np.asarray(np.take(numbers[0], numbers[1].astype(np.int64), axis=call.integer("axis", 0)))


@folds("Concat")
def _concat(call: Call, numbers: list[Numbers]) -> Numbers:
    if any(array.dtype == object for array in numbers):
        numbers = [array.astype(object) for array in numbers]
    return np.concatenate(numbers, axis=call.integer("axis", 0))


@folds("Slice")
def _slice(call: Call, numbers: list[Numbers]) -> Numbers | None:
    x = numbers[0]
    if call.version < 10:
        starts, ends = list(call.integers("starts") or ()), list(call.integers("ends") or ())
        axes, steps = list(call.integers("axes") or range(len(starts))), [1] * len(starts)
    else:
        given: list[Any] = [None if n is None else n.reshape(-1).tolist() for n in numbers[1:]]
        starts, ends = given[0], given[1]
        axes = given[2] if len(given) > 2 and given[2] is not None else list(range(len(starts)))
        steps = given[3] if len(given) > 3 and given[3] is not None else [1] * len(starts)
    if any(isinstance(n, Dim) for n in (*starts, *ends, *steps)):
        return None
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        stop: int | None = end
        if step < 0 and end < -x.shape[axis]:
            stop = None
        index[axis] = slice(start, stop, step)
    return x[tuple(index)]


@folds("Squeeze")
def _squeeze(call: Call, numbers: list[Numbers]) -> Numbers:
    given = numbers[1] if len(numbers) > 1 else None
    axes = call.integers("axes") if given is None else tuple(int(n) for n in given.reshape(-1))
    return np.squeeze(numbers[0], axis=axes)


@folds("Unsqueeze")
def _unsqueeze(call: Call, numbers: list[Numbers]) -> Numbers:
    given = numbers[1] if len(numbers) > 1 else None
    axes = call.integers("axes") if given is None else tuple(int(n) for n in given.reshape(-1))
    return np.expand_dims(numbers[0], axes or ())


@folds("Reshape")
def _reshape(call: Call, numbers: list[Numbers]) -> Numbers | None:
    x, wanted = numbers[0], numbers[1]
    if wanted.dtype == object:
        return None
    shape = [int(n) for n in wanted.reshape(-1)]
    if not call.integer("allowzero", 0):
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return x.reshape(shape)


@folds("Transpose")
def _transpose(call: Call, numbers: list[Numbers]) -> Numbers:
    return np.transpose(numbers[0], call.integers("perm"))


@folds("Expand", "Tile")
def _stretch(call: Call, numbers: list[Numbers]) -> Numbers | None:
    x, wanted = numbers[0], numbers[1]
    if wanted.dtype == object or int(np.prod(np.maximum(wanted, 1), dtype=np.float64)) * x.size > LIMIT:
        return None
    if call.op_type == "Tile":
        return np.tile(x, wanted.tolist())
    shape = np.broadcast_shapes(x.shape, tuple(int(n) for n in wanted))
    return np.broadcast_to(x, shape).copy()


@folds("Split")
def _split(call: Call, numbers: list[Numbers]) -> list[Numbers] | None:
    x, axis = numbers[0], call.integer("axis", 0)
    given = numbers[1] if len(numbers) > 1 else None
    sizes = call.integers("split") if given is None else tuple(int(n) for n in given)
    if sizes is None:
        whole = -(-x.shape[axis] // len(call.outputs))
        return np.split(x, range(whole, x.shape[axis], whole), axis=axis)
    return np.split(x, np.cumsum(sizes)[:-1].tolist(), axis=axis)


@folds("Range")
def _range(call: Call, numbers: list[Numbers]) -> Numbers | None:
    if any(n.dtype == object for n in numbers):
        return None
    start, limit, delta = (n.reshape(()).item() for n in numbers)
    if not delta or (limit - start) / delta > LIMIT:
        return None
    return np.arange(start, limit, delta, dtype=numbers[0].dtype)
