"""The structure of a CUDA C text: its kernels, their signatures, and what lies between them.

Works on the text itself, without a preprocessor: comments and literals are
blanked out first, so that brackets and keywords can be searched safely.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from plait.ir.errors import CompileError

_LITERALS = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", re.M)
_QUALIFIERS = re.compile(r"\b(?:const|volatile|__restrict__|__restrict|__grid_constant__|struct)\b")
_CALL_LIKE = re.compile(r"\s*(?:[\w:*&]+\s+)*?(\w+)\s*\(")
_ATTRIBUTES = frozenset({"__launch_bounds__", "__cluster_dims__", "__maxnreg__", "__attribute__", "alignas"})
_OPENING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Parameter:
    """One kernel parameter: its C type without qualifiers, and whether it is a pointer to that type."""

    name: str
    type: str
    pointer: bool

    def __str__(self) -> str:
        return f"{self.type}{'*' if self.pointer else ''} {self.name}"


@dataclass(frozen=True)
class KernelText:
    """A kernel definition inside a text.

    Attributes:
        start, head, body, end: offsets of the definition, of its parameter list, of its opening
            brace and of the character behind its closing brace.
        line: line of `body`, from 1.
        launch_bound: first argument of `__launch_bounds__`, None when absent.
    """

    name: str
    parameters: tuple[Parameter, ...]
    start: int
    head: int
    body: int
    end: int
    line: int
    launch_bound: int | None

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parameters))})"


@dataclass(frozen=True)
class SourceText:
    """A CUDA C text taken apart.

    Attributes:
        text: the whole text.
        masked: the same with comments, literals and preprocessor directives blanked; offsets agree.
        kernels: definitions, in text order.
        declarations: offsets of kernel declarations without a body.
    """

    text: str
    masked: str
    kernels: tuple[KernelText, ...]
    declarations: tuple[tuple[int, int], ...]

    def kernel(self, name: str) -> KernelText:
        """The kernel called `name`; raises CompileError when the text has none."""
        for kernel in self.kernels:
            if kernel.name == name:
                return kernel
        raise CompileError(
            f"the CUDA text has no kernel named {name!r}",
            why=f"it defines {', '.join(k.name for k in self.kernels) or 'no kernel'}",
        )

    def without_kernels(self) -> str:
        """Everything around the kernels; line numbers are kept."""
        return self.keeping(())

    def keeping(self, names: tuple[str, ...]) -> str:
        """The text with only the named kernels; the others, and all forward declarations, are blanked."""
        cuts = [(k.start, k.end) for k in self.kernels if k.name not in names]
        cuts += self.declarations
        pieces, position = [], 0
        for start, end in sorted(cuts):
            pieces += [self.text[position:start], "\n" * self.text.count("\n", start, end)]
            position = end
        return "".join([*pieces, self.text[position:]])


def mask(text: str) -> str:
    """`text` with comments, literals and directives replaced by spaces (line breaks stay)."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    return _DIRECTIVE.sub(blank, _LITERALS.sub(blank, text))


def closing(masked: str, opening: int) -> int:
    """Offset behind the bracket that closes the one at `opening`."""
    left = masked[opening]
    right = _OPENING[left]
    depth = 0
    for match in re.compile(f"[{re.escape(left + right)}]").finditer(masked, opening):
        depth += 1 if match[0] == left else -1
        if depth == 0:
            return match.end()
    line = masked.count("\n", 0, opening) + 1
    raise CompileError(f"the {left!r} on line {line} of the CUDA text is never closed")


def split_top_level(text: str, separator: str = ",") -> list[str]:
    """Splits at separators that stand outside all brackets and string literals."""
    parts, depth, start, quoted, previous = [], 0, 0, False, ""
    for position, character in enumerate(text):
        if character == '"' and previous != "\\":
            quoted = not quoted
        elif not quoted and character in "([{<" and not (character == "<" and separator == ":"):
            depth += 1
        elif (
            not quoted
            and character in ")]}>"
            and not (character == ">" and (separator == ":" or previous == "-"))
        ):
            depth -= 1
        elif character == separator and depth == 0 and not quoted:
            parts.append(text[start:position])
            start = position + 1
        previous = character
    return [*parts, text[start:]]


def _parse_parameter(text: str) -> Parameter:
    pointer = "*" in text
    words = re.findall(r"[\w:<>]+", _QUALIFIERS.sub(" ", text))
    name = words.pop() if len(words) > 1 else ""
    return Parameter(name, " ".join(words), pointer)


def parse_source(text: str) -> SourceText:
    """Finds the kernels of a CUDA C text.

    Raises:
        CompileError: on unbalanced brackets, a kernel template, or two kernels of one name.
    """
    masked = mask(text)
    line_starts = [0, *(m.end() for m in re.finditer("\n", text))]
    kernels: dict[str, KernelText] = {}
    declarations = []
    for found in re.finditer(r"\b__global__\b", masked):
        start = max((masked.rfind(c, 0, found.start()) for c in ";{}"), default=-1) + 1
        start += len(masked[start:]) - len(masked[start:].lstrip())
        line = bisect_right(line_starts, found.start())
        if re.search(r"\btemplate\b", masked[start : found.start()]):
            raise CompileError(
                f"line {line} of the CUDA text defines a kernel template",
                why="a template has no machine code of its own",
                remedy="write the kernel with concrete types",
            )
        name, bound, position = _parse_head(masked, found.end(), line)
        head = position
        position = closing(masked, position)
        parameters = masked[head + 1 : position - 1]
        after = re.compile(r"\s*([;{])").match(masked, position)
        if after is None:
            raise CompileError(f"line {line} of the CUDA text: kernel {name} has neither a body nor a ';'")
        if after[1] == ";":
            declarations.append((start, after.end()))
            continue
        if name in kernels:
            raise CompileError(f"line {line} of the CUDA text defines kernel {name} a second time")
        body = after.end() - 1
        kernels[name] = KernelText(
            name=name,
            parameters=tuple(
                _parse_parameter(p) for p in split_top_level(parameters) if p.strip() not in ("", "void")
            ),
            start=start,
            head=head,
            body=body,
            end=closing(masked, body),
            line=bisect_right(line_starts, body),
            launch_bound=bound,
        )
    return SourceText(text, masked, tuple(kernels.values()), tuple(declarations))


def _parse_head(masked: str, position: int, line: int) -> tuple[str, int | None, int]:
    """Reads on from `__global__`, which ends at `position`.

    Returns the kernel's name, its launch bound, and the offset of its parameter list.
    """
    bound = None
    while word := _CALL_LIKE.match(masked, position):
        opening = word.end() - 1
        if word[1] not in _ATTRIBUTES:
            return word[1], bound, opening
        position = closing(masked, opening)
        if word[1] == "__launch_bounds__":
            first = masked[opening + 1 : position - 1].split(",")[0].strip()
            bound = int(first) if first.isdigit() else None
    raise CompileError(f"line {line} of the CUDA text: no kernel name follows __global__")
