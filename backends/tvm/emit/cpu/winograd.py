"""3 x 3 convolution by Winograd's minimal filtering, F(m x m, 3 x 3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, equation (8):

    Y = A^T [ sum over c of (G g_c G^T) * (B^T d_c B) ] A

A tile of m x m results takes (m + 2)^2 multiplications for each pair of channels instead
of 9 m^2.  Weights are transformed at compile time.  Tiles are worked off in chunks whose
transforms stay in the cache: transform the input, one matrix product for each of the
(m + 2)^2 places, transform back and finish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from plait.backends.targets import CpuTarget
from plait.backends.tvm.emit.cpu.product import Product
from plait.backends.tvm.emit.cpu.reader import Place, Reader
from plait.backends.tvm.emit.cpu.tiles import Tile, choose_tile, pack_columns
from plait.backends.tvm.emit.cpu.writer import local, parallel, places, scratch, store_vectors, vector
from plait.backends.tvm.emit.expressions import number, size_of
from plait.backends.tvm.emit.loops import product, when, whole
from plait.backends.tvm.emit.table import Packing

#: Bytes of transformed tiles, input and output together, that one chunk may take.
_CHUNK_BYTES = 3 << 20
#: Bytes that memory gives all threads together in one cycle; measured on 2 cores of an EPYC: 3 to 4.
_MEMORY = 4.0


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m x m, 3 x 3): `weights` G, `inputs` B^T, `outputs` A^T."""

    m: int
    weights: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray

    @property
    def size(self) -> int:
        """Side of an input tile."""
        return self.m + 2

    def packing(self, lanes: int) -> Packing:
        """Weights [o, c, 3, 3] as [places, blocks, c, lanes]."""

        def apply(array: np.ndarray) -> np.ndarray:
            wide = np.einsum("ai,ocij,bj->aboc", self.weights, array.astype(np.float64), self.weights)
            flat = wide.reshape(self.size**2, *array.shape[:2]).astype(np.float32)
            return np.stack([pack_columns(lanes, matrix) for matrix in flat])

        return Packing(f"winograd={self.m},lanes={lanes}", apply)


F2 = Transforms(
    2,
    np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], float),
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]], float),
)
F4 = Transforms(
    4,
    np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
    np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        float,
    ),
    np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], float),
)

#: By m; without an entry, a convolution is a direct sum.
TRANSFORMS = {transforms.m: transforms for transforms in (F2, F4)}


def choose_transforms(
    target: CpuTarget, images: int, channels: tuple[int, int], size: tuple[int, int]
) -> Transforms | None:
    """The transforms that take the least time; None where the direct sum does.

    Times are estimated in cycles: multiply-adds at 80 % of two vectors a cycle and thread,
    transforms at one vector a cycle and thread, and weights as they come from memory, which
    all threads share: those of a whole network fit no cache.

    Args:
        channels: of the input and the output.
        size: height and width of the output.
    """
    c, o = channels
    lanes, threads = target.lanes, target.threads
    pixels = images * size[0] * size[1]
    rate = 2 * lanes * 0.8 * threads

    def time(macs: float, weights: int) -> float:
        return max(macs / rate, weights * 4 / _MEMORY)

    best, cost = None, time(pixels * 9 * c * o, 9 * c * o)
    for transforms in (F4, F2):
        m, side = transforms.m, transforms.size
        tiles = images * -(-size[0] // m) * -(-size[1] // m)
        strips = choose_tile(target, tiles, o).rows
        filled = -(-tiles // strips) * strips
        products = time(side**2 * filled * c * o, side**2 * c * o)
        changes = tiles * side * (2.5 * side * c + 2.0 * (side + m) * o) / (lanes * threads)
        if (found := products + changes) < cost * 0.9:
            best, cost = transforms, found
    return best


@dataclass
class Winograd:
    """A 3 x 3 convolution of stride 1 on channels-last images.

    Attributes:
        sums: stands for the result [n, o, y, x] in the epilogue.
        transforms: the matrices.
        tile: of the products, tiles of the image times output channels.
        size: height and width of the input.
        channels: of the input and the output; vectors divide them.
        pad: rows above and columns left of the image.
        read: the element of the input at (n, c, y, x).
        weight: the transformed weight at (place, block, c, lane).
    """

    sums: te.Tensor
    transforms: Transforms
    tile: Tile
    size: tuple[int, int]
    channels: tuple[int, int]
    pad: tuple[int, int]
    read: Callable[[Expr, Expr, Expr, Expr], Expr]
    weight: Callable[[Expr, Expr, Expr, Expr], Expr]

    @property
    def method(self) -> str:
        """How it is computed."""
        return f"Winograd F({self.transforms.m}, 3), product {self.tile}"

    def write(self, read: Reader, result: te.Tensor, axes: Sequence[int], buffer: Any) -> None:
        """Write the loops; see `Product.write`."""
        n, _, height, width = self.sums.shape
        m, side = self.transforms.m, self.transforms.size
        down, across = -(-int(height) // m), -(-int(width) // m)
        grid = [n, whole(down), whole(across)]
        count = product(grid)
        chunk = self._chunk(size_of(count))
        inputs = scratch("float32", [whole(side * side), whole(chunk), whole(self.channels[0])])
        blocks = -(-self.channels[1] // self.tile.lanes)
        sums = scratch("float32", [whole(side * side), whole(chunk), whole(blocks * self.tile.lanes)])
        with T.serial(whole(0), tirx.floordiv(count + (chunk - 1), whole(chunk))) as step:
            with parallel(whole(chunk)) as index:
                tile = places(tirx.min(step * chunk + index, count - 1), grid)
                self._transform_input(read, tile, index, inputs)
            self._multiply(read, chunk, inputs, sums)
            with parallel(whole(chunk)) as index, when(step * chunk + index < count):
                tile = places(step * chunk + index, grid)
                self._transform_output(read, result, axes, buffer, tile, index, sums)

    def _chunk(self, tiles: int | None) -> int:
        """Tiles of one chunk: whole strips, all chunks of about one size."""
        bytes_of_tile = self.transforms.size**2 * sum(self.channels) * 4
        most = max(_CHUNK_BYTES // bytes_of_tile, 4 * self.tile.rows)
        if tiles is not None:
            most = -(-tiles // -(-tiles // most))
        return -(-most // self.tile.rows) * self.tile.rows

    def _transform_input(self, read: Reader, tile: Place, index: Expr, inputs: Any) -> None:
        """B^T d B of one tile, a vector of channels at a time."""
        m, side, width = self.transforms.m, self.transforms.size, self.tile.width
        image, ty, tx = tile
        top, left = ty * m - self.pad[0], tx * m - self.pad[1]
        with T.serial(whole(0), whole(self.channels[0] // width)) as block:
            half = [local("float32", side * width) for _ in range(side)]
            for j in range(side):
                column = local("float32", side * width)
                for i in range(side):
                    y, x = top + i, left + j
                    inside = tirx.all(y >= 0, y < self.size[0], x >= 0, x < self.size[1])
                    with vector(width) as lane:
                        element = read(self.read(image, block * width + lane, y, x))
                        value = tirx.if_then_else(inside, element, number(0, "float32"))
                        T.buffer_store(column, value, [i * width + lane])
                for i in range(side):
                    with vector(width) as lane:
                        value = _combined(
                            self.transforms.inputs[i], [column[k * width + lane] for k in range(side)]
                        )
                        T.buffer_store(half[i], value, [j * width + lane])
            for i in range(side):
                for j in range(side):
                    with vector(width) as lane:
                        value = _combined(
                            self.transforms.inputs[j], [half[i][k * width + lane] for k in range(side)]
                        )
                        T.buffer_store(inputs, value, [whole(i * side + j), index, block * width + lane])

    def _multiply(self, read: Reader, chunk: int, inputs: Any, sums: Any) -> None:
        """One matrix product for each place of the tiles."""
        side, tile = self.transforms.size, self.tile
        columns = -(-self.channels[1] // tile.lanes) * tile.lanes
        matrices = Product(
            sums=self.sums,
            tile=tile,
            batch=[whole(side * side)],
            rows=[whole(chunk)],
            columns=whole(columns),
            depth=[whole(self.channels[0])],
            left=lambda b, r, block, d: inputs[b[0], r[0], d[0]],
            right=lambda b, block, d, lane: self.weight(b[0], block, d[0], lane),
            place=lambda b, r, column: (b[0], r[0], column),
        )
        matrices.write_sums(read, sums)

    def _transform_output(
        self,
        read: Reader,
        result: te.Tensor,
        axes: Sequence[int],
        buffer: Any,
        tile: Place,
        index: Expr,
        sums: Any,
    ) -> None:
        """A^T m A of one tile, and the epilogue."""
        m, side, width = self.transforms.m, self.transforms.size, self.tile.width
        _, channels, height, columns = self.sums.shape
        image, ty, tx = tile
        with T.serial(whole(0), whole(-(-self.channels[1] // width))) as block:
            half = [local("float32", side * width) for _ in range(m)]
            for j in range(side):
                for i in range(m):
                    with vector(width) as lane:
                        value = _combined(
                            self.transforms.outputs[i],
                            [sums[whole(k * side + j), index, block * width + lane] for k in range(side)],
                        )
                        T.buffer_store(half[i], value, [j * width + lane])
            for i in range(m):
                for j in range(m):
                    y, x = ty * m + i, tx * m + j
                    done = local("float32", width)
                    with vector(width) as lane:
                        value = _combined(
                            self.transforms.outputs[j], [half[i][k * width + lane] for k in range(side)]
                        )
                        T.buffer_store(done, value, [lane])

                    def place(lane: Expr, y: Expr = y, x: Expr = x) -> list[Expr]:
                        where = (image, block * width + lane, y, x)
                        return [where[axis] for axis in axes]

                    def finished(lane: Expr, place: Any = place, done: Any = done) -> Expr:
                        read.bind_function(self.sums, lambda _: done[lane])
                        return read.element(result, place(lane))

                    with when(tirx.And(y < height, x < columns)):
                        store_vectors(buffer, place, finished, block * width, width, channels)


def _combined(coefficients: np.ndarray, terms: Sequence[Expr]) -> Expr:
    """The sum of coefficients times terms, without those that are zero."""
    total: Expr | None = None
    for coefficient, value in zip(coefficients, terms, strict=True):
        if coefficient == 0:
            continue
        term = value if abs(coefficient) == 1 else value * number(abs(float(coefficient)), "float32")
        if total is None:
            total = term if coefficient > 0 else number(0, "float32") - term
        else:
            total = total + term if coefficient > 0 else total - term
    assert total is not None
    return total


__all__ = ["F2", "F4", "TRANSFORMS", "Transforms", "Winograd", "choose_transforms"]
