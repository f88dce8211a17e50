"""Occupancy of sm_80 against figures worked out by hand from NVIDIA's rules of allocation."""

import pytest

from plait.backends.cuda.occupancy import occupancy
from plait.backends.cuda.resources import KernelResources
from plait.ir.errors import InputError


@pytest.mark.parametrize(
    ("resources", "block", "dynamic", "blocks", "warps", "limited_by"),
    [
        # 32 registers x 32 lanes = 1024: exactly the 64 warps an SM holds; 8 warps a block: 8 blocks.
        (KernelResources(registers=32), 256, 0, 8, 64, "warps"),
        # 33 x 32 = 1056 -> 1280: 12 warps a partition, 48 an SM: 6 blocks of 8.
        (KernelResources(registers=33), 256, 0, 6, 48, "registers"),
        # 255 x 32 = 8160 -> 8192: 2 warps a partition, 8 an SM: one block of 8.
        (KernelResources(registers=255), 256, 0, 1, 8, "registers"),
        # 128 x 32 = 4096: 4 warps a partition, 16 an SM.
        (KernelResources(registers=128), 32, 0, 16, 16, "registers"),
        # 48 KiB + 1 KiB: 3 blocks in 164 KiB.
        (KernelResources(registers=16, shared_bytes=48 * 1024), 128, 0, 3, 12, "shared memory"),
        # 163 KiB + 1 KiB: exactly one.
        (KernelResources(registers=16), 128, 163 * 1024, 1, 4, "shared memory"),
        # 32 blocks of one warp: half the warps stay empty.
        (KernelResources(registers=16), 32, 0, 32, 32, "blocks"),
        # 1024 threads: two blocks.
        (KernelResources(registers=24), (32, 32, 1), 0, 2, 64, "warps"),
        # 64 registers: 2048 a warp, 8 warps a partition, 32 an SM: 4 blocks of 8, half of it.
        (KernelResources(registers=64), 256, 0, 4, 32, "registers"),
        # 10,000 + 1,024 bytes are 87 units of 128: 15 blocks in 167,936 bytes.
        (KernelResources(registers=16, shared_bytes=4000), 64, 6000, 15, 30, "shared memory"),
    ],
)
def test_occupancy_by_hand(resources, block, dynamic, blocks, warps, limited_by):
    found = occupancy(resources, block, dynamic_shared_bytes=dynamic)
    assert (found.blocks, found.warps) == (blocks, warps)
    assert found.fraction == warps / 64
    assert found.limited_by == limited_by


def test_blocks_that_cannot_be_launched():
    with pytest.raises(InputError, match="kernel allows 128"):
        occupancy(KernelResources(registers=16, max_threads=128), 256)
    with pytest.raises(InputError, match="shared memory"):
        occupancy(KernelResources(registers=16), 32, dynamic_shared_bytes=164 * 1024)
    with pytest.raises(InputError, match="registers"):
        occupancy(KernelResources(registers=128), 1024)
