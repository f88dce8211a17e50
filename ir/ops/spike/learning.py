"""spike: competition and plasticity, the two parts of a learning step without gradients."""

from __future__ import annotations

from dataclasses import KW_ONLY

from plait.ir import types as t
from plait.ir.op import Op, op
from plait.ir.ops.common import dense, floating, pads_of
from plait.ir.ops.spike.common import check_steps, first_spikes
from plait.ir.types import TensorType, Type
from plait.ir.value import Value

#: What a winner is described by, in this order.  A rule below 0 means: no winner, or one that does not learn.
WINNER_FIELDS = ("rule", "time", "channel", "row", "column")


@op("spike.winners")
class Winners(Op):
    """Winner-take-all: up to `count` neurons of each sample, in the order in which they win.

    times u8 [N,C,H,W] and potentials at the spike f32 [N,C,H,W] -> i32 [N, count, 5] of
    (rule, time, channel, row, column); the rule is 0, or -1 where nobody is left to win.  The earliest
    spike wins, among equals the largest potential, among these the lowest index in C,H,W order.  A winner
    takes its channel out of the competition and, in all channels, the square of side 2 * radius + 1
    around it (Kheradpisheh et al. 2018).
    """

    times: Value
    potential: Value
    _: KW_ONLY
    steps: int
    radius: int
    count: int

    def infer(self) -> tuple[Type, ...]:
        kind, levels = first_spikes(self, self.times, "times"), floating(self, self.potential, "potential")
        check_steps(self, self.steps)
        if levels != TensorType(t.f32, kind.shape):
            raise self.error(
                f"{self.times} is {kind} but {self.potential} is {levels}",
                why="f32 of the same shape is wanted",
            )
        if self.radius < 0 or self.count < 1:
            raise self.error(f"need radius >= 0 and count >= 1, got {self.radius} and {self.count}")
        return (TensorType(t.i32, (kind.shape[0], self.count, len(WINNER_FIELDS))),)


@op("spike.stdp")
class Stdp(Op):
    """Spike-timing-dependent plasticity of a shared kernel: its weights after the winners of a batch.

    w f32 [O,C,kh,kw], times u8 [N,C,H,W] of the inputs, winners i32 [N,K,5] (see `spike.winners`), rates
    f32 [rules, 2] of (positive, negative) -> f32 [O,C,kh,kw].  For each winner, sample after sample, each
    weight of its channel changes by the positive rate where the input of the synapse fired no later than
    the winner, else (silent inputs and pads too) by the negative one; with `stabilize` times
    (w - lower)(upper - w); then it is clamped to [lower, upper].  Winners whose rule is below 0 change
    nothing.  Kheradpisheh et al. 2018, equation 3; with rules for reward and punishment Mozafari et al. 2019.
    """

    w: Value
    times: Value
    winners: Value
    rates: Value
    _: KW_ONLY
    steps: int
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, ...] = (0, 0)
    stabilize: bool = True
    lower: float = 0.0
    upper: float = 1.0

    def infer(self) -> tuple[Type, ...]:
        w, times = floating(self, self.w, "w"), first_spikes(self, self.times, "times")
        winners, rates = dense(self, self.winners, "winners"), floating(self, self.rates, "rates")
        check_steps(self, self.steps)
        pads_of(self, self.pad, 2)
        if w.dtype is not t.f32 or w.rank != 4 or w.shape[1] != times.shape[1]:
            raise self.error(
                f"{self.times} is {times} but {self.w} is {w}", why="weights f32[O,C,kh,kw] are wanted"
            )
        fields = len(WINNER_FIELDS)
        if (
            winners.dtype is not t.i32
            or winners.rank != 3
            or (winners.shape[0], winners.shape[2])
            != (
                times.shape[0],
                fields,
            )
        ):
            raise self.error(
                f"operand winners ({self.winners}) is {winners}",
                why=f"winners i32[{times.shape[0]},K,{fields}] are wanted",
            )
        if rates.dtype is not t.f32 or rates.rank != 2 or rates.shape[1] != 2:
            raise self.error(f"operand rates ({self.rates}) is {rates}", why="rates f32[rules,2] are wanted")
        if self.lower >= self.upper:
            raise self.error(f"need lower < upper, got {self.lower} and {self.upper}")
        return (w,)
