"""Machine code executed for its counts and addresses, against numpy on kernels whose behaviour is known."""

import numpy as np
import pytest

from plait.backends.cuda.nvrtc import compile_cuda
from plait.backends.cuda.report.access import SECTOR, bank_wavefronts
from plait.backends.cuda.report.execution import execute
from plait.backends.cuda.report.profile import warp_profile
from plait.backends.cuda.sass import disassemble
from plait.backends.cuda.source_text import parse_source

from .test_tensor_cores import COPY_ASYNC, MMA_F16, MMA_S8


class Compiled:
    """The kernels of a text as machine code."""

    def __init__(self, source):
        self.text = parse_source(source)
        self.code = disassemble(compile_cuda(source).cubin)

    def run(self, name, grid=(1, 1, 1), block=(32, 1, 1), dims=None, **options):
        """Code and execution of a kernel."""
        code = self.code[name]
        return code, execute(code, grid, block, self.text.kernel(name).parameters, dims, **options)


def run(source, **launch):
    """Code and execution of the only kernel of a text."""
    compiled = Compiled(source)
    return compiled.run(compiled.text.kernels[0].name, **launch)


def profile(*arguments, **named):
    return warp_profile(*run(*arguments, **named))


def touched(execution, pointer, blocks=1):
    """Sectors of a pointer parameter that the executed blocks touched."""
    keys = np.unique(np.concatenate([k for a in execution.accesses.values() for k in a.touched]))
    keys &= (1 << 48) - 1
    base = (pointer + 1) << 36
    inside = keys[(keys * SECTOR >= base - (1 << 35)) & (keys * SECTOR < base + (1 << 35))]
    return {int(k) - base // SECTOR for k in inside}


# i is the number of the thread in the launch; every index is that of a float.
INDICES = {
    "i": lambda i: i,
    "i * 3 + 5": lambda i: i * 3 + 5,
    "i / 7 * 64 + i % 7": lambda i: i // 7 * 64 + i % 7,
    "(i ^ 21) | 64": lambda i: (i ^ 21) | 64,
    "(i & 12) << 4": lambda i: (i & 12) << 4,
    "(i * 0x10001) >> 9": lambda i: (i * 0x10001) >> 9,
    "(i - 40) / 3 + 100": lambda i: np.trunc((i - 40) / 3).astype(np.int64) + 100,
    "((i - 40) % 5) * 40 + 400": lambda i: np.fmod(i - 40, 5) * 40 + 400,
    "((i - 40) >> 2) + 64": lambda i: ((i - 40) >> 2) + 64,
    "min(i, 37) * 9": lambda i: np.minimum(i, 37) * 9,
    "max(i - 50, 3) * 9": lambda i: np.maximum(i - 50, 3) * 9,
    "abs(i - 60) * 11": lambda i: np.abs(i - 60) * 11,
    "(i > 50 ? i * 16 : 7)": lambda i: np.where(i > 50, i * 16, 7),
    "(i % 3 == 1 ? i : 500 + i)": lambda i: np.where(i % 3 == 1, i, 500 + i),
    "(unsigned char)(i * 37)": lambda i: (i * 37) & 255,
    "(signed char)(i * 37) + 200": lambda i: ((i * 37 + 128) & 255) - 128 + 200,
    "(int)((unsigned)(i * 2654435761u) >> 22)": lambda i: ((i * 2654435761) & 0xFFFFFFFF) >> 22,
    "(long long)i * 100003 % 4096": lambda i: i * 100003 % 4096,
    "(unsigned long long)(i + 1) * 0x123456789ULL >> 30 & 4095": (
        lambda i: np.array([(int(v) + 1) * 0x123456789 >> 30 & 4095 for v in i])
    ),
    "(0x100000000LL - i) / 16 - 0x0FFFFF00LL": lambda i: (0x100000000 - i) // 16 - 0x0FFFFF00,
    "__popc(i & 0) + (i << 1 | 1)": lambda i: i << 1 | 1,
    "__mulhi(i << 20, 1 << 18)": lambda i: (i << 38) >> 32,
    "(i * i + (i >> 1)) % 1021": lambda i: (i * i + (i >> 1)) % 1021,
}  # fmt: skip


@pytest.fixture(scope="module")
def index_kernels():
    """One kernel for each index, compiled together."""
    source = "".join(
        f'extern "C" __global__ void copy_{number}(float* b, const float* a) {{\n'
        "  int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
        f"  b[i] = a[{index}];\n}}\n"
        for number, index in enumerate(INDICES)
    )
    return Compiled(source)


@pytest.mark.parametrize("index", INDICES)
def test_addresses_are_those_of_the_index(index_kernels, index):
    name = f"copy_{list(INDICES).index(index)}"
    _, found = index_kernels.run(name, grid=(3, 1, 1), block=(96, 1, 1))
    assert found.exact
    i = np.arange(3 * 96, dtype=np.int64)
    assert touched(found, 0) == set((i * 4 // SECTOR).tolist())
    assert touched(found, 1) == set((INDICES[index](i) * 4 // SECTOR).tolist())


SECTORS = {
    ("i", "float"): 4,
    ("i + 1", "float"): 5,
    ("2 * i", "float"): 8,
    ("8 * i", "float"): 32,
    ("i / 8", "float"): 1,
    ("0", "float"): 1,
    ("i", "float4"): 16,
    ("i", "double"): 8,
    ("i", "short"): 2,
    ("31 - i", "float"): 4,
}


def test_sectors_of_a_request():
    compiled = Compiled(
        "".join(
            f'extern "C" __global__ void copy_{number}({kind}* b, const {kind}* a) {{\n'
            f"  int i = threadIdx.x; b[i] = a[{index}];\n}}\n"
            for number, (index, kind) in enumerate(SECTORS)
        )
    )
    for number, (place, sectors) in enumerate(SECTORS.items()):
        _, found = compiled.run(f"copy_{number}")
        load = next(a for a in found.accesses.values() if not a.kind.writes)
        assert (load.requests, load.measured, load.sectors) == (1, 1, sectors), place


WAVEFRONTS = {
    ("i", "float"): 1,
    ("2 * i", "float"): 2,
    ("32 * i", "float"): 32,
    ("33 * i", "float"): 1,
    ("i / 32", "float"): 1,
    ("i", "double"): 2,
    ("i", "float4"): 4,
    ("2 * i", "float4"): 8,
}


def test_bank_conflicts():
    compiled = Compiled(
        "".join(
            f'extern "C" __global__ void copy_{number}({kind}* b) {{\n'
            "  extern __shared__ __align__(16) unsigned char memory[];\n"
            f"  {kind}* tile = ({kind}*)memory;\n"
            f"  int i = threadIdx.x; __syncthreads(); b[i] = tile[{index}];\n}}\n"
            for number, (index, kind) in enumerate(WAVEFRONTS)
        )
    )
    for number, (place, wavefronts) in enumerate(WAVEFRONTS.items()):
        _, found = compiled.run(f"copy_{number}")
        load = next(a for a in found.accesses.values() if a.kind.space == "shared")
        assert (load.wavefronts, load.measured) == (wavefronts, 1), place


def test_lanes_that_take_no_part_touch_no_bank():
    addresses = np.arange(32).reshape(1, 32) * 128
    active = np.zeros((1, 32), bool)
    active[0, :5] = True
    assert bank_wavefronts(addresses, active, 4) == 5
    assert bank_wavefronts(addresses, np.zeros((1, 32), bool), 4) == 0


LOOP = """
extern "C" __global__ void chain(float* b, const float* a) {
  float x = a[threadIdx.x], y = x;
  #pragma unroll 1
  for (int i = 0; i < 1000; ++i) y = y * x + 1.5f;
  b[threadIdx.x] = y;
}
"""


def test_a_loop_is_counted_as_often_as_it_runs():
    found = profile(LOOP)
    assert found.mix["FFMA"] == 1000
    assert found.scalar_macs == 32 * 1000
    # Four cycles for each multiply-add; the counter's addition, comparison and branch take longer.
    assert 4000 <= found.latency < 12000
    assert found.pipes["fma"] >= 2000


def test_thread_dependent_trip_counts():
    source = """
extern "C" __global__ void strided(float* b, const float* a) {
  float x = 0;
  #pragma unroll 1
  for (int i = threadIdx.x; i < 1000; i += 96) x += a[i];
  b[threadIdx.x] = x;
}
"""
    _, found = run(source, block=(96, 1, 1))
    loads = next(a for a in found.accesses.values() if not a.kind.writes)
    # Threads 0 to 39 go round eleven times, the others ten: warps 0 and 1 take part in the eleventh.
    assert found.exact
    assert loads.requests == 11 + 11 + 10
    assert touched(found, 1) == set(range(125))


def test_diverged_lanes_take_both_ways_and_meet_again():
    source = """
extern "C" __global__ void ways(float* b, const float* a) {
  float x = a[threadIdx.x];
  if (threadIdx.x % 2) {
    #pragma unroll 1
    for (int i = 0; i < 50; ++i) x = x * x + 1.0f;
  } else {
    #pragma unroll 1
    for (int i = 0; i < 20; ++i) x = x * 3.0f + x;
  }
  b[threadIdx.x] = x;
}
"""
    code, found = run(source)
    assert found.exact
    assert warp_profile(code, found).mix["FFMA"] == 70
    store = next(a for a in found.accesses.values() if a.kind.writes)
    assert store.requests == 1


def test_threads_beyond_the_block_and_the_bound_do_nothing():
    source = """
extern "C" __global__ void guarded(float* b, const float* a) {
  int i = blockIdx.x * 40 + threadIdx.x;
  if (i < 100) b[i] = a[i];
}
"""
    _, found = run(source, grid=(3, 1, 1), block=(40, 1, 1))
    assert touched(found, 1) == set(range(13))
    assert sum(a.requests for a in found.accesses.values()) == 2 * 5  # the last warp has no thread below 100


def test_conditions_on_data_are_assumed_and_counted():
    source = """
extern "C" __global__ void branch(float* b, const int* a) {
  float x = threadIdx.x;
  if (a[threadIdx.x] > 3) {
    #pragma unroll 1
    for (int i = 0; i < 30; ++i) x = x * x + 1.0f;
  }
  b[threadIdx.x] = x;
}
"""
    _, found = run(source)
    assert found.complete
    assert found.assumptions > 0
    assert not found.exact


def test_the_slow_way_of_a_division_is_not_taken():
    source = 'extern "C" __global__ void divide(float* b, const float* a) { b[0] = a[0] / a[threadIdx.x]; }'
    code, found = run(source)
    assert any(item.base == "CALL" for item in code.instructions)
    assert found.exact
    taken = [block for block, count in zip(code.blocks, found.block_counts, strict=True) if count]
    assert not any(item.base == "CALL" for block in taken for item in block.instructions)


def test_a_subroutine_of_integers_is_entered_and_left():
    source = """
extern "C" __global__ void divide(float* b, const float* a, long long n) {
  b[threadIdx.x] = a[(long long)threadIdx.x * 1000 / n];
}
"""
    code, found = run(source, dims={"n": 250})
    assert any(item.base == "RET" for item in code.instructions)
    assert found.complete


def test_values_of_scalar_parameters():
    source = """
extern "C" __global__ void repeat(float* b, int rounds, const float* a) {
  float x = a[threadIdx.x];
  #pragma unroll 1
  for (int i = 0; i < rounds; ++i) x = x * x + 1.0f;
  b[threadIdx.x] = x;
}
"""
    code, found = run(source, dims={"rounds": 77})
    assert found.exact
    assert warp_profile(code, found).mix["FFMA"] == 77
    assert not run(source)[1].exact


@pytest.mark.parametrize(
    ("head", "rounds"),
    [
        ("int i = 0; i < 2000000000; ++i", 2_000_000_000),
        ("int i = 5; i != 700005; i += 7", 100_000),
        ("int i = 90000; i > 0; i -= 3", 30_000),
        ("long long i = 0; i < 5000000000LL; i += 1000", 5_000_000),
    ],
)
def test_the_rounds_of_a_long_loop_are_counted_exactly(head, rounds):
    source = f"""
extern "C" __global__ void spin(volatile float* b) {{
  #pragma unroll 1
  for ({head}) b[threadIdx.x] = 1.0f;
}}
"""
    _, found = run(source)
    assert found.exact
    assert sum(a.requests for a in found.accesses.values()) == rounds


def test_rounds_that_differ_are_averaged_and_told():
    source = """
extern "C" __global__ void uneven(volatile float* b) {
  #pragma unroll 1
  for (int i = 0; i < 30000; ++i) {
    b[threadIdx.x] = 1.0f;
    if (i % 3 == 0) { __syncwarp(); b[threadIdx.x + 64] = 2.0f; }
  }
}
"""
    _, found = run(source)
    assert found.complete
    assert not found.exact
    assert sorted(a.requests for a in found.accesses.values()) == pytest.approx([10000, 30000], rel=0.1)


def test_an_irregular_loop_is_given_up():
    source = """
extern "C" __global__ void spin(volatile float* b) {
  unsigned i = threadIdx.x + 1;
  while (i != 12345) { i = i * 1664525u + 1013904223u; b[i & 31] = 1.0f; }
}
"""
    _, found = run(source, budget=5000)
    assert not found.complete
    assert not found.exact


def test_shuffles_and_three_dimensions():
    source = """
extern "C" __global__ void sum(float* b, const float* a) {
  int i = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  int j = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  float x = a[j * 64 + i];
  for (int step = 16; step; step /= 2) x += __shfl_down_sync(0xffffffff, x, step);
  if (i % 32 == 0) b[j * 2 + i / 32] = x;
}
"""
    code, found = run(source, grid=(2, 3, 2), block=(4, 4, 4))
    assert found.exact
    assert warp_profile(code, found).mix["SHFL"] == 5
    wanted = {(j * 64 + i) // 8 for j in (0, 6, 11) for i in range(64)}
    assert touched(found, 1) == wanted


@pytest.mark.parametrize(("source", "name", "macs"), [(MMA_F16, "HMMA", 2048), (MMA_S8, "IMMA", 4096)])
def test_tensor_core_instructions(source, name, macs):
    found = profile(source)
    assert found.tensor_macs == macs
    assert found.scalar_macs == 0
    assert found.mix[name] * (2048 if name == "HMMA" else 4096) == macs


def test_asynchronous_copies_are_loads_of_global_memory():
    source = COPY_ASYNC.replace("WAIT", "0").replace("BARRIER", "__syncthreads();")
    code, found = run(source, block=(64, 1, 1))
    copies = [found.accesses[i.address] for i in code.instructions if i.base == "LDGSTS"]
    assert sum(a.requests for a in copies) == 4  # two stages of two warps
    assert all(a.sectors == 16 * a.measured for a in copies)
    # What is waited for takes as long as a load.
    assert warp_profile(code, found).latency > 290
