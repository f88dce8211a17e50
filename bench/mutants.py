"""Mutants of CUDA kernels: systematic operators on the text, each of which makes one mistake at one place."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from plait.backends.cuda.source_text import KernelText, SourceText, closing, parse_source

#: Evaluates an expression and its mutation side by side; a difference stops the launch.
WITNESS = """
template <class A, class B> static __device__ A plait_same(A original, B mutated) {
  if (original != A(mutated)) asm volatile("trap;");
  return original;
}
"""


@dataclass(frozen=True)
class Edit:
    """A replacement in the text of a kernel.

    Attributes:
        start, end: offsets in the whole text.
        after: what stands there in the mutant.
        expression: offsets within which `after` still is an expression that can be compared with the
            original one; None for statements.
    """

    start: int
    end: int
    after: str
    is_expression: bool = False


@dataclass(frozen=True)
class Mutant:
    """A kernel with one mistake.

    Attributes:
        operator: name of the rule that made it.
        line, before, after: the mistake.
        text: the whole CUDA text with it.
        witness: the text that runs the original and stops where the mutated expression differs; None
            where the mistake is no expression.
        other_padding: the original with other values in the branch that a removed or loosened predicate
            skips; None where there is no such branch of constants.
        other_value: the original with another value in place of what a mutated index loads; None where
            the index is not that of a load of a single element.
    """

    kernel: str
    operator: str
    line: int
    before: str
    after: str
    text: str
    witness: str | None
    other_padding: str | None = None
    other_value: str | None = None


Operator = Callable[[SourceText, KernelText], Iterator[Edit]]


def _matches(source: SourceText, kernel: KernelText, pattern: str) -> Iterator[re.Match[str]]:
    return re.compile(pattern).finditer(source.masked, kernel.body + 1, kernel.end - 1)


def _expression(source: SourceText, start: int, end: int, after: str) -> Edit:
    return Edit(start, end, after, is_expression=True)


def _memory_indices(source: SourceText, kernel: KernelText) -> Iterator[tuple[int, int]]:
    """Offsets of index expressions: `name_ptr[HERE]` and `(name_ptr + HERE)`; local arrays left out."""
    for found in _matches(source, kernel, r"(\w+)(?:\))?\["):
        opening = found.end() - 1
        end = closing(source.masked, opening)
        if not _is_declaration(source, found.start(), end) and not _is_local(source, kernel, found[1]):
            yield opening + 1, end - 1
    for found in _matches(source, kernel, r"\*\(\w+\s*\*\)\((\w+) \+ "):
        if not _is_local(source, kernel, found[1]):
            opening = source.masked.rindex("(", 0, found.start(1))
            yield found.end(), closing(source.masked, opening) - 1


def _is_declaration(source: SourceText, start: int, end: int) -> bool:
    line = source.masked.rfind("\n", 0, start) + 1
    return bool(re.match(r"\s*(?:__shared__|extern|alignas)\b", source.masked[line:end]))


def _is_local(source: SourceText, kernel: KernelText, name: str) -> bool:
    if any(name == parameter.name for parameter in kernel.parameters):
        return False
    declared = re.search(rf"__shared__[^;]*\b{re.escape(name)}\[", source.masked[kernel.body : kernel.end])
    return declared is None


# ---- the operators --------------------------------------------------------------------------
def remove_barrier(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(source, kernel, r"__sync(?:threads|warp)\([^()]*\);"):
        yield Edit(found.start(), found.end(), ";")


def shift_index(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for number, (start, end) in enumerate(_memory_indices(source, kernel)):
        shifted = f"({source.text[start:end]}) {'+' if number % 2 else '-'} 1"
        yield _expression(source, start, end, shifted)


def swap_thread_axes(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for start, end in _memory_indices(source, kernel):
        text = source.text[start:end]
        if "threadIdx.x" in text and "threadIdx.y" in text:
            swapped = re.sub(r"threadIdx\.([xy])", lambda m: "threadIdx." + "yx"[m[1] == "y"], text)
            yield _expression(source, start, end, swapped)


def change_stride(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for start, end in _memory_indices(source, kernel):
        for found in re.finditer(r"\* (\d+)\b", source.text[start:end]):
            text = source.text[start:end]
            changed = f"{text[: found.start(1)]}{int(found[1]) + 1}{text[found.end(1) :]}"
            yield _expression(source, start, end, changed)


def change_shift(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    """Quotients and remainders by powers of two."""
    for start, end in _memory_indices(source, kernel):
        for found in re.finditer(r"(>>|&|%|/) (\d+)\b", source.text[start:end]):
            text, number = source.text[start:end], int(found[2])
            other = {"&": number // 2, ">>": number + 1}.get(found[1], max(1, number // 2))
            changed = f"{text[: found.start(2)]}{other}{text[found.end(2) :]}"
            yield _expression(source, start, end, changed)


def change_shuffle_distance(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(source, kernel, r"__shfl_(?:down|up|xor)_sync\([^;]*?, (\d+), 32\)"):
        distance = int(found[1])
        yield Edit(found.start(1), found.end(1), str(distance // 2 if distance > 1 else 2))


def change_shuffle_mask(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(source, kernel, r"__shfl\w*_sync\(([^,]*),"):
        yield Edit(found.start(1), found.end(1), f"({source.text[found.start(1) : found.end(1)]} >> 1)")


def remove_predicate(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(source, kernel, r"\bif \("):
        end = closing(source.masked, found.end() - 1)
        yield _expression(source, found.end(), end - 1, "true")
    for found in _matches(source, kernel, r"\(\(([^?;{}]*)\) \? "):
        if source.masked[found.start(1) : found.end(1)].count("(") == found[1].count(")"):
            yield _expression(source, found.start(1), found.end(1), "true")


def loosen_predicate(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(source, kernel, r"\bif \("):
        start, end = found.end(), closing(source.masked, found.end() - 1) - 1
        text = source.text[start:end]
        for comparison in re.finditer(r" (<|<=) ", text):
            other = {"<": "<=", "<=": "<"}[comparison[1]]
            changed = f"{text[: comparison.start(1)]}{other}{text[comparison.end(1) :]}"
            yield _expression(source, start, end, changed)


def change_thread_guard(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(source, kernel, r"\bif \(([^{};]*== 0)\) \{"):
        text = source.text[found.start(1) : found.end(1)]
        yield _expression(source, found.start(1), found.end(1), text[:-1] + "1")


def remove_initialisation(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    constant = (
        r"-?0x[0-9a-f.]+p[+-]?\d+f?\s*|-?\d+\s*|\(\w+\)-?\d+\s*|-?CUDART_INF_F\s*|-?[\d.]+e?[+-]?\d*f\s*"
    )
    vector = rf"make_\w+\((?:(?:{constant}|\w+\({constant}\)),?\s*)+\)"
    cast = rf"\w+\((?:{constant})\)"
    for found in _matches(source, kernel, rf"[\w]+\[[^\[\];=]*\] = (?:{vector}|{cast}|{constant});"):
        yield Edit(found.start(), found.end(), ";")
    for found in _matches(source, kernel, r"nvcuda::wmma::fill_fragment\([^;]*\);"):
        yield Edit(found.start(), found.end(), ";")
    for found in _matches(
        source, kernel, r"\bfor \(int \w+ = 0; \w+ < \d+; \+\+\w+\) \w+\[[^;]*\] = 0[.f]*;"
    ):
        yield Edit(found.start(), found.end(), ";")


def shorten_loop(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(source, kernel, r"\bfor \([^;]*; \w+ < ([^;]*);"):
        text = source.text[found.start(1) : found.end(1)]
        yield Edit(found.start(1), found.end(1), f"({text}) - 1")


def lengthen_loop(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(source, kernel, r"\bfor \([^;]*; \w+ < ([^;]*);"):
        text = source.text[found.start(1) : found.end(1)]
        yield Edit(found.start(1), found.end(1), f"({text}) + 1")


def weaken_wait(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    pattern = re.compile(r"cp\.async\.wait_group (\d+)")
    for found in pattern.finditer(source.text, kernel.body, kernel.end):
        yield Edit(found.start(1), found.end(1), str(int(found[1]) + 1))


def remove_atomic(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(
        source, kernel, r"\batomicAdd\(&?\(?(\w+)(?:\[([^;]*)\]| \+ ([^;]*)\)), ([^;]*)\);"
    ):
        place = f"{found[1]}[{found[2] or found[3]}]"
        yield Edit(found.start(), found.end(), f"{place} = {place} + {found[4]};")


def change_leading_dimension(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    for found in _matches(source, kernel, r"wmma::(?:load|store)_matrix_sync\([^;]*?, (\d+)[,)]"):
        yield Edit(found.start(1), found.end(1), str(int(found[1]) + 8))


def drop_product(source: SourceText, kernel: KernelText) -> Iterator[Edit]:
    """One matrix product of a fragment left out."""
    for found in _matches(source, kernel, r"nvcuda::wmma::mma_sync\([^;]*\);"):
        yield Edit(found.start(), found.end(), ";")
    for found in _matches(source, kernel, r"__asm__ __volatile__\([^;]*\);"):
        if "mma.sync" in source.text[found.start() : found.end()]:
            yield Edit(found.start(), found.end(), ";")


OPERATORS: dict[str, Operator] = {
    function.__name__: function
    for function in (
        remove_barrier,
        shift_index,
        swap_thread_axes,
        change_stride,
        change_shift,
        change_shuffle_distance,
        change_shuffle_mask,
        remove_predicate,
        loosen_predicate,
        change_thread_guard,
        remove_initialisation,
        shorten_loop,
        lengthen_loop,
        weaken_wait,
        remove_atomic,
        change_leading_dimension,
        drop_product,
    )
}


def mutants(text: str, *, each: int, seed: int) -> list[Mutant]:
    """Mutants of every kernel of a text: at most `each` of an operator in a kernel, drawn with a seed."""
    source = parse_source(text)
    found = []
    for kernel in source.kernels:
        for name, operator in OPERATORS.items():
            edits = list(operator(source, kernel))
            chosen = random.Random(f"{seed} {kernel.name} {name}").sample(edits, min(each, len(edits)))
            found += [_mutant(source, kernel, name, edit) for edit in chosen]
    return found


#: What stands in `other_padding` in place of zero.
NOT_A_NUMBER = "__int_as_float(0x7fc00000)"
_ZERO = re.compile(r"\b0x0p\+0f(?:/\*[^*]*\*/)?|(?<=\))0\b|\b0\.0+f?\b")
_OTHER_INTEGER = "77"


#: Another value than that of an element: NaN for a real number.
OTHER_VALUE = f"""
static __device__ float plait_other(float x) {{ return {NOT_A_NUMBER}; }}
template <class T> static __device__ T plait_other(T x) {{ return x == T(0) ? T(1) : T(0); }}
"""


def _other_value(source: SourceText, kernel: KernelText, edit: Edit) -> str | None:
    """The text with another value in place of the element whose index is edited."""
    text = source.text
    array = re.search(r"\w+\[$", text[max(kernel.body, edit.start - 200) : edit.start])
    if array is None or text[edit.end] != "]" or re.match(r"\s*=[^=]", text[edit.end + 1 : edit.end + 4]):
        return None
    first = edit.start - len(array[0])
    load = f"plait_other({text[first : edit.end + 1]})"
    return text[: kernel.start] + OTHER_VALUE + text[kernel.start : first] + load + text[edit.end + 1 :]


def _other_padding(source: SourceText, kernel: KernelText, edit: Edit) -> str | None:
    """The text with other constants in the `else` of the `if` whose condition is edited."""
    masked = source.masked
    then = re.compile(r"\s*\) \{").match(masked, closing(masked, masked.rfind("if (", 0, edit.end) + 3) - 1)
    if then is None:
        return None
    otherwise = re.compile(r"\s*else \{").match(masked, closing(masked, then.end() - 1))
    if otherwise is None:
        return None
    end = closing(masked, otherwise.end() - 1)
    block = source.text[otherwise.end() : end - 1]
    other = _ZERO.sub(lambda m: NOT_A_NUMBER if "f" in m[0] else _OTHER_INTEGER, block)
    return source.text[: otherwise.end()] + other + source.text[end - 1 :] if other != block else None


def _mutant(source: SourceText, kernel: KernelText, operator: str, edit: Edit) -> Mutant:
    before = source.text[edit.start : edit.end]
    witness = None
    if edit.is_expression:
        both = f"plait_same(({before}), ({edit.after}))"
        body = source.text[: edit.start] + both + source.text[edit.end :]
        witness = body[: kernel.start] + WITNESS + body[kernel.start :]
    return Mutant(
        kernel=kernel.name,
        operator=operator,
        line=source.text.count("\n", 0, edit.start) + 1,
        before=before,
        after=edit.after,
        text=source.text[: edit.start] + edit.after + source.text[edit.end :],
        witness=witness,
        other_value=_other_value(source, kernel, edit) if edit.is_expression else None,
        other_padding=_other_padding(source, kernel, edit) if operator.endswith("_predicate") else None,
    )


__all__ = ["NOT_A_NUMBER", "OPERATORS", "WITNESS", "Mutant", "mutants"]
