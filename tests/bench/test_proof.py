"""Reduced versions of bench/emulate_models.py and bench/mutate_kernels.py."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from plait.backends.cuda.source_text import parse_source

BENCH = Path(__file__).resolve().parents[2] / "bench"
MODELS = ("resnet18", "vit_tiny", "gin", "spiking", "int8", "half")

KERNEL = """
// plait: %y (net.py:1)
extern "C" __global__ void __launch_bounds__(64) y_kernel(float* __restrict__ x_ptr, float* __restrict__ y_ptr) {
  alignas(64) float sum_local_ptr[1];
  __shared__ alignas(64) float tile_shared_ptr[64];
  sum_local_ptr[0] = 0x0p+0f/*0.000000e+00*/;
  tile_shared_ptr[((int)threadIdx.x)] = x_ptr[((((int)blockIdx.x) * 64) + ((int)threadIdx.x))];
  __syncthreads();
  for (int k = 0; k < 4; ++k) {
    sum_local_ptr[0] = (sum_local_ptr[0] + tile_shared_ptr[((((int)threadIdx.x) + k) & 63)]);
  }
  sum_local_ptr[0] = (sum_local_ptr[0] + __shfl_down_sync(__activemask(), sum_local_ptr[0], 16, 32));
  if ((((int)threadIdx.x) % 32) == 0) {
    y_ptr[((((int)blockIdx.x) * 2) + (((int)threadIdx.x) >> 5))] = sum_local_ptr[0];
  }
}
"""


def bench_module(name: str) -> ModuleType:
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCH))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_kernels_of_models_have_no_finding_and_agree(name: str) -> None:
    emulate_models = bench_module("emulate_models")
    row = emulate_models.measure(name, orders=("forward", 5), small=True)
    assert row["findings"] == []
    assert row["error"] <= 1.0
    assert row["executed_kernels"] == row["kernels"]
    assert emulate_models.passed(row)


def test_operators_make_one_mistake_each() -> None:
    mutants = bench_module("mutants")
    found = mutants.mutants(KERNEL, each=2, seed=0)
    assert found == mutants.mutants(KERNEL, each=2, seed=0)
    by_operator = {mutant.operator for mutant in found}
    assert by_operator >= {
        "remove_barrier",
        "shift_index",
        "change_stride",
        "change_shift",
        "change_shuffle_distance",
        "change_shuffle_mask",
        "remove_predicate",
        "change_thread_guard",
        "remove_initialisation",
        "shorten_loop",
        "lengthen_loop",
    }
    for mutant in found:
        assert mutant.text != KERNEL
        assert len(mutant.text.splitlines()) == len(KERNEL.splitlines())
        before, after = (text.splitlines()[mutant.line - 1] for text in (KERNEL, mutant.text))
        assert before != after
        assert parse_source(mutant.text).kernels[0].name == "y_kernel"


def test_mistakes_in_a_kernel_are_caught() -> None:
    import numpy as np

    mutate_kernels, mutants = bench_module("mutate_kernels"), bench_module("mutants")
    x = np.random.default_rng(0).normal(size=3 * 64).astype(np.float32)
    launch = mutate_kernels.CapturedLaunch(
        "y_kernel",
        (3, 1, 1),
        (64, 1, 1),
        0,
        [x.view(np.uint8), np.zeros(6 * 4, np.uint8)],
        [True, True],
        [False, True],
    )
    original = mutate_kernels.EmulatedModule(KERNEL, check=True)
    launch.results = [array.view(np.uint8) for array in launch.repeat(original)]
    subject = mutate_kernels.Subject("test", KERNEL, launch)
    chosen = {mutant.operator: mutant for mutant in mutants.mutants(KERNEL, each=1, seed=0)}
    for operator, verdicts in {
        "remove_barrier": {"data race", "uninitialised read"},
        "change_stride": {"out of bounds", "wrong result", "conflict between blocks", "uninitialised read"},
        "remove_initialisation": {"wrong result"},
        "change_thread_guard": {"wrong result"},
    }.items():
        verdict, detail = mutate_kernels.judge(subject, chosen[operator])
        assert verdict in verdicts, (operator, detail)

    # A loop over the same elements in another order is no mistake, and a witness says so.
    same = mutants.Mutant("y_kernel", "change_shift", 1, "", "", KERNEL, KERNEL)
    assert mutate_kernels.judge(subject, same)[0] == "survived"
    assert mutate_kernels.argue(subject, same)
