"""A remedy for the slow start of TVMScript."""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def _frames(context: int = 1) -> list[inspect.FrameInfo]:
    """The caller's frames as `inspect.stack` gives them, without looking up the module of each."""
    found: list[inspect.FrameInfo] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        line = linecache.getline(code.co_filename, frame.f_lineno)
        found.append(
            inspect.FrameInfo(
                frame, code.co_filename, frame.f_lineno, code.co_name, [line] if line else None, 0
            )
        )
        frame = frame.f_back
    return found


@contextmanager
def fast_tvmscript() -> Iterator[None]:
    """While open, decorating a function with TVMScript is fast.

    Every `@T.prim_func` calls `inspect.stack()`, which scans all loaded modules for every frame:
    about 0.3 s a function once torch is loaded, and over a minute for
    `import tvm.s_tir.tensor_intrin.cuda`, which scheduling an fp16 or int8 product triggers. The
    parser only reads frames, names and line texts, so a cheaper walk over the frames serves.
    """
    original = inspect.stack
    inspect.stack = _frames
    try:
        yield
    finally:
        inspect.stack = original


def load_cuda_intrinsics() -> None:
    """Imports TVM's tensor intrinsics for CUDA (tensor cores, `ldmatrix`, `dp4a`) without the long wait."""
    with fast_tvmscript():
        import tvm.s_tir.tensor_intrin.cuda  # noqa: F401
