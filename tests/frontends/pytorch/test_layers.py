"""Convolution, pooling, norm, dense layer and attention rules against torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn


def seeded(build: Any) -> nn.Module:
    """A module with reproducible parameters and statistics."""
    torch.manual_seed(0)
    module = build()
    for name, buffer in module.named_buffers():
        if "running_mean" in name:
            buffer.normal_()
        if "running_var" in name:
            buffer.uniform_(0.5, 2.0)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    return module


class Alone(nn.Module):
    """One layer whose input is called x."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


IMAGE = ["B", 4, 9, 8]
LAYERS = {
    "conv": (lambda: nn.Conv2d(4, 6, 3), IMAGE),
    "conv_options": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2), IMAGE),
    "conv_depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), IMAGE),
    "conv_same": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(1, 2)), IMAGE),
    "conv_reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), IMAGE),
    "conv_transpose": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), IMAGE),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), ["B", 4, 9]),
    "conv1d_same": (lambda: nn.Conv1d(4, 6, 4, padding="same"), ["B", 4, 9]),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), ["B", 4, 9]),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3, stride=(1, 2, 1), padding=1), ["B", 2, 5, 6, 4]),
    "max_pool": (lambda: nn.MaxPool2d(3, 2, 1), IMAGE),
    "max_pool_ceil": (lambda: nn.MaxPool2d((2, 3), 2, ceil_mode=True, dilation=(2, 1)), IMAGE),
    "max_pool1d": (lambda: nn.MaxPool1d(3, 2, 1), ["B", 4, 9]),
    "max_pool3d": (lambda: nn.MaxPool3d(2, 2, 1), ["B", 2, 5, 6, 4]),
    "avg_pool": (lambda: nn.AvgPool2d(3, 2, 1), IMAGE),
    "avg_pool_inside": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
    "avg_pool_divisor": (lambda: nn.AvgPool2d((2, 3), divisor_override=5), IMAGE),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 2, 1), ["B", 4, 9]),
    "avg_pool3d": (lambda: nn.AvgPool3d(2, 2, 1), ["B", 2, 5, 6, 4]),
    "adaptive_avg_pool": (lambda: nn.AdaptiveAvgPool2d((4, 3)), IMAGE),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(4), ["B", 4, 9]),
    "adaptive_max_pool": (lambda: nn.AdaptiveMaxPool2d((3, 1)), IMAGE),
    "batch_norm": (lambda: nn.BatchNorm2d(4), IMAGE),
    "batch_norm1d": (lambda: nn.BatchNorm1d(4, affine=False), ["B", 4]),
    "layer_norm": (lambda: nn.LayerNorm((9, 8)), IMAGE),
    "layer_norm_plain": (lambda: nn.LayerNorm(8, elementwise_affine=False, eps=1e-3), IMAGE),
    "group_norm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "group_norm_of_vectors": (lambda: nn.GroupNorm(2, 4), ["B", 4]),
    "instance_norm": (lambda: nn.InstanceNorm2d(4, affine=True), IMAGE),
    "instance_norm_tracked": (lambda: nn.InstanceNorm2d(4, track_running_stats=True), IMAGE),
    "rms_norm": (lambda: nn.RMSNorm(8), IMAGE),
    "rms_norm_of_images": (lambda: nn.RMSNorm((9, 8), eps=1e-4), IMAGE),
    "local_response_norm": (lambda: nn.LocalResponseNorm(3), IMAGE),
    "linear": (lambda: nn.Linear(8, 5), IMAGE),
    "linear_plain": (lambda: nn.Linear(8, 5, bias=False), ["B", 8]),
    "attention": (lambda: SelfAttention(), ["B", 5, 8]),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), ["B", 5, 8]),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3), nn.Dropout2d(0.1)), ["B", 4, 8]),
    "upsample": (lambda: nn.Upsample(scale_factor=2), IMAGE),
    "upsample_size": (lambda: nn.Upsample(size=(5, 13)), IMAGE),
    "upsample_bilinear": (lambda: nn.Upsample(size=(5, 13), mode="bilinear"), IMAGE),
    "upsample_corners": (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), IMAGE),
    "upsample_bicubic": (lambda: nn.Upsample(size=(12, 16), mode="bicubic"), IMAGE),
    "upsample1d": (lambda: nn.Upsample(scale_factor=3, mode="linear"), ["B", 4, 9]),
}  # fmt: skip


class SelfAttention(nn.Module):
    """torch's attention layer on one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("name", LAYERS)
def test_layer(check: Any, name: str) -> None:
    build, shape = LAYERS[name]
    check(Alone(seeded(build)), shape)


def test_unbatched_images(check: Any) -> None:
    check(lambda x, y: F.conv2d(x, y), [3, 8, 8], [4, 3, 3, 3])
    check(lambda x: F.max_pool2d(x, 2), [3, 8, 8])


PRODUCTS = {
    "matmul": (lambda x, y: x @ y, ["B", 3, 4], ["B", 4, 5]),
    "matmul_broadcast": (lambda x, y: x @ y, ["B", 2, 3, 4], [4, 5]),
    "matrix_vector": (lambda x, y: x @ y, ["B", 3, 4], [4]),
    "vector_matrix": (lambda x, y: x @ y, [4], ["B", 4, 5]),
    "dot": (lambda x, y: x @ y, [4], [4]),
    "bmm": (lambda x, y: torch.bmm(x, y), ["B", 3, 4], ["B", 4, 5]),
    "einsum": (lambda x, y: torch.einsum("bij,bjk->bki", x, y), ["B", 3, 4], ["B", 4, 5]),
    "einsum_heads": (lambda x, y: torch.einsum("bhid,bhjd->bhij", x, y), ["B", 2, 3, 4], ["B", 2, 5, 4]),
    "tensordot": (lambda x, y: torch.tensordot(x, y, dims=([1, 2], [0, 1])), ["B", 3, 4], [3, 4, 5]),
    "outer": (lambda x, y: torch.outer(x[:, 0], y), ["B", 3], [4]),
    "integers": (lambda x, y: x @ y, ["B", 3, 4, torch.int64], [4, 5, torch.int64]),
    "bilinear": (lambda x, y: F.bilinear(x, x, y), ["B", 4], [3, 4, 4]),
    "cdist": (lambda x, y: (x[:, None] - y[None]).norm(dim=-1), ["B", 3], [4, 3]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product(check: Any, name: str) -> None:
    function, *shapes = PRODUCTS[name]
    check(function, *shapes)


def test_sums_of_products(check: Any) -> None:
    check(lambda x, y, z: torch.addmm(z, x, y, beta=0.5, alpha=2), ["B", 4], [4, 5], [5])
    check(lambda x, y, z: torch.baddbmm(z, x, y), ["B", 3, 4], ["B", 4, 5], ["B", 3, 5])


def test_attention_options(check: Any) -> None:
    heads = ["B", 2, 5, 4]
    check(lambda x, y, z: F.scaled_dot_product_attention(x, y, z, is_causal=True), heads, heads, heads)
    check(lambda x, y, z: F.scaled_dot_product_attention(x, y, y, z, scale=0.3), heads, heads, [5, 5])
    check(lambda x, y, z: F.scaled_dot_product_attention(x, y, y, z), heads, heads, [1, 1, 5, 5, torch.bool],
          inputs=lambda b: (torch.ones(b, 2, 5, 4).cumsum(2), torch.ones(b, 2, 5, 4).cumsum(3),
                            torch.ones(1, 1, 5, 5).tril().bool()))  # fmt: skip
    check(lambda x, y, z: F.scaled_dot_product_attention(x, y, z, enable_gqa=True),
          ["B", 4, 5, 4], ["B", 2, 5, 4], ["B", 2, 5, 4])  # fmt: skip


def definite(x: torch.Tensor) -> torch.Tensor:
    """A symmetric positive definite matrix made from any square one."""
    return x @ x.mT + 2 * torch.eye(3)


FACTORISATIONS = {
    "cholesky": lambda x: (torch.linalg.cholesky(definite(x)), torch.linalg.cholesky(definite(x), upper=True)),
    "triangular": lambda x: (
        torch.linalg.solve_triangular(x.tril() + 3 * torch.eye(3), x, upper=False),
        torch.linalg.solve_triangular(x.triu() + 3 * torch.eye(3), x, upper=True),
        torch.linalg.solve_triangular(x.tril() + 3 * torch.eye(3), x, upper=False, left=False)),
    "cholesky_solve": lambda x: (
        torch.cholesky_solve(x, torch.linalg.cholesky(definite(x))),
        torch.cholesky_solve(x, torch.linalg.cholesky(definite(x), upper=True), upper=True)),
    "eigenvalues": lambda x: (torch.linalg.eigvalsh(definite(x)), torch.linalg.eigh(definite(x))[1].abs()),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORISATIONS)
def test_factorisation(check: Any, name: str) -> None:
    check(FACTORISATIONS[name], ["B", 3, 3], rtol=1e-3, atol=1e-4)
