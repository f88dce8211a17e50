"""The pass; its rules stand in the other modules of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from plait.passes.base import register
from plait.passes.rewriter import RewritePass


@register
@dataclass(frozen=True)
class Canonicalize(RewritePass):
    """Remove identities, merge chains of one kind of op, and put constants on the right.

    Given:
        %x : f32[B,4]
        %one = core.full() {value=1.0} : f32[]
        %y = core.mul(%one, %x) : f32[B,4]
        %z = core.clamp(%y) {low=0.0, high=6.0} : f32[B,4]
        return %z
    Result:
        %z = nn.relu6(%x) : f32[B,4]
        return %z
    """

    name: ClassVar[str] = "canonicalize"
