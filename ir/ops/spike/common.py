"""Checks that the ops of spikes share."""

from __future__ import annotations

from plait.ir import types as t
from plait.ir.op import Op, shaped
from plait.ir.ops.common import dense
from plait.ir.types import SpikeType, TensorType
from plait.ir.value import Value

#: Steps of a wave whose first-spike times fit into a byte beside the mark of silence.
MOST_STEPS = 254


def spikes(op: Op, value: Value, name: str) -> SpikeType:
    """The spike type of an operand.  Raises VerifyError for other tensors."""
    kind = shaped(op, value, name)
    if not isinstance(kind, SpikeType):
        raise op.error(f"operand {name} ({value}) is {kind}", why="spikes are wanted")
    return kind


def first_spikes(op: Op, value: Value, name: str) -> TensorType:
    """The type of an operand of first-spike times, NCHW.  Raises VerifyError for another."""
    kind = dense(op, value, name)
    if kind.dtype is not t.u8 or kind.rank != 4:
        raise op.error(f"operand {name} ({value}) is {kind}", why="first-spike times u8[N,C,H,W] are wanted")
    return kind


def check_steps(op: Op, steps: int) -> None:
    """Raise VerifyError for a number of steps that first-spike times cannot count."""
    if not 1 <= steps <= MOST_STEPS:
        raise op.error(f"need 1 <= steps <= {MOST_STEPS}, got steps={steps}")
