// Inside the runtime: what the scheduler of a block (cuda_emulation.cc) and the launch of a
// grid (grid.cc) share.
#pragma once
#include <setjmp.h>

#include <string>
#include <vector>

#include "cuda_emulation.h"
#include "stack_switch.h"

namespace cuda_emulation {

constexpr unsigned warp_lanes = 32;
constexpr size_t stack_bytes = 256 * 1024;          // reserved; pages are only touched when used
constexpr size_t static_shared_limit = 48 * 1024;   // of any device
constexpr size_t shared_limit = 163 * 1024;         // a block on sm_80
constexpr size_t dynamic_alignment = 1024;

// How sigsetjmp returns to the launch: because of a fault, or of a failure on record.
constexpr int faulted = 1, left_kernel = 2;

struct Failure {};   // ends a block; a fiber switches to the scheduler instead of throwing it

struct Warp {
  unsigned first, lanes;     // linear index of lane 0; lanes that exist
  unsigned ready, collective, converging, at_barrier, finished;
};

// What one OS thread needs to run blocks; kept for later launches.
struct Context : Block {
  const Kernel* kernel;
  void** arguments;
  bool failed;
  bool on_fiber;             // whether kernel code runs on a stack of its own
  uint64_t block_serial = 0;
  size_t static_used;
  std::vector<Thread> thread_storage;
  std::vector<Warp> warps;
  std::vector<unsigned> warp_order, lane_order, thread_order;
  std::vector<Slot> slot_storage;
  char* stacks = nullptr;
  size_t stack_count = 0;
  char* arena = nullptr;
  char* slotted = nullptr;   // shared memory of checked launches
  size_t slotted_bytes = 0;
  sigjmp_buf escape;         // out of kernel code, on an invalid access
  bool can_escape = false;
  const void* fault_address;
  const char* fault_code;    // the instruction
  char* signal_stack = nullptr;
  MachineContext scheduler;
  std::vector<MachineContext> machines;   // of the threads
  std::string message;
};

inline Context& current() { return *static_cast<Context*>(block); }

std::string format(const char* pattern, ...);
void record_failure(Context& context, const Thread* thread, int site, const std::string& what);

// Maps stacks for `count` fibers, each with a protected page at its end; false without memory.
bool reserve_stacks(Context& context, size_t count);

void run_block_of_fibers(Context& context);

}  // namespace cuda_emulation
