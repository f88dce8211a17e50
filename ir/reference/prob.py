"""Reference semantics of the prob family."""

from __future__ import annotations

import torch

from plait.ir.ops import prob
from plait.ir.reference.table import Args, Context, reference


@reference(prob.LogSumExp)
def log_sum_exp(op: prob.LogSumExp, args: Args, ctx: Context) -> torch.Tensor:
    """Stable logarithm of a sum of exponentials."""
    (x,) = args
    return x.logsumexp(op.axes, keepdim=op.keepdims) if op.axes else x
