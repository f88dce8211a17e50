"""Registers, shared memory and spills, from the real assembler."""

import pytest

from plait.backends.cuda.nvrtc import CudaBinary, compile_cuda
from plait.backends.cuda.resources import kernel_resources
from plait.ir.errors import CompileError

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


def test_binary_without_a_report():
    with pytest.raises(CompileError, match="no resource report"):
        kernel_resources(CudaBinary("", b"", "", 0.0))
