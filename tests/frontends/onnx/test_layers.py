"""Convolution, pooling, norms, matrix products, attention and resampling."""

import numpy as np
import pytest
import torch


def f32(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("spatial", "attributes"),
    [
        (1, {"strides": [2], "pads": [1, 2]}),
        (2, {"strides": [2, 1], "pads": [0, 1, 2, 0], "dilations": [1, 2]}),
        (2, {"group": 2}),
        (2, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        (2, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        (2, {"auto_pad": "VALID"}),
        (3, {"pads": [1, 1, 1, 0, 0, 0]}),
    ],
)
@pytest.mark.parametrize("opset", [7, 11, 22])
def test_convolution(check, rng, spatial, attributes, opset):
    w = f32(rng, 6, 4 // attributes.get("group", 1), *(2, 3, 2)[:spatial])
    feeds = {"x": f32(rng, 2, 4, *(7, 8, 5)[:spatial])}
    check("Conv", feeds, static={"w": w, "b": f32(rng, 6)}, opset=opset, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2], "pads": [1, 0, 0, 1]},
        {"strides": [2, 2], "output_padding": [1, 1]},
        {"dilations": [2, 1]},
    ],
)
def test_transposed_convolution(check, rng, attributes):
    w = f32(rng, 4, 3, 3, 2)
    check("ConvTranspose", {"x": f32(rng, 2, 4, 5, 6)}, static={"w": w}, opset=11, rtol=1e-3, **attributes)


def test_grouped_transposed_convolution(check, rng):
    x, w = f32(rng, 2, 4, 5, 6), f32(rng, 4, 3, 3, 2)
    expected = torch.nn.functional.conv_transpose2d(*map(torch.from_numpy, (x, w)), groups=2).numpy()
    check("ConvTranspose", {"x": x}, static={"w": w}, opset=11, group=2, expected=[expected])


def test_transposed_convolution_of_rows(check, rng):
    feeds, w = {"x": f32(rng, 1, 2, 5)}, f32(rng, 2, 3, 3)
    check("ConvTranspose", feeds, static={"w": w}, opset=11, strides=[2], pads=[1, 0])


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
)
def test_pooling(check, rng, op_type, attributes):
    check(op_type, {"x": f32(rng, 2, 3, 7, 8)}, opset=22, **attributes)


@pytest.mark.parametrize("opset", [7, 11, 19])
def test_average_that_counts_pads(check, rng, opset):
    x = f32(rng, 1, 2, 6, 6)
    check("AveragePool", {"x": x}, opset=opset, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("spatial", [1, 3])
def test_pooling_over_one_and_three_axes(check, rng, op_type, spatial):
    x = f32(rng, 2, 3, *(6, 7, 5)[:spatial])
    pads = [1, 0, 1][:spatial] + [0, 1, 1][:spatial]
    check(op_type, {"x": x}, opset=22, kernel_shape=[2, 3, 2][:spatial], strides=[2] * spatial, pads=pads)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_global_pooling(check, rng, op_type, spatial):
    x = f32(rng, 2, 3, *(4, 5, 2)[:spatial])
    reduce = np.mean if op_type == "GlobalAveragePool" else np.max
    expected = reduce(x, axis=tuple(range(2, x.ndim)), keepdims=True)
    check(op_type, {"x": x}, opset=7, expected=[expected])


@pytest.mark.parametrize("opset", [9, 14, 15])
def test_batch_norm(check, rng, opset):
    x, variance = f32(rng, 2, 3, 4), rng.uniform(1, 2, 3).astype(np.float32)
    static = {"s": f32(rng, 3), "b": f32(rng, 3), "m": f32(rng, 3), "v": variance}
    s, b, m, v = (p.reshape(3, 1) for p in static.values())
    expected = (x - m) / np.sqrt(v + np.float32(1e-3)) * s + b
    check("BatchNormalization", {"x": x}, static=static, opset=opset, epsilon=1e-3, expected=[expected])


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_norm(check, rng, axis):
    shape = (4,) if axis == -1 else (3, 4)
    static = {"s": f32(rng, *shape), "b": f32(rng, *shape)}
    graph = check("LayerNormalization", {"x": f32(rng, 2, 3, 4)}, static=static, opset=17, axis=axis)
    assert [op.opname for op in graph.ops] == ["nn.layer_norm"]


def test_layer_norm_statistics_come_from_the_function_body(check, rng):
    static = {"s": f32(rng, 4), "b": f32(rng, 4)}
    graph = check("LayerNormalization", {"x": f32(rng, 2, 3, 4)}, static=static, opset=17, outputs=3)
    assert "nn.layer_norm" not in {op.opname for op in graph.ops}


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_norm(check, rng, axis):
    scale = f32(rng, *((4,) if axis == -1 else (3, 4)))
    check("RMSNormalization", {"x": f32(rng, 2, 3, 4)}, static={"s": scale}, opset=23, axis=axis)


@pytest.mark.parametrize(("opset", "size"), [(18, 2), (21, 4)])
def test_group_norm_parameters_per_group_then_per_channel(check, rng, opset, size):
    x, scale, bias = f32(rng, 2, 4, 3, 3), f32(rng, size), f32(rng, size)
    grouped = x.reshape(2, 2, -1)
    centred = grouped - grouped.mean(-1, keepdims=True)
    y = (centred / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)).reshape(x.shape)
    wide = [np.repeat(p, 4 // size).reshape(1, 4, 1, 1) for p in (scale, bias)]
    expected = [(y * wide[0] + wide[1]).astype(np.float32)]
    static = {"s": scale, "b": bias}
    check("GroupNormalization", {"x": x}, static=static, opset=opset, num_groups=2, expected=expected)


def test_instance_norm(check, rng):
    check(
        "InstanceNormalization",
        {"x": f32(rng, 2, 3, 5)},
        static={"s": f32(rng, 3), "b": f32(rng, 3)},
        opset=7,
    )


@pytest.mark.parametrize("size", [3, 4])
def test_local_response_norm(check, rng, size):
    x = f32(rng, 2, 7, 3, 3)
    squares = np.zeros_like(x)
    for c in range(7):
        first, last = c - (size - 1) // 2, c + size // 2  # floor and ceil of (size - 1) / 2
        squares[:, c] = (x[:, max(first, 0) : last + 1] ** 2).sum(axis=1)
    expected = x / (1.5 + 0.5 / size * squares) ** 0.6
    check("LRN", {"x": x}, opset=13, size=size, alpha=0.5, beta=0.6, bias=1.5, expected=[expected])


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 1, 3, 4), (5, 4, 2))]
)
def test_matmul_ranks(check, rng, a, b):
    check("MatMul", {"a": f32(rng, *a), "b": f32(rng, *b)}, opset=13)


@pytest.mark.parametrize("trans", [(0, 0), (1, 1)])
@pytest.mark.parametrize("bias", [None, (5,), (1, 5), (3, 1), (3, 5)])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.5, 2.0)])
def test_gemm(check, rng, trans, bias, factors):
    a, b = f32(rng, 3, 4), f32(rng, 4, 5)
    static = {"b": b.T.copy() if trans[1] else b}
    if bias is not None:
        static["c"] = f32(rng, *bias)
    check(
        "Gemm", {"a": a.T.copy() if trans[0] else a}, static=static, opset=13,
        transA=trans[0], transB=trans[1], alpha=factors[0], beta=factors[1],
    )  # fmt: skip


def test_gemm_with_transposed_weight_is_a_dense_layer(check, rng):
    static = {"w": f32(rng, 5, 4), "b": f32(rng, 5)}
    graph = check("Gemm", {"x": f32(rng, 3, 4)}, static=static, opset=13, transB=1)
    assert [op.opname for op in graph.ops] == ["nn.linear"]


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention(check, rng, mask, key_heads):
    feeds = {"q": f32(rng, 2, 4, 3, 8), "k": f32(rng, 2, key_heads, 5, 8), "v": f32(rng, 2, key_heads, 5, 6)}
    if mask:
        feeds["m"] = f32(rng, 3, 5)
    graph = check("Attention", feeds, opset=23, scale=0.3)
    assert "nn.attention" in {op.opname for op in graph.ops}


def test_attention_of_packed_heads(check, rng):
    feeds = {"q": f32(rng, 2, 3, 8), "k": f32(rng, 2, 5, 8), "v": f32(rng, 2, 5, 8)}
    check("Attention", feeds, opset=23, q_num_heads=2, kv_num_heads=2, is_causal=1)


def test_attention_with_soft_cap_comes_from_the_function_body(check, rng):
    feeds = {"q": f32(rng, 1, 2, 3, 4), "k": f32(rng, 1, 2, 5, 4), "v": f32(rng, 1, 2, 5, 4)}
    graph = check("Attention", feeds, opset=23, softcap=2.0)
    assert "nn.attention" not in {op.opname for op in graph.ops}


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bij,bjk", [(2, 3, 4), (2, 4, 5)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]),
        ("ij->ji", [(3, 4)]),
        ("ij->", [(3, 4)]),
        ("ii->i", [(4, 4)]),
        ("i,j->ij", [(3,), (4,)]),
        ("bi,bi->b", [(2, 5), (2, 5)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
        ("ijk,k->ij", [(2, 3, 4), (4,)]),
    ],
)
def test_einsum(check, rng, equation, shapes):
    feeds = {f"x{i}": f32(rng, *shape) for i, shape in enumerate(shapes)}
    expected = [np.asarray(np.einsum(equation, *feeds.values()), np.float32)]
    check("Einsum", feeds, opset=12, equation=equation, expected=expected)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("scale", [(2.0, 3.0), (0.6, 0.75)])
def test_resize_by_scales(check, rng, mode, coordinates, scale):
    static = {"s": np.array([1, 1, *scale], np.float32)}
    check(
        "Resize", {"x": f32(rng, 1, 2, 5, 8)}, static=static, inputs=["x", "", "s"], opset=13,
        mode=mode, coordinate_transformation_mode=coordinates,
    )  # fmt: skip


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_resize_to_sizes(check, rng, rounding):
    static = {"s": np.array([1, 2, 3, 7])}
    check(
        "Resize", {"x": f32(rng, 1, 2, 6, 4)}, static=static, inputs=["x", "", "", "s"], opset=13,
        mode="nearest", nearest_mode=rounding,
    )  # fmt: skip


def test_doubling_is_one_resize(check, rng):
    static = {"s": np.array([1, 1, 2, 2], np.float32)}
    graph = check(
        "Resize", {"x": f32(rng, 1, 2, 5, 4)}, static=static, inputs=["x", "", "s"], opset=13,
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    assert [op.opname for op in graph.ops] == ["nn.resize2d"]
