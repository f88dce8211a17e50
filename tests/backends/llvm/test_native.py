"""Objects, symbols, the cache, light imports and the errors of specifications and calls."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as binding
import numpy as np
import pytest

from plait.backends.llvm import (
    EventConv2d,
    FirstSpikeConv2d,
    Pool,
    PopcountConv2d,
    Processor,
    compile_kernel,
    emit_object,
    event_conv2d,
    event_linear,
    first_spike_conv2d,
    gather_rows,
    popcount_conv2d,
)
from plait.ir.errors import CompileError

SIZES: dict[str, Any] = {"height": 5, "width": 6, "in_channels": 2, "out_channels": 20, "kernel": (2, 2)}
FIRST = FirstSpikeConv2d(**SIZES, steps=7, potentials=True)
EVENTS = EventConv2d(**SIZES)
POPCOUNT = PopcountConv2d(**SIZES)


def symbols(code: bytes) -> set[str]:
    binding.initialize_native_target()
    file = binding.ObjectFileRef.from_data(code)
    assert any(section.is_text() and section.size() for section in file.sections())
    # Names sit in the string table between zero bytes.
    return {name.decode() for name in code.split(b"\0") if name.isascii()}


@pytest.mark.parametrize("spec", [FIRST, EVENTS, POPCOUNT], ids=lambda s: s.name)
@pytest.mark.parametrize("cpu", ["haswell"])
def test_object_has_the_documented_symbols(spec: Any, cpu: str) -> None:
    names = symbols(emit_object(spec, processor=Processor(cpu)))
    assert {spec.symbol, spec.symbol + "_workspace"} <= names
    assert spec.symbol.startswith(f"plait_{spec.name}_")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to link with")
def test_linked_object_computes_what_the_jit_does(tmp_path: Path) -> None:
    (tmp_path / "layer.o").write_bytes(emit_object(FIRST, symbol="layer"))
    library = tmp_path / "layer.so"
    subprocess.run(["cc", "-shared", "-o", library, tmp_path / "layer.o"], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.layer_workspace.restype = ctypes.c_int64
    scratch = np.empty(loaded.layer_workspace(), np.uint8)
    assert scratch.size == compile_kernel(FIRST).workspace_bytes
    rng = np.random.default_rng(0)
    times = rng.integers(0, 8, (3, 5, 6, 2)).astype(np.uint8)
    weights = rng.normal(size=FIRST.weight_shape).astype(np.float32)
    level = np.array([0.5], np.float32)
    first, potential = first_spike_conv2d(FIRST, times, weights, 0.5)
    assert potential is not None
    out, out_potential = np.full_like(first, 99), np.full_like(potential, 99)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (times, weights, level, out, out_potential, scratch)]
    # The range [1, 3) leaves sample 0 alone.
    loaded.layer(*pointers, ctypes.c_int64(1), ctypes.c_int64(3))
    np.testing.assert_array_equal(out[1:], first[1:])
    np.testing.assert_array_equal(out_potential[1:], potential[1:])
    assert (out[0] == 99).all()


def test_workspace_is_enough_and_inputs_are_not_written() -> None:
    kernel = compile_kernel(FIRST)
    guard = 4096
    scratch = np.full(kernel.workspace_bytes + guard, 0xA5, np.uint8)
    times = np.zeros((1, 5, 6, 2), np.uint8)
    weights, level = np.ones(FIRST.weight_shape, np.float32), np.array([2.5], np.float32)
    out, potential = np.full((4, 5, 20), 99, np.uint8), np.zeros((4, 5, 20), np.float32)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 6, ctypes.c_int64, ctypes.c_int64)(kernel.address)
    function(*[a.ctypes.data for a in (times, weights, level, out, potential, scratch)], 0, 1)
    assert (out == 0).all()
    assert (scratch[kernel.workspace_bytes :] == 0xA5).all()
    assert not times.any()
    assert (weights == 1).all()


def test_kernels_are_cached_by_specification_and_processor() -> None:
    assert compile_kernel(FIRST) is compile_kernel(FirstSpikeConv2d(**SIZES, steps=7, potentials=True))
    assert compile_kernel(EVENTS) is not compile_kernel(EVENTS, processor=Processor("haswell"))
    assert FIRST.symbol != FirstSpikeConv2d(**SIZES, steps=8, potentials=True).symbol


def test_import_does_not_load_llvmlite() -> None:
    code = "import sys, plait.backends.llvm; assert 'llvmlite' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def changed(**sizes: object) -> dict[str, Any]:
    return {**SIZES, **sizes}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EventConv2d(**changed(height=0)), "height is 0"),
        (lambda: EventConv2d(**changed(out_channels=-4)), "out_channels is -4"),
        (lambda: EventConv2d(**changed(in_channels=2.0)), "in_channels is 2.0"),
        (lambda: EventConv2d(**changed(kernel=(0, 2))), "kernel is (0, 2)"),
        (lambda: EventConv2d(**changed(kernel=(2, 2, 2))), "kernel has 3 entries"),
        (lambda: EventConv2d(**changed(kernel=(6, 2))), "a window of 6 does not fit in 5 rows"),
        (lambda: EventConv2d(**SIZES, padding=(0, -1)), "padding is (0, -1)"),
        (lambda: EventConv2d(**SIZES, stride=(0, 1)), "stride is (0, 1)"),
        (lambda: EventConv2d(**changed(in_channels=1 << 16, out_channels=1 << 16)), "32-bit indices"),
        (lambda: FirstSpikeConv2d(**SIZES, steps=255), "255 steps"),
        (lambda: FirstSpikeConv2d(**SIZES, steps=0), "steps is 0"),
        (lambda: FirstSpikeConv2d(**SIZES, steps=3, pool=Pool((7, 1), (1, 1))), "a window of 7 does not fit"),
        (lambda: Pool((2, 2), (2, 2), (2, 0)), "a window would hold padding alone"),
        (lambda: Pool((2, 0), (2, 2)), "kernel is (2, 0)"),
        (lambda: PopcountConv2d(**SIZES, result="f16"), "result 'f16'"),
        (lambda: Processor("hasswell"), "did you mean 'haswell'?"),
        (lambda: Processor(features="avx2"), "malformed feature string"),
        (lambda: emit_object(FIRST, symbol="my layer"), "no C identifier"),
    ],
)  # fmt: skip
def test_bad_specifications_say_what_is_wrong(make: Callable[[], object], message: str) -> None:
    with pytest.raises(CompileError) as caught:
        make()
    assert message in str(caught.value)


TIMES, WEIGHTS = np.zeros((1, 5, 6, 2), np.uint8), np.zeros(FIRST.weight_shape, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: first_spike_conv2d(FIRST, TIMES.astype(np.int64), WEIGHTS, 1.0), "times is int64"),
        (lambda: first_spike_conv2d(FIRST, TIMES[:, :4], WEIGHTS, 1.0), "not [N, 5, 6, 2]"),
        (lambda: first_spike_conv2d(FIRST, TIMES, WEIGHTS[0], 1.0), "weights has shape"),
        (lambda: first_spike_conv2d(FIRST, TIMES, WEIGHTS.astype(np.float64), 1.0), "weights is float64"),
        (lambda: first_spike_conv2d(FIRST, TIMES, WEIGHTS, float("nan")), "threshold is NaN"),
        (lambda: first_spike_conv2d(FIRST, TIMES, WEIGHTS, 1.0, threads=0), "0 threads"),
        (lambda: event_conv2d(EVENTS, [[1]], WEIGHTS), "spikes is list"),  # type: ignore[arg-type]
        (lambda: event_linear(EVENTS, TIMES[0, 0], WEIGHTS[0, 0]), "no linear layer"),
        (lambda: event_linear(gather_rows(3, 4), TIMES[0, 0], WEIGHTS[0, 0]), "spikes has shape [6, 2]"),
        (lambda: popcount_conv2d(POPCOUNT, TIMES, WEIGHTS), "words is uint8"),  # type: ignore[arg-type]
        (
            lambda: popcount_conv2d(
                POPCOUNT, np.zeros((1, 5, 6, 1), np.uint32), np.zeros((2, 2, 1, 20), np.uint32), levels=(0, 1)
            ),
            "two_level=False",
        ),
    ],
)  # fmt: skip
def test_bad_calls_say_what_is_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(CompileError) as caught:
        call()
    assert message in str(caught.value)
