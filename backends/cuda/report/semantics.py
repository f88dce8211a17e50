"""What the integer, predicate and move instructions of sm_80 compute.

Only these decide addresses and branches; what works on floats leaves its results
unknown.  Meanings follow the CUDA binary utilities' table of instructions and are
held against kernels with known trip counts and addresses in the tests.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from plait.backends.cuda.report.classes import MEMORY, is_constant, width_bytes
from plait.backends.cuda.report.lanes import (
    WORD,
    Lanes,
    Mask,
    Value,
    is_predicate,
    is_register,
    next_register,
    pair_readers,
    predicate_reader,
    signed,
    word_reader,
)
from plait.backends.cuda.sass import Instruction

Step = Callable[[Lanes, Mask], None]

_COMPARE = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}
_COMBINE = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}
_WITHOUT_RESULT = frozenset({"BSSY", "BSYNC", "BAR", "WARPSYNC", "DEPBAR", "LDGDEPBAR", "MEMBAR", "ERRBAR",
                             "YIELD", "NANOSLEEP", "STG", "STS", "STL", "ST", "RED", "LDGSTS", "BPT",
                             "BRA", "EXIT", "CALL", "RET", "KILL", "BREAK", "BRX", "JMP", "CCTL"})  # fmt: skip


def step(instruction: Instruction) -> Step | None:
    """What executes an instruction; None for one that changes no register."""
    base = instruction.base
    if base in _WITHOUT_RESULT:
        return None
    maker = _MAKERS.get(base) or (_MAKERS.get(base[1:]) if base.startswith("U") else None)
    made = maker(instruction) if maker is not None else None
    return made or _forget(instruction)


def results(instruction: Instruction) -> tuple[list[str], list[str]]:
    """The registers and the predicates that an instruction writes."""
    base, operands = instruction.base, instruction.operands
    if base in _WITHOUT_RESULT:
        return [], []
    predicates = []
    for operand in operands:
        if not is_predicate(operand):
            break
        predicates.append(operand)
    registers: list[str] = []
    rest = operands[len(predicates) :]
    if rest and is_register(rest[0]) and not base.endswith("SETP") and base not in ("FCHK", "R2P"):
        name = rest[0].replace(".reuse", "")
        for _ in range(_width(instruction)):
            registers.append(name)
            name = next_register(name)
        # LOP3 and the carries of IADD3 and LEA stand on either side of the register.
        for operand in rest[1:3]:
            if base in ("IADD3", "UIADD3", "LEA", "ULEA", "SHFL") and operand[0] in "PU" and is_predicate(operand):
                predicates.append(operand)
    return registers, predicates


def _width(instruction: Instruction) -> int:
    """Number of registers that a result takes."""
    base, words = instruction.base, instruction.modifiers
    if base == "LDSM":
        return next((int(word) for word in words if word in ("2", "4")), 1)
    if base in MEMORY:
        return max(1, width_bytes(instruction) // 4)
    if base in ("HMMA", "IMMA", "BMMA"):
        return 2 if "F16" in words and "F32" not in words else 4
    if base in ("DFMA", "DADD", "DMUL", "DMMA", "CS2R"):
        return 1 if "32" in words else 2
    return 2 if words & {"WIDE", "64", "F64", "S64", "U64"} and base not in ("SHF", "USHF") else 1


def _forget(instruction: Instruction) -> Step | None:
    """The results of an instruction become unknown."""
    registers, predicates = results(instruction)
    if not registers and not predicates:
        return None
    # FCHK asks whether a quotient needs the slow way: it does not for the numbers of a usual model.
    flag = False if instruction.base == "FCHK" else None

    def run(lanes: Lanes, mask: Mask) -> None:
        for name in registers:
            lanes.write(name, None, mask)
        for name in predicates:
            lanes.write_predicate(name, flag, mask)

    return run


def _guarded(instruction: Instruction, compute: Callable[[Lanes], Any], write: Callable[..., None]) -> Step:
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


def _to_word(instruction: Instruction, function: Callable[..., Value], sources: tuple[str, ...]) -> Step:
    """A step that writes one word computed from words."""
    readers = [word_reader(source) for source in sources]
    name = instruction.operands[0]

    def compute(lanes: Lanes) -> Value:
        values = [read(lanes) for read in readers]
        return None if any(value is None for value in values) else function(*values) & WORD

    return _guarded(instruction, compute, lambda lanes, value, mask: lanes.write(name, value, mask))


# -- moves ----------------------------------------------------------------------------
def _move(instruction: Instruction) -> Step:
    return _to_word(instruction, lambda value: value, instruction.operands[1:2])


def _load_constant(instruction: Instruction) -> Step:
    if "64" not in instruction.modifiers:
        return _move(instruction)
    return _to_pair(instruction, instruction.operands[1])


def _to_pair(instruction: Instruction, source: str) -> Step:
    low, high = pair_readers(source)
    return _guarded(instruction, lambda lanes: (low(lanes), high(lanes)), _pair_writer(instruction.operands[0]))


def _pair_writer(name: str) -> Callable[[Lanes, Any, Mask], None]:
    second = next_register(name)

    def write(lanes: Lanes, value: Any, mask: Mask) -> None:
        low, high = (None, None) if value is None else value
        lanes.write(name, low, mask)
        lanes.write(second, high, mask)

    return write


def _clear(instruction: Instruction) -> Step | None:
    """CS2R: a pair of zeros, or a clock."""
    if instruction.operands[1] != "SRZ":
        return None
    name = instruction.operands[0]
    if "32" in instruction.modifiers:
        return _to_word(instruction, lambda: 0, ())
    return _guarded(instruction, lambda lanes: (0, 0), _pair_writer(name))


def _special(instruction: Instruction) -> Step:
    name, source = instruction.operands[:2]
    return _guarded(
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
    return _to_word(instruction, lambda: number, ())


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

    return _to_word(instruction, function, (a, c))


# -- arithmetic -----------------------------------------------------------------------
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

    return _guarded(instruction, compute, write)


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
        return _to_word(instruction, lambda x, y, z: x * y + z, (a, b, c))
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
        return _guarded(instruction, compute, _pair_writer(name))
    return _guarded(
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

    return _guarded(instruction, compute, lambda lanes, value, mask: lanes.write(name, value, mask))


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

    return _guarded(instruction, compute, write)


def _dot(instruction: Instruction) -> Step | None:
    """IDP.2A of unsigned halves with bytes: a small multiplication; on model data its sources are unknown."""
    words = instruction.modifiers
    if not {"2A", "U16", "U8"} <= words:
        return None
    shift = 16 if "HI" in words else 0

    def function(a: Value, b: Value, c: Value) -> Value:
        return c + (a & 0xFFFF) * (b >> shift & 0xFF) + (a >> 16) * (b >> (shift + 8) & 0xFF)

    return _to_word(instruction, function, instruction.operands[1:4])


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

    return _to_word(instruction, left if "L" in words else right, instruction.operands[1:4])


def _least(value: Value, limit: int) -> Value:
    return min(value, limit) if isinstance(value, int) else np.minimum(value, limit)


def _absolute(instruction: Instruction) -> Step:
    return _to_word(instruction, lambda x: abs(signed(x)), instruction.operands[1:2])


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
        return _chosen(np.logical_not(np.logical_xor(less, choose)), x, y)

    name = instruction.operands[0]
    return _guarded(instruction, compute, lambda lanes, value, mask: lanes.write(name, value, mask))


def _chosen(condition: Any, a: Value, b: Value) -> Value:
    if isinstance(condition, (bool, np.bool_)):
        return a if condition else b
    return np.where(condition, a, b)


def _select(instruction: Instruction) -> Step:
    name, a, b, which = instruction.operands
    first, second, condition = word_reader(a), word_reader(b), predicate_reader(which)

    def compute(lanes: Lanes) -> Value:
        choose, x, y = condition(lanes), first(lanes), second(lanes)
        return None if choose is None or x is None or y is None else _chosen(choose, x, y)

    return _guarded(instruction, compute, lambda lanes, value, mask: lanes.write(name, value, mask))


# -- logic ----------------------------------------------------------------------------
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

    return _guarded(instruction, compute, write)


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

    return _guarded(instruction, compute, write)


def _predicate_logic(instruction: Instruction) -> Step:
    """PLOP3: two functions of three predicates."""
    out, other, a, b, c, table, second = instruction.operands
    readers = [predicate_reader(source) for source in (a, b, c)]
    tables = [int(text, 0) for text in (table, second)]

    def compute(lanes: Lanes) -> Any:
        values = [read(lanes) for read in readers]
        if any(value is None for value in values):
            return None
        index = reduce(lambda total, value: 2 * total + np.asarray(value, np.int64), values, 0)
        return tuple(np.right_shift(bits, index) & 1 == 1 for bits in tables)

    def write(lanes: Lanes, value: Any, mask: Mask) -> None:
        one, two = (None, None) if value is None else value
        lanes.write_predicate(out, one, mask)
        lanes.write_predicate(other, two, mask)

    return _guarded(instruction, compute, write)


_MAKERS: dict[str, Callable[[Instruction], Step | None]] = {
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
    "IADD3": _add,
    "IMAD": _multiply_add,
    "LEA": _shift_add,
    "IDP": _dot,
    "SHF": _shift,
    "IABS": _absolute,
    "IMNMX": _extreme,
    "SEL": _select,
    "LOP3": _logic,
    "ISETP": _compare,
    "PLOP3": _predicate_logic,
}
