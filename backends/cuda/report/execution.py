"""How often the instructions of a kernel run, and which memory they touch.

The machine code is executed for the warps of a few blocks, all in step, as far as
addresses and branches need it: integers and predicates are computed, floats are
not.  Lanes at the lowest address go first, so that diverged lanes meet again where
their paths do.  What depends on the data of a model is unknown; an unknown
condition lets execution fall through, but for the subroutines of division and
roots, which usual numbers do not need.  The former choices are counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plait.backends.cuda.occupancy import WARP
from plait.backends.cuda.report.access import Access
from plait.backends.cuda.report.classes import MEMORY, kind
from plait.backends.cuda.report.lanes import (
    Lanes,
    Mask,
    Predicate,
    Value,
    address_reader,
    is_predicate,
    next_register,
    predicate_reader,
    word_reader,
)
from plait.backends.cuda.report.semantics import Step, results, step
from plait.backends.cuda.sass import Block, Instruction, MachineCode
from plait.backends.cuda.source_text import Parameter

Extents = tuple[int, int, int]

#: Where the parameters of a kernel begin in constant bank 0 of sm_80.
_PARAMETERS = 0x160
#: First, middle and last block are executed, and of each so many warps at even distances.
_SAMPLED_WARPS = 8
#: Executions of one memory instruction whose addresses are looked at, by space.
_MEASURED = {"global": 96, "shared": 8, "local": 0}
#: Instructions after which a kernel is given up: about two seconds.
_BUDGET = 500_000
_DONE = int(np.iinfo(np.int64).max)
_AXES = "XYZ"
_NAME = re.compile(r"\bU?(?:R|P)(?:\d+|Z|T)\b")
_OPAQUE = ("FFMA", "FP32 other", "HFMA2", "FP16 other", "FP64", "MUFU", "HMMA", "IMMA", "BMMA", "DMMA")
_SCALAR_BYTES = {"int": 4, "unsigned": 4, "float": 4, "int32_t": 4, "uint32_t": 4, "bool": 1, "uint8_t": 1}


@dataclass
class Execution:
    """What the executed warps did.

    Attributes:
        warps: how many they were.
        block_counts: executions of each basic block, summed over warps.
        accesses: of each memory instruction, by its address in the code.
        assumptions: conditions on data that were assumed.
        complete: whether every warp ran to its end.
    """

    warps: int
    block_counts: np.ndarray
    accesses: dict[int, Access]
    assumptions: int
    complete: bool

    @property
    def exact(self) -> bool:
        """Whether the counts are those of a real run of these warps."""
        return self.complete and self.assumptions == 0

    def distinct_sectors(self) -> float:
        """Sectors of global memory that a warp is the first of its block to touch, on average."""
        found = [access for access in self.accesses.values() if access.kind.space == "global"]
        pieces = [piece for access in found for piece in access.touched]
        if not pieces:
            return 0.0
        looked_at = sum(access.measured for access in found) / sum(access.requests for access in found)
        return np.unique(np.concatenate(pieces)).size / self.warps / looked_at


def execute(
    code: MachineCode,
    grid: Extents,
    block: Extents,
    parameters: Sequence[Parameter] = (),
    dims: Mapping[str, int] | None = None,
) -> Execution:
    """Execute the integer part of a kernel for a few of its warps.

    Args:
        grid, block: extents of the launch.
        parameters: of the kernel, in order; pointers get addresses far apart.
        dims: values of scalar parameters, by name.
    """
    sample = _Sample.of(grid, block)
    lanes = Lanes(_constants(grid, block, parameters, dims or {}), sample.special)
    return _Executor(code, lanes, sample).run()


@dataclass(frozen=True)
class _Sample:
    """The warps that are executed.

    Attributes:
        special: special registers of their lanes.
        alive: which lanes hold a thread.
        blocks: for each warp, which of the executed blocks it belongs to.
    """

    special: dict[str, Value]
    alive: np.ndarray
    blocks: np.ndarray

    @staticmethod
    def of(grid: Extents, block: Extents) -> _Sample:
        count, threads = math.prod(grid), math.prod(block)
        numbers = sorted({0, count // 2, count - 1})
        in_block = -(-threads // WARP)
        picked = np.unique(np.linspace(0, in_block - 1, min(in_block, _SAMPLED_WARPS)).astype(np.int64))
        blocks = np.repeat(np.arange(len(numbers)), len(picked))
        warp = np.tile(picked, len(numbers))
        thread = (warp[:, None] * WARP + np.arange(WARP)).reshape(-1)
        number = np.repeat(np.array(numbers, np.int64)[blocks], WARP)
        special: dict[str, Value] = {"SR_LANEID": thread % WARP}
        for axis, size, extent in zip(_AXES, block, grid):
            special[f"SR_TID.{axis}"] = thread % size if axis != "Z" else thread
            special[f"SR_CTAID.{axis}"] = number % extent
            special[f"SR_NTID.{axis}"] = size
            special[f"SR_NCTAID.{axis}"] = extent
            if axis != "Z":
                thread, number = thread // size, number // extent
        alive = (warp[:, None] * WARP + np.arange(WARP)).reshape(-1) < threads
        return _Sample(special, alive, blocks)


def _constants(
    grid: Extents, block: Extents, parameters: Sequence[Parameter], dims: Mapping[str, int]
) -> dict[int, Value]:
    """Constant bank 0: extents of block and grid, the stack, and the parameters."""
    words: dict[int, Value] = {4 * place: size for place, size in enumerate((*block, *grid))}
    words[0x28] = 0
    offset = _PARAMETERS
    for number, parameter in enumerate(parameters):
        size = 8 if parameter.pointer else _SCALAR_BYTES.get(parameter.type, 8)
        offset = -(-offset // size) * size
        value = (number + 1) << 36 if parameter.pointer else dims.get(parameter.name)
        if value is not None:
            for place in range(0, max(size, 4), 4):
                words[offset + place] = value >> 8 * place & 0xFFFFFFFF
        offset += size
    return words


@dataclass
class _Compiled:
    """A basic block as the executor runs it: its steps, and where its last instruction leads."""

    steps: list[Step]
    leave: Callable[[int, Mask], None]


class _Executor:
    def __init__(self, code: MachineCode, lanes: Lanes, sample: _Sample) -> None:
        self.lanes, self.sample = lanes, sample
        self.warps = len(sample.blocks)
        self.running = self.warps  # those with a lane in the present basic block
        self.where = np.where(sample.alive, 0, _DONE)
        self.assumptions = 0
        self.broken = False
        self.accesses: dict[int, Access] = {}
        self.places = {block.address: number for number, block in enumerate(code.blocks)}
        self.subroutines = {self.place(label, code) for label in code.labels if label.startswith("$")}
        #: Blocks that call a subroutine.
        self.callers = {
            number
            for number, block in enumerate(code.blocks)
            if block.instructions[-1].base == "CALL" and (block.instructions[-1].target or "").startswith("$")
        }
        needed = _needed(code)
        self.blocks = [self._compile(block, number, code, needed) for number, block in enumerate(code.blocks)]

    def place(self, label: str, code: MachineCode) -> int:
        """The basic block at a label; one that follows the last block ends the run."""
        return self.places.get(code.labels.get(label, 0), _DONE)

    def run(self) -> Execution:
        counts = np.zeros(len(self.blocks), np.int64)
        left = _BUDGET
        while left > 0 and not self.broken:
            current = int(self.where.min())
            if current >= len(self.blocks):
                break
            active = self.where == current
            mask = None if active.all() else active
            block = self.blocks[current]
            if mask is not None:
                self.running = int(active.reshape(-1, WARP).any(axis=1).sum())
            else:
                self.running = self.warps
            counts[current] += self.running
            for run in block.steps:
                run(self.lanes, mask)
            block.leave(current, mask)
            left -= len(block.steps) + 1
        complete = bool((self.where >= len(self.blocks)).all()) and not self.broken
        return Execution(self.warps, counts, self.accesses, self.assumptions, complete)

    # -- compiling --------------------------------------------------------------------
    def _compile(self, block: Block, number: int, code: MachineCode, needed: set[str]) -> _Compiled:
        steps: list[Step] = []
        for instruction in block.instructions:
            if instruction.base in MEMORY:
                steps.append(self._memory(instruction))
            registers, predicates = results(instruction)
            if needed.isdisjoint(registers) and needed.isdisjoint(predicates):
                continue
            made = step(instruction)
            if made is not None:
                steps.append(made)
        return _Compiled(steps, self._leave(block.instructions[-1], code))

    def _memory(self, instruction: Instruction) -> Step:
        access = self.accesses[instruction.address] = Access(kind(instruction))
        places = [operand for operand in instruction.operands if operand.startswith("[")]
        # LDGSTS names where it stores before where it loads.
        address = address_reader(places[-1]) if places else lambda lanes: None
        guard = predicate_reader(instruction.guard or "PT")
        shape = (self.warps, WARP)
        limit = _MEASURED[access.kind.space] * self.warps
        rows = min(WARP, 8 * int(next((w for w in instruction.modifiers if w in ("2", "4")), 1)))
        few = instruction.base == "LDSM" and rows < WARP  # the other lanes give no address

        always = not instruction.guard

        def run(lanes: Lanes, mask: Mask) -> None:
            if always and access.measured >= limit:
                access.requests += self.running
                return
            active = self.sample.alive if mask is None else mask & self.sample.alive
            allowed = guard(lanes)
            if allowed is not None:
                active = active & allowed
            grouped = active.reshape(shape)
            access.requests += int(grouped.any(axis=1).sum())
            value = address(lanes) if access.measured < limit else None
            if value is not None:
                addresses = np.broadcast_to(np.asarray(value, np.int64), active.shape).reshape(shape)
                if few:
                    grouped = grouped & (np.arange(WARP) < rows)
                access.measure(addresses, grouped, self.sample.blocks)

        return run

    # -- control ----------------------------------------------------------------------
    def _leave(self, last: Instruction, code: MachineCode) -> Callable[[int, Mask], None]:
        base = last.base
        if base in ("EXIT", "KILL"):
            return self._go(last, lambda: _DONE)
        if base in ("BRA", "JMP", "CALL") and "DIV" not in last.modifiers and last.target is not None:
            goal = self.place(last.target, code)
            return self._go(last, lambda: goal)
        if base == "RET":
            back = word_reader(last.operands[0])
            return self._go(last, lambda: self._returned(back(self.lanes)))
        if base in ("BRX", "JMX", "CALL", "JMP"):
            return self._give_up
        return self._fall_through

    def _fall_through(self, current: int, mask: Mask) -> None:
        self._move(current + 1, mask)

    def _give_up(self, current: int, mask: Mask) -> None:
        self.broken = True

    def _returned(self, address: Value) -> int:
        """The block at a return address, where all lanes go back to one place."""
        found = np.unique(address) if address is not None else np.zeros(0)
        if found.size != 1 or int(found[0]) not in self.places:
            self.broken = True
            return _DONE
        return self.places[int(found[0])]

    def _go(self, last: Instruction, goal: Callable[[], int]) -> Callable[[int, Mask], None]:
        """Lanes whose conditions hold go to a block, the others on to the next."""
        names = [name for name in (last.guard, *filter(is_predicate, last.operands)) if name]
        conditions = [predicate_reader(name) for name in names]

        def leave(current: int, mask: Mask) -> None:
            taken: Predicate = True
            for condition in conditions:
                holds = condition(self.lanes)
                if holds is None:
                    holds = self._assumed(current, goal)
                taken = taken & holds
            if isinstance(taken, (bool, np.bool_)):
                self._move(goal() if taken else current + 1, mask)
                return
            first = taken if mask is None else taken & mask
            if first.any():
                self.where = np.where(first & self.sample.alive, goal(), self.where)
            others = ~taken if mask is None else ~taken & mask
            self._move(current + 1, others)

        return leave

    def _assumed(self, current: int, goal: Callable[[], int]) -> bool:
        """Whether a branch on data is taken: only around the subroutine of a division or root."""
        if current + 1 in self.callers:
            return True
        if goal() not in self.callers and goal() not in self.subroutines:
            self.assumptions += 1
        return False

    def _move(self, goal: int, mask: Mask) -> None:
        arriving = self.where != _DONE if mask is None else mask & (self.where != _DONE)
        self.where = np.where(arriving, goal, self.where)


def _needed(code: MachineCode) -> set[str]:
    """Registers and predicates that addresses and branches depend on, wherever in the code they are written."""
    roots = [i for i in code.instructions if i.base in MEMORY or i.target is not None or i.base in ("RET", "EXIT")]
    needed: set[str] = set()
    for instruction in roots:
        places = [operand for operand in instruction.operands if operand.startswith("[")]
        needed.update(_names(instruction.guard, *(places or instruction.operands)))
    grown = -1
    while grown != len(needed):
        grown = len(needed)
        for instruction in code.instructions:
            registers, predicates = results(instruction)
            if not needed.isdisjoint(registers) or not needed.isdisjoint(predicates):
                # A float says nothing about addresses, even where one register held both in turn.
                if instruction.base in MEMORY or kind(instruction).name in _OPAQUE:
                    continue
                needed.update(_names(instruction.guard, *instruction.operands))
    return needed


def _names(*operands: str) -> set[str]:
    """The registers, pairs taken whole, and predicates that operands mention."""
    found: set[str] = set()
    for operand in operands:
        for name in _NAME.findall(operand):
            found.update((name, next_register(name)))
    return found - {"RZ", "URZ", "PT", "UPT"}
