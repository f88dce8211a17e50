"""Tensor core instructions, ldmatrix and cp.async in the emulation, against numpy."""

import numpy as np
import pytest

from plait.backends.cuda.emulator import EmulatedModule
from plait.backends.cuda.nvrtc import compile_cuda
from plait.ir.errors import CompileError

ORDERS = ("forward", "reversed", 7)

# C[16,8] = A[16,16] B[16,8]; A in shared memory row by row, B as it is stored, transposed on loading.
MMA_F16 = """
#include <cuda_fp16.h>
extern "C" __global__ void mma(const half* a, const half* b, float* c) {
  __shared__ alignas(64) half sa[256];
  __shared__ alignas(64) half sb[128];
  for (int i = threadIdx.x; i < 256; i += 32) sa[i] = a[i];
  for (int i = threadIdx.x; i < 128; i += 32) sb[i] = b[i];
  __syncthreads();
  unsigned fa[4], fb[2];
  unsigned pa = __cvta_generic_to_shared(sa + (threadIdx.x % 16) * 16 + (threadIdx.x / 16) * 8);
  unsigned pb = __cvta_generic_to_shared(sb + (threadIdx.x % 16) * 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\\n"
               : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3]) : "r"(pa));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\\n"
               : "=r"(fb[0]), "=r"(fb[1]) : "r"(pb));
  float d[4] = {0, 0, 0, 0};
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\\n"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]),
                 "f"(d[0]), "f"(d[1]), "f"(d[2]), "f"(d[3]));
  int row = threadIdx.x / 4, column = threadIdx.x % 4 * 2;
  c[row * 8 + column] = d[0];
  c[row * 8 + column + 1] = d[1];
  c[(row + 8) * 8 + column] = d[2];
  c[(row + 8) * 8 + column + 1] = d[3];
}
"""

# C[16,8] = A[16,32] B[8,32]^T with int8; the registers hold four consecutive values along k.
MMA_S8 = """
extern "C" __global__ void mma(const int* a, const int* b, int* c) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4;
  int d[4] = {1, 1, 1, 1};
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[g * 8 + t]), "r"(a[(g + 8) * 8 + t]),
                 "r"(a[g * 8 + t + 4]), "r"(a[(g + 8) * 8 + t + 4]),
                 "r"(b[g * 8 + t]), "r"(b[g * 8 + t + 4]), "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3]));
  c[g * 8 + t * 2] = d[0];
  c[g * 8 + t * 2 + 1] = d[1];
  c[(g + 8) * 8 + t * 2] = d[2];
  c[(g + 8) * 8 + t * 2 + 1] = d[3];
}
"""

WMMA = """
#include <cuda_fp16.h>
#include <mma.h>
extern "C" __global__ void product(const half* a, const half* b, float* c) {
  nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, half, nvcuda::wmma::row_major> fa;
  nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, half, nvcuda::wmma::col_major> fb;
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> fc;
  nvcuda::wmma::fill_fragment(fc, 1.0f);
  nvcuda::wmma::load_matrix_sync(fa, a, 16);
  nvcuda::wmma::load_matrix_sync(fb, b, 16);
  nvcuda::wmma::mma_sync(fc, fa, fb, fc);
  nvcuda::wmma::store_matrix_sync(c, fc, 16, nvcuda::wmma::mem_row_major);
}
"""

COPY_ASYNC = """
extern "C" __global__ void copy(const float* a, float* b) {
  __shared__ alignas(64) float tile[512];
  for (int stage = 0; stage < 2; ++stage) {
    unsigned address = __cvta_generic_to_shared(tile + stage * 256 + threadIdx.x * 4);
    asm volatile("cp.async.cg.shared.global [%0], [%1], %2;"
                 :: "r"(address), "l"((const void*)(a + stage * 256 + threadIdx.x * 4)), "n"(16));
    asm volatile("cp.async.commit_group;");
  }
  asm volatile("cp.async.wait_group WAIT;");
  BARRIER
  for (int i = 0; i < 8; ++i) b[i * 64 + threadIdx.x] = tile[511 - (i * 64 + threadIdx.x)];
}
"""


@pytest.mark.parametrize("order", ORDERS)
def test_ldmatrix_and_mma_f16(order):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(16, 16)).astype(np.float16), rng.normal(size=(16, 8)).astype(np.float16)
    c = np.zeros((16, 8), np.float32)
    EmulatedModule(MMA_F16, lane_order=order).launch("mma", (1, 1, 1), (32, 1, 1), [a, b, c])
    np.testing.assert_allclose(c, a.astype(np.float32) @ b.astype(np.float32), atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_mma_s8_is_exact(order):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, (rows, 32), dtype=np.int8) for rows in (16, 8))
    c = np.zeros((16, 8), np.int32)
    module = EmulatedModule(MMA_S8, lane_order=order)
    module.launch("mma", (1, 1, 1), (32, 1, 1), [a.view(np.int32), b.view(np.int32), c])
    np.testing.assert_array_equal(c, 1 + a.astype(np.int32) @ b.astype(np.int32).T)


@pytest.mark.parametrize("order", ORDERS)
def test_wmma(order):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(16, 16)).astype(np.float16) for _ in range(2))
    c = np.zeros((16, 16), np.float32)
    EmulatedModule(WMMA, lane_order=order).launch("product", (1, 1, 1), (32, 1, 1), [a, b, c])
    np.testing.assert_allclose(c, 1 + a.astype(np.float32) @ b.astype(np.float32).T, atol=1e-5)


@pytest.mark.parametrize(
    "source", [MMA_F16, MMA_S8, WMMA, COPY_ASYNC.replace("WAIT", "0").replace("BARRIER", "")]
)
def test_the_assembler_accepts_the_same_texts(source):
    assert compile_cuda(source).cubin


def test_asynchronous_copies():
    a = np.arange(512, dtype=np.float32)

    def run(wait, barrier, order):
        b = np.zeros_like(a)
        source = COPY_ASYNC.replace("WAIT", wait).replace("BARRIER", barrier)
        EmulatedModule(source, lane_order=order).launch("copy", (1, 1, 1), (64, 1, 1), [a, b])
        return b

    for order in ORDERS:
        np.testing.assert_array_equal(run("0", "__syncthreads();", order), a[::-1])
        # Waiting for all but the newest group leaves the second half unwritten.
        assert np.isnan(run("1", "__syncthreads();", order)).sum() == 256
        # Without the barrier a thread reads what others have not copied yet.
        assert not np.array_equal(run("0", "", order), a[::-1])


def test_part_of_a_warp_cannot_multiply():
    source = WMMA.replace("nvcuda::wmma::mma_sync", "if (threadIdx.x < 16) nvcuda::wmma::mma_sync")
    module = EmulatedModule(source)
    half, single = np.zeros((16, 16), np.float16), np.zeros((16, 16), np.float32)
    with pytest.raises(CompileError, match="mma_sync needs all 32 lanes"):
        module.launch("product", (1, 1, 1), (32, 1, 1), [half, half, single])


def test_unknown_ptx_stops_only_when_executed():
    source = """
    __global__ void maybe(float* a, int run) {
      if (run) asm volatile("redux.sync.frobnicate.u32 %0, %1;" : "=f"(a[0]) : "f"(a[1]));
      a[2] = 5.0f;
    }
    """
    module = EmulatedModule(source)
    a = np.zeros(4, np.float32)
    module.launch("maybe", (1, 1, 1), (1, 1, 1), [a, 0])
    assert a[2] == 5
    with pytest.raises(CompileError, match=r"line 3: PTX outside the emulation: redux\.sync\.frobnicate"):
        module.launch("maybe", (1, 1, 1), (1, 1, 1), [a, 1])
