"""What kind of work a machine instruction of sm_80 is: its class, its pipe, its MACs.

A warp instruction occupies the pipe that executes it for the number of cycles that
32 lanes take on the units of one of the four partitions of a multiprocessor.
Throughputs: CUDA C++ Programming Guide, table "Throughput of Native Arithmetic
Instructions", compute capability 8.0; tensor cores: NVIDIA A100 whitepaper, 256
dense f16 multiply-adds a cycle and partition, half of that for TF32, twice for int8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from plait.backends.cuda.occupancy import WARP
from plait.backends.cuda.sass import Instruction

#: Load/store opcodes that name a memory space, and whether they read or write it.
MEMORY = {
    "LDG": "global",
    "STG": "global",
    "LDGSTS": "global",
    "RED": "global",
    "ATOM": "global",
    "ATOMG": "global",
    "LD": "global",
    "ST": "global",
    "LDS": "shared",
    "STS": "shared",
    "LDSM": "shared",
    "ATOMS": "shared",
    "LDL": "local",
    "STL": "local",
}

_NAMES: dict[str, tuple[str, ...]] = {
    "FFMA": ("FFMA", "FFMA32I"),
    "FP32 other": ("FADD", "FMUL", "FADD32I", "FMUL32I", "FMNMX", "FSEL", "FSETP", "FSET", "FCHK", "FSWZADD"),
    "HFMA2": ("HFMA2",),
    "FP16 other": ("HADD2", "HMUL2", "HMNMX2", "HSETP2", "HSET2"),
    "FP64": ("DFMA", "DADD", "DMUL", "DSETP", "DMNMX"),
    "MUFU": ("MUFU",),
    "conversion": ("F2F", "F2I", "I2F", "I2I", "F2FP", "I2IP", "FRND", "F2IP", "I2FP"),
    "IMAD": ("IMAD", "IMUL", "XMAD"),
    "IDP": ("IDP",),
    "SHFL": ("SHFL",),
    "BAR": ("BAR",),
    "control": (
        *("BRA", "BRX", "JMP", "JMX", "CALL", "RET", "EXIT", "KILL", "BREAK", "BSSY", "BSYNC", "BMOV"),
        *("WARPSYNC", "YIELD", "NANOSLEEP", "BPT", "RPCMOV", "DEPBAR", "LDGDEPBAR", "MEMBAR", "ERRBAR"),
    ),
    "move": ("MOV", "MOV32I", "SEL", "PRMT", "S2R", "CS2R", "R2UR", "UMOV", "S2UR", "ULDC", "LDC", "MOVM"),
}
_CLASS_OF = {opcode: name for name, opcodes in _NAMES.items() for opcode in opcodes}
#: Classes of matrix instructions, and of multiply-adds on other units.
TENSOR_CLASSES = ("HMMA", "IMMA", "DMMA", "BMMA")
MULTIPLY_CLASSES = ("FFMA", "HFMA2", "FP64", "IDP")
_SHAPE = re.compile(r"(16|8)(8)(4|8|16|32|64|128|256)")

#: Every class, in the order of reports; memory classes are followed by their width in bits.
CLASSES = (
    *TENSOR_CLASSES,
    *_NAMES,
    "integer",
    "uniform",
    *("LDG", "STG", "LDGSTS", "LDS", "STS", "LDSM", "LDL", "STL", "atomic", "other memory"),
)

#: Cycles that a warp instruction occupies its pipe of one partition, by pipe and class.
_PIPES: dict[str, tuple[str, int]] = {
    "FFMA": ("fma", 2),
    "IMAD": ("fma", 2),
    "IDP": ("fma", 2),
    "HFMA2": ("half", 1),
    "FP16 other": ("half", 1),
    "FP64": ("fp64", 4),
    "MUFU": ("special", 8),
    "conversion": ("special", 8),
    "integer": ("alu", 2),
    "move": ("alu", 2),
    "SHFL": ("shuffle", 4),
}
#: The f32 operations that the integer and logic units execute, as they compare and choose.
_COMPARES = ("FMNMX", "FSEL", "FSETP", "FSET", "FCHK")
#: Multiply-adds a cycle of the tensor core of one partition.
_TENSOR_RATE = {"HMMA": 256, "TF32": 128, "IMMA": 512, "S4": 1024, "BMMA": 4096, "DMMA": 16}


@dataclass(frozen=True)
class Kind:
    """What an instruction is.

    Attributes:
        name: one of CLASSES; for memory instructions with the bits of a lane, `LDG.128`.
        pipe: units that execute it; "" for those that only take an issue slot.
        cycles: how long a warp occupies them.
        tensor_macs, scalar_macs: multiply-accumulates of a whole warp, on tensor cores and off them.
        space: "global", "shared", "local" or "".
        bytes: of each lane's access.
        writes: whether it is a store.
    """

    name: str
    pipe: str = ""
    cycles: int = 0
    tensor_macs: int = 0
    scalar_macs: int = 0
    space: str = ""
    bytes: int = 0
    writes: bool = False


def width_bytes(instruction: Instruction) -> int:
    """Bytes that one lane of a memory instruction moves; 4 where the opcode names no width."""
    words = instruction.modifiers
    for name, size in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        if name in words:
            return size
    return 4


def is_constant(instruction: Instruction) -> bool:
    """Whether a half-precision instruction only writes an immediate, as the assembler lets it."""
    found = instruction.operands
    return instruction.base == "HFMA2" and len(found) == 5 and found[1:3] == ("-RZ", "RZ")


@lru_cache(maxsize=65536)
def kind(instruction: Instruction) -> Kind:
    """The kind of an instruction."""
    base = instruction.base
    if base in TENSOR_CLASSES:
        return _tensor(instruction)
    if base in MEMORY:
        return _memory(instruction)
    name = "move" if is_constant(instruction) else _CLASS_OF.get(base)
    if name is None:
        return Kind("uniform") if base.startswith("U") and base != "UNDEF" else Kind("integer", "alu", 2)
    if name == "move" and base in ("S2R", "CS2R", "R2UR", "UMOV", "S2UR", "ULDC"):
        return Kind(name)
    if name == "FP32 other":
        return Kind(name, "alu" if base in _COMPARES else "fma", 2)
    pipe, cycles = _PIPES.get(name, ("", 0))
    return Kind(name, pipe, cycles, scalar_macs=_scalar_macs(instruction, name))


def _scalar_macs(instruction: Instruction, name: str) -> int:
    """MACs of a multiply-add outside the tensor cores; integer ones compute addresses and are not counted."""
    if instruction.base == "IDP":
        return 4 * WARP if "4A" in instruction.modifiers else 0
    if name == "FFMA" or instruction.base == "DFMA":
        return WARP
    return 2 * WARP if name == "HFMA2" else 0


def _tensor(instruction: Instruction) -> Kind:
    words = instruction.modifiers
    shape = next((found for word in words if (found := _SHAPE.fullmatch(word))), None)
    if shape is None:
        return Kind(instruction.base)
    macs = int(shape[1]) * int(shape[2]) * int(shape[3])
    rate = _TENSOR_RATE[instruction.base]
    if "TF32" in words:
        rate = _TENSOR_RATE["TF32"]
    if words & {"S4", "U4"}:
        rate = _TENSOR_RATE["S4"]
    return Kind(instruction.base, "tensor", max(1, macs // rate), tensor_macs=macs)


def _memory(instruction: Instruction) -> Kind:
    base, size = instruction.base, width_bytes(instruction)
    space = MEMORY[base]
    if base in ("RED", "ATOM", "ATOMG", "ATOMS"):
        return Kind("atomic", space=space, bytes=size, writes=True)
    if base == "LDSM":
        # Each lane gives the address of one row of eight halves.
        return Kind("LDSM", space=space, bytes=16)
    if base in ("LD", "ST"):
        return Kind("other memory", space=space, bytes=size, writes=base == "ST")
    return Kind(f"{base}.{8 * size}", space=space, bytes=size, writes=base in ("STG", "STS", "STL"))
