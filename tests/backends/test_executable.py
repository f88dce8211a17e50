"""Calls: what comes in goes out alike, and wrong arguments are refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.backends import CpuTarget, compile_graph, resolve_target
from plait.backends.executable import Executable
from plait.backends.tvm.toolchain import check_ffi
from plait.ir import CompileError, Graph, InputError
from plait.ir.ops import core, nn
from plait.ir.types import TensorType, f32, i64

from .emission import B, weights


def network() -> Graph:
    g = Graph("net")
    g.declare_dim("B", 1, 16)
    image = g.add_input("image", TensorType(f32, (B, 3, 8, 8)))
    shift = g.add_input("shift", TensorType(f32, (B,)))
    w = g.add_constant("w", weights(4, 3, 3, 3))
    y = g.emit(nn.Conv2d(image, w, act="relu"))
    total = g.emit(core.Add(g.emit(core.Sum(y, axes=(1, 2, 3))), shift))
    g.set_outputs([total, y])
    return g


@pytest.fixture(scope="module")
def exe() -> Executable:
    return compile_graph(network(), "cpu")


def arguments(batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, 3, 8, 8)).astype(np.float32), np.ones(batch, np.float32)


def test_numpy_gives_numpy_and_torch_gives_torch(exe: Executable) -> None:
    image, shift = arguments()
    total, y = exe(image, shift)
    assert isinstance(total, np.ndarray)
    assert isinstance(y, np.ndarray)
    torch_total, torch_y = exe(torch.from_numpy(image), shift=torch.from_numpy(shift))
    assert isinstance(torch_total, torch.Tensor)
    np.testing.assert_array_equal(torch_y.numpy(), y)
    wanted = torch.relu(torch.conv2d(torch.from_numpy(image), torch.from_numpy(weights(4, 3, 3, 3))))
    np.testing.assert_allclose(y, wanted.numpy(), atol=1e-5)


def test_results_stay_valid_after_the_next_call(exe: Executable) -> None:
    image, shift = arguments()
    first = exe(image, shift)[1]
    kept = first.copy()
    exe(-image, shift)
    np.testing.assert_array_equal(first, kept)


def test_arrays_of_any_layout_are_accepted(exe: Executable) -> None:
    image, shift = arguments()
    wanted = exe(image, shift)[1]
    strided = np.asfortranarray(image)
    moved = np.zeros((image.size + 1,), np.float32)[1:].reshape(image.shape)
    moved[:] = image
    frozen = image.copy()
    frozen.flags.writeable = False
    gradient = torch.from_numpy(image).requires_grad_()
    for given in (strided, moved, frozen):
        np.testing.assert_array_equal(exe(given, shift)[1], wanted)
    np.testing.assert_array_equal(exe(gradient, torch.from_numpy(shift))[1].numpy(), wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i, s: ((i,), {}), ["input 'shift' missing", "image: f32[B,3,8,8]"]),
        (lambda i, s: ((i, s, s), {}), ["3 inputs were given", "it takes 2 inputs"]),
        (lambda i, s: ((i,), {"shft": s}), ["there is no input 'shft'", "did you mean 'shift'"]),
        (lambda i, s: ((i, s), {"image": i}), ["input 'image' was given twice"]),
        (lambda i, s: ((i.astype(np.float64), s), {}), ["input image", "float64[2, 3, 8, 8]", "float32"]),
        (lambda i, s: ((i[0], s), {}), ["input image", "3 axes", "f32[B,3,8,8]"]),
        (lambda i, s: ((i[:, :2], s), {}), ["input image", "axis 1 is 2", "f32[B,3,8,8]"]),
        (lambda i, s: ((i, s[:1]), {}), ["input shift", "B is 2 from axis 0 of input image"]),
        (lambda i, s: ((np.repeat(i, 10, 0), np.repeat(s, 10)), {}), ["dim B is 20", "1..16"]),
        (lambda i, s: (([1.0], s), {}), ["input image", "a list was given"]),
    ],
)
def test_wrong_arguments_are_refused(exe: Executable, change, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    args, named = change(*arguments())
    with pytest.raises(InputError) as caught:
        exe(*args, **named)
    for word in words:
        assert word in str(caught.value)


def test_dims_can_be_fixed_before_compiling() -> None:
    exe = compile_graph(network(), "cpu", dims={"B": 2})
    assert str(exe.graph.inputs[0].type) == "f32[2,3,8,8]"
    exe(*arguments(2))
    with pytest.raises(InputError, match="axis 0 is 3"):
        exe(*arguments(3))


def test_inputs_constants_and_views_may_be_results() -> None:
    g = Graph("pass")
    x = g.add_input("x", TensorType(i64, (2, 3)))
    c = g.add_constant("c", np.arange(4))
    flat = g.emit(core.Reshape(x, out=TensorType(i64, (6,))))
    g.set_outputs([x, c, flat, flat])
    given = np.arange(6).reshape(2, 3)
    for got, want in zip(
        compile_graph(g, "cpu")(given), (given, np.arange(4), given.ravel(), given.ravel()), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_memory_plan_and_report(exe: Executable) -> None:
    assert exe.memory_at({"B": 2}).output_bytes >= 2 * 4 * 36 * 4
    assert exe.memory_at({"B": 4}).output_bytes > exe.memory_at({"B": 2}).output_bytes
    assert exe.memory.dims == {"B": 16}
    report = exe.to_dict()
    assert report["inputs"] == {"image": "f32[B,3,8,8]", "shift": "f32[B]"}
    assert [kernel["name"] for kernel in report["kernels"]] == [kernel.name for kernel in exe.kernels]
    with pytest.raises(InputError, match="no CUDA text"):
        _ = exe.cuda_source
    with pytest.raises(InputError, match="nothing to emulate"):
        exe.emulate(*arguments())


def test_threads_can_be_set(exe: Executable) -> None:
    image, shift = arguments(5)
    many = exe(image, shift)[1]
    exe.threads = 1
    np.testing.assert_array_equal(exe(image, shift)[1], many)
    with pytest.raises(InputError, match="threads=0"):
        exe.threads = 0


def test_targets() -> None:
    target = resolve_target("cpu", threads=1)
    assert isinstance(target, CpuTarget)
    assert target.threads == 1
    assert target.lanes in (4, 8, 16)
    with pytest.raises(CompileError, match="did you mean 'a100'"):
        resolve_target("a10")
    with pytest.raises(CompileError, match="threads=0"):
        resolve_target("cpu", threads=0)


def test_a_release_of_the_runtime_that_crashes_is_refused() -> None:
    check_ffi("0.1.14.post1")
    for version in ("0.1.15", "0.1.15.post2", "0.2.0"):
        with pytest.raises(CompileError, match=r"apache-tvm-ffi==0\.1\.14\.post1"):
            check_ffi(version)


def test_errors_of_tvm_name_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    from plait.backends.tvm import emit
    from plait.backends.tvm.emit.table import Emission

    def broken(op, args, emitter):  # type: ignore[no-untyped-def]
        raise RuntimeError("\n".join(f"line {i}" for i in range(20)))

    kind = emit.EMISSIONS[core.Sum].kind
    monkeypatch.setitem(emit.EMISSIONS, core.Sum, Emission(kind, broken))
    with pytest.raises(CompileError) as caught:
        compile_graph(network(), "cpu")
    assert "core.sum" in str(caught.value)
    assert "line 4" in str(caught.value)
    assert "line 5" not in str(caught.value)
