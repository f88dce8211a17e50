"""What the integer arithmetic of addresses computes: sums, products, scaled indices, shifts."""

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
    pair_readers,
    predicate_reader,
    signed,
    word_reader,
)
from plait.backends.cuda.report.steps import Step, guarded, pair_writer, to_word
from plait.backends.cuda.sass import Instruction


def _add(instruction: Instruction) -> Step:
    """IADD3 and IADD3.X: a sum of three with up to two carries out and in."""
    name = next(o for o in instruction.operands if not is_predicate(o))
    after = instruction.operands[instruction.operands.index(name) + 1 :]
    outs = [operand for operand in after[:2] if is_predicate(operand)]
    sources, ins = after[len(outs) : len(outs) + 3], after[len(outs) + 3 :]
    readers = [_addend(source) for source in sources]
    carries = [predicate_reader(operand) for operand in ins] if "X" in instruction.modifiers else []

    def compute(lanes: Lanes) -> Value:
        values = [read(lanes) for read in readers] + [read(lanes) for read in carries]
        if any(value is None for value in values):
            return None
        return reduce(operator.add, values, 0)

    def write(lanes: Lanes, total: Value, mask: Mask) -> None:
        lanes.write(name, None if total is None else total & WORD, mask)
        for limit, out in enumerate(outs, 1):
            lanes.write_predicate(out, None if total is None else (total >> 32) >= limit, mask)

    return guarded(instruction, compute, write)


def _addend(operand: str) -> Callable[[Lanes], Value]:
    """An operand of a sum; that of a difference is 2**32 - x, so that the carry says "no borrow"."""
    if operand.startswith("-") and not operand[1:2].isdigit():
        inner = word_reader(operand[1:])
        return lambda lanes: None if (value := inner(lanes)) is None else WORD + 1 - value
    return word_reader(operand)


def _multiply_add(instruction: Instruction) -> Step | None:
    words, operands = instruction.modifiers, instruction.operands
    values = [operand for operand in operands if not is_predicate(operand)]
    name, a, b, c = (*values, "RZ")[:4]
    if "X" in words:
        return _multiply_add_carry(instruction, name, a, b, c)
    if len(values) != len(operands):
        return None
    if not words & {"WIDE", "HI"}:
        return to_word(instruction, lambda x, y, z: x * y + z, (a, b, c))
    first, second = word_reader(a), word_reader(b)
    low, high = pair_readers(c)
    unsigned = "U32" in words

    def compute(lanes: Lanes) -> Any:
        x, y, z, carried = first(lanes), second(lanes), low(lanes), high(lanes)
        if any(value is None for value in (x, y, z, carried)):
            return None
        bottom, top = _product(x, y, unsigned)
        bottom = bottom + z
        return bottom & WORD, (top + carried + (bottom >> 32)) & WORD

    if "WIDE" in words:
        return guarded(instruction, compute, pair_writer(name))
    return guarded(
        instruction,
        compute,
        lambda lanes, value, mask: lanes.write(name, None if value is None else value[1], mask),
    )


def _multiply_add_carry(instruction: Instruction, name: str, a: str, b: str, c: str) -> Step:
    readers = [word_reader(operand) for operand in (a, b, c)]
    carry = predicate_reader(instruction.operands[-1])

    def compute(lanes: Lanes) -> Value:
        x, y, z, one = *(read(lanes) for read in readers), carry(lanes)
        return None if any(value is None for value in (x, y, z, one)) else (x * y + z + one) & WORD

    return guarded(instruction, compute, lambda lanes, value, mask: lanes.write(name, value, mask))


def _product(a: Value, b: Value, unsigned: bool) -> tuple[Value, Value]:
    """Both words of a 64-bit product, in steps that 63 bits hold."""
    if not unsigned:
        product = signed(a) * signed(b)
        return product & WORD, product >> 32 & WORD
    lower, upper = a * (b & 0xFFFF), a * (b >> 16)
    total = lower + ((upper & 0xFFFF) << 16)
    return total & WORD, (total >> 32) + (upper >> 16)


def _shift_add(instruction: Instruction) -> Step | None:
    """LEA, LEA.HI and LEA.HI.X: an address from a scaled index."""
    words = instruction.modifiers
    name, *rest = instruction.operands
    outs = [rest.pop(0)] if is_predicate(rest[0]) else []
    carry_in = predicate_reader(rest.pop()) if "X" in words else None
    a, b, *more = rest
    amount = int(more[-1], 0) if more else 0
    first, second = word_reader(a), word_reader(b)
    upper = word_reader(more[0]) if "HI" in words and "SX32" not in words and len(more) > 1 else None

    def compute(lanes: Lanes) -> Value:
        x, y = first(lanes), second(lanes)
        above = upper(lanes) if upper is not None else 0
        carry = carry_in(lanes) if carry_in is not None else 0
        if x is None or y is None or above is None or carry is None:
            return None
        if "HI" not in words:
            return (x << amount & WORD) + y + carry
        if "SX32" in words:
            return (signed(x) >> (32 - amount) if amount else signed(x) >> 31) + y + carry
        return ((x >> (32 - amount) if amount else 0) | above << amount) + y + carry

    def write(lanes: Lanes, total: Value, mask: Mask) -> None:
        lanes.write(name, None if total is None else total & WORD, mask)
        for out in outs:
            lanes.write_predicate(out, None if total is None else total >> 32 >= 1, mask)

    return guarded(instruction, compute, write)


def _dot(instruction: Instruction) -> Step | None:
    """IDP.2A of unsigned halves with bytes: a small multiplication; on model data its sources are unknown."""
    words = instruction.modifiers
    if not {"2A", "U16", "U8"} <= words:
        return None
    shift = 16 if "HI" in words else 0

    def function(a: Value, b: Value, c: Value) -> Value:
        return c + (a & 0xFFFF) * (b >> shift & 0xFF) + (a >> 16) * (b >> (shift + 8) & 0xFF)

    return to_word(instruction, function, instruction.operands[1:4])


def _shift(instruction: Instruction) -> Step:
    """SHF: the word pair {c, a} shifted; `.HI` gives its high word."""
    words = instruction.modifiers
    is_signed, high = bool(words & {"S32", "S64"}), "HI" in words

    def left(a: Value, amount: Value, c: Value) -> Value:
        by = _least(amount, 32)
        return c << by | a >> (32 - by) if high else a << by

    def right(a: Value, amount: Value, c: Value) -> Value:
        by = _least(amount, 63 if is_signed else 32)
        if high:
            return (signed(c) if is_signed else c) >> by
        return (signed(c) << 32 | a) >> by

    return to_word(instruction, left if "L" in words else right, instruction.operands[1:4])


def _least(value: Value, limit: int) -> Value:
    return min(value, limit) if isinstance(value, int) else np.minimum(value, limit)


def _absolute(instruction: Instruction) -> Step:
    return to_word(instruction, lambda x: abs(signed(x)), instruction.operands[1:2])


#: Makes the step of an instruction by opcode; None where it depends on data.
ARITHMETIC: dict[str, Callable[[Instruction], Step | None]] = {
    "IADD3": _add,
    "IMAD": _multiply_add,
    "LEA": _shift_add,
    "IDP": _dot,
    "SHF": _shift,
    "IABS": _absolute,
}
