"""The disassembler's listing taken apart: kernels, instructions, basic blocks, classes of instructions."""

import pytest

from plait.backends.cuda.nvrtc import compile_cuda
from plait.backends.cuda.report.classes import CLASSES, kind
from plait.backends.cuda.resources import kernel_resources
from plait.backends.cuda.sass import Instruction, disassemble, parse_listing
from plait.ir.errors import CompileError

from .test_resources import SHARED, SPILLING
from .test_tensor_cores import COPY_ASYNC, MMA_F16, MMA_S8

LISTING = """
.text.first:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_1) ;
        /*0020*/                   LDG.E.128.CONSTANT R4, [R2.64+0x10] ;
.L_x_1:
        /*0030*/              @P1  EXIT ;
        /*0040*/                   IADD3 R2, P0, R2.reuse, -0x4, RZ ;
.L_x_2:
        /*0050*/                   BRA `(.L_x_2);
        /*0060*/                   NOP;
.text.second:
        /*0000*/                   EXIT ;
"""


@pytest.fixture(scope="module")
def binary():
    return compile_cuda(SHARED + SPILLING)


def test_a_listing_becomes_kernels_and_blocks():
    first, second = parse_listing(LISTING)
    assert (first.name, second.name) == ("first", "second")
    assert [str(i) for i in first.instructions[1:3]] == [
        "@!P0 BRA `(.L_x_1)",
        "LDG.E.128.CONSTANT R4, [R2.64+0x10]",
    ]
    assert first.instructions[4].operands == ("R2", "P0", "R2.reuse", "-0x4", "RZ")
    assert first.instructions[1].target == ".L_x_1"
    assert [block.address for block in first.blocks] == [0x00, 0x20, 0x30, 0x40, 0x50]
    assert first.labels == {".L_x_1": 0x30, ".L_x_2": 0x50}
    assert first.histogram()["NOP"] == 0
    with pytest.raises(CompileError, match="not understood"):
        list(parse_listing("        /*0000*/                   EXIT ;"))


def test_machine_code_of_the_assembler(binary):
    code = disassemble(binary.cubin)
    reverse, spilling = code["reverse"].histogram(), code["spilling"].histogram()
    assert reverse["LDG"] == 1
    assert reverse["STS"] == 1
    assert reverse["LDS"] == 1
    assert reverse["BAR"] == 1
    assert spilling["LDG"] == 80
    # Every spilled byte is a local store or load of four bytes.
    resources = kernel_resources(binary)["spilling"]
    assert spilling["STL"] * 4 == resources.spill_store_bytes
    assert spilling["LDL"] * 4 == resources.spill_load_bytes
    assert code["reverse"].histogram(modifiers=True)["LDG.E"] == 1
    for kernel in code.values():
        addresses = [item.address for block in kernel.blocks for item in block.instructions]
        assert addresses == [item.address for item in kernel.instructions]
        starts = {block.address for block in kernel.blocks}
        assert all(kernel.labels[i.target] in starts for i in kernel.instructions if i.target)


def test_a_damaged_image_is_refused():
    with pytest.raises(CompileError, match="nvdisasm failed"):
        disassemble(b"\x7fELF no image")


def test_classes_of_real_kernels(binary):
    texts = [MMA_F16, MMA_S8, COPY_ASYNC.replace("WAIT", "0").replace("BARRIER", "__syncthreads();")]
    found = {}
    for cubin in [binary.cubin, *(compile_cuda(text).cubin for text in texts)]:
        for kernel in disassemble(cubin).values():
            for instruction in kernel.instructions:
                found.setdefault(kind(instruction).name, instruction)
    for name in ("HMMA", "IMMA", "LDSM", "LDGSTS.128", "LDG.32", "STS.32", "LDL.32", "STL.32", "BAR", "FFMA"):
        assert name in found
    assert all(name.partition(".")[0] in CLASSES for name in found)


@pytest.mark.parametrize(
    ("opcode", "operands", "name", "tensor", "scalar", "pipe", "cycles"),
    [
        ("FFMA", ("R0", "R1", "R2", "R0"), "FFMA", 0, 32, "fma", 2),
        ("HFMA2", ("R0", "R1", "R2", "R0"), "HFMA2", 0, 64, "half", 1),
        # An immediate written by a multiply-add of zeros is a move.
        ("HFMA2.MMA", ("R0", "-RZ", "RZ", "0", "5.96e-08"), "move", 0, 0, "alu", 2),
        ("DFMA", ("R0", "R2", "R4", "R0"), "FP64", 0, 32, "fp64", 4),
        # 16 x 8 x 16 MACs at 256 a cycle of a partition; TF32 half that rate; int8 twice.
        ("HMMA.16816.F32", ("R0", "R4", "R8", "R0"), "HMMA", 2048, 0, "tensor", 8),
        ("HMMA.1688.F32.TF32", ("R0", "R4", "R8", "R0"), "HMMA", 1024, 0, "tensor", 8),
        ("IMMA.16832.S8.S8", ("R0", "R4", "R8", "R0"), "IMMA", 4096, 0, "tensor", 8),
        ("IMMA.8816.S8.S8", ("R0", "R4", "R8", "R0"), "IMMA", 1024, 0, "tensor", 2),
        ("IDP.4A.S8.S8", ("R0", "R1", "R2", "R0"), "IDP", 0, 128, "fma", 2),
        # Multiplies addresses.
        ("IMAD", ("R0", "R1", "R2", "R0"), "IMAD", 0, 0, "fma", 2),
        ("MUFU.EX2", ("R0", "R1"), "MUFU", 0, 0, "special", 8),
        ("UIADD3", ("UR4", "UR4", "0x1", "URZ"), "uniform", 0, 0, "", 0),
    ],
)  # fmt: skip
def test_kinds(opcode, operands, name, tensor, scalar, pipe, cycles):
    found = kind(Instruction(0, opcode, operands))
    assert (found.name, found.tensor_macs, found.scalar_macs) == (name, tensor, scalar)
    assert (found.pipe, found.cycles) == (pipe, cycles)
