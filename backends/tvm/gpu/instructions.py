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
_LOAD_PAIR = """
__device__ __forceinline__ void plait_load_pair(float* to, const void* from) {
  float2 pair = *((const float2*)from);
  to[0] = pair.x;
  to[1] = pair.y;
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
_FLIP_SIGNS = """
__device__ __forceinline__ void plait_flip_signs(unsigned* word) {
  *word ^= 0x80808080u;
}
"""
_GATHER_COLUMNS = """
__device__ __forceinline__ void plait_gather_columns(unsigned* words) {
  unsigned a = words[0], b = words[1], c = words[2], d = words[3];
  words[0] = __byte_perm(a, b, 0x6420);
  words[1] = __byte_perm(c, d, 0x6420);
  words[2] = __byte_perm(a, b, 0x7531);
  words[3] = __byte_perm(c, d, 0x7531);
}
"""
# 0x6400 is 1024 in f16: the bits of a smaller whole number beside it are added to it.
_UNPACK_F16 = """
__device__ __forceinline__ void plait_unpack_f16_{bits}(unsigned* to, const void* from, int step, int zero) {{
  unsigned word = *((const unsigned*)from), offset = 0x64006400u + (unsigned)zero * 0x00010001u;
{pairs}
  half2 first = __hsub2(*((half2*)&low), *((half2*)&offset));
  half2 second = __hsub2(*((half2*)&high), *((half2*)&offset));
  to[0] = *((unsigned*)&first);
  to[1] = *((unsigned*)&second);
}}
"""
_PAIRS = {
    4: """  word >>= 8 * step;
  unsigned low = (word & 0x000F000Fu) | 0x64006400u, high = ((word >> 4) & 0x000F000Fu) | 0x64006400u;""",
    8: """  unsigned low = __byte_perm(word, 0x64646464u, 0x4140);
  unsigned high = __byte_perm(word, 0x64646464u, 0x4342);""",
}
# A whole number below 256 has no bits in the lower half of an f32, the upper half of which is a bf16.
_UNPACK_BF16 = """
__device__ __forceinline__ void plait_unpack_bf16_{bits}(
    unsigned* to, const void* from, int step, int zero) {{
  unsigned word = *((const unsigned*)from){shift};
  float values[4];
  for (int k = 0; k < 4; ++k) values[k] = (float)((int)({element}) - zero);
  to[0] = __byte_perm(__float_as_uint(values[0]), __float_as_uint(values[1]), 0x7632);
  to[1] = __byte_perm(__float_as_uint(values[2]), __float_as_uint(values[3]), 0x7632);
}}
"""
_ELEMENTS = {
    4: (" >> 8 * step", "word >> (k % 2 * 16 + k / 2 * 4) & 15u"),
    8: ("", "word >> 8 * k & 255u"),
}
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


def load_pair(to: Expr, source: Expr) -> None:
    """Two neighbouring f32 of shared memory into registers."""
    _call("plait_load_pair", _LOAD_PAIR, to, source)


def multiply(element: str, sums: Expr, a: Expr, b: Expr) -> None:
    """One mma.sync: a 16 x 8 tile of sums plus 16 x 32 bytes of the left times 32 bytes x 8 of the right."""
    kind, shape, word, to, letter = _KINDS[element]
    text = _MULTIPLY.format(kind=kind, shape=shape, word=word, to=to, letter=letter)
    _call(f"plait_multiply_{kind}", text, sums, a, b)


def round_to_tf32(word: Expr) -> None:
    """Round an f32 in a register to the 10 bits of mantissa that tensor cores read, ties away from zero."""
    _call("plait_round_to_tf32", _ROUND_TO_TF32, word)


def flip_signs(word: Expr) -> None:
    """Take 128 from each of four unsigned bytes, which leaves signed ones."""
    _call("plait_flip_signs", _FLIP_SIGNS, word)


def gather_columns(words: Expr) -> None:
    """Registers of mma.sync for 16 columns of bytes from four that a transposing `ldmatrix` has filled.

    That knows pairs of bytes only: a register holds columns 2g and 2g + 1, g = lane / 4, at two
    depths.  Behind this, the first two registers are of column 2g, the others of column 2g + 1.
    """
    _call("plait_gather_columns", _GATHER_COLUMNS, words)


def unpack(element: str, bits: int, to: Expr, source: Expr, step: Expr, zero: int) -> None:
    """Four integers of 4 or 8 bits in a word of shared memory as two registers of half precision.

    Args:
        step: which half of a word of eight elements of 4 bits.
        zero: taken off each.
    """
    if element == "float16":
        text = _UNPACK_F16.format(bits=bits, pairs=_PAIRS[bits])
    else:
        shift, expression = _ELEMENTS[bits]
        text = _UNPACK_BF16.format(bits=bits, shift=shift, element=expression)
    _call(f"plait_unpack_{_KINDS[element][0]}_{bits}", text, to, source, step, tirx.const(zero, "int32"))


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
    "flip_signs",
    "gather_columns",
    "load_matrices",
    "load_pair",
    "load_word",
    "multiply",
    "round_to_tf32",
    "shuffle_xor",
    "unpack",
    "wait_copies",
]
