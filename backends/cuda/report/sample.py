"""Which warps of a launch are executed, and what they find in special registers and constants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plait.backends.cuda.occupancy import WARP
from plait.backends.cuda.report.lanes import Value
from plait.backends.cuda.source_text import Parameter

Extents = tuple[int, int, int]

#: Where the parameters of a kernel begin in constant bank 0 of sm_80.
_PARAMETERS = 0x160
#: First, middle and last block are executed, and of each so many warps at even distances.
_SAMPLED_WARPS = 8
_AXES = "XYZ"
_SCALAR_BYTES = {"int": 4, "unsigned": 4, "float": 4, "int32_t": 4, "uint32_t": 4, "bool": 1, "uint8_t": 1}


@dataclass(frozen=True)
class Sample:
    """The warps that are executed.

    Attributes:
        special: special registers of their lanes.
        alive: which lanes hold a thread.
        blocks: for each warp, which of the executed blocks it belongs to.
    """

    special: dict[str, Value]
    alive: np.ndarray
    blocks: np.ndarray

    @staticmethod
    def of(grid: Extents, block: Extents) -> Sample:
        """Warps of the first, the middle and the last block of a launch."""
        count, threads = math.prod(grid), math.prod(block)
        numbers = sorted({0, count // 2, count - 1})
        in_block = -(-threads // WARP)
        picked = np.unique(np.linspace(0, in_block - 1, min(in_block, _SAMPLED_WARPS)).astype(np.int64))
        blocks = np.repeat(np.arange(len(numbers)), len(picked))
        warp = np.tile(picked, len(numbers))
        thread = (warp[:, None] * WARP + np.arange(WARP)).reshape(-1)
        number = np.repeat(np.array(numbers, np.int64)[blocks], WARP)
        special: dict[str, Value] = {"SR_LANEID": thread % WARP}
        for axis, size, extent in zip(_AXES, block, grid):
            special[f"SR_TID.{axis}"] = thread % size if axis != "Z" else thread
            special[f"SR_CTAID.{axis}"] = number % extent
            special[f"SR_NTID.{axis}"] = size
            special[f"SR_NCTAID.{axis}"] = extent
            if axis != "Z":
                thread, number = thread // size, number // extent
        alive = (warp[:, None] * WARP + np.arange(WARP)).reshape(-1) < threads
        return Sample(special, alive, blocks)


def constant_bank(
    grid: Extents, block: Extents, parameters: Sequence[Parameter], dims: Mapping[str, int]
) -> dict[int, Value]:
    """Constant bank 0: extents of block and grid, the stack, and the parameters."""
    words: dict[int, Value] = {4 * place: size for place, size in enumerate((*block, *grid))}
    words[0x28] = 0
    offset = _PARAMETERS
    for number, parameter in enumerate(parameters):
        size = 8 if parameter.pointer else _SCALAR_BYTES.get(parameter.type, 8)
        offset = -(-offset // size) * size
        value = (number + 1) << 36 if parameter.pointer else dims.get(parameter.name)
        if value is not None:
            for place in range(0, max(size, 4), 4):
                words[offset + place] = value >> 8 * place & 0xFFFFFFFF
        offset += size
    return words
