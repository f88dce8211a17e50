"""Measuring kernels one by one: what each computed, and that a time was taken."""

from __future__ import annotations

import numpy as np

from plait.backends import compile_graph
from plait.backends.tvm.measure import last_of_each_site
from plait.ir.interpret import interpret

from .test_executable import arguments, network


def test_every_kernel_is_measured_and_its_result_seen() -> None:
    exe = compile_graph(network(), "cpu")
    values: dict[str, np.ndarray] = {}
    interpret(exe.graph, arguments(2), observe=lambda v, t: values.__setitem__(v.name, t.detach().numpy()))
    calls = exe.measure_kernels(*arguments(2), repeats=3)
    assert {call.function for call in calls} == {kernel.name for kernel in exe.kernels}
    assert len(calls) == sum(kernel.calls for kernel in exe.kernels)
    compared = last_of_each_site(calls)
    assert compared
    for call in compared:
        assert call.median_us > 0
        assert call.repeats == 3
        assert call.opnames
        assert len(call.dims) == len(call.dtypes)
        np.testing.assert_allclose(call.results[0], values[call.ops[-1]], rtol=1e-5, atol=1e-5)
        assert call.dims[-1] == list(values[call.ops[-1]].shape)
    wanted = exe(*arguments(2))
    for got, want in zip(exe(*arguments(2)), wanted, strict=True):
        np.testing.assert_array_equal(got, want)
