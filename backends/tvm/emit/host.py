"""Ops that are no kernels: control flow, and functions of the host that find the size of their result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from plait.backends.tvm.emit.table import Arguments, Emitter, Kind, emit
from plait.backends.tvm.runtime import BIND_DIM, NON_MAX_SUPPRESSION, NONZERO, UNIQUE
from plait.ir import Op
from plait.ir.ops import core, nn


@dataclass(frozen=True)
class HostCall:
    """A registered function, which takes the operands of an op and then these numbers.

    It returns a shape of one dim, the size that the op binds, and the results.
    """

    name: str
    attributes: tuple[float | int, ...] = ()


H = TypeVar("H", bound=Callable[[Any], HostCall])
_CALLS: dict[type[Op], Callable[[Any], HostCall]] = {}


def host(kind: type[Op]) -> Callable[[H], H]:
    """Decorator that enters the host function of an op class."""

    def enter(function: H) -> H:
        emit(kind, kind=Kind.HOST)(_no_kernel)
        _CALLS[kind] = function
        return function

    return enter


def host_call(op: Op) -> HostCall:
    """How to call the host function of an op whose kind is HOST."""
    return _CALLS[type(op)](op)


@emit(core.Cond, core.While, core.Scan, kind=Kind.CONTROL)
def _no_kernel(op: Any, args: Arguments, emitter: Emitter) -> None:
    raise AssertionError("a partition gives these ops no kernel")


@host(core.Nonzero)
def _nonzero(op: core.Nonzero) -> HostCall:
    return HostCall(NONZERO)


@host(core.BindDim)
def _bind_dim(op: core.BindDim) -> HostCall:
    return HostCall(BIND_DIM)


@host(core.Unique)
def _unique(op: core.Unique) -> HostCall:
    axis = -1 if op.axis is None else op.axis % op.x.shaped.rank
    return HostCall(UNIQUE, (axis, int(op.sorted), int(op.consecutive)))


@host(nn.NonMaxSuppression)
def _non_max_suppression(op: nn.NonMaxSuppression) -> HostCall:
    threshold = float("-inf") if op.score_threshold is None else op.score_threshold
    return HostCall(
        NON_MAX_SUPPRESSION,
        (op.max_output_boxes_per_class, op.iou_threshold, threshold, int(op.center_point_box)),
    )
