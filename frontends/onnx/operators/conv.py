"""Convolutions."""

from __future__ import annotations

from typing import Any

from plait.frontends.onnx.call import Call
from plait.frontends.onnx.registry import lowers
from plait.ir import IntLike, LoweringError, Value
from plait.ir.ops import core, nn

Pads = tuple[int, ...]


def window(call: Call, spatial: int, name: str) -> tuple[int, ...]:
    """A per-axis attribute such as strides; all ones where it is absent."""
    return call.integers(name) or (1,) * spatial


def window_pads(
    call: Call,
    sizes: tuple[IntLike, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Pads:
    """Pads before each spatial axis, then after each, from `pads` or `auto_pad`.

    SAME pads so that the result has ceil(size / stride) elements; the odd one goes
    behind (SAME_UPPER) or in front (SAME_LOWER).
    """
    mode = call.text("auto_pad", "NOTSET")
    spatial = len(kernel)
    if mode in ("NOTSET", ""):
        return call.integers("pads") or (0,) * (2 * spatial)
    if mode == "VALID":
        return (0,) * (2 * spatial)
    before, after = [], []
    for size, k, s, step in zip(sizes, kernel, stride, dilation, strict=True):
        span = step * (k - 1) + 1
        if s == 1:
            total = span - 1
        elif isinstance(size, int):
            total = max(0, ((size + s - 1) // s - 1) * s + span - size)
        else:
            raise _symbolic_same(call, size, s)
        small = total // 2
        before.append(small if mode == "SAME_UPPER" else total - small)
        after.append(total - before[-1])
    return (*before, *after)


def compact(pads: Pads) -> Pads:
    """One pad per axis where both sides have the same."""
    half = len(pads) // 2
    return pads[:half] if pads[:half] == pads[half:] else pads


def _symbolic_same(call: Call, size: IntLike, stride: int) -> LoweringError:
    return call.error(
        f"auto_pad={call.text('auto_pad', '')} on a dim of {size} with stride {stride}",
        why="the pads depend on the value of the dim",
        remedy="fix the dim with inputs=, or export the model with explicit pads",
    )


def require_known(call: Call, dims: tuple[IntLike, ...], word: str) -> tuple[int, ...]:
    """The dims, which must be numbers."""
    if not all(isinstance(dim, int) for dim in dims):
        raise call.error(f"{word} is {list(map(str, dims))}", why="it has to be known at compile time")
    return tuple(int(dim) for dim in dims)  # type: ignore[arg-type]  # checked above


@lowers("Conv")
def convolution(call: Call) -> Value:
    x, w, b = call.value(0), call.value(1), call.optional(2)
    spatial = call.rank(0) - 2
    makes: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    if spatial not in makes:
        raise call.unsupported(f"a convolution over {spatial} axes")
    kernel = require_known(call, call.shape(1)[2:], "the kernel")
    stride, dilation = window(call, spatial, "strides"), window(call, spatial, "dilations")
    pads = window_pads(call, call.shape(0)[2:], kernel, stride, dilation)
    return call.emit(
        makes[spatial](
            x, w, b, stride=stride, pad=compact(pads), dilation=dilation, groups=call.integer("group", 1)
        )
    )


@lowers("ConvTranspose")
def transposed_convolution(call: Call) -> Value:
    x, w, b = call.value(0), call.value(1), call.optional(2)
    spatial = call.rank(0) - 2
    if spatial not in (1, 2, 3):
        raise call.unsupported(f"a transposed convolution over {spatial} axes")
    kernel = require_known(call, call.shape(1)[2:], "the kernel")
    stride, dilation = window(call, spatial, "strides"), window(call, spatial, "dilations")
    extra = call.integers("output_padding") or (0,) * spatial
    pads, extra = _transposed_pads(call, kernel, stride, dilation, extra)
    if spatial == 1:  # a row of height one
        length, taps = call.shape(0), call.shape(1)
        x = call.reshape(x, (*length[:2], 1, length[2]))
        w = call.reshape(w, (*taps[:2], 1, taps[2]))
        stride, dilation, extra = (1, *stride), (1, *dilation), (0, *extra)
        pads = (0, pads[0], 0, pads[1])
    make: Any = nn.ConvTranspose3d if spatial == 3 else nn.ConvTranspose2d
    op = make(
        x,
        w,
        b,
        stride=stride,
        pad=compact(pads),
        output_pad=extra,
        dilation=dilation,
        groups=call.integer("group", 1),
    )
    if spatial > 1:
        return call.emit(op)
    y = call.step(op)
    n, c, _, length_out = y.shaped.shape
    return call.emit(core.Reshape(y, out=y.shaped.with_shape((n, c, length_out))))


def _transposed_pads(
    call: Call,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    extra: tuple[int, ...],
) -> tuple[Pads, tuple[int, ...]]:
    """Pads and output padding, from `pads`, or from `output_shape` or `auto_pad` by the standard's formula.

    A negative pad lengthens the result, which output padding expresses behind it.
    """
    spatial = len(kernel)
    mode = call.text("auto_pad", "NOTSET")
    shape = call.integers("output_shape")
    if shape is None and mode in ("NOTSET", "", "VALID"):
        given = call.integers("pads") if mode != "VALID" else None
        return given or (0,) * (2 * spatial), extra
    before, after, longer = [], [], list(extra)
    for axis, (k, s, step) in enumerate(zip(kernel, stride, dilation, strict=True)):
        span = step * (k - 1) + 1
        if shape is None:
            total = extra[axis] + span - s  # the result is size * stride
        else:
            (size,) = require_known(call, (call.shape(0)[2 + axis],), "the input size")
            total = s * (size - 1) + extra[axis] + span - shape[len(shape) - spatial + axis]
        if total < 0:
            longer[axis] -= total
            total = 0
        small = total // 2
        # the standard pads the larger half in front only for SAME_LOWER
        before.append(total - small if mode == "SAME_LOWER" else small)
        after.append(total - before[-1])
    return (*before, *after), tuple(longer)


@lowers("Col2Im", since=18)
def columns_to_image(call: Call) -> Value:
    kernel = call.ints(2, "the block shape")
    spatial = len(kernel)
    return call.emit(
        nn.Fold(
            call.value(0),
            size=call.dims(1, "the image shape"),
            kernel=kernel,
            stride=window(call, spatial, "strides"),
            pad=compact(call.integers("pads") or (0,) * (2 * spatial)),
            dilation=window(call, spatial, "dilations"),
        )
    )
