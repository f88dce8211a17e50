"""What a step of execution is, and what the steps of all instructions share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from plait.backends.cuda.report.lanes import (
    WORD,
    Lanes,
    Mask,
    Value,
    next_register,
    predicate_reader,
    word_reader,
)
from plait.backends.cuda.sass import Instruction

#: Executes one instruction in the lanes of a mask.
Step = Callable[[Lanes, Mask], None]


def guarded(instruction: Instruction, compute: Callable[[Lanes], Any], write: Callable[..., None]) -> Step:
    """`write(lanes, result, mask)` where the guard holds."""
    if not instruction.guard:
        return lambda lanes, mask: write(lanes, compute(lanes), mask)
    guard = predicate_reader(instruction.guard)

    def run(lanes: Lanes, mask: Mask) -> None:
        allowed = guard(lanes)
        if allowed is None:
            write(lanes, None, mask)
        elif isinstance(allowed, (bool, np.bool_)):
            if allowed:
                write(lanes, compute(lanes), mask)
        else:
            write(lanes, compute(lanes), allowed if mask is None else allowed & mask)

    return run


def to_word(instruction: Instruction, function: Callable[..., Value], sources: tuple[str, ...]) -> Step:
    """A step that writes one word computed from words."""
    readers = [word_reader(source) for source in sources]
    name = instruction.operands[0]

    def compute(lanes: Lanes) -> Value:
        values = [read(lanes) for read in readers]
        return None if any(value is None for value in values) else function(*values) & WORD

    return guarded(instruction, compute, lambda lanes, value, mask: lanes.write(name, value, mask))


def pair_writer(name: str) -> Callable[[Lanes, Any, Mask], None]:
    """What writes a low and a high word to a register and the next one."""
    second = next_register(name)

    def write(lanes: Lanes, value: Any, mask: Mask) -> None:
        low, high = (None, None) if value is None else value
        lanes.write(name, low, mask)
        lanes.write(second, high, mask)

    return write


def chosen(condition: Any, a: Value, b: Value) -> Value:
    """`a` where the condition holds, `b` elsewhere."""
    if isinstance(condition, (bool, np.bool_)):
        return a if condition else b
    return np.where(condition, a, b)
