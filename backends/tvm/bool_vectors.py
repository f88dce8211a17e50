"""Vector loops over arrays of bool, which TVM's CUDA code generator gets wrong.

It reads and writes two or four elements of one byte as a vector of elements of two bytes: each
access reaches twice as far as it should.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad


def unroll_bool_vectors(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """A scheduled function whose vector loops touch no array of bool: those that do are unrolled."""
    body = tvm_ffi.structural_map(function.body, (tirx.For, _unrolled))
    return function if body.same_as(function.body) else function.with_body(body)


def _unrolled(loop: tirx.For) -> tirx.For:
    if loop.kind != tirx.ForKind.VECTORIZED or not _touches_bool(loop.body):
        return loop
    return tirx.For(
        loop.loop_var, loop.min, loop.extent, tirx.ForKind.UNROLLED, loop.body, None, loop.annotations
    )


def _touches_bool(statement: Any) -> bool:
    found = False

    def visit_load(load: Any) -> None:
        nonlocal found
        found = found or str(load.source.dtype) == "bool"

    def visit_store(store: Any) -> None:
        nonlocal found
        found = found or str(store.buffer.dtype) == "bool"

    tvm_ffi.structural_walk(statement, [(TensorLoad, visit_load), (tirx.BufferStore, visit_store)])
    return found
