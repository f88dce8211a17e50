"""From LLVM IR to machine code: target machines, optimisation, JIT and object files.

llvmlite is imported when the first kernel is compiled.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plait.ir.errors import CompileError, did_you_mean

if TYPE_CHECKING:
    from llvmlite import ir

#: Processors that may be named.  LLVM ends the process at a name it does not know, so the list is closed.
PROCESSORS = (
    "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "nehalem", "sandybridge", "haswell", "broadwell",
    "skylake", "skylake-avx512", "cascadelake", "icelake-server", "sapphirerapids",
    "znver2", "znver3", "znver4",
)  # fmt: skip
_FEATURES = re.compile(r"([+-][a-z0-9._-]+(,[+-][a-z0-9._-]+)*)?")
#: Sixteen f32 lanes added: the registers in its assembly tell the widest vectors of a processor.
_PROBE = """
define void @probe(ptr %p) {
  %x = load <16 x float>, ptr %p, align 4
  %z = fadd <16 x float> %x, %x
  store <16 x float> %z, ptr %p, align 4
  ret void
}
"""


@dataclass(frozen=True)
class Processor:
    """The processor that code is generated for, in LLVM's terms.

    Attributes:
        cpu: one of `PROCESSORS`; "" is the processor that runs this program.
        features: features added to or removed from `cpu`, such as "-avx512f,+avx2".

    Raises:
        CompileError: an unknown processor or a malformed feature string.
    """

    cpu: str = ""
    features: str = ""

    def __post_init__(self) -> None:
        if self.cpu and self.cpu not in PROCESSORS:
            raise CompileError(
                f"unknown processor {self.cpu!r}{did_you_mean(self.cpu, PROCESSORS)}",
                where="Processor.cpu",
                why="LLVM ends the process when it meets a processor it does not know",
                remedy=f'use one of {", ".join(PROCESSORS)}, or "" for this machine',
            )
        if not _FEATURES.fullmatch(self.features):
            raise CompileError(
                f"malformed feature string {self.features!r}",
                where="Processor.features",
                why="features are a comma-separated list of +name and -name",
                remedy='write, for instance, "+avx2,-avx512f"',
            )


@functools.cache
def _binding() -> Any:
    """llvmlite.binding with the native target ready."""
    import llvmlite.binding as binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


def _target_machine(processor: Processor, *, jit: bool) -> Any:
    """A target machine at optimisation level 3; position-independent code unless `jit`."""
    binding = _binding()
    cpu, features = processor.cpu, processor.features
    if not cpu:
        host = binding.get_host_cpu_features().flatten()
        cpu, features = binding.get_host_cpu_name(), ",".join(part for part in (host, features) if part)
    return binding.Target.from_default_triple().create_target_machine(
        cpu=cpu,
        features=features,
        opt=3,
        reloc="default" if jit else "pic",
        codemodel="jitdefault" if jit else "small",
        jit=jit,
    )


@functools.cache
def vector_lanes(processor: Processor) -> int:
    """f32 lanes of the widest vector registers: 16 with AVX-512, 8 with AVX, 4 otherwise."""
    probe = _binding().parse_assembly(_PROBE)
    assembly = _target_machine(processor, jit=False).emit_assembly(probe)
    return 16 if "zmm" in assembly else 8 if "ymm" in assembly else 4


def _optimised(module: ir.Module, machine: Any) -> Any:
    """The LLVM module of an IR text after the passes of -O2."""
    binding = _binding()
    module.triple = binding.get_default_triple()
    module.data_layout = str(machine.target_data)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    # Kernels bring their own vectors; unrolling doubles the time of compilation and gains nothing.
    tuning = binding.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_unrolling = tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = binding.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(parsed, builder)
    return parsed


def object_code(module: ir.Module, processor: Processor) -> bytes:
    """The module as a relocatable object file of this operating system."""
    machine = _target_machine(processor, jit=False)
    return bytes(machine.emit_object(_optimised(module, machine)))


class Loaded:
    """A module in the memory of this process.

    Args:
        module: the functions.
        processor: must be one whose instructions this machine has.
    """

    def __init__(self, module: ir.Module, processor: Processor) -> None:
        machine = _target_machine(processor, jit=True)
        # The engine owns the machine code: it lives as long as this object.
        self._engine = _binding().create_mcjit_compiler(_optimised(module, machine), machine)
        self._engine.finalize_object()

    def address(self, symbol: str) -> int:
        """The address of a function."""
        return int(self._engine.get_function_address(symbol))
