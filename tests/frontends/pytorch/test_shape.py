"""Movement of elements, creation and indexing against torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

SHAPES = {
    "view": lambda x: (x.view(x.shape[0], -1), x.reshape(-1, 4), x.flatten(), x.flatten(1), x.unflatten(2, (2, 3))),
    "view_merged_batch": lambda x: x.view(x.shape[0] * 4, 6).view(x.shape[0], 2, 2, 6),
    "squeeze": lambda x: (x[:, :1].squeeze(1), x.unsqueeze(0), x.unsqueeze(-1), x[:, :1, :1].squeeze((1, 2))),
    "expand": lambda x: (x[:, :1].expand(-1, 4, -1), x[:1].expand_as(x), x[0].broadcast_to(x.shape)),
    "permute": lambda x: (x.permute(2, 0, 1), x.transpose(1, 2), x.mT, x[0].t(), x.movedim(0, 2), x.swapaxes(0, 1)),
    "cat": lambda x: (torch.cat([x, x + 1], 1), torch.cat([x, x], 0), torch.stack([x, x], -1), torch.hstack([x, x])),
    "split": lambda x: (*x.split(3, 1), *x.split([1, 3], 1), *x.chunk(2, 2), *x.unbind(1), *x.tensor_split(3, 2)),
    "select": lambda x: (x[:, 0], x[:, -1], x[0], x[..., 2], x[-1, :, 1]),
    "slice": lambda x: (x[:, 1:3], x[:, ::2], x[:, -2:], x[:, 1:-1], x[:, 1:100], x[:, None, ..., :2]),
    "flip": lambda x: (x.flip(1), x.flip((0, 2)), x.roll(1, 1), x.roll((1, -2), (0, 2)), x.roll(3)),
    "repeat": lambda x: (x.repeat(1, 2, 3), x.repeat(2, 1, 1, 1), x.tile(2), x.repeat_interleave(2, 1)),
    "pad": lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 1, 2, 0), value=3.0), F.pad(x, (-1, 1)), F.pad(x, (1, 1), "reflect")),
    "pad_edge": lambda x: F.pad(x, (2, 1), "replicate"),
    "unfold": lambda x: x.unfold(2, 3, 2),
    "diagonal": lambda x: (x.diagonal(0, 1, 2), x.diagonal(1, 1, 2), x.diagonal(-1, 1, 2), x[0].diagonal()),
    "triangle": lambda x: (x.tril(), x.triu(1), x.tril(-1)),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "meshgrid": lambda x: tuple(torch.meshgrid(x[0, 0], x[0, :, 0], indexing="ij")),
    "copies": lambda x: x.contiguous().clone().detach() + 0,
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shape(check: Any, name: str) -> None:
    check(SHAPES[name], ["B", 4, 6])


def test_pixel_shuffle(check: Any) -> None:
    check(lambda x: (F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), F.channel_shuffle(x, 2)), ["B", 8, 4, 6])


def test_in_place_writes_become_values(check: Any) -> None:
    def fill(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[:, 0] = 1.0
        y[:, 1:3] += 2
        y[:, ::2].mul_(3)
        return y

    check(fill, ["B", 5])


def test_creation(check: Any) -> None:
    def make(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        size = x.shape[0]
        return (
            torch.arange(size), torch.arange(1, 7, 2), torch.arange(0, 1, 0.25), torch.zeros(size, 2), torch.ones_like(x),
            torch.full((size, 2), 7), torch.full_like(x, 0.5), torch.eye(3), torch.linspace(0, 1, 5), x.new_zeros(2),
            torch.zeros_like(x, dtype=torch.int64), torch.arange(3) + torch.arange(size)[:, None],
        )  # fmt: skip

    check(make, ["B", 3])


INDEXING = {
    "index_select": lambda x, i: x.index_select(1, i[0]),
    "take_rows": lambda x, i: (x[:, i[0]], x[:, i], x[i[0] * 0]),
    "negative": lambda x, i: (x[:, i[0] - 4], x[:, i - 4, i - 4]),
    "pairs": lambda x, i: (x[:, i, i], x[:, i[0], i[0]], x[:, i[0][:, None], i[0][None]]),
    "apart": lambda x, i: x.unsqueeze(1)[:, :, i[0], i[0]],
    "gather": lambda x, i: (x.gather(1, i[:, :, None].expand(-1, -1, 5)), x.gather(2, i[:, :, None])),
    "take": lambda x, i: torch.take(x, i),
}  # fmt: skip


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(check: Any, name: str) -> None:
    check(INDEXING[name], ["B", 4, 5], ["B", 3, torch.int64])


def test_take_along_dim(check: Any) -> None:
    check(lambda x, i: torch.take_along_dim(x, i, dim=1), [2, 4, 5], [2, 3, 1, torch.int64])


def test_indexing_with_axes_in_front(check: Any) -> None:
    check(lambda x, i: x[i[0], :, i[0]], [4, 3, 5], ["B", 3, torch.int64])


def test_embedding(check: Any) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(7, 5, padding_idx=0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x)

    check(Net(), ["B", 3, torch.int64])


SCATTER = {
    "scatter": lambda x, i, s: (x.scatter(1, i, s), x.scatter(1, i[:, :1], 2.0)),
    "scatter_add": lambda x, i, s: (x.scatter_add(1, i, s), torch.scatter_add(x, 1, i[:, :2], s)),
    "scatter_reduce": lambda x, i, s: (
        x.scatter_reduce(1, i, s, "amax"), x.scatter_reduce(1, i, s, "sum"), x.scatter_reduce(1, i, s, "prod")),
    "index_add": lambda x, i, s: (x.index_add(1, i[0], s), x.index_add(1, i[0], s, alpha=2)),
    "index_put_add": lambda x, i, s: x.index_put((torch.arange(x.shape[0])[:, None], i), s, accumulate=True),
    "masked": lambda x, i, s: x.index_put((x > 0,), torch.tensor(9.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", SCATTER)
def test_scatter(check: Any, name: str) -> None:
    def inputs(batch: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(batch)
        # distinct positions in a row, for the order of overwriting is not defined
        places = torch.stack([torch.randperm(4, generator=generator)[:3] for _ in range(batch)])
        return (
            torch.randn(batch, 4, generator=generator),
            places,
            torch.randn(batch, 3, generator=generator),
        )

    check(SCATTER[name], ["B", 4], ["B", 3, torch.int64], ["B", 3], inputs=inputs)


def test_order(check: Any) -> None:
    check(lambda x: (*x.topk(2, 1), *x.topk(3, largest=False), *x.sort(1), *x.sort(-1, descending=True), x.argsort(1)),
          ["B", 5])  # fmt: skip


def test_one_hot_and_search(check: Any) -> None:
    check(lambda x: F.one_hot(x, 5), ["B", 3, torch.int64])
    check(
        lambda x, y: (torch.searchsorted(y.sort()[0], x), torch.bucketize(x, y.sort()[0], right=True)),
        ["B", 3],
        [6],
    )
