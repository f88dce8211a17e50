"""Machine code: the disassembler's listing taken apart into kernels, basic blocks and instructions."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from plait.backends.cuda.toolkit import run_tool
from plait.backends.images import KernelImage
from plait.ir.errors import CompileError

_SECTION = re.compile(r"^\.text\.([\w$]+):")
_LABEL = re.compile(r"^([.\w$]+):")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]+)\*/\s+(?:@(!?U?P[T\d]+)\s+)?([A-Z][A-Z0-9_.]*)\s*(.*?)\s*;")
_TARGET = re.compile(r"`\(([^)]*)\)")
#: Opcodes behind which control may go elsewhere.
_TRANSFERS = frozenset({"BRA", "BRX", "JMP", "JMX", "CALL", "RET", "EXIT", "KILL", "BREAK"})


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    Attributes:
        address: in bytes from the start of its kernel.
        opcode: with its modifiers, `LDG.E.128.CONSTANT`.
        operands: as the disassembler writes them, destinations first.
        guard: the predicate that it runs under, `P0` or `!P0`; empty for none.
    """

    address: int
    opcode: str
    operands: tuple[str, ...] = ()
    guard: str = ""

    @cached_property
    def base(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @cached_property
    def modifiers(self) -> frozenset[str]:
        """The modifiers of the opcode."""
        return frozenset(self.opcode.split(".")[1:])

    @property
    def target(self) -> str | None:
        """The label that a branch or call goes to; None for other instructions and computed targets."""
        found = _TARGET.search(self.operands[-1]) if self.operands and self.base in _TRANSFERS else None
        return found[1] if found else None

    def __str__(self) -> str:
        guard = f"@{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}".rstrip()


@dataclass(frozen=True)
class Block:
    """A basic block: entered at its first instruction only, left behind its last."""

    instructions: tuple[Instruction, ...]

    @property
    def address(self) -> int:
        return self.instructions[0].address


@dataclass
class MachineCode:
    """The code of one kernel.

    Attributes:
        name: of the kernel.
        instructions: in address order, subroutines of the kernel among them; padding is left out.
        labels: address of each label.
    """

    name: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Basic blocks in address order."""
        starts = set(self.labels.values())
        blocks: list[Block] = []
        current: list[Instruction] = []
        for instruction in self.instructions:
            if current and instruction.address in starts:
                blocks.append(Block(tuple(current)))
                current = []
            current.append(instruction)
            if instruction.base in _TRANSFERS:
                blocks.append(Block(tuple(current)))
                current = []
        if current:
            blocks.append(Block(tuple(current)))
        return tuple(blocks)

    def histogram(self, *, modifiers: bool = False) -> Counter[str]:
        """Instructions by opcode, each counted once however often it runs."""
        return Counter(item.opcode if modifiers else item.base for item in self.instructions)


def disassemble(cubin: bytes) -> dict[str, MachineCode]:
    """The code of every kernel of an ELF image, by name.

    Raises:
        CompileError: the disassembler is missing or refuses the image.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        listing = run_tool("bin/nvdisasm", "--print-code", str(path))
    return {code.name: code for code in parse_listing(listing)}


def disassemble_images(images: Mapping[str, KernelImage]) -> dict[str, MachineCode]:
    """The code of every kernel of an executable, by name.  Raises CompileError as `disassemble` does."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        listings = pool.map(lambda image: disassemble(image.cubin), images.values())
        return {name: code for listing in listings for name, code in listing.items()}


def parse_listing(listing: str) -> Iterator[MachineCode]:
    """The kernels of a listing of `nvdisasm --print-code`.

    Raises:
        CompileError: an instruction stands outside a kernel.
    """
    code: MachineCode | None = None
    waiting: list[str] = []
    for line in listing.splitlines():
        if section := _SECTION.match(line):
            if code is not None:
                yield code
            code, waiting = MachineCode(section[1]), []
        elif label := _LABEL.match(line):
            waiting.append(label[1])
        elif found := _INSTRUCTION.match(line):
            if code is None:
                raise CompileError("the disassembler's listing is not understood", why=line.strip()[:120])
            address = int(found[1], 16)
            code.labels.update(dict.fromkeys(waiting, address))
            waiting = []
            if found[3] != "NOP":
                operands = tuple(found[4].split(", ")) if found[4] else ()
                code.instructions.append(Instruction(address, found[3], operands, found[2] or ""))
    if code is not None:
        yield code
