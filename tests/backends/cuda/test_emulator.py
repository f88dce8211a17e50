"""The emulation of the CUDA execution model: results, and the mistakes it finds."""

import time

import numpy as np
import pytest

from plait.backends.cache import Cache
from plait.backends.cuda.emulator import EmulatedModule
from plait.backends.cuda.emulator.build import build_library, find_compiler
from plait.ir.errors import CompileError, InputError

ORDERS = ("forward", "reversed", 7)

SAXPY = """
extern "C" __global__ void saxpy(float a, const float* __restrict__ x, float* __restrict__ y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}
"""

BLOCK_SUM = """
__global__ void __launch_bounds__(256) block_sum(const float* x, float* out) {
  constexpr int N = 256;
  __shared__ float partial[N];
  partial[threadIdx.x] = x[blockIdx.x * N + threadIdx.x];
  __syncthreads();
  for (int step = N / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) partial[threadIdx.x] += partial[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = partial[0];
}
"""

REVERSE = """
extern "C" __global__ void reverse(float* a) {
  __shared__ float tile[128];
  tile[threadIdx.x] = a[threadIdx.x];
  BARRIER
  a[threadIdx.x] = tile[127 - threadIdx.x];
}
"""


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("order", ORDERS)
def test_saxpy(rng, order):
    module = EmulatedModule(SAXPY, lane_order=order)
    assert module.kernels == ("saxpy",)
    x, y = (rng.normal(size=1000).astype(np.float32) for _ in range(2))
    expected = 3 * x + y
    module.launch("saxpy", (8, 1, 1), (128, 1, 1), [3.0, x, y, 1000])
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_block_sum_with_barriers(rng, order):
    x = rng.normal(size=(300, 256)).astype(np.float32)
    out = np.zeros(300, np.float32)
    EmulatedModule(BLOCK_SUM, lane_order=order).launch("block_sum", (300, 1, 1), (256, 1, 1), [x, out])
    np.testing.assert_allclose(out, x.sum(1), atol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_warp_collectives(order):
    source = """
    __global__ void collect(const float* x, float* sums, unsigned* votes, int* scan) {
      float value = x[threadIdx.x];
      for (int step = 16; step; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
      if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
      votes[threadIdx.x] = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0);
      int running = 1, lane = threadIdx.x % 32;
      for (int step = 1; step < 32; step *= 2) {
        int other = __shfl_up_sync(0xffffffffu, running, step);
        if (lane >= step) running += other;
      }
      scan[threadIdx.x] = running + 100 * __shfl_xor_sync(~0u, lane, 1) + __reduce_add_sync(~0u, lane);
      if (lane < 8) votes[threadIdx.x] |= __activemask() << 24;
    }
    """
    x = np.arange(64, dtype=np.float32)
    sums, votes, scan = np.zeros(2, np.float32), np.zeros(64, np.uint32), np.zeros(64, np.int32)
    EmulatedModule(source, lane_order=order).launch("collect", (1, 1, 1), (64, 1, 1), [x, sums, votes, scan])
    assert sums.tolist() == [x[:32].sum(), x[32:].sum()]
    lane = np.arange(64) % 32
    assert scan.tolist() == (lane + 1 + 100 * (lane ^ 1) + 496).tolist()
    ballot = [sum(1 << k for k in range(32) if (32 * warp + k) % 3 == 0) for warp in (0, 1)]
    expected = [ballot[i // 32] | (0xFF000000 if i % 32 < 8 else 0) for i in range(64)]
    assert votes.tolist() == expected


def test_removed_barrier_shows_in_another_order():
    original = np.arange(128, dtype=np.float32)
    results = {}
    for barrier in ("__syncthreads();", ""):
        module = EmulatedModule(REVERSE.replace("BARRIER", barrier))
        for order in ORDERS:
            module.lane_order = order
            a = original.copy()
            module.launch("reverse", (1, 1, 1), (128, 1, 1), [a])
            results[barrier, order] = np.array_equal(a, original[::-1])
    assert [results["__syncthreads();", order] for order in ORDERS] == [True, True, True]
    assert not any(results["", order] for order in ORDERS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 16) __syncthreads();", r"16 threads wait at __syncthreads, 48 have ended"),
        ("if (threadIdx.x < 16) __syncthreads();\nelse\n__syncthreads();", r"divergent barrier.*line 4"),
        ("if (threadIdx.x < 16) __syncwarp(); else __syncthreads();", r"deadlock: a warp collective"),
        ("if (threadIdx.x < 16) __syncwarp(0xffff0000u);", r"not in the mask of its own warp collective"),
        ("__shfl_sync(threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u, 1, 0);", r"name different masks"),
    ],
)
def test_divergence_is_an_error(body, message):
    module = EmulatedModule("__global__ void diverge(float* a) {\n" + body + "\na[threadIdx.x] = 1.0f;\n}")
    with pytest.raises(CompileError, match=message):
        module.launch("diverge", (1, 1, 1), (64, 1, 1), [np.zeros(64, np.float32)])
    # The module stays usable.
    with pytest.raises(CompileError, match=message):
        module.launch("diverge", (200, 1, 1), (64, 1, 1), [np.zeros(64, np.float32)])


@pytest.mark.parametrize("kind", ["float", "double"])
def test_uninitialised_shared_memory_reads_nan(kind):
    source = f"""
    __global__ void leak({kind}* a) {{
      __shared__ alignas(64) {kind} tile[64], other;
      if (threadIdx.x < 60) tile[threadIdx.x] = 1;
      __syncthreads();
      a[threadIdx.x] = tile[threadIdx.x];
    }}
    """
    a = np.zeros(64, np.float32 if kind == "float" else np.float64)
    EmulatedModule(source).launch("leak", (3, 1, 1), (64, 1, 1), [a])
    assert np.isnan(a).tolist() == [False] * 60 + [True] * 4


@pytest.mark.parametrize("order", ORDERS)
def test_dynamic_shared_memory(rng, order):
    source = """
    extern "C" __global__ void transpose(const double* a, double* b, int n) {
      extern __shared__ __align__(64) unsigned char memory[];
      double* tile = (double*)memory;
      tile[threadIdx.y * n + threadIdx.x] = a[threadIdx.y * n + threadIdx.x];
      __syncthreads();
      b[threadIdx.y * n + threadIdx.x] = tile[threadIdx.x * n + threadIdx.y];
    }
    """
    a = rng.normal(size=(24, 24))
    b = np.zeros_like(a)
    module = EmulatedModule(source, lane_order=order)
    module.launch("transpose", (1, 1, 1), (24, 24, 1), [a, b, 24], dynamic_shared_bytes=a.nbytes)
    np.testing.assert_array_equal(b, a.T)


def test_atomics_across_blocks():
    source = """
    __global__ void count(int* total, float* sum, unsigned* top) {
      atomicAdd(total, 1);
      atomicAdd(sum, 0.5f);
      atomicMax(top, blockIdx.x * blockDim.x + threadIdx.x);
    }
    """
    total, sum_, top = np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.uint32)
    EmulatedModule(source).launch("count", (64, 1, 1), (256, 1, 1), [total, sum_, top])
    assert (total[0], sum_[0], top[0]) == (16384, 8192.0, 16383)


def test_vector_types_and_intrinsics(rng):
    source = """
    static __device__ __forceinline__ float4 scaled(const float4* x, float s) {
      float4 v = x[threadIdx.x];
      return make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
    }
    __global__ void mix(const float4* x, float4* y, int* bits) {
      float4 v = scaled(x, 2.0f);
      y[threadIdx.x] = make_float4(__expf(v.x), rsqrtf(fabsf(v.y)), max(v.z, 0.0f), __fdividef(v.w, 3.0f));
      bits[threadIdx.x] = __popc(threadIdx.x) + 100 * __clz(threadIdx.x) + 10000 * __ffs(threadIdx.x)
                        + __dp4a(0x01020304, 0x01010101, 0) * 1000000;
    }
    """
    x = rng.normal(size=(32, 4)).astype(np.float32)
    y, bits = np.zeros_like(x), np.zeros(32, np.int32)
    EmulatedModule(source).launch("mix", (1, 1, 1), (32, 1, 1), [x, y, bits])
    v = 2 * x
    expected = np.stack([np.exp(v[:, 0]), np.abs(v[:, 1]) ** -0.5, np.maximum(v[:, 2], 0), v[:, 3] / 3], 1)
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    first = [(i & -i).bit_length() for i in range(32)]
    popcounts = [bin(i).count("1") for i in range(32)]
    zeros = [32 - i.bit_length() for i in range(32)]
    assert bits.tolist() == [p + 100 * z + 10000 * f + 10_000_000 for p, z, f in zip(popcounts, zeros, first)]


def test_half_and_bfloat16(rng):
    source = """
    #include <cuda_fp16.h>
    #include <cuda_bf16.h>
    __global__ void convert(const half* x, half* y, const __nv_bfloat16* u, __nv_bfloat16* v) {
      y[threadIdx.x] = __hfma(x[threadIdx.x], __float2half(2.0f), x[threadIdx.x]);
      v[threadIdx.x] = u[threadIdx.x] * u[threadIdx.x];
    }
    """
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = rng.normal(size=64).astype(np.float16)
    u = rng.normal(size=64).astype(ml_dtypes.bfloat16)
    y, v = np.zeros_like(x), np.zeros_like(u)
    EmulatedModule(source).launch("convert", (1, 1, 1), (64, 1, 1), [x, y, u, v])
    np.testing.assert_array_equal(y, (3 * x.astype(np.float32)).astype(np.float16))
    np.testing.assert_array_equal(v, u * u)


def test_arguments_are_checked():
    module = EmulatedModule(SAXPY)
    x = np.zeros(32, np.float32)

    def launch(*arguments, name="saxpy", grid=(1, 1, 1), block=(32, 1, 1)):
        module.launch(name, grid, block, arguments)

    with pytest.raises(InputError, match=r"3 arguments for kernel saxpy, which takes 4"):
        launch(1.0, x, x)
    with pytest.raises(InputError, match="no kernel 'axpy'"):
        launch(1.0, x, x, 32, name="axpy")
    with pytest.raises(InputError, match=r"argument 1 \(float\* x\).*holds float64"):
        launch(1.0, x.astype(np.float64), x, 32)
    with pytest.raises(InputError, match="not C-contiguous"):
        launch(1.0, np.zeros((8, 8), np.float32).T, x, 32)
    with pytest.raises(InputError, match=r"takes an integer, not 1\.5"):
        launch(1.0, x, x, 1.5)
    with pytest.raises(InputError, match="does not fit in int"):
        launch(1.0, x, x, 2**31)
    with pytest.raises(InputError, match="a pointer takes a numpy array"):
        launch(1.0, 5, x, 32)
    with pytest.raises(InputError, match="three positive extents"):
        launch(1.0, x, x, 32, grid=(0, 1, 1))
    with pytest.raises(CompileError, match="the device allows 1024 threads"):
        launch(1.0, x, x, 32, block=(2048, 1, 1))
    with pytest.raises(InputError, match="lane_order"):
        EmulatedModule(SAXPY, lane_order="backwards")


@pytest.mark.parametrize("barrier", ["", "__syncthreads();"])
@pytest.mark.parametrize(
    ("index", "message"),
    [("i + 1", "0 bytes behind the end of argument 1"), ("i - 64", "256 bytes in front of argument 1")],
)
def test_access_outside_an_array(barrier, index, message):
    source = f"""
    __global__ void outside(const float* x, float* y) {{
      int i = blockIdx.x * blockDim.x + threadIdx.x;
      {barrier}
      y[{index}] = x[i];
    }}
    """
    module = EmulatedModule(source)
    x, y = np.ones(4096, np.float32), np.zeros(4096, np.float32)
    with pytest.raises(CompileError, match=message):
        module.launch("outside", (64, 1, 1), (64, 1, 1), [x, y])
    inside = np.zeros(8192, np.float32)
    module.launch("outside", (63, 1, 1), (64, 1, 1), [x, inside[2048:6144]], check_bounds=False)
    assert inside.sum() == 63 * 64


def test_bounds_check_keeps_aliases():
    x = np.arange(64, dtype=np.float32)
    EmulatedModule(SAXPY).launch("saxpy", (1, 1, 1), (64, 1, 1), [1.0, x, x, 64])
    assert x.tolist() == [2 * i for i in range(64)]


def test_launch_bound_is_kept():
    module = EmulatedModule(BLOCK_SUM)
    with pytest.raises(CompileError, match=r"__launch_bounds__\(256\)"):
        module.launch(
            "block_sum", (1, 1, 1), (512, 1, 1), [np.zeros(512, np.float32), np.zeros(1, np.float32)]
        )


def test_malformed_texts():
    with pytest.raises(CompileError, match="defines no kernel"):
        EmulatedModule("int a;")
    with pytest.raises(CompileError, match="never closed"):
        EmulatedModule("__global__ void k(float* a) { a[0] = 1;")
    with pytest.raises(CompileError, match="kernel template"):
        EmulatedModule("template <class T> __global__ void k(T* a) { }")
    with pytest.raises(CompileError, match=r"kernel\.cu:2:\d+: the host compiler rejects.*not_there"):
        EmulatedModule("__global__ void k(float* a) {\n  a[0] = not_there(1);\n}")


def test_missing_compiler_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match=r"no C\+\+ compiler(.|\n)*install g\+\+"):
        find_compiler()


def test_libraries_are_cached(monkeypatch):
    first = build_library(SAXPY)
    assert first.path.parent == Cache("emulator").folder
    calls = []
    monkeypatch.setattr("plait.backends.cuda.emulator.build._run_compiler", lambda *a: calls.append(a))
    assert build_library(SAXPY).path == first.path
    assert not calls
    assert not list(Cache("emulator").folder.glob("*.tmp"))
    assert not list(Cache("emulator").folder.glob("*.cc"))


def test_plain_kernels_run_at_the_speed_of_a_loop():
    size = 1 << 22
    x, y = np.ones(size, np.float32), np.ones(size, np.float32)
    module = EmulatedModule(SAXPY)

    def best(run):
        times = []
        for _ in range(5):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        return min(times)

    # One CUDA thread a multiplication, against one thread that does all of them in a C loop.
    loop = EmulatedModule(
        "__global__ void loop(float a, const float* x, float* y, int n) {\n"
        "  for (int i = 0; i < n; ++i) y[i] = a * x[i] + y[i];\n}"
    )
    plain = best(lambda: loop.launch("loop", (1, 1, 1), (1, 1, 1), [0.5, x, y, size]))
    grid = best(lambda: module.launch("saxpy", (size // 256, 1, 1), (256, 1, 1), [0.5, x, y, size]))
    assert grid < 10 * plain


def test_infinities_of_math_constants() -> None:
    source = """
#include <math_constants.h>
extern "C" __global__ void fill(float* out) {
  out[0] = CUDART_INF_F;
  out[1] = -CUDART_INF_F;
  out[2] = CUDART_NAN_F;
}
"""
    out = np.zeros(3, np.float32)
    EmulatedModule(source).launch("fill", (1, 1, 1), (1, 1, 1), [out])
    assert out[0] == np.inf
    assert out[1] == -np.inf
    assert np.isnan(out[2])
