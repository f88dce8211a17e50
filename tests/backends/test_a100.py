"""The a100 target without a GPU: the assembler accepts every kernel, and its text computes the right thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plait.backends import compile_graph, load_executable
from plait.backends.tvm.emulation import Emulation
from plait.frontends.families import example
from plait.frontends.pytorch import lower_torch
from plait.ir import CompileError, Graph, InputError, parse
from plait.ir.dims import parse_dim
from plait.ir.interpret import interpret

from .emission import check, compare
from .test_emit_elementwise import unary_case
from .test_emit_nn import quantised_case

FAMILIES = ("small_cnn", "small_transformer")


def lowered(name: str) -> Graph:
    found = example(name)
    return lower_torch(found.build(0), found.inputs(2, 0), dynamic=found.dynamic)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kernel_assembles_and_is_mapped(name: str) -> None:
    graph = lowered(name)
    exe = compile_graph(graph, "a100")
    known = {value.name for value in graph.values()}
    for kernel in exe.kernels:
        assert kernel.ops
        assert set(kernel.ops) <= known
        assert f"// plait: %{kernel.ops[0]}" in kernel.source
        assert kernel.name in kernel.source
        assert 0 < (kernel.registers or 0) <= 255
        assert not kernel.spills
        assert (kernel.shared_bytes or 0) <= 48 * 1024
        assert kernel.block is not None
        assert 1 <= np.prod([int(extent) for extent in kernel.block]) <= 1024
        assert kernel.grid is not None
        for extent in kernel.grid:
            assert parse_dim(str(extent)) == extent if isinstance(extent, int) else parse_dim(extent)
    assert list(exe.images) == [kernel.name for kernel in exe.kernels]
    for name, image in exe.images.items():
        assert image.cubin.startswith(b"\x7fELF")
        assert f".entry {name}(" in image.ptx
        assert ".target sm_80" in image.ptx
    assert any("B" in str(kernel.grid) for kernel in exe.kernels)


@pytest.mark.parametrize("name", FAMILIES)
def test_emulated_kernels_agree_with_the_interpreter(name: str) -> None:
    graph = lowered(name)
    exe = compile_graph(graph, "a100")
    for batch, order in ((1, "forward"), (3, "reversed")):
        given = example(name).inputs(batch, 5)
        (want,) = interpret(graph, given)
        got = exe.emulate(**given, lane_order=order)  # type: ignore[arg-type]
        assert isinstance(got, torch.Tensor)
        compare(got, want.detach(), 1e-4)


def test_elementwise_and_quantised_kernels_agree_with_the_interpreter() -> None:
    check(unary_case(), "a100", batches=(2,))
    check(quantised_case(), "a100", batches=(2,))


def test_a_call_without_a_gpu_says_what_to_do_instead() -> None:
    exe = compile_graph(lowered("small_cnn"), "a100")
    with pytest.raises(InputError, match="there is no GPU here") as caught:
        exe(**example("small_cnn").inputs(1, 0))
    assert ".emulate(" in str(caught.value)


def test_fixed_dims_give_fixed_grids() -> None:
    exe = compile_graph(lowered("small_cnn"), "a100", dims={"B": 4})
    assert all(isinstance(extent, int) for kernel in exe.kernels for extent in kernel.grid or ())


def test_round_trip(tmp_path: Path) -> None:
    exe = compile_graph(lowered("small_cnn"), "a100")
    exe.save(tmp_path / "net.plait")
    loaded = load_executable(tmp_path / "net.plait")
    assert loaded.kernels == exe.kernels
    assert loaded.images == exe.images
    assert loaded.cuda_source == exe.cuda_source
    assert parse(str(loaded.graph)) == parse(str(exe.graph))
    given = example("small_cnn").inputs(2, 1)
    torch.testing.assert_close(loaded.emulate(**given), exe.emulate(**given))


def test_emulation_refuses_a_text_that_is_not_the_executables() -> None:
    exe = compile_graph(lowered("small_cnn"), "a100", dims={"B": 1})
    with pytest.raises(CompileError, match="is not what this machine generates"):
        Emulation(exe.graph, exe.target, exe.cuda_source + "// another kernel\n")
