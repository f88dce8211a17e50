// The launch of a grid: limits, orders, guarded buffers, and blocks spread over OS threads.
#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

#include "checked_launch.h"
#include "guarded_buffers.h"
#include "scheduler.h"

namespace cuda_emulation {
namespace {

// ---- orders -------------------------------------------------------------------------
struct Random {
  uint64_t state;
  unsigned below(unsigned bound) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return unsigned((state >> 33) % bound);
  }
};

std::vector<unsigned> make_order(unsigned count, const Launch& launch) {
  std::vector<unsigned> order(count);
  for (unsigned i = 0; i < count; ++i) order[i] = launch.order == 1 ? count - 1 - i : i;
  if (launch.order == 2) {
    Random random = {launch.seed};
    for (unsigned i = count; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  }
  return order;
}

// ---- the grid -----------------------------------------------------------------------
std::mutex pool_lock;
std::vector<std::unique_ptr<Context>> pool;

std::unique_ptr<Context> take_context() {
  std::lock_guard<std::mutex> guard(pool_lock);
  if (pool.empty()) return std::unique_ptr<Context>(new Context());
  std::unique_ptr<Context> context = std::move(pool.back());
  pool.pop_back();
  return context;
}

void prepare(Context& context, const Kernel& kernel, const Launch& launch, void** arguments) {
  const unsigned count = launch.block[0] * launch.block[1] * launch.block[2];
  const unsigned warps = (count + warp_lanes - 1) / warp_lanes;
  context.kernel = &kernel;
  context.arguments = arguments;
  context.failed = false;
  context.on_fiber = false;
  context.size = dim3(launch.block[0], launch.block[1], launch.block[2]);
  context.grid = dim3(launch.grid[0], launch.grid[1], launch.grid[2]);
  context.thread_count = count;
  context.thread_storage.assign(count, Thread());
  context.threads = context.thread_storage.data();
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = context.threads[i];
    thread.linear = i;
    thread.lane = i % warp_lanes;
    thread.index = {i % launch.block[0], i / launch.block[0] % launch.block[1],
                    i / (launch.block[0] * launch.block[1])};
  }
  context.warps.assign(warps, Warp());
  for (unsigned i = 0; i < warps; ++i) {
    const unsigned lanes = std::min(warp_lanes, count - i * warp_lanes);
    context.warps[i].first = i * warp_lanes;
    context.warps[i].lanes = lanes == warp_lanes ? ~0u : (1u << lanes) - 1;
  }
  context.warp_order = make_order(warps, launch);
  context.lane_order = make_order(warp_lanes, launch);
  context.thread_order = make_order(count, launch);
  context.order = context.thread_order.data();
  context.slot_storage.assign(kernel.slot_count + 1, Block::Slot());
  context.slots = context.slot_storage.data();
  context.serial = &context.block_serial;
  if (!context.arena) {
    context.arena = static_cast<char*>(
        aligned_alloc(dynamic_alignment, static_shared_limit + shared_limit + dynamic_alignment));
  }
  context.shared = context.arena;
  context.dynamic_shared = context.arena + static_shared_limit;
  if (kernel.waits) {
    context.machines.resize(count);
    if (!reserve_stacks(context, count)) {
      record_failure(context, nullptr, 0, "no memory for the stacks of the threads");
    }
  }
}

struct Grid {
  const Kernel& kernel;
  const Launch& launch;
  void** arguments;
  uint64_t blocks;
  std::vector<unsigned> order{};      // of blocks; empty for forward and reversed
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex lock{};
  std::string failure{};
  GuardedBuffers* guards = nullptr;
  CheckedLaunch* checked = nullptr;
};

void run_one_block(Context& context, const GuardedBuffers* guards) {
  ++context.block_serial;
  context.static_used = 0;
  if (const int reason = guards ? sigsetjmp(context.escape, 1) : 0) {
    context.can_escape = false;
    context.on_fiber = false;
    if (reason == faulted) {
      record_failure(context, context.thread, 0, guards->describe(context.fault_address));
      if (context.checker) static_cast<CheckedLaunch*>(context.checker)->report_fault(context);
    }
    return;
  }
  context.can_escape = guards != nullptr;
  try {
    if (context.kernel->waits) {
      run_block_of_fibers(context);
    } else {
      context.kernel->body(context.arguments);
    }
  } catch (const Failure&) {
  }
  context.can_escape = false;
}

void work(Grid& grid) {
  std::unique_ptr<Context> owned = take_context();
  Context& context = *owned;
  Block* outer = block;
  block = &context;
  prepare(context, grid.kernel, grid.launch, grid.arguments);
  context.checker = grid.checked;
  context.poison = grid.launch.order;
  if (grid.checked) grid.checked->place_memory(context);
  {
    SignalStack signal_stack(context, grid.guards);
    const unsigned columns = grid.launch.grid[0], rows = grid.launch.grid[1];
    while (!context.failed && !grid.stop) {
      const uint64_t turn = grid.next.fetch_add(1);
      if (turn >= grid.blocks) break;
      const uint64_t number = grid.launch.order == 0   ? turn
                              : grid.launch.order == 1 ? grid.blocks - 1 - turn
                                                       : grid.order[turn];
      context.index = {unsigned(number % columns), unsigned(number / columns % rows),
                       unsigned(number / (uint64_t(columns) * rows))};
      if (grid.checked) {
        grid.checked->start_block(context);
      } else if (grid.launch.dynamic_shared_bytes) {
        memset(context.dynamic_shared, 0xFF, grid.launch.dynamic_shared_bytes);
      }
      run_one_block(context, grid.guards);
      if (grid.checked) grid.checked->end_block();
    }
  }
  block = outer;
  if (context.failed) {
    grid.stop = true;
    std::lock_guard<std::mutex> guard(grid.lock);
    if (grid.failure.empty()) grid.failure = context.message;
  }
  std::lock_guard<std::mutex> guard(pool_lock);
  pool.push_back(std::move(owned));
}

thread_local std::string last_error;

// The limits the driver checks before a launch.
std::string refuse(const Kernel& kernel, const Launch& launch) {
  const uint64_t threads = uint64_t(launch.block[0]) * launch.block[1] * launch.block[2];
  const uint64_t blocks = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
  if (!threads || !blocks) return "the grid and the block need at least one thread in every dimension";
  if (threads > 1024 || launch.block[2] > 64) {
    return format("a block of %ux%ux%u threads; the device allows 1024 threads and 64 in z", launch.block[0],
                  launch.block[1], launch.block[2]);
  }
  if (kernel.launch_bound && threads > kernel.launch_bound) {
    return format("a block of %u threads; the kernel declares __launch_bounds__(%u)", unsigned(threads),
                  kernel.launch_bound);
  }
  if (launch.grid[0] > 0x7FFFFFFFu || launch.grid[1] > 65535 || launch.grid[2] > 65535) {
    return format("a grid of %ux%ux%u blocks; the device allows 2147483647x65535x65535", launch.grid[0],
                  launch.grid[1], launch.grid[2]);
  }
  if (launch.dynamic_shared_bytes > shared_limit) {
    return format("%llu bytes of dynamic shared memory; sm_80 allows %zu",
                  (unsigned long long)launch.dynamic_shared_bytes, shared_limit);
  }
  return "";
}

void run_blocks(Grid& grid, uint64_t workers) {
  const unsigned* extents = grid.launch.block;
  const uint64_t threads = grid.blocks * extents[0] * extents[1] * extents[2];
  workers = threads < 4096 ? 1 : std::min<uint64_t>(std::max<uint64_t>(1, workers), grid.blocks);
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < workers; ++i) helpers.emplace_back(work, std::ref(grid));
  work(grid);
  for (std::thread& helper : helpers) helper.join();
}

std::mutex one_checked_launch;

// The detectors see the blocks one after another, so that who came first is no accident.
void run_checked(Grid& grid) {
  std::lock_guard<std::mutex> guard(one_checked_launch);
  GuardedBuffers guards(grid.arguments, grid.launch.guarded_bytes, grid.launch.argument_count, true);
  CheckedLaunch checked(grid.kernel, grid.launch, guards);
  grid.guards = &guards;
  grid.arguments = guards.arguments();
  grid.checked = &checked;
  do {
    grid.next = 0;
    grid.stop = false;
    grid.failure.clear();
    checked.start();
    run_blocks(grid, 1);
  } while (checked.restarts());
  checked.finish();
  if (grid.failure.empty() && !checked.findings().empty()) {
    grid.failure = format("kernel %s: the detectors have %zu findings", grid.kernel.name, checked.findings().size());
  }
}

}  // namespace

int run(const Kernel& kernel, const Launch& launch, void** arguments) {
  last_error = refuse(kernel, launch);
  if (!last_error.empty()) {
    last_error = std::string("kernel ") + kernel.name + " cannot be launched: " + last_error;
    return -1;
  }
  Grid grid{kernel, launch, arguments, uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2]};
  if (launch.order == 2) grid.order = make_order(unsigned(grid.blocks), launch);
  try {
    if (launch.check) {
      run_checked(grid);
    } else if (launch.guarded_bytes) {
      GuardedBuffers guards(arguments, launch.guarded_bytes, launch.argument_count, false);
      guards.fill();
      grid.guards = &guards;
      grid.arguments = guards.arguments();
      run_blocks(grid, launch.workers);
      guards.copy_back();
    } else {
      run_blocks(grid, launch.workers);
    }
  } catch (const std::bad_alloc&) {
    grid.failure = std::string("kernel ") + kernel.name + ": no memory for the copies that the checks need";
  }
  last_error = grid.failure;
  return grid.failure.empty() ? 0 : -1;
}

}  // namespace cuda_emulation

CUDA_EMULATION_EXPORT const char* cuda_emulation_last_error() { return cuda_emulation::last_error.c_str(); }
