"""The pass raise-quantized, and what its rules ask of graphs in QDQ form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeGuard

import numpy as np

from plait.ir import Constant, Graph, InputError, Op, QuantType, Value
from plait.ir.fixed_point import Rectifier, fixed_point
from plait.ir.ops import nn, quant
from plait.passes.base import PassResult, register
from plait.passes.rewriter import RewritePass, Rule, Skip, apply_rules

#: Modules of this package that hold the rules, in the order of the stages.
STAGES = ("raise_movement", "raise_fixed", "raise_rest")
#: Activations that are bounds of a quantised result, the tighter ones last.
RECTIFIERS: tuple[Rectifier, ...] = ("none", "relu", "relu6")


@register
@dataclass(frozen=True)
class RaiseQuantized(RewritePass):
    """Turn dequantize -> op -> quantize into ops on stored integers, with i32 sums and fixed-point rescaling.

    The rules come in stages, each to its fixpoint: movement first, which brings quantize
    and dequantize next to the ops that compute; then what ends in quantize; then products
    that are read in floating point, whose sums at least are whole numbers, and layers of
    which only the weights are quantised.

    Given:
        @w : qi8<0.021>[4,8]
        %x : f32[B,8]
        %q = quant.quantize(%x) : qi8<0.053, zp=3>[B,8]
        %r = quant.dequantize(%q) : f32[B,8]
        %v = quant.dequantize(@w) : f32[4,8]
        %y = nn.linear(%r, %v) {act="relu"} : f32[B,4]
        %z = quant.quantize(%y) : qu8<0.017>[B,4]
        %out = quant.dequantize(%z) : f32[B,4]
        return %out
    Result:
        %q = quant.quantize(%x) : qi8<0.053, zp=3>[B,8]
        %z = nn.linear(%q, @w) {act="relu", requantize="fixed_point"} : qu8<0.017>[B,4]
        %out = quant.dequantize(%z) : f32[B,4]
        return %out
    """

    name: ClassVar[str] = "raise-quantized"
    follows: ClassVar[tuple[str, ...]] = ("fuse-bias", "fuse-activation")

    def stages(self) -> tuple[tuple[Rule, ...], ...]:
        """The rules by stage; those of one module are one stage."""
        held = [(made.function.__module__.rpartition(".")[2], made) for made in self.rules()]
        return tuple(tuple(made for module, made in held if module == stage) for stage in STAGES)

    def run(self, graph: Graph) -> PassResult:
        counts: dict[str, int] = {}
        for stage in self.stages():
            counts.update(apply_rules(graph, stage, self.name, self).rules)
        return PassResult(bool(counts), sum(counts.values()), counts)


def source_of(value: Value) -> Value | Skip:
    """The quantised tensor whose real numbers a value is."""
    if isinstance(value.producer, quant.Dequantize):
        return value.producer.x
    return Skip(f"{value} is not the result of quant.dequantize")


def has_one_scale(kind: object) -> TypeGuard[QuantType]:
    """Whether a type has one scale and one zero point, given as numbers."""
    return (
        isinstance(kind, QuantType)
        and kind.axis is None
        and isinstance(kind.scale, float)
        and isinstance(kind.zero_point, int)
    )


def one_scale_source(value: Value) -> Value | Skip:
    """The quantised tensor of one scale whose real numbers a value is."""
    found = source_of(value)
    if isinstance(found, Value) and not has_one_scale(found.type):
        return Skip(f"{found} : {found.type} has several scales")
    return found


def no_ratio(kind: object, out: QuantType) -> Skip | None:
    """Why integers cannot bring stored integers of a type to the grid of `out`; None where they can."""
    for given in (kind, out):
        if not has_one_scale(given):
            return Skip(f"{given} has several scales")
    assert has_one_scale(kind)
    assert isinstance(kind.scale, float)
    assert isinstance(out.scale, float)
    try:
        fixed_point(kind.scale / out.scale)
    except InputError as problem:
        return Skip(f"{problem.what}: {problem.why}")
    return None


def same_grid(left: object, right: object) -> bool:
    """Whether two quantised types differ in their shape at most."""
    return (
        isinstance(left, QuantType)
        and isinstance(right, QuantType)
        and left.with_shape(right.shape) == right
        and left.axis is None
    )


def data_of(graph: Graph, given: float | int | str) -> np.ndarray | None:
    """A scale or zero point as an array; None where it is a constant without data."""
    if not isinstance(given, str):
        return np.asarray(given)
    constant = graph.constants[given]
    return constant.data if constant.has_data else None


def rectified(op: quant.Quantize) -> tuple[Value, Op, Rectifier]:
    """What a quantize reads, looking through a rectifier: the value, its reader, the rectifier.

    The reader is `op`, or the rectifier where it stands alone between.
    """
    inner = op.x.producer
    if isinstance(inner, (nn.Relu, nn.Relu6)) and op.x.use_count == 1 and inner.parent is op.parent:
        return inner.x, inner, "relu" if isinstance(inner, nn.Relu) else "relu6"
    return op.x, op, "none"


def combined(first: str, then: Rectifier) -> Rectifier | Skip:
    """One rectifier for an activation and the rectifier behind it."""
    if first not in RECTIFIERS:
        return Skip(f"{first} is no bound of the result")
    return RECTIFIERS[max(RECTIFIERS.index(first), RECTIFIERS.index(then))]


def stored_constant(value: Value) -> Constant | None:
    """The constant of stored integers, with data, that a value is."""
    if isinstance(value, Constant) and value.has_data and isinstance(value.type, QuantType):
        return value
    return None
