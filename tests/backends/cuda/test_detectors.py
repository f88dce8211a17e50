"""The detectors of the emulation: what each of them finds, and what none of them may report."""

import numpy as np
import pytest

from plait.backends.cuda.emulator import EmulatedModule
from plait.ir.errors import CompileError, InputError

ORDERS = ("forward", "reversed", 7)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def findings(module, *arguments, name="k", grid=(1, 1, 1), block=(64, 1, 1), **options):
    """What a launch finds; nothing when it runs through."""
    try:
        module.launch(name, grid, block, arguments, **options)
    except CompileError as error:
        return error.findings
    return ()


def kinds(found):
    return {finding.kind for finding in found}


SUM = """
// plait: %total (net.py:7)
__global__ void k(const float* x, float* out) {
  __shared__ float partial[64];
  alignas(64) float total[1];
  partial[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  FIRST
  for (int step = 32; step > 0; step /= 2) {
    if (threadIdx.x < step) partial[threadIdx.x] += partial[threadIdx.x + step SHIFT];
    SECOND
  }
  total[0] = 0.0f;
  total[LOCAL] += partial[0];
  if (threadIdx.x == 0) out[PLACE] = total[0];
}
"""


def summing(**parts):
    text = SUM
    defaults = {
        "FIRST": "__syncthreads();",
        "SECOND": "__syncthreads();",
        "SHIFT": "",
        "LOCAL": "0",
        "PLACE": "blockIdx.x",
    }
    for name, part in {**defaults, **parts}.items():
        text = text.replace(name, part)
    return EmulatedModule(text, check=True)


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(size=30 * 64).astype(np.float32), np.zeros(30, np.float32)


def run_sum(module, data, **options):
    return findings(module, *data, grid=(30, 1, 1), uninitialised=["out"], **options)


@pytest.mark.parametrize("order", ORDERS)
def test_a_right_kernel_has_no_finding(data, order):
    module = summing()
    module.lane_order = order
    assert run_sum(module, data) == ()
    np.testing.assert_allclose(data[1], data[0].reshape(30, 64).sum(1), atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("barrier", "line"), [("FIRST", 9), ("SECOND", 9)])
def test_a_missing_barrier_is_a_race_in_every_order(data, order, barrier, line):
    module = summing(**{barrier: ""})
    module.lane_order = order
    found = run_sum(module, data)
    races = [finding for finding in found if finding.kind == "data race"]
    assert races
    race = races[0]
    assert (race.kernel, race.space, race.buffer, race.ops) == ("k", "shared", "partial", "%total (net.py:7)")
    assert line in (race.line, race.other_line)
    assert race.block == race.other_block
    assert race.thread != race.other_thread
    assert race.count > 30


def test_one_element_outside_of_a_shared_array(data):
    (found,) = run_sum(summing(SHIFT="+ 1", SECOND="__syncthreads();"), data)
    assert (found.kind, found.buffer, found.line, found.offset) == ("out of bounds", "partial", 9, 256)
    text = str(found)
    assert "4 bytes at offset 256, behind the end of its 256" in text
    assert "thread (31, 0, 0)" in text
    assert "line 9" in text


@pytest.mark.parametrize(
    ("place", "offset"),
    [("blockIdx.x + 1", 120), ("(int)blockIdx.x - 1", -4), ("blockIdx.x + 40000000", 160000000)],
)
def test_outside_of_a_global_array(data, place, offset):
    found = run_sum(summing(PLACE=place), data)
    assert [(f.kind, f.buffer, f.line, f.offset) for f in found] == [("out of bounds", "out", 14, offset)]


def test_far_from_every_buffer(data):
    (found,) = run_sum(summing(PLACE="blockIdx.x + (1ll << 50)"), data)
    assert (found.kind, found.line) == ("wild access", 14)


def test_outside_of_a_local_array(data):
    (found,) = run_sum(summing(LOCAL="blockIdx.x / 29"), data)
    assert (found.kind, found.space, found.line, found.offset, found.buffer_bytes) == (
        "out of bounds",
        "local",
        13,
        1,
        1,
    )


def test_two_blocks_writing_one_address(data):
    found = run_sum(summing(PLACE="blockIdx.x / 2"), data)
    assert kinds(found) == {"conflict between blocks"}
    assert (found[0].block, found[0].other_block, found[0].count) == ((1, 0, 0), (0, 0, 0), 15)


def test_a_block_reading_what_another_writes():
    module = EmulatedModule(
        "__global__ void k(float* x) { x[blockIdx.x] = x[(blockIdx.x + 1) % gridDim.x]; }", check=True
    )
    for order in ORDERS:
        module.lane_order = order
        assert kinds(findings(module, np.zeros(8, np.float32), grid=(8, 1, 1), block=(1, 1, 1))) == {
            "conflict between blocks"
        }


def test_atomics_do_not_conflict_with_each_other_but_with_stores():
    text = "__global__ void k(int* x) { atomicAdd(x, 1); STORE }"
    module = EmulatedModule(text.replace("STORE", ""), check=True)
    total = np.zeros(1, np.int32)
    assert findings(module, total, grid=(4, 1, 1)) == ()
    assert total[0] == 256
    found = findings(
        EmulatedModule(text.replace("STORE", "if (threadIdx.x == 5) x[0] = 1;"), check=True),
        total,
        grid=(4, 1, 1),
    )
    assert "data race" in kinds(found)
    assert found[0].buffer == "x"


def test_reads_of_what_nobody_wrote():
    text = """
    __global__ void k(const float* x, float* y, float* out) {
      __shared__ float tile[65];
      tile[threadIdx.x] = x[threadIdx.x];
      __syncthreads();
      if (threadIdx.x < 32) y[threadIdx.x] = tile[threadIdx.x + 33];
      out[threadIdx.x] = y[threadIdx.x / 2 + 1];
    }
    """
    x, y, out = (np.ones(64, np.float32) for _ in range(3))
    found = findings(EmulatedModule(text, check=True), x, y, out, uninitialised=["y", "out"])
    places = {(f.buffer, f.line, f.offset) for f in found if f.kind == "uninitialised read"}
    assert ("tile", 6, 256) in places
    assert any(buffer == "y" and line == 7 for buffer, line, _ in places)
    # y[1] is written by thread 1 and read by thread 0 before that, or the other way round.
    assert "data race" in kinds(found)


def test_states_of_single_bytes():
    text = """
    __global__ void k(const signed char* x, signed char* out) {
      __shared__ signed char tile[68];
      tile[threadIdx.x] = x[threadIdx.x];
      BARRIER
      out[threadIdx.x] = tile[threadIdx.x INDEX];
    }
    """
    x, out = np.arange(64, dtype=np.int8), np.zeros(64, np.int8)

    def found(barrier, index):
        module = EmulatedModule(text.replace("BARRIER", barrier).replace("INDEX", index), check=True)
        return findings(module, x, out, uninitialised=["out"])

    # Neighbours in one word are not in each other's way.
    assert found("", "") == ()
    assert kinds(found("", "^ 1")) == {"data race", "uninitialised read"}
    assert found("__syncthreads();", "^ 1") == ()
    assert kinds(found("__syncthreads();", "+ 1")) == {"uninitialised read"}
    assert kinds(found("__syncthreads();", "+ 5")) == {"uninitialised read", "out of bounds"}


def test_misaligned_vectors():
    text = "__global__ void k(const float* x, float4* out) { out[threadIdx.x] = *(float4*)(x + 4 * threadIdx.x SHIFT); }"
    x, out = np.zeros(64 * 4 + 4, np.float32), np.zeros((64, 4), np.float32)
    assert findings(EmulatedModule(text.replace("SHIFT", ""), check=True), x, out) == ()
    found = findings(EmulatedModule(text.replace("SHIFT", "+ 2"), check=True), x, out)
    assert [(f.kind, f.buffer, f.bytes, f.offset) for f in found] == [("misaligned access", "x", 16, 8)]


WARP = """
__global__ void k(const float* x, float* out) {
  __shared__ float tile[64];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  tile[threadIdx.x] = x[threadIdx.x];
  SYNC
  out[threadIdx.x] = tile[32 * warp + READ];
}
"""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("sync", "read", "expected"),
    [
        ("__syncwarp();", "31 - lane", set()),
        ("float other = __shfl_xor_sync(~0u, x[0], 1);", "31 - lane", set()),
        ("", "lane", set()),
        ("", "31 - lane", {"data race", "uninitialised read"}),
        ("__syncwarp(0xFFFFu << lane / 16 * 16);", "(lane ^ 15)", set()),
        ("__syncwarp(0xFFFFu << lane / 16 * 16);", "(lane ^ 16)", {"data race", "uninitialised read"}),
    ],
)
def test_collectives_order_the_lanes_they_name(order, sync, read, expected):
    module = EmulatedModule(WARP.replace("SYNC", sync).replace("READ", read), check=True, lane_order=order)
    found = findings(module, np.arange(64, dtype=np.float32), np.zeros(64, np.float32))
    assert "data race" in kinds(found) if expected else not found
    assert kinds(found) <= expected


@pytest.mark.parametrize("order", ORDERS)
def test_stores_to_volatile_memory_run_in_lockstep(order):
    """The end of a reduction as TVM writes it for one warp."""
    text = """
    __global__ void k(const float* x, float* out) {
      __shared__ float buffer[64];
      float step_16, step_8;
      ((volatile float*)buffer)[threadIdx.x] = x[threadIdx.x];
      __syncthreads();
      if (threadIdx.x < 16) {
        step_16 = ((volatile float*)buffer)[threadIdx.x] + ((volatile float*)buffer)[threadIdx.x + 16];
        ((volatile float*)buffer)[threadIdx.x] = step_16;
        step_8 = ((volatile float*)buffer)[threadIdx.x] + ((volatile float*)buffer)[threadIdx.x + 8];
        ((volatile float*)buffer)[threadIdx.x] = step_8;
      }
      BARRIER
      if (threadIdx.x == 40) out[0] = ((volatile float*)buffer)[0];
    }
    """
    x = np.arange(64, dtype=np.float32)
    right = EmulatedModule(text.replace("BARRIER", "__syncthreads();"), check=True, lane_order=order)
    assert findings(right, x, np.zeros(1, np.float32)) == ()
    wrong = EmulatedModule(text.replace("BARRIER", ""), check=True, lane_order=order)
    assert "data race" in kinds(findings(wrong, x, np.zeros(1, np.float32)))


@pytest.mark.parametrize("order", ORDERS)
def test_a_uninitialised_accumulator_shows_in_the_result(order):
    text = "__global__ void k(const float* x, float* out) { float best[2]; best[1] = max(best[1], x[threadIdx.x]); out[threadIdx.x] = best[1]; }"
    module = EmulatedModule(text, check=True, lane_order=order)
    x, out = np.zeros(64, np.float32), np.ones(64, np.float32)
    assert findings(module, x, out) == ()
    expected = {"forward": 0, "reversed": np.inf, 7: 0}[order]
    assert out.tolist() == [expected] * 64


def test_dynamic_shared_memory_has_bounds():
    text = """
    __global__ void k(float* x) {
      extern __shared__ unsigned char memory[];
      float* tile = (float*)memory;
      tile[threadIdx.x] = x[threadIdx.x];
      __syncthreads();
      x[threadIdx.x] = tile[63 - threadIdx.x + SHIFT];
    }
    """
    x = np.arange(64, dtype=np.float32)
    assert findings(EmulatedModule(text.replace("SHIFT", "0"), check=True), x, dynamic_shared_bytes=256) == ()
    assert x.tolist() == list(range(63, -1, -1))
    (found,) = findings(EmulatedModule(text.replace("SHIFT", "1"), check=True), x, dynamic_shared_bytes=256)
    assert (found.kind, found.buffer, found.offset) == ("out of bounds", "dynamic memory", 256)


COPY = """
__global__ void k(const float* a, float* b) {
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
def test_asynchronous_copies_count_once_waited_for(order):
    a = np.arange(512, dtype=np.float32)

    def found(wait, barrier):
        module = EmulatedModule(
            COPY.replace("WAIT", wait).replace("BARRIER", barrier), check=True, lane_order=order
        )
        return findings(module, a, np.zeros_like(a), uninitialised=["b"])

    assert found("0", "__syncthreads();") == ()
    assert kinds(found("1", "__syncthreads();")) == {"read of a copy in flight"}
    assert "data race" in kinds(found("0", ""))


def test_divergent_barriers_are_still_found():
    module = EmulatedModule(
        "__global__ void k(float* a) {\n if (threadIdx.x < 16) __syncthreads();\n a[threadIdx.x] = 1.0f;\n}",
        check=True,
    )
    with pytest.raises(CompileError, match="16 threads wait at __syncthreads"):
        module.launch("k", (1, 1, 1), (64, 1, 1), [np.zeros(64, np.float32)])


def test_the_error_lists_findings_and_counts(data):
    with pytest.raises(CompileError) as caught:
        summing(FIRST="").launch("k", (30, 1, 1), (64, 1, 1), data)
    text = str(caught.value)
    assert "data race: " in text
    assert "line 9" in text
    assert "against block (0, 0, 0) thread" in text
    assert caught.value.findings[0].to_dict()["kernel"] == "k"
    with pytest.raises(InputError, match="no pointer parameter z"):
        summing().launch("k", (30, 1, 1), (64, 1, 1), data, uninitialised=["z"])


def test_counts_of_known_kernels():
    text = """
    __global__ void k(const float* x, float* out) {
      __shared__ float tile[32 * 33];
      for (int row = 0; row < 32; ++row) tile[row * STRIDE + threadIdx.x] = x[row * 32 + threadIdx.x];
      __syncthreads();
      for (int row = 0; row < 32; ++row) out[threadIdx.x * 32 + row] = tile[threadIdx.x * STRIDE + row];
    }
    """
    x, out = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.float32)

    def counts(stride):
        module = EmulatedModule(text.replace("STRIDE", str(stride)), check=True)
        module.launch("k", (1, 1, 1), (32, 1, 1), [x, out], count=True)
        return module.counts("k")

    padded, plain = counts(33), counts(32)
    assert (padded.launches, padded.blocks, padded.threads, padded.barriers) == (1, 1, 32, 1)
    assert (padded.load_requests, padded.load_sectors, padded.load_bytes) == (32, 128, 4096)
    assert (padded.store_requests, padded.store_sectors) == (32, 1024)
    assert (padded.shared_store_requests, padded.shared_store_wavefronts) == (32, 32)
    assert (padded.shared_load_requests, padded.shared_load_wavefronts) == (32, 32)
    assert plain.shared_load_wavefronts == 1024
    assert padded.sectors_per_request == (128 + 1024) / 64
    assert padded.to_dict()["wavefronts_per_request"] == 1.0
    with pytest.raises(InputError, match="check=True"):
        EmulatedModule(text.replace("STRIDE", "33")).launch("k", (1, 1, 1), (32, 1, 1), [x, out], count=True)
