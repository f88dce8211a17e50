"""What the integer, predicate and move instructions of sm_80 compute.

Only these decide addresses and branches; what works on floats leaves its results
unknown.  Meanings follow the CUDA binary utilities' table of instructions and are
held against kernels with known trip counts and addresses in the tests.
"""

from __future__ import annotations

import re
from functools import lru_cache

from plait.backends.cuda.report.arithmetic import ARITHMETIC
from plait.backends.cuda.report.classes import MEMORY, width_bytes
from plait.backends.cuda.report.lanes import Lanes, Mask, is_predicate, is_register, next_register
from plait.backends.cuda.report.logic import LOGIC
from plait.backends.cuda.report.moves import MOVES
from plait.backends.cuda.report.steps import Step
from plait.backends.cuda.sass import Instruction

_NAME = re.compile(r"\bU?(?:R|P)(?:\d+|Z|T)\b")
_MAKERS = {**MOVES, **ARITHMETIC, **LOGIC}
_WITHOUT_RESULT = frozenset(
    (
        *(
            "BSSY",
            "BSYNC",
            "BAR",
            "WARPSYNC",
            "DEPBAR",
            "LDGDEPBAR",
            "MEMBAR",
            "ERRBAR",
            "YIELD",
            "NANOSLEEP",
        ),
        *("STG", "STS", "STL", "ST", "RED", "LDGSTS", "BPT", "CCTL"),
        *("BRA", "EXIT", "CALL", "RET", "KILL", "BREAK", "BRX", "JMP"),
    )
)


def step(instruction: Instruction) -> Step | None:
    """What executes an instruction; None for one that changes no register."""
    base = instruction.base
    if base in _WITHOUT_RESULT:
        return None
    maker = _MAKERS.get(base) or (_MAKERS.get(base[1:]) if base.startswith("U") else None)
    made = maker(instruction) if maker is not None else None
    return made or _forget(instruction)


@lru_cache(maxsize=65536)
def results(instruction: Instruction) -> tuple[list[str], list[str]]:
    """The registers and the predicates that an instruction writes."""
    base, operands = instruction.base, instruction.operands
    if base in _WITHOUT_RESULT:
        return [], []
    if base == "R2P":
        return [], [f"P{number}" for number in range(7)]
    predicates, register, carries = _destinations(instruction)
    registers: list[str] = []
    if register:
        name = operands[len(predicates)].replace(".reuse", "")
        for _ in range(_width(instruction)):
            registers.append(name)
            name = next_register(name)
    return registers, [*predicates, *carries]


def _destinations(instruction: Instruction) -> tuple[list[str], bool, list[str]]:
    """Predicates that stand first, whether a register follows, and carries behind it."""
    base, operands = instruction.base, instruction.operands
    most = 2 if base.endswith("SETP") or base in ("PLOP3", "UPLOP3") else 1
    predicates = []
    for operand in operands[:most]:
        if not is_predicate(operand):
            break
        predicates.append(operand)
    rest = operands[len(predicates) :]
    without = base.endswith("SETP") or base in ("FCHK", "PLOP3", "UPLOP3")
    register = bool(rest) and is_register(rest[0]) and not without
    has_carries = register and base in ("IADD3", "UIADD3", "LEA", "ULEA")
    return predicates, register, list(filter(is_predicate, rest[1:3])) if has_carries else []


@lru_cache(maxsize=65536)
def sources(instruction: Instruction) -> frozenset[str]:
    """The registers and predicates that an instruction reads, its guard among them."""
    operands = instruction.operands
    if instruction.base not in _WITHOUT_RESULT and instruction.base != "R2P":
        predicates, register, carries = _destinations(instruction)
        operands = operands[len(predicates) + register + len(carries) :]
    is_long = instruction.base in ("IMAD", "UIMAD") and bool(instruction.modifiers & {"WIDE", "HI"})
    found: set[str] = set()
    for operand in (instruction.guard, *operands):
        is_base = operand.startswith("[") and (".64" in operand or ".U32" in operand)
        for name in _NAME.findall(operand):
            found.add(name)
            if is_base or is_long:
                found.add(next_register(name))
    return frozenset(found - {"RZ", "URZ", "PT", "UPT"})


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
