// The detectors: every access of a checked kernel to shared or global memory passes through
// check_access, which knows the bounds of each buffer, which of its bytes have been written, and
// who touched each of its cells since the last barrier.
//
// Order between two accesses.  Intervals are numbered through a process: one starts with every block
// and with every released barrier.  Accesses of one block in different intervals are ordered.  In one
// interval, lanes of a warp are ordered by the collectives they took part in: each lane holds, for
// every lane of its warp, the time up to which it has synchronised with it (a vector clock).  Blocks
// of a grid are never ordered.
#pragma once
#include "cuda_emulation.h"

namespace cuda_emulation {

enum class Problem : uint32_t { out_of_bounds, unwritten, in_flight, misaligned, race, block_conflict, outside_local, wild };
enum class Space : uint32_t { global, shared, local };
enum ByteState : uint8_t { unwritten = 0, written = 1, in_flight = 2 };

struct Access {
  uint32_t interval;   // 0: there was none
  uint32_t site;
  uint32_t clock;      // of the thread among the lanes of its warp
  uint16_t thread;
  uint16_t atomic;
};

// The last write of a few bytes, and enough reads to tell whether a later write is ordered behind
// all of them: the last, one of another thread, and one from elsewhere (another warp of the block
// in shared memory, another block in global memory).
struct Cell {
  Access write, read, other_read, far_read;
};

struct Region {
  char* begin;
  uint64_t bytes;
  uint8_t* states;   // a ByteState for each byte; null when all were written before the launch
  Cell* cells;       // null: a global buffer of which only reads are known
  Space space;
  uint32_t number;   // argument, or shared variable
};

// Regions lie in slots of one size, apart from each other: the slot of an address says which
// region was meant, also when the address is outside.
struct AddressSpace {
  uintptr_t base;
  uint64_t bytes;
  unsigned slot_shift;
  Region* regions;
};

struct Traffic;

struct Checker {
  AddressSpace spaces[2];      // by Space
  uint32_t interval;
  uint32_t block_start;        // interval in which the running block began
  unsigned granule_shift;      // log2 of the bytes of a cell
  const uint32_t* clocks;      // [warp][lane][lane]
  Traffic* traffic;            // null: nothing is counted
};

// Slow paths, in the runtime.  Those that return nothing and end the launch do not come back.
CUDA_EMULATION_SHARED void report_access(Checker&, Problem, const Region&, const Thread&, uintptr_t address, unsigned bytes,
                                         uint32_t site, const Access* other);
[[noreturn]] CUDA_EMULATION_SHARED void stop_outside(Checker&, const Region&, const Thread&, uintptr_t address, unsigned bytes,
                                                     uint32_t site);
[[noreturn]] CUDA_EMULATION_SHARED void stop_misaligned(Checker&, const Region&, const Thread&, uintptr_t address, unsigned bytes,
                                                        uint32_t site);
[[noreturn]] CUDA_EMULATION_SHARED void stop_outside_local(Checker&, const Thread&, int64_t index, uint64_t count, uint32_t site);
[[noreturn]] CUDA_EMULATION_SHARED void restart_with_cells(Checker&, Region&);
[[noreturn]] CUDA_EMULATION_SHARED void restart_with_granule(Checker&, unsigned bytes);
CUDA_EMULATION_SHARED void count_access(Traffic&, const Thread&, Space, AccessKind, uintptr_t address, unsigned bytes, uint32_t site);

constexpr uint32_t is_line = 1u << 31;   // a site is a line, or an offset in the machine code

inline bool states_are(const uint8_t* states, uint64_t bytes, ByteState state) {
  constexpr uint64_t ones = 0x0101010101010101ull;
  const uint64_t all = ones * state;
  while (bytes >= 8) {
    if (memcmp(states, &all, 8) != 0) return false;
    states += 8;
    bytes -= 8;
  }
  return memcmp(states, &all, bytes) == 0;
}

inline bool is_ordered(const Checker& checker, const Access& earlier, const Access& now, const Region& region) {
  if (earlier.interval != checker.interval) {
    if (earlier.interval == 0 || region.space == Space::shared || earlier.interval >= checker.block_start) return true;
    return earlier.atomic && now.atomic;
  }
  if (earlier.thread == now.thread || (earlier.atomic && now.atomic)) return true;
  if (earlier.thread / 32 != now.thread / 32) return false;
  return earlier.clock <= checker.clocks[now.thread * 32 + earlier.thread % 32];
}

inline void check_cell(Checker& checker, Cell& cell, const Access& now, bool is_write, const Region& region,
                       const Thread& thread, uintptr_t address, unsigned bytes) {
  const Access* conflict = is_ordered(checker, cell.write, now, region) ? nullptr : &cell.write;
  if (is_write) {
    for (const Access* earlier : {&cell.read, &cell.other_read, &cell.far_read}) {
      if (!conflict && !is_ordered(checker, *earlier, now, region)) conflict = earlier;
    }
  }
  if (__builtin_expect(conflict != nullptr, 0)) {
    const Problem problem = conflict->interval < checker.block_start ? Problem::block_conflict : Problem::race;
    report_access(checker, problem, region, thread, address, bytes, now.site, conflict);
  }
  if (is_write) {
    cell.write = now;
    return;
  }
  const Access& last = cell.read;
  if (last.thread != now.thread || last.interval < checker.block_start) {
    if (last.interval == checker.interval) cell.other_read = last;
    const bool far = region.space == Space::shared ? last.thread / 32 != now.thread / 32 : last.interval < checker.block_start;
    if (far && last.interval) cell.far_read = last;
  }
  cell.read = now;
}

// Checks one access of a thread and records it.  Other memory (local variables, state of the
// emulation) is ignored.
inline void check_access(Checker& checker, const Thread& thread, const void* pointer, unsigned bytes, AccessKind kind,
                         uint32_t site) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  const AddressSpace* space = &checker.spaces[0];
  if (address - space->base >= space->bytes) {
    space = &checker.spaces[1];
    if (address - space->base >= space->bytes) return;
  }
  Region& region = space->regions[(address - space->base) >> space->slot_shift];
  const uint64_t start = address - reinterpret_cast<uintptr_t>(region.begin);
  if (__builtin_expect(start >= region.bytes || bytes > region.bytes - start, 0)) {
    stop_outside(checker, region, thread, address, bytes, site);
  }
  if (__builtin_expect((bytes & (bytes - 1)) == 0 && address % bytes != 0, 0)) {
    stop_misaligned(checker, region, thread, address, bytes, site);
  }
  if (checker.traffic && kind != AccessKind::copy_end) count_access(*checker.traffic, thread, region.space, kind, address, bytes, site);
  if (region.states) {
    uint8_t* states = region.states + start;
    if ((kind == AccessKind::read || kind == AccessKind::atomic) && !states_are(states, bytes, written)) {
      const Problem problem = memchr(states, in_flight, bytes) ? Problem::in_flight : Problem::unwritten;
      report_access(checker, problem, region, thread, address, bytes, site, nullptr);
    }
    if (kind != AccessKind::read) memset(states, kind == AccessKind::copy_issue ? in_flight : written, bytes);
  }
  if (!region.cells) {
    if (kind != AccessKind::read) restart_with_cells(checker, region);
    return;
  }
  if (__builtin_expect(bytes < 1u << checker.granule_shift, 0)) restart_with_granule(checker, bytes);
  const Access now = {checker.interval, site, checker.clocks[thread.linear * 32 + thread.lane], uint16_t(thread.linear),
                      uint16_t(kind == AccessKind::atomic)};
  const uint64_t last = (start + bytes - 1) >> checker.granule_shift;
  for (uint64_t i = start >> checker.granule_shift; i <= last; ++i) {
    check_cell(checker, region.cells[i], now, kind != AccessKind::read, region, thread, address, bytes);
  }
}

}  // namespace cuda_emulation
