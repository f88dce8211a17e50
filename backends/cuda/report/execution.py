"""How often the instructions of a kernel run, and which memory they touch.

The machine code is executed for the warps of a few blocks, all in step, as far as
addresses and branches need it: integers and predicates are computed, floats are
not.  Lanes at the lowest address go first, so that diverged lanes meet again where
their paths do.  What depends on the data of a model is unknown; an unknown
condition lets execution fall through, but for the subroutines of division and
roots, which usual numbers do not need.  The former choices are counted.  Of a loop
whose registers change evenly only some rounds are executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plait.backends.cuda.occupancy import WARP
from plait.backends.cuda.report.access import Access
from plait.backends.cuda.report.classes import MEMORY, kind
from plait.backends.cuda.report.dependence import Needed
from plait.backends.cuda.report.lanes import (
    Lanes,
    Mask,
    Predicate,
    Value,
    address_reader,
    is_predicate,
    predicate_reader,
    word_reader,
)
from plait.backends.cuda.report.loops import Visits, last_round
from plait.backends.cuda.report.sample import Extents, Sample, constant_bank
from plait.backends.cuda.report.semantics import results, step
from plait.backends.cuda.report.steps import Step
from plait.backends.cuda.sass import Block, Instruction, MachineCode
from plait.backends.cuda.source_text import Parameter

#: Executions of one memory instruction whose addresses are looked at, by space.
_MEASURED = {"global": 48, "shared": 8, "local": 0}
#: Instructions after which a kernel is given up: about two seconds.
_BUDGET = 500_000
_DONE = int(np.iinfo(np.int64).max)


@dataclass
class Execution:
    """What the executed warps did.

    Attributes:
        warps: how many they were.
        block_counts: executions of each basic block, summed over warps.
        accesses: of each memory instruction, by its address in the code.
        assumptions: conditions on data that were assumed.
        complete: whether every warp ran to its end.
        uneven: whether rounds of a loop were skipped that differ in what they do, and averages counted.
    """

    warps: int
    block_counts: np.ndarray
    accesses: dict[int, Access]
    assumptions: int
    complete: bool
    uneven: bool

    @property
    def exact(self) -> bool:
        """Whether the counts are those of a real run of these warps."""
        return self.complete and self.assumptions == 0 and not self.uneven

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
    *,
    budget: int = _BUDGET,
) -> Execution:
    """Execute the integer part of a kernel for a few of its warps.

    Args:
        grid, block: extents of the launch.
        parameters: of the kernel, in order; pointers get addresses far apart.
        dims: values of scalar parameters, by name.
        budget: instructions after which the kernel is given up.
    """
    sample = Sample.of(grid, block)
    lanes = Lanes(constant_bank(grid, block, parameters, dims or {}), sample.special)
    return _Executor(code, lanes, sample, budget).run()


@dataclass
class _Compiled:
    """A basic block as the executor runs it.

    Attributes:
        steps: what its instructions do to registers that matter, and to memory.
        control: the same for registers that branches depend on; others become unknown.
        accesses: its memory instructions.
        leave: where its last instruction leads.
        measured: whether enough addresses were looked at, so that `control` is all that is left to do.
    """

    steps: list[Step]
    control: list[Step]
    accesses: list[Access]
    leave: Callable[[int, Mask], None]
    measured: bool = False


class _Executor:
    """Executes the warps of a sample in step.

    While all lanes that have not exited are at one basic block, `together` is its
    number; else `where` holds that of each lane.
    """

    def __init__(self, code: MachineCode, lanes: Lanes, sample: Sample, budget: int) -> None:
        self.lanes, self.sample = lanes, sample
        self.warps = len(sample.blocks)
        self.running = self.warps  # warps with a lane in the present basic block
        self.live = sample.alive
        self.together: int | None = 0
        self.where = np.zeros(self.warps * WARP, np.int64)
        self.assumptions = 0
        self.broken = False
        self.trying = False  # a round only to see where it leads
        self.uneven = False
        self.left = budget
        self.visits: dict[int, Visits] = {}
        self.accesses: dict[int, Access] = {}
        self.places = {block.address: number for number, block in enumerate(code.blocks)}
        self.subroutines = {self.place(label, code) for label in code.labels if label.startswith("$")}
        #: Blocks that call a subroutine.
        self.callers = {
            number
            for number, block in enumerate(code.blocks)
            if block.instructions[-1].base == "CALL" and (block.instructions[-1].target or "").startswith("$")
        }
        self.needed = Needed.of(code)
        self.counts = np.zeros(len(code.blocks))
        self.blocks = [self._compile(block, code) for block in code.blocks]
        self.requests = np.zeros(len(self.accesses))

    def place(self, label: str, code: MachineCode) -> int:
        """The basic block at a label; one that follows the last block ends the run."""
        return self.places.get(code.labels.get(label, -1), _DONE)

    def run(self) -> Execution:
        """Execute all warps to their end, or until the budget is spent."""
        while self.left > 0 and not self.broken:
            current, mask = self._next()
            if current >= len(self.blocks):
                break
            self._execute(current, mask)
            if self.together is not None and self.together <= current:
                self._go_round(self.together)
        complete = self._next()[0] >= len(self.blocks) and not self.broken
        for access, requests in zip(self.accesses.values(), self.requests, strict=True):
            access.requests = float(requests)
        return Execution(self.warps, self.counts, self.accesses, self.assumptions, complete, self.uneven)

    def _execute(self, current: int, mask: Mask) -> None:
        """Execute one basic block in the lanes of a mask."""
        everyone = mask is None and self.live is self.sample.alive
        self.running = self.warps if everyone else _warps_of(self.live if mask is None else mask)
        block = self.blocks[current]
        self.counts[current] += self.running
        if not block.measured:
            block.measured = all(access.measured >= self._limit(access) for access in block.accesses)
        steps = block.control if block.measured and block.accesses else block.steps
        for run in steps:
            run(self.lanes, mask)
        block.leave(current, mask)
        self.left -= len(steps) + 1

    def _go_round(self, head: int) -> None:
        """All lanes are back at the head of a loop: jump ahead where the rounds to come are like the last."""
        for inner in [place for place in self.visits if place > head]:
            del self.visits[inner]
        visits = self.visits.setdefault(head, Visits())
        names = self.needed.live[head]
        if not visits.arrive(self.lanes, names, np.concatenate([self.counts, self.requests])):
            return
        steps = visits.steps()
        if not steps:
            return
        equality = self.lanes.equality
        equality.mode = "keep"
        self._goes_on(head, visits, steps, 0)
        equality.mode = "cross"
        rounds = last_round(
            lambda number: not visits.wraps(steps, number) and self._goes_on(head, visits, steps, number)
        )
        equality.mode = "plain"
        increase, even = visits.per_round()
        visits.skip(self.lanes, steps, rounds)
        self.counts += increase[: len(self.counts)] * rounds
        self.requests += increase[len(self.counts) :] * rounds
        self.uneven = self.uneven or (rounds > 0 and not even)
        del self.visits[head]

    def _goes_on(self, head: int, visits: Visits, steps: dict[str, Value], rounds: int) -> bool:
        """Whether a loop goes round once more after some rounds; nothing is changed or counted."""
        saved = (self.live, self.where, self.assumptions, self.counts, self.requests)
        lanes = replace(
            self.lanes, registers=dict(self.lanes.registers), predicates=dict(self.lanes.predicates)
        )
        self.lanes, lanes = lanes, self.lanes
        self.counts, self.requests = self.counts.copy(), self.requests.copy()
        self.trying = True
        visits.skip(self.lanes, steps, rounds)
        returned = False
        while self.left > 0 and not self.broken:
            current, mask = self._next()
            if not head <= current < len(self.blocks):
                break
            self._execute(current, mask)
            if self.together is not None and self.together <= current:
                returned = self.together == head
                if self.together <= head:
                    break
        self.trying = False
        self.lanes, self.together = lanes, head
        self.live, self.where, self.assumptions, self.counts, self.requests = saved
        return returned

    def _next(self) -> tuple[int, Mask]:
        """The basic block to execute, and the lanes that are there; None for all that are left."""
        if self.together is not None:
            return self.together, None
        current = int(self.where.min())
        active = self.where == current
        if np.array_equal(active, self.live):
            self.together = current
            return current, None
        return current, active

    # -- compiling --------------------------------------------------------------------
    def _compile(self, block: Block, code: MachineCode) -> _Compiled:
        steps: list[Step] = []
        control: list[Step] = []
        forgotten: dict[str, None] = {}
        accesses = []
        for instruction in block.instructions:
            if instruction.base in MEMORY:
                number, access = len(self.accesses), Access(kind(instruction))
                self.accesses[instruction.address] = access
                accesses.append(access)
                steps.append(self._memory(instruction, number, access))
                control.append(steps[-1])
            written = {name for names in results(instruction) for name in names}
            made = step(instruction) if not self.needed.all.isdisjoint(written) else None
            if made is not None:
                steps.append(made)
                if not self.needed.control.isdisjoint(written):
                    control.append(made)
                else:
                    forgotten.update(dict.fromkeys(written))
        if forgotten:
            control.append(_forgetting(tuple(forgotten)))
        return _Compiled(steps, control, accesses, self._leave(block.instructions[-1], code))

    def _memory(self, instruction: Instruction, number: int, access: Access) -> Step:
        places = [operand for operand in instruction.operands if operand.startswith("[")]
        # LDGSTS names where it stores before where it loads.
        address = address_reader(places[-1]) if places else lambda lanes: None
        guard = predicate_reader(instruction.guard) if instruction.guard else None
        shape = (self.warps, WARP)
        limit = self._limit(access)
        giving = np.arange(WARP) < _rows(instruction)

        def run(lanes: Lanes, mask: Mask) -> None:
            if guard is None and (self.trying or access.measured >= limit):
                self.requests[number] += self.running
                return
            active = self.live if mask is None else mask
            allowed = guard(lanes) if guard is not None else None
            if allowed is not None:
                active = active & allowed
            self.requests[number] += _warps_of(active)
            value = address(lanes) if access.measured < limit and not self.trying else None
            if value is not None:
                addresses = np.empty(shape, np.int64)
                addresses.reshape(-1)[:] = value
                access.measure(addresses, active.reshape(shape) & giving, self.sample.blocks)

        return run

    def _limit(self, access: Access) -> int:
        """Measured requests that are enough."""
        return _MEASURED[access.kind.space] * self.warps

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
            present = self.live if mask is None else mask
            going, staying = present & taken, present & ~taken
            if not staying.any():
                self._move(goal(), mask)
            elif not going.any():
                self._move(current + 1, mask)
            else:
                self._move(goal(), going)
                self._move(current + 1, staying)

        return leave

    def _assumed(self, current: int, goal: Callable[[], int]) -> bool:
        """Whether a branch on data is taken: only around the subroutine of a division or root."""
        if current + 1 in self.callers:
            return True
        if goal() not in self.callers and goal() not in self.subroutines:
            self.assumptions += 1
        return False

    def _move(self, goal: int, mask: Mask) -> None:
        """Send the lanes of a mask, or all that are left, to a basic block."""
        if mask is None:
            self.together = goal
            return
        if self.together is not None:
            self.where = np.where(self.live, self.together, _DONE)
            self.together = None
        self.where = np.where(mask, goal, self.where)
        if goal == _DONE:
            self.live = self.live & ~mask


def _warps_of(active: np.ndarray) -> int:
    """Warps with a lane among the active ones."""
    return int(active.reshape(-1, WARP).any(axis=1).sum())


def _rows(instruction: Instruction) -> int:
    """Lanes of a warp that give an address: LDSM takes one for each row of the matrices it loads."""
    if instruction.base != "LDSM":
        return WARP
    return 8 * next((int(word) for word in instruction.modifiers if word in ("2", "4")), 1)


def _forgetting(names: tuple[str, ...]) -> Step:
    """What makes registers and predicates unknown."""

    def run(lanes: Lanes, mask: Mask) -> None:
        for name in names:
            if name in lanes.predicates:
                lanes.predicates[name] = None
            else:
                lanes.registers[name] = None

    return run
