"""Whole executables under the detectors of the emulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.backends import compile_graph
from plait.backends.binding import bind_arguments
from plait.backends.cuda.emulator.capture import captured_launches
from plait.backends.cuda.emulator.module import EmulatedModule
from plait.backends.tvm.emulation import Emulation
from plait.ir import CompileError, Graph, InputError, SpikeType
from plait.ir.interpret import interpret
from plait.ir.ops import nn, spike

from .emission import B, Case, weights


def spiking_case() -> Case:
    """spikes [B, 16] -> dense [B, 12] -> softmax."""

    def build(g, v):
        return nn.Softmax(g.emit(spike.SpikeLinear(v["s"], v["w"], v["b"], kernel="dense")), axis=-1)

    return Case(
        "spiking",
        {"s": SpikeType((B, 16))},
        build,
        constants={"w": weights(12, 16), "b": weights(12)},
    )


@pytest.fixture(scope="module")
def spiking() -> tuple[Graph, object]:
    graph = spiking_case().graph()
    return graph, compile_graph(graph, "a100")


def test_results_counts_and_captured_launches(spiking) -> None:
    """Spikes are bytes: TVM's vectors of bool would read and write twice as far as they should."""
    graph, executable = spiking
    arguments = spiking_case().arguments(3, 0)
    with pytest.raises(InputError, match="no kernel has been counted"):
        executable.emulation_counts  # noqa: B018
    (expected,) = interpret(graph, arguments)
    with captured_launches() as launches:
        result = executable.emulate(**arguments, lane_order="reversed", count=True)
    torch.testing.assert_close(torch.as_tensor(result), expected, atol=1e-5, rtol=1e-5)

    counts = executable.emulation_counts
    assert set(counts) == {kernel.name for kernel in executable.kernels}
    for name, entry in counts.items():
        (kernel,) = (k for k in executable.kernels if k.name == name)
        assert entry.launches == 1
        assert entry.threads == entry.blocks * np.prod([int(extent) for extent in kernel.block])
        assert entry.store_bytes > 0
        assert 1 <= entry.sectors_per_request <= 32

    assert [launch.kernel for launch in launches] == list(counts)
    module = EmulatedModule(executable.cuda_source, check=True)
    for launch in launches:
        for found, wanted in zip(launch.repeat(module), launch.expected(module), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


class _SameAsAnything(str):
    def __ne__(self, other: object) -> bool:
        return False


def test_a_broken_kernel_is_reported_with_its_op(spiking, monkeypatch) -> None:
    """Barriers taken out of the text: the message names the kernel's op and the lines of the text."""
    graph, executable = spiking
    broken = executable.cuda_source.replace("__syncthreads();", "")
    monkeypatch.setattr("plait.backends.tvm.cuda_code.without_annotations", _SameAsAnything)
    sabotaged = Emulation(graph, executable.target, broken, check=True)
    bound = bind_arguments(graph, (), spiking_case().arguments(3, 0))
    with pytest.raises(CompileError, match="data race") as caught:
        sabotaged.run(bound.arrays, bound.dims, "forward")
    finding = caught.value.findings[0]
    assert finding.ops.startswith("%")
    assert finding.space == "shared"
    assert finding.line is not None
    assert finding.buffer in broken.splitlines()[finding.line - 1]
