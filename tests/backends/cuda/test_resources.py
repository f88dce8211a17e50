"""Registers, shared memory, spills, occupancy and machine code, from the real assembler."""

import pytest

from plait.backends.cuda.nvrtc import CudaBinary, compile_cuda
from plait.backends.cuda.resources import KernelResources, kernel_resources, occupancy, sass_histogram
from plait.ir.errors import CompileError, InputError

SHARED = """
extern "C" __global__ void __launch_bounds__(300) reverse(float* a) {
  __shared__ float tile[300];
  tile[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
  a[threadIdx.x] = tile[299 - threadIdx.x];
}
"""

# 80 live values, but 1024 threads leave 64 registers for each.
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024) spilling(float* a, const float* b) {
  float x[80];
  #pragma unroll
  for (int i = 0; i < 80; ++i) x[i] = b[i * 1024 + threadIdx.x];
  for (int round = 0; round < 4; ++round) {
    #pragma unroll
    for (int i = 0; i < 80; ++i) x[i] = x[i] * x[(i * 7 + 3) % 80] + x[(i + 1) % 80];
  }
  #pragma unroll
  for (int i = 0; i < 80; ++i) a[i * 1024 + threadIdx.x] = x[i];
}
"""


@pytest.fixture(scope="module")
def binary():
    return compile_cuda(SHARED + SPILLING)


def test_shared_memory_and_bounds(binary):
    found = kernel_resources(binary)
    assert set(found) == {"reverse", "spilling"}
    reverse = found["reverse"]
    assert reverse.shared_bytes == 300 * 4
    assert reverse.barriers == 1
    assert reverse.max_threads == 300
    assert not reverse.spills
    assert 4 < reverse.registers < 32
    assert reverse.constant_bytes >= 8


def test_spills(binary):
    spilling = kernel_resources(binary)["spilling"]
    assert spilling.registers == 64
    assert spilling.spills
    assert spilling.spill_store_bytes > 0
    assert spilling.spill_load_bytes > 0
    assert spilling.stack_bytes >= (80 - 64) * 4
    assert spilling.max_threads == 1024


def test_machine_code(binary):
    histogram = sass_histogram(binary.cubin)
    assert histogram["reverse"]["LDG"] == 1
    assert histogram["reverse"]["STS"] == 1
    assert histogram["reverse"]["LDS"] == 1
    assert histogram["reverse"]["BAR"] == 1
    assert histogram["spilling"]["LDG"] == 80
    # Every spilled byte is a local store or load of four bytes.
    spilling = kernel_resources(binary)["spilling"]
    assert histogram["spilling"]["STL"] * 4 == spilling.spill_store_bytes
    assert histogram["spilling"]["LDL"] * 4 == spilling.spill_load_bytes
    assert "NOP" not in histogram["reverse"]
    assert sass_histogram(binary.cubin, modifiers=True)["reverse"]["LDG.E"] == 1


def test_binary_without_a_report():
    with pytest.raises(CompileError, match="no resource report"):
        kernel_resources(CudaBinary("", b"", "", 0.0))


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
