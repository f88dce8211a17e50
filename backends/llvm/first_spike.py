"""Generator of `FirstSpikeConv2d`: rank-order integrate-and-fire neurons, with inhibition and pooling.

Output-stationary: a pixel's potentials stay in vector registers from its first event to the step at
which all its channels have fired.  A channel that has fired is set to minus infinity, which no weight
can lift over the threshold again; spikes are rare, so that everything about them sits behind one branch
a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from plait.backends.llvm.accumulate import Accumulators, block_vectors
from plait.backends.llvm.events import EventLists
from plait.backends.llvm.specification import FirstSpikeConv2d
from plait.backends.llvm.structure import (
    F32,
    I64,
    POINTER,
    U8,
    Code,
    Lanes,
    Variable,
    Workspace,
    channel_blocks,
    workspace_function,
)

_SILENCED = float("-inf")


@dataclass(frozen=True)
class _Result:
    """Where the spikes of one sample go."""

    code: Code
    spec: FirstSpikeConv2d
    times: ir.Value
    potentials: ir.Value

    def clear(self) -> None:
        size = self.spec.result_height * self.spec.result_width * self.spec.out_channels
        self.code.fill(self.times, self.spec.steps, size)
        if self.spec.potentials:
            self.code.fill(self.potentials, 0, size * 4)

    def _windows(self, axis: int, place: ir.Value, count: int) -> tuple[ir.Value, ir.Value]:
        """The pooling windows along one axis that hold `place`: first, and one past the last."""
        assert self.spec.pool is not None
        code, b, pool = self.code, self.code.b, self.spec.pool
        kernel, stride, padding = pool.kernel[axis], pool.stride[axis], pool.padding[axis]
        before = code.maximum(b.add(place, code.number(padding - kernel + 1)), code.number(0))
        first = b.udiv(b.add(before, code.number(stride - 1)), code.number(stride))
        last = b.udiv(b.add(place, code.number(padding)), code.number(stride))
        return first, code.minimum(b.add(last, code.number(1)), code.number(count))

    def visit(self, y: ir.Value, x: ir.Value, write: Callable[[ir.Value], None]) -> None:
        """Calls `write` with the first element of each result pixel that the neuron at (y, x) feeds."""
        code, spec = self.code, self.spec
        row = spec.result_width * spec.out_channels
        if spec.pool is None:
            write(code.scaled((y, row), (x, spec.out_channels)))
            return
        with (
            code.counting(*self._windows(0, y, spec.result_height)) as pooled_y,
            code.counting(*self._windows(1, x, spec.result_width)) as pooled_x,
        ):
            write(code.scaled((pooled_y, row), (pooled_x, spec.out_channels)))

    def _better(
        self, time: ir.Value, old_time: ir.Value, potential: ir.Value, old_potential: ir.Value | None
    ) -> ir.Value:
        """Is the spike earlier than the one that is there, or as early with a larger potential?"""
        b = self.code.b
        better = b.icmp_unsigned("<", time, old_time)
        if old_potential is not None:
            tie = b.and_(b.icmp_unsigned("==", time, old_time), b.fcmp_ordered(">", potential, old_potential))
            better = b.or_(better, tie)
        return better

    def put_vector(
        self, pixel: ir.Value, lanes: Lanes, fires: ir.Value, time: ir.Value, potential: ir.Value
    ) -> None:
        """Writes the spikes of the lanes of `fires` at step `time` (u8)."""
        code, b = self.code, self.code.b
        place = b.add(pixel, code.number(lanes.start))
        now = code.splat(time, lanes.width)
        old = code.load_lanes(self.times, place, U8, lanes)
        old_potential = code.load_lanes(self.potentials, place, F32, lanes) if self.spec.potentials else None
        chosen = fires
        if self.spec.pool is not None:
            chosen = b.and_(fires, self._better(now, old, potential, old_potential))
        code.store_lanes(b.select(chosen, now, old), self.times, place, lanes)
        if old_potential is not None:
            code.store_lanes(b.select(chosen, potential, old_potential), self.potentials, place, lanes)

    def silence_after(self, step: ir.Value, width: int) -> None:
        """Silences what fires after a step."""
        code, b, spec = self.code, self.code.b, self.spec
        size = spec.result_height * spec.result_width * spec.out_channels
        lanes = Lanes(0, width, width)
        last = code.splat(b.trunc(step, U8), width)
        whole = size - size % width
        with code.counting(code.number(0), code.number(whole), width) as place:
            times = code.load_lanes(self.times, place, U8, lanes)
            late = b.icmp_unsigned(">", times, last)
            silent = ir.Constant(times.type, [spec.steps] * width)
            code.store_lanes(b.select(late, silent, times), self.times, place, lanes)
            if spec.potentials:
                levels = code.load_lanes(self.potentials, place, F32, lanes)
                code.store_lanes(
                    b.select(late, ir.Constant(levels.type, None), levels), self.potentials, place, lanes
                )
        with code.counting(code.number(whole), code.number(size)) as place:
            time = code.load(self.times, place, U8)
            with b.if_then(b.icmp_unsigned(">", time, b.trunc(step, U8))):
                code.store(code.number(spec.steps, U8), self.times, place)
                if spec.potentials:
                    code.store(ir.Constant(F32, 0.0), self.potentials, place)

    def put_one(self, pixel: ir.Value, channel: ir.Value, time: ir.Value, potential: ir.Value) -> None:
        """Writes the spike of one channel."""
        code, b = self.code, self.code.b
        place = b.add(pixel, channel)
        old = code.load(self.times, place, U8)
        old_potential = code.load(self.potentials, place, F32) if self.spec.potentials else None
        with b.if_then(self._better(time, old, potential, old_potential)):
            code.store(time, self.times, place)
            if self.spec.potentials:
                code.store(potential, self.potentials, place)


@dataclass(frozen=True)
class _Winner:
    """The spike that inhibition keeps at a pixel: the time is `steps` as long as there is none."""

    code: Code
    time: Variable
    potential: Variable
    channel: Variable

    def reset(self, steps: int) -> None:
        self.time.set(self.code.number(steps))
        self.potential.set(ir.Constant(F32, _SILENCED))

    def offer(self, sums: Accumulators, fires: Sequence[ir.Value], time: ir.Value) -> None:
        """Takes the largest of the firing channels if it comes first or is larger than the winner.

        Blocks come in the order of channels and never later than the winner's time.
        """
        code, b = self.code, self.code.b
        width = sums.block[0].width
        kind = ir.VectorType(F32, width)
        lowest = ir.Constant(kind, [_SILENCED] * width)
        largest = lowest
        for mask, total in zip(fires, sums.sums):
            candidate = b.select(mask, total.get(), lowest)
            largest = b.select(b.fcmp_ordered(">", candidate, largest), candidate, largest)
        # No candidate is NaN: a NaN is not over the threshold.
        best = code.intrinsic(f"llvm.vector.reduce.fmax.v{width}f32", F32, [largest], assume=("nnan",))
        earlier = b.icmp_signed("<", time, self.time.get())
        larger = b.fcmp_ordered(">", best, self.potential.get())
        with b.if_then(b.or_(earlier, larger)):
            self.channel.set(code.number(0))
            self.time.set(time)
            self.potential.set(best)
            spread = code.splat(best, width)
            # From the last vector to the first, so that the lowest channel is what remains.
            for lanes, mask, total in reversed(list(zip(sums.block, fires, sums.sums))):
                equal = code.bits(b.and_(mask, b.fcmp_ordered("==", total.get(), spread)))
                some = b.icmp_unsigned("!=", equal, code.number(0, equal.type))
                lane = b.zext(code.trailing_zeros(b.select(some, equal, code.number(1, equal.type))), I64)
                channel = b.add(lane, code.number(lanes.start))
                self.channel.set(b.select(some, channel, self.channel.get()))


def generate(spec: FirstSpikeConv2d, symbol: str, width: int) -> tuple[ir.Module, int]:
    """The LLVM module of the kernel, and the bytes of workspace of one call.

    Args:
        symbol: the C name.
        width: f32 lanes of a vector.
    """
    module = ir.Module(symbol)
    code = Code(module, symbol, [POINTER] * 6 + [I64, I64])
    b = code.b
    times, weights, level, first_times, potentials, workspace, begin, end = code.function.args
    space = Workspace()
    events = EventLists(code, spec, spec.steps, space, workspace)
    blocks = channel_blocks(spec.out_channels, width, block_vectors(width))
    threshold = code.load(level, code.number(0), F32)
    # Below a threshold under zero, neurons may fire at step 0 without any event.
    eager = b.fcmp_ordered("<", threshold, ir.Constant(F32, 0.0))
    winner = _Winner(code, Variable(code, I64), Variable(code, F32), Variable(code, I64))
    #: With `earliest`, the step of the sample's earliest spike so far.
    limit = Variable(code, I64)
    size = spec.result_height * spec.result_width * spec.out_channels
    with code.counting(begin, end) as sample:
        source = code.at(times, code.scaled((sample, spec.height * spec.width * spec.in_channels)), U8)
        start = code.scaled((sample, size))
        result = _Result(code, spec, code.at(first_times, start, U8), code.at(potentials, start, F32))
        result.clear()
        limit.set(code.number(spec.steps))
        events.scan(source)
        with code.counting(code.number(0), code.number(spec.out_height)) as y:
            total = events.band(y)
            some = b.icmp_signed(">", total, code.number(0))
            with b.if_then(b.and_(eager, b.not_(some))):
                code.fill(events.bin_start, 0, (events.bins + 2) * 4)
                code.fill(events.band_steps, 0, spec.padded_width * events.words * 8)
            with (
                b.if_then(b.or_(eager, some)),
                code.counting(code.number(0), code.number(spec.out_width)) as x,
            ):
                column = code.scaled((x, spec.stride[1]))
                active = [events.steps_of_window(column, word) for word in range(events.words)]
                active[0] = b.or_(active[0], b.zext(eager, I64))
                any_step = active[0]
                for word in active[1:]:
                    any_step = b.or_(any_step, word)
                with b.if_then(b.icmp_unsigned("!=", any_step, code.number(0))):
                    winner.reset(spec.steps)
                    for block in blocks:
                        _integrate(
                            code,
                            spec,
                            events,
                            weights,
                            threshold,
                            block,
                            active,
                            result,
                            winner,
                            limit,
                            (y, x),
                        )
                    if spec.inhibit:
                        _put_winner(code, spec, result, winner, (y, x))
        if spec.earliest:
            result.silence_after(limit.get(), width)
    code.finish()
    workspace_function(module, symbol, space.size_bytes)
    return module, space.size_bytes


def _put_winner(
    code: Code, spec: FirstSpikeConv2d, result: _Result, winner: _Winner, pixel: tuple[ir.Value, ir.Value]
) -> None:
    """Writes the spike of the channel that won a pixel, if any."""
    time = winner.time.get()
    with code.b.if_then(code.b.icmp_signed("<", time, code.number(spec.steps))):
        result.visit(
            *pixel,
            lambda place: result.put_one(
                place, winner.channel.get(), code.b.trunc(time, U8), winner.potential.get()
            ),
        )


def _integrate(
    code: Code,
    spec: FirstSpikeConv2d,
    events: EventLists,
    weights: ir.Value,
    threshold: ir.Value,
    block: Sequence[Lanes],
    active: Sequence[ir.Value],
    result: _Result,
    winner: _Winner,
    limit: Variable,
    pixel: tuple[ir.Value, ir.Value],
) -> None:
    """Runs the channels of one block at one pixel through the steps whose bits are set in `active`."""
    b = code.b
    width = block[0].width
    sums = Accumulators(code, block, idle=_SILENCED)
    alive = Variable(code, I64, code.number(sum(lanes.used for lanes in block)))
    levels = code.splat(threshold, width)
    column = code.scaled((pixel[1], spec.stride[1]))
    for word, steps in enumerate(active):
        left = Variable(code, I64, steps)

        def running(left: Variable = left) -> ir.Value:
            return b.and_(
                b.icmp_unsigned("!=", left.get(), code.number(0)),
                b.icmp_signed(">", alive.get(), code.number(0)),
            )

        with code.repeating(running):
            time = b.add(code.trailing_zeros(left.get()), code.number(64 * word))
            left.set(code.without_lowest_bit(left.get()))
            if spec.inhibit:
                late = b.icmp_signed(">", time, winner.time.get())
                left.set(b.select(late, code.number(0), left.get()))
            if spec.earliest:
                # Nobody who has not fired by now can be among the earliest.
                past = b.icmp_signed(">", time, limit.get())
                left.set(b.select(past, code.number(0), left.get()))
                late = b.or_(late, past) if spec.inhibit else past
            sums.add_range(events, weights, column, *events.range_of_window(column, time))
            fires = [b.fcmp_ordered(">", total.get(), levels) for total in sums.sums]
            any_fires = fires[0]
            for mask in fires[1:]:
                any_fires = b.or_(any_fires, mask)
            kind = ir.IntType(width)
            with b.if_then(b.icmp_unsigned("!=", code.bits(any_fires), code.number(0, kind))):
                if spec.inhibit:
                    with b.if_then(b.not_(late)):
                        winner.offer(sums, fires, time)
                        if spec.earliest:
                            limit.set(time)
                    alive.set(code.number(0))
                elif spec.earliest:
                    with b.if_then(b.not_(late)):
                        limit.set(time)
                        _fire(code, result, sums, fires, time, alive, pixel)
                    alive.set(code.number(0))
                else:
                    _fire(code, result, sums, fires, time, alive, pixel)


def _fire(
    code: Code,
    result: _Result,
    sums: Accumulators,
    fires: Sequence[ir.Value],
    time: ir.Value,
    alive: Variable,
    pixel: tuple[ir.Value, ir.Value],
) -> None:
    """Writes the spikes of `fires` and silences their channels."""
    b = code.b
    potentials = [total.get() for total in sums.sums]
    now = b.trunc(time, U8)

    def write(place: ir.Value) -> None:
        for lanes, mask, potential in zip(sums.block, fires, potentials):
            result.put_vector(place, lanes, mask, now, potential)

    result.visit(*pixel, write)
    for mask, total in zip(fires, sums.sums):
        silenced = ir.Constant(ir.VectorType(F32, mask.type.count), [_SILENCED] * mask.type.count)
        total.set(b.select(mask, silenced, total.get()))
        count = code.intrinsic(
            f"llvm.ctpop.i{mask.type.count}", ir.IntType(mask.type.count), [code.bits(mask)]
        )
        alive.set(b.sub(alive.get(), b.zext(count, I64)))
