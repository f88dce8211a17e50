"""Reading and rewriting CUDA C texts."""

import os
import subprocess
import sys

import pytest

from plait.backends.cuda.emulator.inline_assembly import rewrite_assembly
from plait.backends.cuda.emulator.rewrite import rewrite_kernels
from plait.backends.cuda.source_text import parse_source, split_top_level
from plait.ir.errors import CompileError

TEXT = """\
#define BRACE {  /* not a real one */
// __global__ void in_a_comment(int* a) {
__device__ float twice(float x) { return 2 * x; }
extern "C" __global__ void __launch_bounds__(64, 2) first(float* __restrict__ a, const unsigned char* b);
extern "C" __global__ void __launch_bounds__(64, 2) first(float* __restrict__ a, const unsigned char* b) {
  const char* s = "}";  // }
  a[0] = twice(b[0]);
}

__global__ void second(long long n) {
}
"""


def test_kernels_and_signatures():
    source = parse_source(TEXT)
    assert [str(kernel) for kernel in source.kernels] == [
        "first(float* a, unsigned char* b)",
        "second(long long n)",
    ]
    first, second = source.kernels
    assert (first.launch_bound, second.launch_bound) == (64, None)
    assert (first.line, second.line) == (5, 10)
    assert TEXT[first.end - 1] == "}"
    assert TEXT[first.start : first.start + 10] == 'extern "C"'


def test_cutting_kernels_keeps_the_lines():
    source = parse_source(TEXT)
    around = source.without_kernels()
    assert around.count("\n") == TEXT.count("\n")
    assert "twice" in around
    assert "first" not in around
    only = source.keeping(("second",))
    assert "second" in only
    assert "first(" not in only
    assert only.split("\n")[9].startswith("__global__ void second")


def test_two_kernels_of_one_name():
    with pytest.raises(CompileError, match="kernel k a second time"):
        parse_source("__global__ void k(int a) {}\n__global__ void k(int a) {}")


def test_split_top_level():
    assert split_top_level("a<b, c>(d, e), f[g, h], i") == ["a<b, c>(d, e)", " f[g, h]", " i"]
    assert split_top_level('"x:y" : a(b::c) :: d', ":") == ['"x:y" ', " a(b::c) ", "", " d"]


def test_assembly_becomes_calls():
    text = 'asm volatile("cp.async.wait_group %0;" :: "n"(2));\n__asm__("cp.async.commit_group;");'
    rewritten = rewrite_assembly(text)
    assert rewritten.splitlines()[0].startswith("cuda_emulation::wait_copies(2);")
    assert "cuda_emulation::commit_copies();" in rewritten
    assert "asm" not in rewritten


def test_shared_declarations_become_references():
    source = parse_source(
        "__global__ void k(float* a) {\n"
        "  __shared__ alignas(64) float x[4][8], y;\n  extern __shared__ int z[];\n}"
    )
    (kernel,) = rewrite_kernels(source)
    assert "auto& x = cuda_emulation::shared_variable<float[4][8], 64>(0);" in kernel.unit
    assert "auto& y = cuda_emulation::shared_variable<float, 64>(1);" in kernel.unit
    assert "int* z = reinterpret_cast<int*>(cuda_emulation::block->dynamic_shared);" in kernel.unit
    assert not kernel.waits
    with pytest.raises(CompileError, match="cannot read the shared memory declaration"):
        rewrite_kernels(parse_source("__global__ void k(float* a) { __shared__ float x = 1.0f; }"))


@pytest.mark.slow
def test_portable_fibers(tmp_path):
    """The ucontext fibers of machines other than x86-64, in a process of their own."""
    program = """
import numpy as np
from plait.backends.cuda.emulator import EmulatedModule, build
build._FLAGS += ("-DCUDA_EMULATION_UCONTEXT",)
source = '''
__global__ void sum(const float* x, float* out) {
  __shared__ float total[64];
  float v = x[threadIdx.x];
  for (int s = 16; s; s /= 2) v += __shfl_xor_sync(~0u, v, s);
  total[threadIdx.x] = v;
  __syncthreads();
  out[threadIdx.x] = total[63 - threadIdx.x];
}
'''
x, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
EmulatedModule(source).launch("sum", (1, 1, 1), (64, 1, 1), [x, out])
assert (out[:32] == x[32:].sum()).all() and (out[32:] == x[:32].sum()).all()
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
