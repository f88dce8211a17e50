"""From CUDA C text to host C++: what the emulation headers cannot do by themselves.

The text of a kernel is kept as it is, except that its linkage and attributes go,
shared memory declarations become references into the block's arena, `asm`
statements become calls, includes of CUDA headers go, and stores to volatile
shared memory gain meeting points.  Line numbers are kept, so that errors point
into the CUDA text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from plait.backends.cuda.emulator.inline_assembly import rewrite_assembly
from plait.backends.cuda.source_text import KernelText, SourceText, mask, split_top_level
from plait.ir.errors import CompileError

_CUDA_INCLUDE = re.compile(
    r"^[ \t]*#[ \t]*include[ \t]*[<\"]"
    r"(?:cuda[^>\"]*|math_constants\.h|mma\.h|sm_\d+_\w+\.h|cooperative_groups[^>\"]*|device_\w+\.h)[>\"]",
    re.M,
)
_WAITS = re.compile(
    r"\b(?:__sync\w+|__shfl\w*|__ballot\w*|__activemask|__any_sync|__all_sync|__match_\w+|__reduce_\w+|wmma"
    r"|load_matrices|multiply_matrices|keep_lockstep)\b"
)
_HALF = re.compile(r"\b(?:__)?half\w*\b|\b(?:__)?nv_bfloat16\w*\b")
_MATRIX = re.compile(
    r"\bwmma\b|\bcuda_emulation::(?:load_matrices|multiply_matrices|copy_async|commit_copies|wait_copies|round_to_tf32)"
)
_ALIGNMENT = re.compile(r"\b(?:alignas|__align__)\s*\(([^()]*)\)")
_VOLATILE_STORE = re.compile(r"\(\(volatile [\w:]+\s*\*\)(?P<name>\w+)\)\[[^;=]*\]\s*=[^=;][^;]*;")
_LOCAL_ARRAY = re.compile(
    r"(?P<before>(?:\A|^|[;{}])\s*)(?P<alignment>alignas\(\d+\)\s*)?"
    r"(?!(?:return|auto|const|extern|static|volatile|typedef|using)\b)"
    r"(?P<type>(?:unsigned\s+|signed\s+)?[A-Za-z_][\w:]*(?:<[^;{}()]*>)?)\s+(?P<name>\w+)"
    r"\[(?P<extent>[\w *+]+)\]\s*(?=;)",
    re.M,
)
_DECLARATOR = re.compile(r"^(?P<name>\w+)\s*(?P<extents>(?:\[[^\]]*\]\s*)*)$")

_INDEX_MACROS = {
    "threadIdx": "cuda_emulation::block->thread->index",
    "blockIdx": "cuda_emulation::block->index",
    "blockDim": "cuda_emulation::block->size",
    "gridDim": "cuda_emulation::block->grid",
}


@dataclass(frozen=True)
class HostKernel:
    """One kernel as a complete C++ translation unit."""

    kernel: KernelText
    unit: str
    waits: bool
    shared_variables: tuple[str, ...]


def rewrite_kernels(source: SourceText, *, check: bool = False) -> list[HostKernel]:
    """One host translation unit for each kernel of the text, in text order.

    Args:
        check: local arrays become arrays that know their bounds and start poisoned.

    Raises:
        CompileError: for a shared memory declaration that cannot be understood.
    """
    around = _CUDA_INCLUDE.sub("", rewrite_assembly(source.without_kernels()))
    around, variables = _rewrite_shared(around, 0)
    prelude = _Prelude(around, variables, waits=bool(_WAITS.search(mask(around))))
    return [_rewrite_kernel(source, kernel, prelude, check) for kernel in source.kernels]


@dataclass(frozen=True)
class _Prelude:
    text: str
    variables: list[str]
    waits: bool


def _rewrite_kernel(source: SourceText, kernel: KernelText, prelude: _Prelude, check: bool) -> HostKernel:
    parameters = source.text[kernel.head : kernel.body]
    body = rewrite_assembly(source.text[kernel.body + 1 : kernel.end])
    body, variables = _rewrite_shared(body, len(prelude.variables))
    body = _keep_lockstep(body)
    if check:
        body = _guard_local_arrays(body)
    variables = prelude.variables + variables
    waits = prelude.waits or bool(_WAITS.search(mask(body)))
    both = prelude.text + body + parameters
    headers = ["kernel_prelude.h"]
    if _HALF.search(both):
        headers.append("cuda_half.h")
    if _MATRIX.search(both):
        headers.append("cuda_matrix.h")
    if check:
        headers.append("local_array.h")
    unit = [
        *(f'#include "{header}"' for header in headers),
        *(f"#define {name} ({value})" for name, value in _INDEX_MACROS.items()),
        '#line 1 "kernel.cu"',
        prelude.text,
        *(f"#undef {name}" for name in _INDEX_MACROS),
        "namespace cuda_kernels {",
        f'#line {kernel.line - parameters.count(chr(10))} "kernel.cu"',
        f"static void {kernel.name}{parameters}{{ CUDA_EMULATION_INDICES {body}",
        "}",
        f"CUDA_EMULATION_KERNEL({kernel.name}, {str(waits).lower()}, {len(variables)},"
        f" {kernel.launch_bound or 0})",
        "",
    ]
    return HostKernel(kernel, "\n".join(unit), waits, tuple(variables))


def _rewrite_shared(text: str, first: int) -> tuple[str, list[str]]:
    """Replaces `__shared__` declarations by references into the block's arena.

    Returns the text and the names of the variables, which are numbered from `first`.
    """
    masked = mask(text)
    variables: list[str] = []
    pieces, position = [], 0
    for found in re.finditer(r"\b__shared__\b", masked):
        start = max(masked.rfind(character, 0, found.start()) for character in ";{}") + 1
        start += len(masked[start:]) - len(masked[start:].lstrip())
        end = masked.find(";", found.end())
        declaration = masked[start:end]
        words = re.sub(r"\b(?:__shared__|static|extern)\b", " ", declaration)
        alignments = _ALIGNMENT.findall(words)
        base, declarators = _split_declaration(" ".join(_ALIGNMENT.sub(" ", words).split()), declaration)
        replacement = ""
        for name, extents in declarators:
            if re.search(r"\bextern\b", declaration):
                address = "cuda_emulation::block->dynamic_shared"
                replacement += f"{base}* {name} = reinterpret_cast<{base}*>({address}); "
                continue
            arguments = ", ".join([f"{base}{extents}", *alignments[:1]])
            replacement += (
                f"auto& {name} = cuda_emulation::shared_variable<{arguments}>({first + len(variables)}); "
            )
            variables.append(name)
        pieces += [text[position:start], replacement.rstrip("; "), "\n" * text.count("\n", start, end)]
        position = end
    return "".join([*pieces, text[position:]]), variables


def _keep_lockstep(text: str) -> str:
    """Makes each store to volatile shared memory a point where the lanes of a warp meet.

    Generated reductions end with the lanes of one warp reading and writing shared memory through
    volatile pointers, with no barrier: they rely on the warp running in lockstep, as it does on the
    device when it has not diverged. All lanes then read before any writes, and the reverse.
    """

    def meet(match: re.Match[str]) -> str:
        if not re.search(rf"auto& {match['name']} = cuda_emulation::shared_variable", text):
            return match[0]
        before, behind = (f"cuda_emulation::keep_lockstep({site});" for site in ("__LINE__", "-__LINE__"))
        return f"{{ {before} {match[0]} {behind} }}"

    return _VOLATILE_STORE.sub(meet, text)


def _guard_local_arrays(text: str) -> str:
    """Gives each local array `T name[N];` the type that knows its bounds."""

    def guard(match: re.Match[str]) -> str:
        array = f"cuda_emulation::LocalArray<{match['type']}, ({match['extent']})>"
        return f"{match['before']}{match['alignment'] or ''}{array} {match['name']}"

    return _LOCAL_ARRAY.sub(guard, text)


def _split_declaration(text: str, original: str) -> tuple[str, list[tuple[str, str]]]:
    """`unsigned char a[2], b` -> `unsigned char`, [(a, [2]), (b, )]."""
    first, *others = split_top_level(text)
    head = re.match(r"^(?P<base>.*[\w>*&])\s+(?P<rest>\w+\s*(?:\[[^\]]*\]\s*)*)$", first)
    declarators = [_DECLARATOR.match(part.strip()) for part in ([head["rest"]] if head else []) + others]
    if head is None or any(declarator is None for declarator in declarators):
        raise CompileError(
            f"cannot read the shared memory declaration {' '.join(original.split())!r}",
            why="the emulation places shared variables itself, one for each `type name[extent]`",
            remedy="declare the variable with a named type, without an initialiser",
        )
    return head["base"], [(d["name"], d["extents"].strip()) for d in declarators if d]
