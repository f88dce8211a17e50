// Memory traffic of a checked launch as the device would see it: accesses of the lanes of a warp at
// one place of the text, in the same turn, form one request.
#pragma once
#include <unordered_map>
#include <vector>

#include "checker.h"

namespace cuda_emulation {

// What Python reads: one kernel, added up over its launches.
struct KernelTraffic {
  uint64_t launches, blocks, threads, barriers;
  uint64_t load_requests, load_sectors, load_bytes;      // global memory; a sector has 32 bytes
  uint64_t store_requests, store_sectors, store_bytes;
  uint64_t atomic_requests, atomic_sectors, atomic_bytes;
  uint64_t shared_load_requests, shared_load_wavefronts;   // a wavefront serves each of 32 banks once
  uint64_t shared_store_requests, shared_store_wavefronts;
};

struct Traffic {
  KernelTraffic totals = {};

  void record(const Thread& thread, Space space, AccessKind kind, uintptr_t address, unsigned bytes, uint32_t site);
  void flush();   // at barriers and at the end of a block: no request spans them

 private:
  struct Request {
    unsigned count = 0, bytes = 0;
    uint8_t lanes[32];
    uintptr_t addresses[32];
  };
  struct Place {
    Space space;
    AccessKind kind;
    uint32_t turns[32] = {};   // executions so far, by lane
    std::vector<Request> requests;
  };
  using Warp = std::unordered_map<uint64_t, Place>;

  void add(const Place& place, const Request& request);

  std::vector<Warp> warps_;
};

// Adds to what is known of the kernel; kept until it is cleared.
void keep_traffic(const char* kernel, const KernelTraffic& traffic);

}  // namespace cuda_emulation
