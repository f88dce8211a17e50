"""Launches over no elements: CUDA refuses a grid without blocks, so the host skips them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.s_tir.stmt import SBlock, SBlockRealize


def skip_empty_launches(function: tirx.PrimFunc, dims: Collection[str]) -> tirx.PrimFunc:
    """A scheduled function that launches only grids with blocks, where `dims` are those that may be 0."""
    root = function.body.block
    body = _guarded(root.body, dims)
    if body.same_as(root.body):
        return function
    block = SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        body,
        root.init,
        root.alloc_buffers,
        root.match_buffers,
        root.annotations,
    )
    return function.with_body(SBlockRealize([], True, block))


def _guarded(statement: Any, dims: Collection[str]) -> Any:
    """A statement with each launch whose extents have one of some dims in a loop of no or one round.

    TVM refuses barriers inside a condition, even one that the host decides.
    """
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_guarded(inner, dims) for inner in statement.seq])
    rounds: Expr = tirx.const(1, "int64")
    unsure = False
    for extent in _extents(statement):
        if any(var.name in dims for var in tirx.analysis.undefined_vars(extent)):
            rounds, unsure = tirx.min(rounds, tirx.Cast("int64", extent)), True
    if not unsure:
        return statement
    return tirx.For(
        tirx.Var("launch", "int64"), tirx.const(0, "int64"), rounds, tirx.ForKind.SERIAL, statement
    )


def _extents(statement: Any) -> list[Expr]:
    """Extents of the thread axes that a statement opens."""
    found: list[Expr] = []
    while True:
        if isinstance(statement, tirx.For) and statement.thread_binding is not None:
            found.append(statement.extent)
        elif isinstance(statement, tirx.AttrStmt) and statement.attr_key == "thread_extent":
            found.append(statement.value)
        else:
            return found
        statement = statement.body
