"""Inline PTX of CUDA C as calls of the emulation: the `asm` statements that generated kernels contain."""

from __future__ import annotations

import re
from collections.abc import Callable

from plait.backends.cuda.source_text import closing, split_top_level

_ASM = re.compile(r"\b(?:__asm__|asm)\b\s*(?:(?:__volatile__|volatile)\s*)?\(")
_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OPERAND = re.compile(r'\s*(?:\[\w+\]\s*)?"[^"]*"\s*\((.*)\)\s*$', re.S)

Operands = list[str]


def _cast(kind: str, operands: Operands) -> str:
    return ", ".join(f"({kind})({operand})" for operand in operands)


def _assign(outputs: Operands, source: str) -> str:
    return " ".join(f"{output} = {source}[{i}];" for i, output in enumerate(outputs))


def _ldmatrix(match: re.Match[str], outputs: Operands, inputs: Operands) -> str:
    transposed = "true" if match["trans"] else "false"
    call = f"cuda_emulation::load_matrices<{match['count']}, {transposed}>((unsigned)({inputs[0]}), plait_d);"
    return f"{{ unsigned plait_d[4]; {call} {_assign(outputs, 'plait_d')} }}"


def _mma(match: re.Match[str], outputs: Operands, inputs: Operands) -> str:
    """One warp-wide mma.sync; the fragment sizes follow from shape and element type."""
    rows, columns, depth = (int(match[name]) for name in "mnk")
    bits = {"f16": 16, "bf16": 16, "tf32": 32, "s8": 8, "u8": 8}[match["a"]]
    end_a = rows * depth * bits // 1024  # 32 lanes of 32-bit registers
    end_b = end_a + columns * depth * bits // 1024
    word = {"f32": "float", "s32": "int", "f16": "unsigned"}[match["d"]]
    traits = f"cuda_emulation::Element_{match['a']}, {rows}, {columns}, {depth}"
    return (
        f"{{ unsigned plait_a[] = {{{_cast('unsigned', inputs[:end_a])}}};"
        f" unsigned plait_b[] = {{{_cast('unsigned', inputs[end_a:end_b])}}};"
        f" {word} plait_c[] = {{{_cast(word, inputs[end_b:])}}}, plait_d[{len(outputs)}];"
        f" cuda_emulation::multiply_matrices<{traits}>(plait_a, plait_b, plait_c, plait_d);"
        f" {_assign(outputs, 'plait_d')} }}"
    )


def _copy_async(match: re.Match[str], outputs: Operands, inputs: Operands) -> str:
    size = inputs[2] if len(inputs) > 2 else match["size"]
    filled = inputs[3] if len(inputs) > 3 else size
    return (
        f"cuda_emulation::copy_async((unsigned)({inputs[0]}), (const void*)({inputs[1]}), {size}, {filled});"
    )


def _wait_group(match: re.Match[str], outputs: Operands, inputs: Operands) -> str:
    return f"cuda_emulation::wait_copies({inputs[0] if match['pending'] == '%0' else match['pending']});"


def _dp4a(match: re.Match[str], outputs: Operands, inputs: Operands) -> str:
    kinds = ", ".join("int8_t" if sign == "s" else "uint8_t" for sign in (match["a"], match["b"]))
    return f"{outputs[0]} = cuda_emulation::dot_product_4<{kinds}>({', '.join(inputs)});"


def _round_to_tf32(match: re.Match[str], outputs: Operands, inputs: Operands) -> str:
    return f"{outputs[0]} = cuda_emulation::round_to_tf32({inputs[0]});"


_Rule = tuple[re.Pattern[str], Callable[[re.Match[str], Operands, Operands], str]]
_RULES: tuple[_Rule, ...] = (
    (
        re.compile(
            r"ldmatrix\.sync\.aligned\.m8n8\.x(?P<count>[124])(?P<trans>\.trans)?\.shared(?:::cta)?\.b16"
        ),
        _ldmatrix,
    ),
    (
        re.compile(
            r"mma\.sync\.aligned\.m(?P<m>16)n(?P<n>8)k(?P<k>\d+)\.row\.col(?:\.satfinite)?"
            r"\.(?P<d>f32|f16|s32)\.(?P<a>f16|bf16|tf32|s8|u8)\.(?P=a)\.(?P=d)"
        ),
        _mma,
    ),
    (re.compile(r"cp\.async\.c[ag]\.shared(?:::cta)?\.global[^;]*?(?:,\s*(?P<size>\d+)\s*)?;"), _copy_async),
    (
        re.compile(r"cp\.async\.commit_group"),
        lambda match, outputs, inputs: "cuda_emulation::commit_copies();",
    ),
    (re.compile(r"cp\.async\.wait_group\s+(?P<pending>\d+|%0)"), _wait_group),
    (
        re.compile(r"cp\.async\.wait_all"),
        lambda match, outputs, inputs: "cuda_emulation::commit_copies(); cuda_emulation::wait_copies(0);",
    ),
    (re.compile(r"cvt\.rna\.tf32\.f32"), _round_to_tf32),
    (re.compile(r"dp4a\.(?P<a>[su])32\.(?P<b>[su])32"), _dp4a),
)


def rewrite_assembly(text: str) -> str:
    """Replaces every `asm` statement of `text`; line numbers are kept.

    PTX that the emulation does not know becomes a call that stops the launch
    with the instruction's text, so it only matters when it is executed.
    """
    pieces, position = [], 0
    for found in _ASM.finditer(text):
        if found.start() < position or text[text.rfind("\n", 0, found.start()) + 1 :].lstrip().startswith(
            "#"
        ):
            continue
        end = _closing_outside_literals(text, found.end() - 1)
        body = text[found.end() : end - 1]
        sections = [split_top_level(section) for section in split_top_level(body, ":")]
        ptx = "".join(_LITERAL.findall(",".join(sections[0])))
        outputs, inputs = (_operands(sections[i]) if i < len(sections) else [] for i in (1, 2))
        pieces += [text[position : found.start()], _call(ptx, outputs, inputs), "\n" * body.count("\n")]
        position = end
    return "".join([*pieces, text[position:]])


def _operands(section: list[str]) -> Operands:
    matches = (_OPERAND.match(operand) for operand in section)
    return [match[1] for match in matches if match]


def _call(ptx: str, outputs: Operands, inputs: Operands) -> str:
    for pattern, emit in _RULES:
        match = pattern.search(ptx)
        if match and "mbarrier" not in ptx:
            return emit(match, outputs, inputs)
    instruction = re.sub(r"[^\w .,;%{}\[\]:]|\\[nt]", " ", ptx).strip()[:120]
    return f'cuda_emulation::fail("PTX outside the emulation: {instruction}", __LINE__);'


def _closing_outside_literals(text: str, opening: int) -> int:
    """Offset behind the bracket closing the one at `opening`, where literals may hold brackets."""
    window = text[opening : opening + 20000]
    return opening + closing(_LITERAL.sub(lambda match: " " * len(match[0]), window), 0)
