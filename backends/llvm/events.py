"""Event lists in generated code: from a map of bytes to events sorted by time and column.

`scan` reads a sample once and lists the events of each input row.  `band` then sorts the events of the
kernel's rows of one output row together by (time, padded column), a counting sort; the events of one
window at one step are therefore one contiguous range, whatever the kernel.
"""

from __future__ import annotations

from llvmlite import ir

from plait.backends.llvm.specification import Window
from plait.backends.llvm.structure import I32, I64, U8, Code, Lanes, Variable, Workspace

_WORD = 64


class EventLists:
    """Writes the event lists of one sample into the workspace.

    Args:
        code: the function being written.
        spec: the geometry.
        steps: time steps; 0 for single frames, where a non-zero byte is a spike.
        space: reserves the parts of the workspace.
        workspace: its pointer.
    """

    def __init__(self, code: Code, spec: Window, steps: int, space: Workspace, workspace: ir.Value) -> None:
        self.code, self.spec, self.steps = code, spec, steps
        self.words = -(-steps // _WORD)
        self.row = spec.width * spec.in_channels
        self.bins = max(steps, 1) * spec.padded_width
        events = spec.height * self.row

        def part(count: int, element_bytes: int) -> ir.Value:
            offset = code.number(space.reserve(count, element_bytes))
            return code.at(workspace, offset, U8)

        #: First event of each input row, and one past the last.
        self.row_start = part(spec.height + 1, 4)
        #: Per event: the bin (time * padded width + padded column) and the offset of its weights.
        self.event_bin = part(events, 4)
        self.event_offset = part(events, 4)
        #: Start of each bin of the band; the same array counts first.
        self.bin_start = part(self.bins + 2, 4)
        self.band_events = part(spec.kernel[0] * self.row, 4)
        #: Bit t of a column's words: an event at step t, per input row and for the band.
        self.row_steps = part(spec.height * spec.padded_width * self.words, 8)
        self.band_steps = part(spec.padded_width * self.words, 8)

    def scan(self, source: ir.Value) -> None:
        """Lists the events of the sample whose bytes start at `source`."""
        code, b, spec = self.code, self.code.b, self.spec
        count = Variable(code, I64, code.number(0))
        code.fill(self.row_steps, 0, spec.height * spec.padded_width * self.words * 8)
        chunk = min(1 << (self.row.bit_length() - 1), _WORD)
        whole = self.row - self.row % chunk
        with code.counting(code.number(0), code.number(spec.height)) as y:
            code.store(b.trunc(count.get(), I32), self.row_start, y)
            with code.counting(code.number(0), code.number(whole), chunk) as first:
                self._list(source, y, first, self._spikes(source, y, first, chunk), count)
            if whole < self.row:
                # The last chunk overlaps the one before it; what that one has seen is masked out.
                first = code.number(self.row - chunk)
                mask = self._spikes(source, y, first, chunk)
                seen = (1 << (chunk - self.row % chunk)) - 1
                unseen = code.number(((1 << chunk) - 1) ^ seen, mask.type)
                self._list(source, y, first, b.and_(mask, unseen), count)
        code.store(b.trunc(count.get(), I32), self.row_start, code.number(spec.height))

    def scan_planes(self, source: ir.Value, *, masked: bool) -> None:
        """Lists the events of a frame whose bytes lie channels first; they are the same as those of `scan`
        once they are sorted by column.

        Args:
            masked: whether a row of up to 64 bytes is read at once, by a load with a mask.
        """
        code, b, spec = self.code, self.code.b, self.spec
        count = Variable(code, I64, code.number(0))
        most = 1 << (spec.width.bit_length() - 1)
        chunk = min(most, _WORD)
        with code.counting(code.number(0), code.number(spec.height)) as y:
            code.store(b.trunc(count.get(), I32), self.row_start, y)
            with code.counting(code.number(0), code.number(spec.in_channels)) as channel:
                start = code.scaled((channel, spec.height * spec.width), (y, spec.width))
                if masked and spec.width <= _WORD:
                    lanes = Lanes(0, most if most == spec.width else 2 * most, spec.width)
                    row = code.load_lanes(source, start, U8, lanes)
                    fires = code.bits(b.icmp_unsigned("!=", row, ir.Constant(row.type, None)))
                    self._list_plane(code.number(0), channel, fires, count)
                    continue_at = spec.width
                else:
                    continue_at = spec.width - spec.width % chunk
                    with code.counting(code.number(0), code.number(continue_at), chunk) as first:
                        fires = self._fires(source, b.add(start, first), chunk)
                        self._list_plane(first, channel, fires, count)
                if continue_at < spec.width:
                    rest = spec.width % chunk
                    first = code.number(spec.width - chunk)
                    fires = self._fires(source, b.add(start, first), chunk)
                    unseen = ((1 << chunk) - 1) ^ ((1 << (chunk - rest)) - 1)
                    self._list_plane(first, channel, b.and_(fires, code.number(unseen, fires.type)), count)
        code.store(b.trunc(count.get(), I32), self.row_start, code.number(spec.height))

    def _fires(self, source: ir.Value, start: ir.Value, chunk: int) -> ir.Value:
        """One bit per byte of a chunk that starts at `start`: is it not zero?"""
        kind = ir.VectorType(U8, chunk)
        values = self.code.b.load(self.code.at(source, start, U8), align=1, typ=kind)
        return self.code.bits(self.code.b.icmp_unsigned("!=", values, ir.Constant(kind, None)))

    def _list_plane(self, first: ir.Value, channel: ir.Value, mask: ir.Value, count: Variable) -> None:
        """Appends the events of the set bits of `mask`, columns of one channel from `first` on."""
        code, b, spec = self.code, self.code.b, self.spec
        with code.set_bits(mask) as bit:
            column = b.add(b.add(first, bit), code.number(spec.padding[1]))
            offset = code.scaled((column, spec.in_channels * spec.out_channels), (channel, spec.out_channels))
            index = count.get()
            code.store(b.trunc(offset, I32), self.event_offset, index)
            code.store(b.trunc(column, I32), self.event_bin, index)
            count.set(b.add(index, code.number(1)))

    def _spikes(self, source: ir.Value, y: ir.Value, first: ir.Value, chunk: int) -> ir.Value:
        """One bit per byte of a chunk of row `y`: does it spike?"""
        code, b = self.code, self.code.b
        kind = ir.VectorType(U8, chunk)
        place = code.at(source, b.add(code.scaled((y, self.row)), first), U8)
        values = b.load(place, align=1, typ=kind)
        level = ir.Constant(kind, [self.steps] * chunk)
        return code.bits(b.icmp_unsigned("<" if self.steps else "!=", values, level))

    def _list(self, source: ir.Value, y: ir.Value, first: ir.Value, mask: ir.Value, count: Variable) -> None:
        """Appends the events of the set bits of `mask` to the list of row `y`."""
        code, b, spec = self.code, self.code.b, self.spec
        with code.set_bits(mask) as bit:
            place = b.add(first, bit)
            column = b.add(b.udiv(place, code.number(spec.in_channels)), code.number(spec.padding[1]))
            offset = b.add(
                code.scaled((place, spec.out_channels)),
                code.number(spec.padding[1] * spec.in_channels * spec.out_channels),
            )
            index = count.get()
            code.store(b.trunc(offset, I32), self.event_offset, index)
            chosen = column
            if self.steps:
                time = b.zext(code.load(source, b.add(code.scaled((y, self.row)), place), U8), I64)
                chosen = b.add(code.scaled((time, spec.padded_width)), column)
                word = code.scaled((y, spec.padded_width * self.words), (column, self.words))
                word = b.add(word, b.lshr(time, code.number(6)))
                old = code.load(self.row_steps, word, I64)
                spike = b.shl(code.number(1), b.and_(time, code.number(_WORD - 1)))
                code.store(b.or_(old, spike), self.row_steps, word)
            code.store(b.trunc(chosen, I32), self.event_bin, index)
            count.set(b.add(index, code.number(1)))

    def band(self, y: ir.Value) -> ir.Value:
        """Sorts the events of the windows of output row `y`; returns how many there are."""
        code, b, spec = self.code, self.code.b, self.spec
        top = b.sub(code.scaled((y, spec.stride[0])), code.number(spec.padding[0]))
        first = code.minimum(code.maximum(top, code.number(0)), code.number(spec.height))
        past = code.minimum(b.add(top, code.number(spec.kernel[0])), code.number(spec.height))
        past = code.maximum(past, first)
        begin, end = code.index(self.row_start, first), code.index(self.row_start, past)
        total = b.sub(end, begin)
        with b.if_then(b.icmp_signed(">", total, code.number(0))):
            self._sort(top, first, past, begin, end)
        return total

    def _sort(self, top: ir.Value, first: ir.Value, past: ir.Value, begin: ir.Value, end: ir.Value) -> None:
        code, b, spec = self.code, self.code.b, self.spec
        one = code.number(1, I32)
        code.fill(self.bin_start, 0, (self.bins + 2) * 4)
        # Counts are kept two places up, starts one place up: the last pass moves each start to its end,
        # which is the start of the next bin.
        with code.counting(begin, end) as event:
            place = b.add(code.index(self.event_bin, event), code.number(2))
            code.store(b.add(code.load(self.bin_start, place, I32), one), self.bin_start, place)
        total = Variable(code, I32, code.number(0, I32))
        with code.counting(code.number(2), code.number(self.bins + 2)) as place:
            total.set(b.add(total.get(), code.load(self.bin_start, place, I32)))
            code.store(total.get(), self.bin_start, place)
        slab = spec.kernel[1] * spec.in_channels * spec.out_channels
        with code.counting(first, past) as source_row:
            shift = b.trunc(code.scaled((b.sub(source_row, top), slab)), I32)
            stop = code.index(self.row_start, b.add(source_row, code.number(1)))
            with code.counting(code.index(self.row_start, source_row), stop) as event:
                place = b.add(code.index(self.event_bin, event), code.number(1))
                offset = b.add(code.load(self.event_offset, event, I32), shift)
                free = code.load(self.bin_start, place, I32)
                code.store(offset, self.band_events, b.sext(free, I64))
                code.store(b.add(free, one), self.bin_start, place)
        if self.steps:
            columns = spec.padded_width * self.words
            with code.counting(code.number(0), code.number(columns)) as word:
                merged = Variable(code, I64, code.number(0))
                with code.counting(first, past) as source_row:
                    found = code.load(self.row_steps, b.add(code.scaled((source_row, columns)), word), I64)
                    merged.set(b.or_(merged.get(), found))
                code.store(merged.get(), self.band_steps, word)

    def steps_of_window(self, column: ir.Value, word: int) -> ir.Value:
        """Bits of the steps 64*word to 64*word + 63 with an event in the window that starts at `column`."""
        code = self.code
        found = code.number(0)
        for offset in range(self.spec.kernel[1]):
            place = code.b.add(code.scaled((column, self.words)), code.number(offset * self.words + word))
            found = code.b.or_(found, code.load(self.band_steps, place, I64))
        return found

    def range_of_window(self, column: ir.Value, time: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """First event of the window at `column` and step `time`, and one past the last."""
        code, b = self.code, self.code.b
        place = column if time is None else b.add(code.scaled((time, self.spec.padded_width)), column)
        past = b.add(place, code.number(self.spec.kernel[1]))
        return code.index(self.bin_start, place), code.index(self.bin_start, past)
