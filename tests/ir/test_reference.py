"""Reference semantics of core, nn and linalg ops against torch.nn.functional and numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plait.ir import Graph, InputError, Op, TensorType, parse_type
from plait.ir.interpret import interpret
from plait.ir.ops import core, linalg, nn
from plait.ir.types import f32


def run(build: Callable[..., Op], *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Results of one op on f32, i64 or bool tensors."""
    names = {torch.float32: "f32", torch.int64: "i64", torch.bool: "bool", torch.int32: "i32"}
    g = Graph()
    values = [
        g.add_input(f"x{i}", parse_type(f"{names[x.dtype]}[{','.join(map(str, x.shape))}]"))
        for i, x in enumerate(inputs)
    ]
    g.set_outputs(g.add(build(*values)).results)
    g.verify()
    return interpret(g, list(inputs))


def check(build: Callable[..., Op], expected: torch.Tensor, *inputs: torch.Tensor) -> None:
    (actual,) = run(build, *inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


# -- convolutions -------------------------------------------------------------------
def test_conv2d_matches_torch() -> None:
    x, w, b = torch.randn(2, 4, 9, 8), torch.randn(6, 2, 3, 3), torch.randn(6)
    expected = F.silu(F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2))
    check(
        lambda x, w, b: nn.Conv2d(x, w, b, stride=(2, 1), pad=(1, 2), dilation=(1, 2), groups=2, act="silu"),
        expected,
        x,
        w,
        b,
    )


def test_conv2d_uneven_pads() -> None:
    x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    expected = F.conv2d(F.pad(x, (1, 2, 0, 3)), w)
    check(lambda x, w: nn.Conv2d(x, w, pad=(0, 1, 3, 2)), expected, x, w)


def test_conv1d_and_conv3d_uneven_pads() -> None:
    x, w = torch.randn(2, 3, 8), torch.randn(4, 3, 3)
    check(lambda x, w: nn.Conv1d(x, w, pad=(2, 0)), F.conv1d(F.pad(x, (2, 0)), w), x, w)
    x, w = torch.randn(1, 2, 5, 5, 5), torch.randn(3, 2, 2, 2, 2)
    expected = F.conv3d(F.pad(x, (0, 2, 1, 0, 0, 1)), w)
    check(lambda x, w: nn.Conv3d(x, w, pad=(0, 1, 0, 1, 0, 2)), expected, x, w)


@pytest.mark.parametrize(("pad", "output_pad"), [((1, 1), (1, 1)), ((0, 2), (0, 1)), ((0, 0), (1, 0))])
def test_conv_transpose2d_matches_torch(pad: tuple[int, int], output_pad: tuple[int, int]) -> None:
    x, w, b = torch.randn(2, 4, 5, 6), torch.randn(4, 3, 3, 3), torch.randn(6)
    expected = F.conv_transpose2d(x, w, b, 2, pad, output_pad, groups=2)
    check(
        lambda x, w, b: nn.ConvTranspose2d(x, w, b, stride=(2, 2), pad=pad, output_pad=output_pad, groups=2),
        expected,
        x,
        w,
        b,
    )


def test_conv_transpose2d_is_the_adjoint_under_uneven_pads() -> None:
    """<conv(x), y> == <x, conv_transpose(y)> for the same weight and pads."""
    x, w = torch.randn(1, 2, 7, 9), torch.randn(3, 2, 3, 3)
    pads = (2, 0, 1, 2)
    (forward,) = run(lambda x, w: nn.Conv2d(x, w, stride=(2, 2), pad=pads), x, w)
    y = torch.randn_like(forward)
    extra = (0, 0)
    (back,) = run(lambda y, w: nn.ConvTranspose2d(y, w, stride=(2, 2), pad=pads, output_pad=extra), y, w)
    x = x[:, :, : back.shape[2], : back.shape[3]]
    (forward,) = run(lambda x, w: nn.Conv2d(x, w, stride=(2, 2), pad=pads), x, w)
    torch.testing.assert_close((forward * y).sum(), (x * back).sum(), rtol=1e-4, atol=1e-4)


# -- pooling and resampling ---------------------------------------------------------------
@pytest.mark.parametrize("size", range(5, 12))
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 2, 1), (2, 3, 0), (3, 3, 1), (2, 2, 0), (1, 2, 0)])
def test_pools_with_ceil_match_torch(size: int, kernel: int, stride: int, pad: int) -> None:
    x = torch.randn(2, 3, size, size + 1)
    shape = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "pad": (pad,) * 2}
    for ceil in (False, True):
        expected = F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil)
        check(lambda x, ceil=ceil: nn.MaxPool2d(x, ceil=ceil, **shape), expected, x)
        for count in (False, True):
            expected = F.avg_pool2d(x, kernel, stride, pad, ceil_mode=ceil, count_include_pad=count)
            check(
                lambda x, ceil=ceil, count=count: nn.AvgPool2d(x, ceil=ceil, count_pad=count, **shape),
                expected,
                x,
            )


def test_max_pool2d_pads_never_win() -> None:
    x = -torch.rand(1, 1, 4, 4) - 1
    expected = F.max_pool2d(F.pad(x, (1, 0, 0, 2), value=-torch.inf), 3, 1, dilation=1)
    check(lambda x: nn.MaxPool2d(x, kernel=(3, 3), pad=(0, 1, 2, 0)), expected, x)


@pytest.mark.parametrize(
    ("mode", "coordinates", "options"),
    [
        ("nearest", "asymmetric", {"mode": "nearest"}),
        ("nearest", "half_pixel", {"mode": "nearest-exact"}),
        ("linear", "half_pixel", {"mode": "bilinear", "align_corners": False}),
        ("linear", "align_corners", {"mode": "bilinear", "align_corners": True}),
        ("cubic", "half_pixel", {"mode": "bicubic", "align_corners": False}),
        ("cubic", "align_corners", {"mode": "bicubic", "align_corners": True}),
    ],
)
@pytest.mark.parametrize("size", [(12, 3), (7, 11), (5, 1)])
def test_resize2d_matches_torch(
    mode: Any, coordinates: Any, options: dict[str, Any], size: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, 5, 6)
    expected = F.interpolate(x, size, **options)
    check(lambda x: nn.Resize2d(x, size=size, mode=mode, coordinates=coordinates), expected, x)


def test_adaptive_avg_pool2d() -> None:
    x = torch.randn(2, 3, 7, 5)
    check(lambda x: nn.AdaptiveAvgPool2d(x, size=(3, 2)), F.adaptive_avg_pool2d(x, (3, 2)), x)


# -- norms ------------------------------------------------------------------------------
def test_norms_match_torch() -> None:
    x, s, b = torch.randn(2, 6, 4, 5), torch.randn(6), torch.randn(6)
    mean, variance = torch.randn(6), torch.rand(6)
    check(
        lambda x, m, v, s, b: nn.BatchNorm(x, m, v, s, b, epsilon=1e-3),
        F.batch_norm(x, mean, variance, s, b, eps=1e-3),
        x,
        mean,
        variance,
        s,
        b,
    )
    check(lambda x, s, b: nn.GroupNorm(x, s, b, groups=3), F.group_norm(x, 3, s, b), x, s, b)
    none = torch.zeros(0, 6, 2)
    check(lambda x: nn.GroupNorm(x, groups=3), none, none)
    check(lambda x, s, b: nn.InstanceNorm(x, s, b), F.instance_norm(x, weight=s, bias=b), x, s, b)
    check(lambda x: nn.LocalResponseNorm(x, size=5), F.local_response_norm(x, 5), x)
    scale = torch.randn(4, 5)
    check(lambda x, s: nn.LayerNorm(x, s, axes=2), F.layer_norm(x, (4, 5), scale), x, scale)
    check(lambda x, s: nn.RmsNorm(x, s), F.rms_norm(x, (5,), scale[0], 1e-6), x, scale[0])


# -- attention ------------------------------------------------------------------------
def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, added: torch.Tensor, scale: float
) -> torch.Tensor:
    return ((q @ k.mT) * scale + added).softmax(-1) @ v


def test_attention_with_masks() -> None:
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 6)
    scale = 8**-0.5
    none = torch.zeros(4, 5)
    check(lambda q, k, v: nn.Attention(q, k, v), attend(q, k, v, none, scale), q, k, v)
    keep = torch.rand(2, 1, 4, 5) < 0.5
    keep[..., 0] = True
    added = torch.zeros(2, 1, 4, 5).masked_fill(~keep, -torch.inf)
    check(lambda q, k, v, m: nn.Attention(q, k, v, m), attend(q, k, v, added, scale), q, k, v, keep)
    bias = torch.randn(3, 4, 5)
    check(lambda q, k, v, m: nn.Attention(q, k, v, m, scale=0.3), attend(q, k, v, bias, 0.3), q, k, v, bias)
    order = torch.full((4, 5), -torch.inf).triu(1)
    check(lambda q, k, v: nn.Attention(q, k, v, causal=True), attend(q, k, v, order, scale), q, k, v)
    check(
        lambda q, k, v, m: nn.Attention(q, k, v, m, causal=True),
        attend(q, k, v, bias + order, scale),
        q,
        k,
        v,
        bias,
    )


def test_attention_broadcasts_keys_and_values() -> None:
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 1, 5, 8), torch.randn(5, 6)
    expected = attend(q, k, v, torch.zeros(4, 5), 8**-0.5)
    check(lambda q, k, v: nn.Attention(q, k, v), expected, q, k, v)


# -- core ---------------------------------------------------------------------------------
def test_integer_division_rounds_toward_zero_or_down() -> None:
    a, b = torch.tensor([-7, 7, -7]), torch.tensor([2, -2, -2])
    assert run(core.Div, a, b)[0].tolist() == [-3, -3, 3]
    assert run(core.FloorDiv, a, b)[0].tolist() == [-4, -4, 3]
    assert run(core.Remainder, a, b)[0].tolist() == [1, -1, -1]


def test_cast_wraps_four_bit_integers() -> None:
    x = torch.tensor([7, 8, -9, 17])
    kind = TensorType(f32, (4,))
    assert run(lambda x: core.Cast(x, out=parse_type("i4[4]")), x)[0].tolist() == [7, -8, 7, 1]  # type: ignore[arg-type]
    assert run(lambda x: core.Cast(x, out=parse_type("u4[4]")), x)[0].tolist() == [7, 8, 7, 1]  # type: ignore[arg-type]
    assert run(lambda x: core.Cast(x, out=kind), x)[0].tolist() == x.tolist()


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_pad_matches_numpy(mode: Any) -> None:
    x = torch.randn(3, 5, 4)
    expected = np.pad(x.numpy(), ((2, 1), (0, 0), (3, 2)), mode=mode)
    check(lambda x: core.Pad(x, before=(2, 0, 3), after=(1, 0, 2), mode=mode), torch.from_numpy(expected), x)


def test_take_and_scatter_accept_negative_indices() -> None:
    x = torch.arange(5.0)
    assert run(core.Take, x, torch.tensor([-1, 0]))[0].tolist() == [4.0, 0.0]
    updates = torch.tensor([9.0, 8.0])
    (y,) = run(lambda x, i, u: core.ScatterElements(x, i, u, axis=0), x, torch.tensor([-1, 1]), updates)
    assert y.tolist() == [0.0, 8.0, 2.0, 3.0, 9.0]
    (y,) = run(lambda x, i, u: core.ScatterND(x, i, u, reduce="add"), x, torch.tensor([[-1], [-1]]), updates)
    assert y.tolist() == [0.0, 1.0, 2.0, 3.0, 21.0]
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_scatter_nd_outside_is_refused() -> None:
    with pytest.raises(InputError, match="out of range for size 3"):
        run(core.ScatterND, torch.zeros(3), torch.tensor([[3]]), torch.ones(1))


def test_top_k_takes_the_first_of_equals() -> None:
    values, indices = run(lambda x: core.TopK(x, k=2), torch.tensor([1.0, 3.0, 3.0, 3.0]))
    assert values.tolist() == [3.0, 3.0]
    assert indices.tolist() == [1, 2]


def test_triangular_solve_solves() -> None:
    a, b = torch.randn(4, 4) + 4 * torch.eye(4), torch.randn(4, 3)
    for lower in (False, True):
        triangle = a.tril() if lower else a.triu()
        for transposed in (False, True):
            (y,) = run(
                lambda a, b, lower=lower, transposed=transposed: linalg.TriangularSolve(
                    a, b, lower=lower, transposed=transposed
                ),
                a,
                b,
            )
            torch.testing.assert_close((triangle.mT if transposed else triangle) @ y, b)
