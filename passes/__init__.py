"""Passes: rewriting graphs, with every location kept and every step checked.

after, report = optimize(graph, "canonicalize,fold-batch-norm,fuse-activation{kinds=[relu]}")
print(report)
"""

from plait.passes import (
    canonicalize,
    common_subexpression,
    dead_code,
    fold_batch_norm,
    fold_constants,
    fuse_activation,
    fuse_bias,
    precision,
    spike,
)
from plait.passes.base import PASSES, Pass, PassError, PassResult, register
from plait.passes.compare import Divergence, first_divergence
from plait.passes.manager import PassManager, optimize
from plait.passes.pipeline import DEFAULT, format_pipeline, parse_pipeline
from plait.passes.quantize import expand_attention, raise_integer
from plait.passes.report import PassReport, PassRow
from plait.passes.rewriter import Replace, RewritePass, Rewriter, Skip, apply_rules, rule
from plait.passes.why import why

__all__ = [
    "DEFAULT",
    "PASSES",
    "Divergence",
    "Pass",
    "PassError",
    "PassManager",
    "PassReport",
    "PassResult",
    "PassRow",
    "Replace",
    "RewritePass",
    "Rewriter",
    "Skip",
    "apply_rules",
    "canonicalize",
    "common_subexpression",
    "dead_code",
    "expand_attention",
    "first_divergence",
    "fold_batch_norm",
    "fold_constants",
    "format_pipeline",
    "fuse_activation",
    "fuse_bias",
    "optimize",
    "parse_pipeline",
    "precision",
    "raise_integer",
    "register",
    "rule",
    "spike",
    "why",
]
