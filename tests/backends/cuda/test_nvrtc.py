"""NVRTC from the wheels: binaries, errors with a caret, independence of a system CUDA."""

import os
from pathlib import Path

import pytest

from plait.backends.cuda.nvrtc import compile_cuda, prepare_source
from plait.backends.cuda.toolkit import toolkit_path
from plait.ir.errors import CompileError, InputError

SCALE = """
extern "C" __global__ void __launch_bounds__(128) scale(float* __restrict__ x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= 2.0f;
}
"""

TVM_PRELUDE = """
#ifdef __CUDACC_RTC__
  #include <cuda/std/cstdint>
  using cuda::std::int64_t;
  #include <cuda/std/type_traits>
  namespace std {
    using cuda::std::is_same;
  }
#else
  #include <cstdint>
  #include <type_traits>
  #include <cuda.h>
#endif
"""


def test_compiles_to_ptx_and_machine_code():
    binary = compile_cuda(SCALE)
    assert ".visible .entry scale" in binary.ptx
    assert ".target sm_80" in binary.ptx
    assert binary.cubin.startswith(b"\x7fELF")
    assert binary.seconds > 0


def test_other_architecture():
    assert ".target sm_90" in compile_cuda(SCALE, architecture="sm_90").ptx
    with pytest.raises(InputError, match="no real CUDA architecture"):
        compile_cuda(SCALE, architecture="a100")


def test_error_shows_line_and_caret():
    source = "\n".join(
        [
            'extern "C" __global__ void broken(float* a) {',
            "  int b = 3;",
            "  a[threadIdx.x] = missing_name + b;",
            "}",
        ]
    )
    with pytest.raises(CompileError) as caught:
        compile_cuda(source)
    lines = str(caught.value).splitlines()
    assert caught.value.where == "kernel.cu:3:20"
    assert 'identifier "missing_name" is undefined' in lines[0]
    # The caret stands below the first letter of the name.
    assert lines[2].index("^") == lines[1].index("missing_name")


def test_error_in_a_long_line_is_cut_around_the_caret():
    source = f'extern "C" __global__ void k(float* a) {{ a[0] = {" + ".join(["1.0f"] * 400)} + wrong; }}'
    with pytest.raises(CompileError) as caught:
        compile_cuda(source)
    lines = str(caught.value).splitlines()
    assert lines[2].index("^") == lines[1].index("wrong")
    assert max(map(len, lines)) < 200


def test_prelude_becomes_typedefs_and_keeps_lines():
    source = TVM_PRELUDE + 'extern "C" __global__ void k(int64_t* a) { a[0] = 1; }\n'
    prepared = prepare_source(source)
    assert "#include" not in prepared
    assert prepared.count("\n") == source.count("\n")
    assert "entry k" in compile_cuda(source).ptx


def test_texts_that_use_std_keep_the_headers():
    source = TVM_PRELUDE + (
        'extern "C" __global__ void k(int* a) { a[0] = std::is_same<int, float>::value ? 7 : 42; }\n'
    )
    assert "#include" in prepare_source(source)
    assert "42" in compile_cuda(source).ptx


def test_half_uses_the_headers_of_the_wheels():
    source = '#include <cuda_fp16.h>\nextern "C" __global__ void k(half* a) { a[0] = hexp(a[1]); }\n'
    assert "ex2.approx" in compile_cuda(source).ptx


def test_single_kernel_of_a_text():
    source = SCALE + 'extern "C" __global__ void other(float* x) { x[0] = 1.0f; }\n'
    assert "other" not in compile_cuda(source, kernels=["scale"]).ptx
    with pytest.raises(CompileError, match="no kernel named 'absent'"):
        compile_cuda(source, kernels=["absent"])


def test_system_cuda_does_not_matter(monkeypatch, tmp_path):
    # A CUDA installation with broken tools and headers in every place that is usually searched.
    for folder in ("bin", "include", "lib64"):
        (tmp_path / folder).mkdir()
    for name in ("nvcc", "ptxas", "nvdisasm"):
        tool = tmp_path / "bin" / name
        tool.write_text("#!/bin/sh\nexit 1\n")
        tool.chmod(0o755)
    (tmp_path / "include" / "cuda_fp16.h").write_text("#error system header\n")
    for variable in ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CPATH", str(tmp_path / "include"))
    binary = compile_cuda('#include <cuda_fp16.h>\nextern "C" __global__ void k(half* a) { a[0] = a[1]; }\n')
    assert binary.cubin
    wheel = toolkit_path("lib/libnvrtc.so.13").parent
    loaded = {
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "nvrtc.so" in line
    }
    assert loaded
    assert all(Path(library).parent == wheel for library in loaded)
