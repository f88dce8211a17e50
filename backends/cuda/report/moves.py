"""What the instructions do that move integers: constants, special registers, bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable

from plait.backends.cuda.report.classes import is_constant
from plait.backends.cuda.report.lanes import Value, pair_readers
from plait.backends.cuda.report.steps import Step, guarded, pair_writer, to_word
from plait.backends.cuda.sass import Instruction


def _move(instruction: Instruction) -> Step:
    return to_word(instruction, lambda value: value, instruction.operands[1:2])


def _load_constant(instruction: Instruction) -> Step:
    if "64" not in instruction.modifiers:
        return _move(instruction)
    return _to_pair(instruction, instruction.operands[1])


def _to_pair(instruction: Instruction, source: str) -> Step:
    low, high = pair_readers(source)
    return guarded(instruction, lambda lanes: (low(lanes), high(lanes)), pair_writer(instruction.operands[0]))


def _clear(instruction: Instruction) -> Step | None:
    """CS2R: a pair of zeros, or a clock."""
    if instruction.operands[1] != "SRZ":
        return None
    name = instruction.operands[0]
    if "32" in instruction.modifiers:
        return to_word(instruction, lambda: 0, ())
    return guarded(instruction, lambda lanes: (0, 0), pair_writer(name))


def _special(instruction: Instruction) -> Step:
    name, source = instruction.operands[:2]
    return guarded(
        instruction,
        lambda lanes: lanes.special.get(source),
        lambda lanes, value, mask: lanes.write(name, value, mask),
    )


def _half_constant(instruction: Instruction) -> Step | None:
    """HFMA2 of zeros plus two immediates: how the assembler writes a constant on an idle pipe."""
    if not is_constant(instruction):
        return None
    high, low = (struct.unpack("<H", struct.pack("<e", float(text)))[0] for text in instruction.operands[3:5])
    number = high << 16 | low
    return to_word(instruction, lambda: number, ())


def _permute(instruction: Instruction) -> Step | None:
    _, a, selector, c = instruction.operands[:4]
    try:
        picks = int(selector, 0)
    except ValueError:
        return None

    def function(first: Value, second: Value) -> Value:
        result = first & 0
        for place in range(4):
            pick = picks >> 4 * place & 15
            byte = (first if pick & 7 < 4 else second) >> 8 * (pick & 3) & 0xFF
            if pick & 8:
                byte = (byte >> 7) * 0xFF
            result = result | byte << 8 * place
        return result

    return to_word(instruction, function, (a, c))


#: Makes the step of an instruction by opcode; None where it depends on data.
MOVES: dict[str, Callable[[Instruction], Step | None]] = {
    "MOV": _move,
    "MOV32I": _move,
    "R2UR": _move,
    "LDC": _load_constant,
    "ULDC": _load_constant,
    "CS2R": _clear,
    "S2R": _special,
    "S2UR": _special,
    "HFMA2": _half_constant,
    "PRMT": _permute,
}
