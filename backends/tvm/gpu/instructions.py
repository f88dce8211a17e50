"""Instructions of sm_80 that TIR has no word for, as short CUDA functions that kernels call.

TVM prints the text of a function once, above the kernels that call it.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

#: Bytes that one `ldmatrix` row, and one `cp.async` of the widest kind, moves.
CHUNK = 16

_COPY = """
__device__ __forceinline__ void plait_copy_async_{size}(void* to, const void* from, bool inside) {{
  unsigned address = (unsigned)__cvta_generic_to_shared(to);
  int filled = inside ? {size} : 0;
  asm volatile("cp.async.{cache}.shared.global [%0], [%1], %2, %3;"
               :: "r"(address), "l"(from), "n"({size}), "r"(filled) : "memory");
}}
"""
_COPY_ELEMENT = """
__device__ __forceinline__ void plait_copy_element_{size}(
    void* to, const void* from, bool inside, unsigned fill) {{
  *(({word}*)to) = inside ? *((const {word}*)from) : ({word})fill;
}}
"""
_COPY_OR_FILL = """
__device__ __forceinline__ void plait_copy_or_fill_{size}(
    void* to, const void* from, bool inside, unsigned fill) {{
  if (inside) {{
    unsigned address = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.{cache}.shared.global [%0], [%1], %2;"
                 :: "r"(address), "l"(from), "n"({size}) : "memory");
  }} else {{
    for (int word = 0; word < {size} / 4; ++word) ((unsigned*)to)[word] = fill;
  }}
}}
"""
_LOAD_WORD = """
__device__ __forceinline__ void plait_load_word(unsigned* to, const void* from) {
  *to = *((const unsigned*)from);
}
"""
_COMMIT = """
__device__ __forceinline__ void plait_commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
"""
_WAIT = """
__device__ __forceinline__ void plait_wait_copies_{pending}() {{
  asm volatile("cp.async.wait_group {pending};" ::: "memory");
}}
"""
_LOAD_MATRICES = """
__device__ __forceinline__ void plait_load_matrices{suffix}(unsigned* to, const void* from) {{
  unsigned address = (unsigned)__cvta_generic_to_shared(from);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4{modifier}.shared.b16 {{%0, %1, %2, %3}}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(address) : "memory");
}}
"""
_MULTIPLY = """
__device__ __forceinline__ void plait_multiply_{kind}({word}* sum, const unsigned* a, const unsigned* b) {{
  asm volatile("mma.sync.aligned.{shape}.row.col.{to}.{kind}.{kind}.{to} "
               "{{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%10, %11, %12, %13}};"
               : "={letter}"(sum[0]), "={letter}"(sum[1]), "={letter}"(sum[2]), "={letter}"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
                 "{letter}"(sum[0]), "{letter}"(sum[1]), "{letter}"(sum[2]), "{letter}"(sum[3]));
}}
"""
_ROUND_TO_TF32 = """
__device__ __forceinline__ void plait_round_to_tf32(unsigned* word) {
  asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(*word) : "f"(__uint_as_float(*word)));
}
"""
_ATOMIC_INCREMENT = """
__device__ __forceinline__ int64_t plait_atomic_increment(int64_t* at) {
  return (int64_t)atomicAdd((unsigned long long*)at, 1ULL);
}
"""
_SHUFFLE = """
__device__ __forceinline__ {word} plait_shuffle_xor_{name}({word} value, int distance) {{
  return __shfl_xor_sync(0xFFFFFFFFu, value, distance);
}}
"""
_BALLOT = """
__device__ __forceinline__ unsigned int plait_ballot(int predicate) {
  return __ballot_sync(0xFFFFFFFFu, predicate);
}
"""
_BITS_SET = """
__device__ __forceinline__ int plait_bits_set(unsigned int word) {
  return __popc(word);
}
"""
_WORDS = {
    "float16": "half",
    "bfloat16": "nv_bfloat16",
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "long long",
}

#: By element type: PTX's name of it, the shape of the instruction, and the type of the sums.
_KINDS = {
    "float16": ("f16", "m16n8k16", "float", "f32", "f"),
    "bfloat16": ("bf16", "m16n8k16", "float", "f32", "f"),
    "float32": ("tf32", "m16n8k8", "float", "f32", "f"),
    "int8": ("s8", "m16n8k32", "int", "s32", "r"),
}


def _call(name: str, source: str, *arguments: Any) -> None:
    T.evaluate(cuda_func_call(name, *arguments, source_code=source))


def copy_async(to: Expr, source: Expr, size: int, inside: Expr) -> None:
    """Start a copy of `size` bytes (4, 8 or 16) into shared memory; zeros where not `inside`.

    Only copies of 16 bytes can pass by the L1 cache.
    """
    text = _COPY.format(size=size, cache="cg" if size == CHUNK else "ca")
    _call(f"plait_copy_async_{size}", text, to, source, inside)


def copy_or_fill(to: Expr, source: Expr, size: int, inside: Expr, fill: int) -> None:
    """As `copy_async`, with the 32-bit word `fill` where not `inside`."""
    text = _COPY_OR_FILL.format(size=size, cache="cg" if size == CHUNK else "ca")
    _call(f"plait_copy_or_fill_{size}", text, to, source, inside, tirx.const(fill, "uint32"))


def copy_element(to: Expr, source: Expr, size: int, inside: Expr, fill: int = 0) -> None:
    """Copy 1 or 2 bytes, which no asynchronous copy can, into shared memory; `fill` where not `inside`."""
    word = {1: "unsigned char", 2: "unsigned short"}[size]
    text = _COPY_ELEMENT.format(size=size, word=word)
    _call(f"plait_copy_element_{size}", text, to, source, inside, tirx.const(fill, "uint32"))


def commit_copies() -> None:
    """Close a group of the copies that this thread started since the last one."""
    _call("plait_commit_copies", _COMMIT)


def wait_copies(pending: int) -> None:
    """Wait until all but the newest `pending` groups of this thread have arrived."""
    _call(f"plait_wait_copies_{pending}", _WAIT.format(pending=pending))


def load_matrices(registers: Expr, source: Expr, *, transposed: bool = False) -> None:
    """Four 8 x 16-byte matrices of shared memory into four registers of each lane.

    Lane l gives the address of row l % 8 of matrix l // 8.  Element pairs go to the lanes by
    row, or, `transposed`, by column, which is for elements of two bytes only.
    """
    suffix = "_transposed" if transposed else ""
    text = _LOAD_MATRICES.format(suffix=suffix, modifier=".trans" if transposed else "")
    _call(f"plait_load_matrices{suffix}", text, registers, source)


def load_word(to: Expr, source: Expr) -> None:
    """One 32-bit word of shared memory into a register."""
    _call("plait_load_word", _LOAD_WORD, to, source)


def multiply(element: str, sums: Expr, a: Expr, b: Expr) -> None:
    """One mma.sync: a 16 x 8 tile of sums plus 16 x 32 bytes of the left times 32 bytes x 8 of the right."""
    kind, shape, word, to, letter = _KINDS[element]
    text = _MULTIPLY.format(kind=kind, shape=shape, word=word, to=to, letter=letter)
    _call(f"plait_multiply_{kind}", text, sums, a, b)


def round_to_tf32(word: Expr) -> None:
    """Round an f32 in a register to the 10 bits of mantissa that tensor cores read, ties away from zero."""
    _call("plait_round_to_tf32", _ROUND_TO_TF32, word)


def atomic_increment(buffer: Any, place: Expr) -> Expr:
    """Add one to a 64-bit integer that other threads add to as well; the value before."""
    address = tirx.tvm_access_ptr("int64", buffer.data, place, 1, 3)
    found: Expr = cuda_func_call(
        "plait_atomic_increment", address, source_code=_ATOMIC_INCREMENT, return_type="int64"
    )
    return found


def shuffle_xor(value: Expr, distance: int) -> Expr:
    """The value of the lane whose number differs in the bit `distance`; all lanes of the warp take part."""
    dtype = str(value.ty.dtype)
    text = _SHUFFLE.format(name=dtype, word=_WORDS[dtype])
    found: Expr = cuda_func_call(
        f"plait_shuffle_xor_{dtype}",
        value,
        tirx.const(distance, "int32"),
        source_code=text,
        return_type=dtype,
    )
    return found


def ballot(predicate: Expr) -> Expr:
    """One bit for each lane of the warp, set where `predicate` is not 0; all lanes take part."""
    found: Expr = cuda_func_call("plait_ballot", predicate, source_code=_BALLOT, return_type="uint32")
    return found


def bits_set(word: Expr) -> Expr:
    """How many bits of a 32-bit word are set."""
    found: Expr = cuda_func_call("plait_bits_set", word, source_code=_BITS_SET, return_type="int32")
    return found


def barrier() -> None:
    """Wait for all threads of the block."""
    T.evaluate(tirx.call_intrin("void", "tirx.tvm_storage_sync", "shared"))


def ceil_div(a: Expr, b: int) -> Expr:
    """a / b, rounded up; for a, b >= 0."""
    return tirx.floordiv(a + (b - 1), b)


__all__ = [
    "CHUNK",
    "atomic_increment",
    "ballot",
    "barrier",
    "bits_set",
    "ceil_div",
    "commit_copies",
    "copy_async",
    "copy_element",
    "copy_or_fill",
    "load_matrices",
    "load_word",
    "multiply",
    "round_to_tf32",
    "shuffle_xor",
    "wait_copies",
]
