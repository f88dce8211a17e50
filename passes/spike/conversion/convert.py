"""The spiking graph: layers, neurons and pooling of a float graph in a loop over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from plait.ir import Constant, Graph, Loc, Op, Region, SpikeType, TensorType, Type, Value
from plait.ir import types as t
from plait.ir.ops import core, nn, spike
from plait.passes.constants import is_constant
from plait.passes.spike.conversion.balance import Scale
from plait.passes.spike.conversion.roles import LAYERS, LINEAR, MAXIMA, Layer, Plan, Role, is_neuron

NAME = "to-spiking"
#: Ops that move the elements of spikes as they are.
_MOVES = (core.Reshape, core.Transpose, core.Slice, core.Flip)


@dataclass(frozen=True)
class Signal:
    """What stands for a number of the float graph: its mean over time, times `scale`, is that number.

    Attributes:
        moving: whether it differs from step to step, so that it is computed inside the loop.
    """

    value: Value
    scale: float
    moving: bool

    @property
    def spikes(self) -> bool:
        return isinstance(self.value.type, SpikeType)


class Conversion:
    """Writes the spiking counterpart of a graph.

    Args:
        source: a graph without fused activations.
        scales: of the neurons and of coded inputs, by name.
        wanted: the scale of each result of the network (see `wanted_scales`).
        steps: of the loop.
        seeds: seed of the random numbers of each input that is coded by spikes.
        initial: potential of all neurons at the start, as a share of the threshold.
    """

    def __init__(
        self,
        source: Graph,
        plan: Plan,
        scales: Mapping[str, Scale],
        wanted: Mapping[Value, float],
        *,
        steps: int,
        seeds: Mapping[str, int],
        initial: float,
    ) -> None:
        self.source, self.plan, self.scales, self.wanted = source, plan, scales, wanted
        self.steps, self.seeds, self.initial = steps, seeds, initial
        self.graph = Graph(source.name)
        self.graph.dims = dict(source.dims)
        self.body = Region()
        self.signals: dict[Value, Signal] = {}
        self._sequences: list[Value] = []
        self._starts: dict[Value, Value] = {}  # state of the loop -> what it is at the start
        self._nexts: dict[Value, Value] = {}  # state of the loop -> what it is at the next step
        self._casts: dict[Value, Value] = {}
        self._constants: dict[tuple[Constant, float], Constant] = {}
        self._fulls: dict[float, Value] = {}
        #: Layers that sum currents inside the loop, since their operand is no spikes.
        self.dense: list[Op] = []

    def run(self) -> Graph:
        """The spiking graph, verified."""
        for value in self.source.inputs:
            copy = self.graph.add_input(value.name, value.type)
            self.signals[value] = Signal(copy, 1.0, False)
        for value in self.source.inputs:
            if value.name in self.seeds:
                self._encode(value)
        for op in self.source.ops:
            if self.plan.roles[op] is Role.NUMBERS:
                self._copy(op, lambda value: self._signal(value).value)
            elif self.plan.roles[op] is Role.NETWORK:
                self._network(op)
        means = self._close_loop()
        numbers: dict[Value, Value] = {}

        def number(value: Value) -> Value:
            if value in numbers:
                return numbers[value]
            return means[value] if value in means else self._at(self._signal(value), 1.0)

        for op in self.source.ops:
            if self.plan.roles[op] is Role.READ_OUT:
                numbers.update(zip(op.results, self._copy(op, number).results, strict=True))
        self.graph.set_outputs([number(value) for value in self.source.outputs])
        self.graph.verify()
        return self.graph

    # -- the parts ---------------------------------------------------------------------
    def _copy(self, op: Op, change: Callable[[Value], Value]) -> Op:
        """An op outside of the loop, as it is."""
        new = op.evolve()
        new.set_operands(change)
        self.graph.add(new, names=[self.graph.free_name(v.name) for v in op.results], loc=op.loc.via(NAME))
        if self.plan.roles[op] is Role.NUMBERS:
            self.signals.update((a, Signal(b, 1.0, False)) for a, b in zip(op.results, new.results))
        return new

    def _encode(self, value: Value) -> None:
        """Spikes that are drawn with probability x / scale at each step."""
        kind, scale, name = value.shaped, self.scales[value.name].scale, value.name
        held = TensorType(kind.dtype, (self.steps, *kind.shape))
        draws = core.Random(distribution="uniform", seed=self.seeds[name], out=held)
        self._sequences.append(self._emit(draws, f"{name}.draws", None, moving=False))
        chance = self._at(self.signals[value], scale)
        draw = self.body.add_param(Value(self.graph.fresh_name(f"{name}.draw"), kind))
        excess = self._emit(core.Sub(chance, draw), f"{name}.excess", None, moving=True)
        fire = spike.Threshold(excess, level=0.0)
        self.signals[value] = Signal(self._emit(fire, f"{name}.spikes", None, moving=True), scale, True)

    def _network(self, op: Op) -> None:
        if isinstance(op, LAYERS):
            found = self._layer(op)
        elif is_neuron(op):
            found = self._neuron(op)
        elif isinstance(op, MAXIMA):
            found = self._maximum(op)
        elif isinstance(op, (core.Add, core.Sub)):
            scale = self.wanted[op.result]
            left, right = self._signal(op.left), self._signal(op.right)
            changed = op.evolve(left=self._at(left, scale), right=self._at(right, scale))
            found = self._current(op, changed, scale, left.moving or right.moving)
        elif isinstance(op, (core.Mul, core.Div)):
            found = self._product(op)
        elif isinstance(op, core.Concat):
            found = self._concat(op)
        else:
            assert isinstance(op, LINEAR)  # `plan` refuses all others
            found = self._linear(op)
        self.signals[op.result] = found

    def _layer(self, op: Layer) -> Signal:
        """A weighted sum: w * scale_in / scale_out and b / scale_out."""
        x, scale = self._signal(op.x), self.wanted[op.result]
        w = self._scaled(op.w, x.scale / scale)
        b = None if op.b is None else self._scaled(op.b, 1.0 / scale)
        new: Op
        if x.spikes and isinstance(op, nn.Linear):
            new = spike.SpikeLinear(x.value, w, b)
        elif x.spikes and isinstance(op, nn.Conv2d) and op.groups == 1 and op.dilation == (1, 1):
            new = spike.SpikeConv2d(x.value, w, b, stride=op.stride, pad=op.pad)
        else:
            new = op.evolve(x=self._numbers(x), w=w, b=b)
            if x.moving:
                self.dense.append(op)
        return self._current(op, new, scale, x.moving)

    def _neuron(self, op: Op) -> Signal:
        """Integrate-and-fire neurons with reset by subtraction."""
        x, name = self._signal(op.operands[0]), op.name
        if x.spikes and isinstance(op, nn.Relu):
            return x  # spikes are not negative
        scale = self.scales[name].scale
        current = self._at(x, scale)
        v = self._state(f"{name}.potential", current.type, self.initial, op)
        fire = spike.IntegrateAndFire(current, v, v_th=1.0, reset="subtract")
        names = [self.graph.free_name(f"{name}.spikes"), self.graph.free_name(f"{name}.rest")]
        self.graph.add(fire, names=names, loc=op.loc.via(NAME), region=self.body)
        self._nexts[v] = fire.results[1]
        return Signal(fire.results[0], scale, True)

    def _maximum(self, op: Op) -> Signal:
        """What the maximum of the sums over time grows by, whose mean is the maximum of the means.

        For spikes it is 0 or 1: a spike passes where it comes from a neuron that has fired as often as any
        other of its window (the gate of Rueckauer et al. 2017, section 2.2.3).
        """
        x = self._signal(op.operands[0])
        if not x.moving:
            return self._current(op, op.evolve(x=x.value), x.scale, False)
        now = self._numbers(x)
        total = self._state(f"{op.name}.total", now.type, 0.0, op)
        peak = self._state(f"{op.name}.peak", op.result.type, 0.0, op)
        sums = self._emit(core.Add(total, now), f"{op.name}.sums", op, moving=True)
        top = self._emit(op.evolve(x=sums), f"{op.name}.top", op, moving=True)
        self._nexts[total], self._nexts[peak] = sums, top
        gain = self._emit(core.Sub(top, peak), f"{op.name}.gain", op, moving=True)
        if x.spikes:
            passed = spike.Threshold(gain, level=0.5)
            gain = self._emit(passed, f"{op.name}.spikes", op, moving=True)
        return Signal(gain, x.scale, True)

    def _product(self, op: core.Mul | core.Div) -> Signal:
        constant_left = is_constant(op.left)
        x = self._signal(op.right if constant_left else op.left)
        factor = self._signal(op.left if constant_left else op.right).value
        left, right = self._numbers(x), factor
        changed = op.evolve(left=right, right=left) if constant_left else op.evolve(left=left, right=right)
        return self._current(op, changed, x.scale, x.moving)

    def _concat(self, op: core.Concat) -> Signal:
        xs = [self._signal(value) for value in op.xs]
        moving = any(x.moving for x in xs)
        if all(x.spikes for x in xs) and len({x.scale for x in xs}) == 1:
            return self._current(op, op.evolve(xs=tuple(x.value for x in xs)), xs[0].scale, moving)
        scale = self.wanted[op.result]
        changed = op.evolve(xs=tuple(self._at(x, scale) for x in xs))
        return self._current(op, changed, scale, moving)

    def _linear(self, op: Op) -> Signal:
        x = self._signal(op.operands[0])
        if x.spikes and isinstance(op, _MOVES):
            out = {"out": SpikeType(op.out.shape)} if isinstance(op, core.Reshape) else {}
            return self._current(op, op.evolve(x=x.value, **out), x.scale, x.moving)
        changed = op.evolve(x=self._numbers(x))
        if isinstance(op, core.Pad):
            changed = changed.evolve(value=op.value / x.scale)
        return self._current(op, changed, x.scale, x.moving)

    # -- the loop ------------------------------------------------------------------------
    def _close_loop(self) -> dict[Value, Value]:
        """Put the loop into the graph; the means over time, in units of the source, of what is read."""
        read: dict[Value, None] = {}
        for op in self.source.ops:
            if self.plan.roles[op] is Role.READ_OUT:
                read.update(dict.fromkeys(op.operands))
        read.update(dict.fromkeys(self.source.outputs))
        moving = [value for value in read if value in self.signals and self.signals[value].moving]
        sums: dict[Value, Value] = {}
        for value in moving:
            now = self._numbers(self.signals[value])
            source = value.producer
            held = sums[value] = self._state(f"{value.name}.sum", now.type, 0.0, source)
            self._nexts[held] = self._emit(core.Add(held, now), f"{value.name}.sums", source, moving=True)
        self.body.set_results([self._nexts[state] for state in self._starts])
        loop = core.Scan(
            (*self._sequences, *self._starts.values()),
            carries=len(self._starts),
            length=self.steps,
            body=self.body,
        )
        names = [self.graph.free_name(f"{state.name}.last") for state in self._starts]
        self.graph.add(loop, names=names, loc=Loc.fuse([op.loc for op in self.plan.neurons], via=NAME))
        last = dict(zip(self._starts, loop.results, strict=True))
        means = {}
        for value, held in sums.items():
            mean = core.Mul(last[held], self._number(self.signals[value].scale / self.steps))
            means[value] = self._emit(mean, value.name, value.producer, moving=False)
        return means

    def _state(self, name: str, kind: Type, start: float, source: Op | None) -> Value:
        """State of the loop that has the number `start` everywhere before the first step."""
        assert isinstance(kind, TensorType)
        full = core.Full(value=start, out=kind)
        outside = self._emit(full, f"{name}.first", source, moving=False)
        state = self.body.add_param(Value(self.graph.fresh_name(name), kind))
        self._starts[state] = outside
        return state

    # -- values ------------------------------------------------------------------------------
    def _emit(self, op: Op, name: str, source: Op | None, *, moving: bool) -> Value:
        loc = Loc((), (NAME,)) if source is None else source.loc.via(NAME)
        name = self.graph.free_name(name)
        return self.graph.emit(op, name=name, loc=loc, region=self.body if moving else None)

    def _current(self, op: Op, new: Op, scale: float, moving: bool) -> Signal:
        """The signal of an op that stands for `op`."""
        suffix = "spikes" if isinstance(new.infer()[0], SpikeType) else "current"
        return Signal(self._emit(new, f"{op.name}.{suffix}", op, moving=moving), scale, moving)

    def _signal(self, value: Value) -> Signal:
        if isinstance(value, Constant):
            return Signal(self._scaled(value, 1.0), 1.0, False)
        return self.signals[value]

    def _numbers(self, x: Signal) -> Value:
        """A signal as numbers, spikes as 0 and 1."""
        if not x.spikes:
            return x.value
        if x.value not in self._casts:
            cast = core.Cast(x.value, out=TensorType(t.f32, x.value.shaped.shape))
            source = x.value.producer
            self._casts[x.value] = self._emit(cast, f"{x.value.name}.numbers", source, moving=x.moving)
        return self._casts[x.value]

    def _at(self, x: Signal, scale: float) -> Value:
        """A signal as numbers in units of another scale."""
        if x.scale == scale:
            return self._numbers(x)
        if isinstance(x.value, Constant):
            return self._scaled(x.value, x.scale / scale)
        product = core.Mul(self._numbers(x), self._number(x.scale / scale))
        return self._emit(product, f"{x.value.name}.scaled", x.value.producer, moving=x.moving)

    def _number(self, number: float) -> Value:
        if number not in self._fulls:
            full = core.Full(value=number, out=TensorType(t.f32, ()))
            self._fulls[number] = self._emit(full, "factor", None, moving=False)
        return self._fulls[number]

    def _scaled(self, constant: Value, factor: float) -> Constant:
        """A constant times a number, computed in 64 bits and rounded once."""
        assert isinstance(constant, Constant)
        found = self._constants.get((constant, factor))
        if found is None:
            if factor == 1.0:
                data, name = constant.data, constant.name
            else:
                data = (constant.data.astype(np.float64) * factor).astype(constant.data.dtype)
                name = f"{constant.name}.balanced"
            found = self.graph.add_constant(self.graph.free_name(name), data, constant.type)
            self._constants[constant, factor] = found
        return found
