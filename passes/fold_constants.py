"""fold-constants: compute at compile time what depends on constants only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from plait.ir import Constant, Graph, InputError, Op, TensorType, Value
from plait.ir.ops import core
from plait.passes.base import Pass, PassResult, register
from plait.passes.constants import dense_data, is_constant
from plait.passes.rewriter import Rewriter, Skip, attached

#: Ops without operands, whose result is smaller as an attribute than as data.
_SOURCES = (core.Full, core.Iota)


@register
@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace ops on constants by their results, as the reference interpreter computes them.

    A result whose elements are all equal becomes a `core.full`, any other one a
    constant.  A tensor without elements is known, whatever computes it.  Quantised
    and spike tensors stay as they are: unfolding them would undo what made them small.

    Options:
        max_growth_bytes: an op is kept when its result takes more bytes than the
            constants that go with it, plus this.

    Given:
        %x : f32[B]
        %two = core.full() {value=2.0} : f32[]
        %three = core.full() {value=3.0} : f32[]
        %six = core.mul(%two, %three) : f32[]
        %y = core.add(%x, %six) : f32[B]
        return %y
    Result:
        %six = core.full() {value=6.0} : f32[]
        %y = core.add(%x, %six) : f32[B]
        return %y
    """

    name: ClassVar[str] = "fold-constants"
    max_growth_bytes: int = 1 << 20

    def run(self, graph: Graph) -> PassResult:
        rewriter = Rewriter(graph, self.name)
        count = 0
        remarks = []
        for op in graph.walk():
            if not attached(op) or self.obstacle(op) is not None:
                continue
            try:
                array = evaluate(op)
            except InputError as problem:
                remarks.append(f"{op.result} stays: {problem.what}")
                continue
            _put(rewriter, op, array)
            count += 1
        return PassResult(count > 0, count, remarks=tuple(remarks))

    def obstacle(self, op: Op) -> Skip | None:
        """Why an op is not folded, or None when it can be."""
        if not op.pure or op.regions:
            return Skip(f"{op.opname} holds a region or has an effect")
        if len(op.results) != 1:
            return Skip(f"{op.opname} has {len(op.results)} results")
        if is_empty(op.result) and not isinstance(op, _SOURCES):
            return None
        if not op.operands:
            return Skip(f"{op.opname} has no operands")
        for value in op.operands:
            if is_empty(value):
                continue
            known = is_constant(value) and isinstance(value.type, TensorType) and not value.type.symbols
            if not known or (isinstance(value, Constant) and not value.has_data):
                return Skip(f"{value} : {value.type} is no dense constant with data")
        kind = op.result.type
        if not isinstance(kind, TensorType) or kind.symbols:
            return Skip(f"the result is {kind}, which is no dense tensor of known shape")
        growth = kind.bytes_at({}) - sum(_freed(value) for value in set(op.operands))
        if growth > self.max_growth_bytes:
            return Skip(f"folding adds {growth} bytes, more than max_growth_bytes={self.max_growth_bytes}")
        return None

    def explain(self, graph: Graph, op: Op) -> str:
        reason = self.obstacle(op)
        return f"it folds %{op.name}" if reason is None else reason.reason


def is_empty(value: Value) -> bool:
    """Whether a dense tensor of known shape has no elements."""
    return isinstance(value.type, TensorType) and not value.type.symbols and 0 in value.type.shape


def _nothing(value: Value) -> np.ndarray:
    """The array of a tensor without elements."""
    return np.zeros(
        [int(size) for size in value.shaped.shape if isinstance(size, int)], value.shaped.dtype.numpy
    )


def _freed(value: Value) -> int:
    """Bytes of a constant that goes when its only reader does."""
    if isinstance(value, Constant) and value.use_count == 1:
        return value.shaped.bytes_at({})
    return 0


def evaluate(op: Op) -> np.ndarray:
    """Result of an op on constants, by the reference interpreter.  Raises InputError."""
    from plait.ir.interpret import interpret  # loads torch, which most users of this module never need

    if is_empty(op.result):
        return _nothing(op.result)
    scratch = Graph("fold")
    mapping: dict[Value, Value] = {}
    for index, value in enumerate(dict.fromkeys(op.operands)):
        if is_empty(value):
            mapping[value] = scratch.add_constant(f"c{index}", _nothing(value), value.type)
        elif value.producer is not None:
            mapping[value] = scratch.emit(value.producer.evolve())
        else:
            data = dense_data(value)
            assert data is not None  # FoldConstants.obstacle
            mapping[value] = scratch.add_constant(f"c{index}", data, value.type)
    copy = op.evolve()
    copy.set_operands(lambda value: mapping[value])
    scratch.set_outputs([scratch.emit(copy)])
    return to_numpy(interpret(scratch, [])[0], op.result)


def to_numpy(tensor: object, value: Value) -> np.ndarray:
    """A torch tensor as the array of a constant that has the type of `value`."""
    import torch

    from plait.ir.reference import tensors

    assert isinstance(tensor, torch.Tensor)
    return tensors.to_numpy(tensor, value.shaped)


def _put(rewriter: Rewriter, op: Op, array: np.ndarray) -> None:
    """Put the value of an op in its place, under its name."""
    kind = op.result.type
    assert isinstance(kind, TensorType)  # FoldConstants.obstacle
    number = _one_number(array)
    if number is not None:
        rewriter.replace(op, with_=core.Full(value=number, out=kind))
        return
    name = op.name
    constant = rewriter.constant(f"{name}.folded", array, kind)
    rewriter.replace_value(op.result, constant)
    rewriter.graph.rename(constant, name)


def _one_number(array: np.ndarray) -> float | int | bool | None:
    """The number that all elements are, bit for bit; None where they differ, or are NaN or complex."""
    if not array.size or array.dtype.kind == "c":
        return None
    flat = np.ascontiguousarray(array).reshape(-1)
    raw = flat.view(np.uint8).reshape(flat.size, -1)
    if not (raw == raw[0]).all():
        return None
    number = flat[0].item() if flat.dtype.kind in "bif" or flat.dtype.kind == "u" else float(flat[0])
    return None if number != number else number
