"""What bits, comparisons, choices and predicates come to."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from plait.backends.cuda.report.lanes import (
    WORD,
    Lanes,
    Mask,
    Value,
    is_predicate,
    predicate_reader,
    signed,
    word_reader,
)
from plait.backends.cuda.report.steps import Step, chosen, guarded
from plait.backends.cuda.sass import Instruction

_COMPARE = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}
_COMBINE = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}


def _extreme(instruction: Instruction) -> Step:
    """IMNMX: the smaller where the predicate holds, the larger elsewhere."""
    _, a, b, which = instruction.operands
    smaller = predicate_reader(which)
    first, second = word_reader(a), word_reader(b)
    unsigned = "U32" in instruction.modifiers

    def compute(lanes: Lanes) -> Value:
        x, y, choose = first(lanes), second(lanes), smaller(lanes)
        if x is None or y is None or choose is None:
            return None
        less = (x < y) if unsigned else (signed(x) < signed(y))
        return chosen(np.logical_not(np.logical_xor(less, choose)), x, y)

    name = instruction.operands[0]
    return guarded(instruction, compute, lambda lanes, value, mask: lanes.write(name, value, mask))


def _select(instruction: Instruction) -> Step:
    name, a, b, which = instruction.operands
    first, second, condition = word_reader(a), word_reader(b), predicate_reader(which)

    def compute(lanes: Lanes) -> Value:
        choose, x, y = condition(lanes), first(lanes), second(lanes)
        return None if choose is None or x is None or y is None else chosen(choose, x, y)

    return guarded(instruction, compute, lambda lanes, value, mask: lanes.write(name, value, mask))


def _logic(instruction: Instruction) -> Step:
    """LOP3: any function of three bits; a predicate before the register says whether the result is not 0."""
    operands = list(instruction.operands)
    outs = [operands.pop(0)] if is_predicate(operands[0]) else []
    name, a, b, c, table = operands[:5]
    function = _table_function(int(table, 0))
    readers = [word_reader(source) for source in (a, b, c)]

    def compute(lanes: Lanes) -> Value:
        values = [read(lanes) for read in readers]
        return None if any(value is None for value in values) else function(*values) & WORD

    def write(lanes: Lanes, value: Value, mask: Mask) -> None:
        lanes.write(name, value, mask)
        for out in outs:
            lanes.write_predicate(out, None if value is None else value != 0, mask)

    return guarded(instruction, compute, write)


def _table_function(table: int) -> Callable[[Value, Value, Value], Value]:
    """The function of three words whose truth table is given: bit 4a+2b+c holds its value."""
    known: dict[int, Callable[[Value, Value, Value], Value]] = {
        0xC0: lambda a, b, c: a & b,
        0xFC: lambda a, b, c: a | b,
        0x3C: lambda a, b, c: a ^ b,
    }
    if table in known:
        return known[table]

    def function(a: Value, b: Value, c: Value) -> Value:
        result: Value = 0
        for place in range(8):
            if table >> place & 1:
                terms = zip((4, 2, 1), (a, b, c), strict=True)
                result = result | reduce(operator.and_, (v if place & bit else ~v for bit, v in terms))
        return result

    return function


def _compare(instruction: Instruction) -> Step | None:
    """ISETP: a comparison combined with a predicate; `.EX` continues one of the low words."""
    words = instruction.modifiers
    out, other, a, b, *rest = instruction.operands
    compare = next((_COMPARE[word] for word in words if word in _COMPARE), None)
    combine = next((_COMBINE[word] for word in words if word in _COMBINE), None)
    if compare is None or combine is None:
        return None
    first, second, third = word_reader(a), word_reader(b), predicate_reader(rest[0])
    below = predicate_reader(rest[1]) if "EX" in words and len(rest) > 1 else None
    unsigned = "U32" in words

    def compute(lanes: Lanes) -> Any:
        x, y, z = first(lanes), second(lanes), third(lanes)
        if x is None or y is None or z is None:
            return None
        if not unsigned:
            x, y = signed(x), signed(y)
        if compare in (operator.eq, operator.ne):
            unequal = lanes.equality.unequal(instruction.address, x, y)
            found = unequal if compare is operator.ne else np.logical_not(unequal)
        else:
            found = compare(x, y)
        if below is not None:
            low = below(lanes)
            if low is None:
                return None
            if compare is operator.ne:
                found = np.logical_or(found, low)
            else:
                strict = found if compare is operator.eq else compare(x, y) & (x != y)
                same = np.logical_and(x == y, low)
                found = same if compare is operator.eq else np.logical_or(strict, same)
        return combine(found, z), combine(np.logical_not(found), z)

    def write(lanes: Lanes, value: Any, mask: Mask) -> None:
        one, two = (None, None) if value is None else value
        lanes.write_predicate(out, one, mask)
        lanes.write_predicate(other, two, mask)

    return guarded(instruction, compute, write)


def _predicate_logic(instruction: Instruction) -> Step:
    """PLOP3: two functions of three predicates."""
    out, other, a, b, c, table, second = instruction.operands
    readers = [predicate_reader(source) for source in (a, b, c)]
    tables = [int(text, 0) for text in (table, second)]

    def compute(lanes: Lanes) -> Any:
        values = [read(lanes) for read in readers]
        if any(value is None for value in values):
            return None
        index = sum(np.asarray(value, np.int64) << place for place, value in zip((2, 1, 0), values))
        return tuple(np.right_shift(bits, index) & 1 == 1 for bits in tables)

    def write(lanes: Lanes, value: Any, mask: Mask) -> None:
        one, two = (None, None) if value is None else value
        lanes.write_predicate(out, one, mask)
        lanes.write_predicate(other, two, mask)

    return guarded(instruction, compute, write)


#: Makes the step of an instruction by opcode; None where it depends on data.
LOGIC: dict[str, Callable[[Instruction], Step | None]] = {
    "IMNMX": _extreme,
    "SEL": _select,
    "LOP3": _logic,
    "ISETP": _compare,
    "PLOP3": _predicate_logic,
}
