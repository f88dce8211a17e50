"""Lines of machine code: the DWARF 4 line table of a shared library, as far as one source file needs it."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from plait.ir.errors import CompileError

_SET_FILE, _ADVANCE_PC, _ADVANCE_LINE, _CONST_ADD_PC, _FIXED_ADVANCE_PC = 4, 2, 3, 8, 9
_COPY = 1
_END_SEQUENCE, _SET_ADDRESS = 1, 2


class LineTable:
    """Where in one source file the instructions of a library come from.

    Args:
        library: an ELF file for x86-64 or another 64-bit little-endian machine, with DWARF 4 lines.
        source: base name of the source file.

    Raises:
        CompileError: the file is no such library.
    """

    def __init__(self, library: Path, source: str) -> None:
        data = library.read_bytes()
        if data[:6] != b"\x7fELF\x02\x01":
            raise CompileError(f"{library} is no 64-bit little-endian ELF file")
        rows = sorted(_rows(_section(data, b".debug_line"), source.encode()))
        self._addresses = [address for address, _ in rows]
        self._lines = [line for _, line in rows]

    def line(self, address: int) -> int | None:
        """Line of the instruction at an offset from the start of the library; None when there is none.

        Code of other files, inlined into a line, counts as that line.
        """
        place = bisect_right(self._addresses, address) - 1
        return self._lines[place] or None if place >= 0 else None


@lru_cache(maxsize=16)
def line_table(library: Path, source: str) -> LineTable:
    """The table of a library, read once."""
    return LineTable(library, source)


def _section(data: bytes, name: bytes) -> bytes:
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry_size) for i in range(count)]
    names = headers[names_index][4]
    for header in headers:
        start = names + header[0]
        if data[start : data.index(b"\0", start)] == name:
            return data[header[4] : header[4] + header[5]]
    return b""


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position

    def number(self, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return int(value)

    def unsigned(self) -> int:
        """A ULEB128."""
        value = shift = 0
        while True:
            byte = self.number("<B")
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def signed(self) -> int:
        """An SLEB128."""
        start = self.position
        value = self.unsigned()
        bits = 7 * (self.position - start)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def text(self) -> bytes:
        end = self.data.index(b"\0", self.position)
        found = self.data[self.position : end]
        self.position = end + 1
        return found


def _rows(data: bytes, source: bytes) -> Iterator[tuple[int, int]]:
    """(address, line) wherever the code of `source` begins; line 0 ends a run of code."""
    position = 0
    while position < len(data):
        reader = _Reader(data, position)
        position = reader.number("<I") + reader.position
        version = reader.number("<H")
        if version != 4:
            raise CompileError(f"the host compiler wrote a line table of DWARF {version}, not 4")
        program = reader.number("<I") + reader.position
        step, _operations, _is_statement = (reader.number("<B") for _ in range(3))
        line_base, line_range, opcode_base = reader.number("<b"), reader.number("<B"), reader.number("<B")
        lengths = [reader.number("<B") for _ in range(opcode_base - 1)]
        while reader.text():  # directories
            pass
        files = [b""]
        while name := reader.text():
            files.append(name)
            for _ in range(3):  # directory, time, length
                reader.unsigned()
        reader.position = program
        yield from _run(reader, position, files, source, (step, line_base, line_range, opcode_base), lengths)


def _run(
    reader: _Reader,
    end: int,
    files: list[bytes],
    source: bytes,
    encoding: tuple[int, int, int, int],
    lengths: list[int],
) -> Iterator[tuple[int, int]]:
    """Executes one line number program."""
    step, line_base, line_range, opcode_base = encoding
    address, file, line = 0, 1, 1
    while reader.position < end:
        opcode = reader.number("<B")
        emits = False
        if opcode >= opcode_base:
            advance, delta = divmod(opcode - opcode_base, line_range)
            address += advance * step
            line += line_base + delta
            emits = True
        elif opcode == 0:
            length = reader.unsigned()
            behind = reader.position + length
            extended = reader.number("<B")
            if extended == _END_SEQUENCE:
                yield address, 0
                address, file, line = 0, 1, 1
            elif extended == _SET_ADDRESS:
                address = reader.number("<Q")
            reader.position = behind
        elif opcode == _COPY:
            emits = True
        elif opcode == _ADVANCE_PC:
            address += reader.unsigned() * step
        elif opcode == _ADVANCE_LINE:
            line += reader.signed()
        elif opcode == _SET_FILE:
            file = reader.unsigned()
        elif opcode == _CONST_ADD_PC:
            address += (255 - opcode_base) // line_range * step
        elif opcode == _FIXED_ADVANCE_PC:
            address += reader.number("<H")
        else:
            for _ in range(lengths[opcode - 1]):
                reader.unsigned()
        if emits and files[file] == source:
            yield address, line
