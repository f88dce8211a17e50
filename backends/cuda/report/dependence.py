"""Which registers and predicates branches and addresses depend on, and where in the code they are live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from plait.backends.cuda.report.classes import MEMORY, kind
from plait.backends.cuda.report.semantics import results, sources
from plait.backends.cuda.sass import Block, Instruction, MachineCode

#: Classes whose results are floats: none is part of an address, even where one register holds both in turn.
_FLOATS = ("FFMA", "FP32 other", "HFMA2", "FP16 other", "FP64", "MUFU", "HMMA", "IMMA", "BMMA", "DMMA")


@dataclass(frozen=True)
class Needed:
    """Registers and predicates that matter for an execution.

    Attributes:
        control: what branches and guards of memory instructions depend on.
        all: what those or addresses depend on.
        live: for each basic block, those of `all` whose values it or a later one may read.
    """

    control: frozenset[str]
    all: frozenset[str]
    live: tuple[frozenset[str], ...]

    @staticmethod
    def of(code: MachineCode) -> Needed:
        """What matters in a kernel."""
        control: set[str] = set()
        places: set[str] = set()
        for instruction in code.instructions:
            if instruction.base in MEMORY:
                control.update(sources(replace(instruction, operands=())))
                places.update(_reads(instruction))
            elif _decides(instruction):
                control.update(sources(instruction))
        control = _closure(code, control)
        everything = _closure(code, control | places)
        return Needed(frozenset(control), frozenset(everything), _live(code, everything))


def _decides(instruction: Instruction) -> bool:
    """Whether an instruction decides what comes next."""
    return instruction.target is not None or instruction.base in ("RET", "EXIT")


def _reads(instruction: Instruction) -> frozenset[str]:
    """What an instruction reads; of a memory instruction, its guard and address but not what it stores."""
    if instruction.base not in MEMORY:
        return sources(instruction)
    return sources(replace(instruction, operands=tuple(o for o in instruction.operands if o.startswith("["))))


def _closure(code: MachineCode, names: set[str]) -> set[str]:
    """The names, and all that they are computed from, wherever in the code that is written."""
    found, grown = set(names), -1
    while grown != len(found):
        grown = len(found)
        for instruction in code.instructions:
            if instruction.base in MEMORY or kind(instruction).name in _FLOATS:
                continue
            registers, predicates = results(instruction)
            if not found.isdisjoint(registers) or not found.isdisjoint(predicates):
                found.update(sources(instruction))
    return found


def _live(code: MachineCode, needed: set[str]) -> tuple[frozenset[str], ...]:
    """For each basic block, the needed names that may be read from its start on."""
    facts = [_uses_and_kills(block, needed) for block in code.blocks]
    following = [tuple(_following(number, code)) for number in range(len(code.blocks))]
    live: list[set[str]] = [set() for _ in code.blocks]
    changed = True
    while changed:
        changed = False
        for number, (uses, kills) in reversed(list(enumerate(facts))):
            after: set[str] = set().union(*(live[other] for other in following[number]))
            now = uses | (after - kills)
            changed = changed or now != live[number]
            live[number] = now
    return tuple(map(frozenset, live))


def _uses_and_kills(block: Block, needed: set[str]) -> tuple[set[str], set[str]]:
    """Needed names that a block reads before it writes them, and those that it surely writes."""
    uses: set[str] = set()
    kills: set[str] = set()
    for instruction in block.instructions:
        written = {name for names in results(instruction) for name in names}
        if instruction.base in MEMORY or _decides(instruction) or not needed.isdisjoint(written):
            uses |= (_reads(instruction) & needed) - kills
        if not instruction.guard:
            kills |= written
    return uses, kills


def _following(number: int, code: MachineCode) -> Iterator[int]:
    """Basic blocks that control may go to from one."""
    last = code.blocks[number].instructions[-1]
    goal = code.labels.get(last.target) if last.target is not None else None
    if goal is not None:
        yield from (place for place, block in enumerate(code.blocks) if block.address == goal)
    # A branch may have conditions among its operands as well.
    ends = last.base in ("BRA", "EXIT", "RET", "JMP") and not last.guard and len(last.operands) <= 1
    if not ends and number + 1 < len(code.blocks):
        yield number + 1
