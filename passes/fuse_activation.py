"""fuse-activation: an activation is applied where its operand is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from plait.ir.ops import core, linalg, nn
from plait.passes.base import register
from plait.passes.canonicalize.activation import is_default_hardsigmoid
from plait.passes.rewriter import Replace, RewritePass, Rewriter, Skip, rule

#: Ops that can apply an activation to their result.
Producer = (
    nn.Conv1d
    | nn.Conv2d
    | nn.Conv3d
    | nn.ConvTranspose2d
    | nn.Linear
    | linalg.Matmul
    | core.Add
    | core.Sub
    | core.Mul
    | core.Div
)
PRODUCERS: tuple[type[Producer], ...] = get_args(Producer)

ActivationOp = (
    nn.Relu
    | nn.Relu6
    | nn.LeakyRelu
    | nn.Sigmoid
    | nn.Tanh
    | nn.Gelu
    | nn.Silu
    | nn.Hardswish
    | nn.Hardsigmoid
)

KINDS = (
    "relu",
    "relu6",
    "leaky_relu",
    "sigmoid",
    "tanh",
    "gelu",
    "gelu_tanh",
    "silu",
    "hardswish",
    "hardsigmoid",
)


@register
@dataclass(frozen=True)
class FuseActivation(RewritePass):
    """Apply an activation in the convolution, product or elementwise op that alone feeds it.

    Options:
        kinds: the activations to fuse, by the name that `act` takes.

    Given:
        @w : f32[4,3,3,3]
        %x : f32[B,3,8,8]
        %c = nn.conv2d(%x, @w) : f32[B,4,6,6]
        %r = nn.relu(%c) : f32[B,4,6,6]
        return %r
    Result:
        %r = nn.conv2d(%x, @w) {act="relu"} : f32[B,4,6,6]
        return %r
    """

    name: ClassVar[str] = "fuse-activation"
    follows: ClassVar[tuple[str, ...]] = ("fold-batch-norm", "fuse-bias")
    kinds: tuple[str, ...] = KINDS


def activation_of(op: ActivationOp) -> dict[str, Any] | Skip:
    """The fields `act` and `act_alpha` that stand for an activation op."""
    if isinstance(op, nn.LeakyRelu):
        return {"act": "leaky_relu", "act_alpha": op.alpha}
    if isinstance(op, nn.Gelu):
        return {"act": "gelu" if op.approximate == "none" else "gelu_tanh"}
    if isinstance(op, nn.Hardsigmoid) and not is_default_hardsigmoid(op):
        return Skip(f"alpha={op.alpha} and beta={op.beta} are not those of act=hardsigmoid, 1/6 and 0.5")
    return {"act": op.opname.partition(".")[2]}


@rule(FuseActivation, "act(producer(x)) => producer(x, act)")
def fuse(op: ActivationOp, rw: Rewriter, options: FuseActivation) -> Replace | Skip:
    """An activation into the op that computes its operand.

    Given:
        %x : f32[B,4]
        %y : f32[B,4]
        %s = core.add(%x, %y) : f32[B,4]
        %r = nn.leaky_relu(%s) {alpha=0.2} : f32[B,4]
        return %r
    Result:
        %r = core.add(%x, %y) {act="leaky_relu", act_alpha=0.2} : f32[B,4]
        return %r
    """
    fields = activation_of(op)
    if isinstance(fields, Skip):
        return fields
    if fields["act"] not in options.kinds:
        return Skip(f"{fields['act']} is not among kinds=[{','.join(options.kinds)}]")
    if not op.result.shaped.dtype.is_float:
        return Skip(f"{op.result} is {op.result.type}, no floating-point tensor")
    producer = rw.sole_producer(op.x, op, PRODUCERS)
    if isinstance(producer, Skip):
        return producer
    if producer.act != "none":
        return Skip(f"{op.x} applies {producer.act} already")
    return rw.replace(op, with_=producer.evolve(**fields))
