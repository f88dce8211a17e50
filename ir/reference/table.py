"""The table of reference semantics: op class -> function on torch tensors.

    @reference(nn.Relu)
    def relu(op: nn.Relu, args: Args, ctx: Context) -> torch.Tensor:
        (x,) = args
        return x.clamp(min=0)

`args` holds one entry for each operand field of the op: a tensor (or `EdgeList`),
None for an absent optional operand, and a tuple for a variadic one.  A function
never writes into its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch

from plait.ir.dims import IntLike
from plait.ir.op import Op
from plait.ir.region import Region
from plait.ir.types import ShapedType

#: Arguments of ops whose operands are tensors that are always there.
Args = tuple[torch.Tensor, ...]
#: Arguments of ops with optional, variadic or graph operands.
MixedArgs = tuple[Any, ...]


class Context(Protocol):
    """What a reference function may ask of the interpreter."""

    device: torch.device

    def size(self, dim: IntLike) -> int:
        """The value of a dim in this run."""

    def shape(self, kind: ShapedType) -> tuple[int, ...]:
        """The shape of a type in this run."""

    def parameter(self, name: str) -> torch.Tensor:
        """The constant `name`, for scales and zero points that a type refers to."""

    def bind(self, op: Op, size: int) -> None:
        """Give the dim that an op binds (`Op.bound_dim`) its value.  Raises InputError out of its range."""

    def run(self, region: Region, args: Sequence[Any]) -> tuple[Any, ...]:
        """The results of a region on these arguments."""


Reference = Callable[[Any, Any, Context], Any]
F = TypeVar("F", bound=Reference)

REFERENCES: dict[type[Op], Reference] = {}


def reference(*classes: type[Op]) -> Callable[[F], F]:
    """Register a function as the semantics of op classes.  Raises TypeError when one has some already."""

    def register(function: F) -> F:
        for cls in classes:
            if cls in REFERENCES:
                raise TypeError(f"op {cls.opname} has a reference already")
            REFERENCES[cls] = function
        return function

    return register
