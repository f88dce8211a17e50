// The scheduler of a block: fibers, warps, barriers.
#include <stdarg.h>
#include <sys/mman.h>

#include "checked_launch.h"
#include "scheduler.h"

namespace cuda_emulation {

__thread Block* block __attribute__((tls_model("initial-exec")));

// ---- failures -----------------------------------------------------------------------
std::string format(const char* pattern, ...) {
  char text[1024];
  va_list values;
  va_start(values, pattern);
  vsnprintf(text, sizeof text, pattern, values);
  va_end(values);
  return text;
}

namespace {
std::string place(const Context& context, const Thread* thread) {
  std::string text = format("block (%u,%u,%u)", context.index.x, context.index.y, context.index.z);
  if (thread) text += format(" thread (%u,%u,%u)", thread->index.x, thread->index.y, thread->index.z);
  return text;
}
}  // namespace

void record_failure(Context& context, const Thread* thread, int site, const std::string& what) {
  context.failed = true;
  context.message = std::string("kernel ") + context.kernel->name + ", " + place(context, thread);
  if (site) context.message += format(", line %d", site);
  context.message += ": " + what;
}

bool reserve_stacks(Context& context, size_t count) {
  if (context.stack_count >= count) return true;
  if (context.stacks) munmap(context.stacks, context.stack_count * stack_bytes);
  void* memory = mmap(nullptr, count * stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    context.stacks = nullptr;
    context.stack_count = 0;
    return false;
  }
  context.stacks = static_cast<char*>(memory);
  context.stack_count = count;
  for (size_t i = 0; i < count; ++i) mprotect(context.stacks + i * stack_bytes, 4096, PROT_NONE);
  return true;
}

namespace {

// ---- switching stacks ---------------------------------------------------------------
void to_scheduler(Context& context) {
  if (!context.on_fiber) {
    context.failed = true;
    context.message = std::string("kernel ") + context.kernel->name + " waits, but was compiled as one that never does";
    throw Failure();
  }
  switch_stack(context.machines[context.thread->linear], context.scheduler);
}

void resume(Context& context, Thread& thread) {
  context.thread = &thread;
  context.on_fiber = true;
  switch_stack(context.scheduler, context.machines[thread.linear]);
  context.on_fiber = false;
}

Warp& warp_of(Context& context) { return context.warps[context.thread->linear / warp_lanes]; }

void fiber_main() {
  Context& context = current();
  context.kernel->body(context.arguments);
  warp_of(context).finished |= 1u << context.thread->lane;
  to_scheduler(context);
  __builtin_unreachable();
}

void start_fiber(Context& context, unsigned linear) {
  const size_t colour = (linear % 16) * 256;   // neighbouring stacks start at different cache sets
  prepare_stack(context.machines[linear], context.stacks + linear * stack_bytes, stack_bytes - colour, fiber_main);
}

// ---- the detectors ------------------------------------------------------------------
CheckedLaunch* checked(const Context& context) { return static_cast<CheckedLaunch*>(context.checker); }

// What these lanes did before is ordered before what they do next.
void order_lanes(Context& context, const Warp& warp, unsigned lanes) {
  if (context.checker) checked(context)->synchronise(warp.first, lanes);
}

// ---- one warp -----------------------------------------------------------------------
std::string lanes_text(unsigned lanes) { return format("0x%08x", lanes); }

// Releases one set of lanes that all wait in the same collective; false when there is none.
bool release_collective(Context& context, Warp& warp) {
  for (unsigned left = warp.collective; left;) {
    const int lane = __builtin_ctz(left);
    Thread& thread = context.threads[warp.first + lane];
    unsigned same = 0;
    for (unsigned rest = left; rest; rest &= rest - 1) {
      const int other = __builtin_ctz(rest);
      if (context.threads[warp.first + other].site == thread.site) same |= 1u << other;
    }
    left &= ~same;
    if (!(thread.mask >> lane & 1)) {
      record_failure(context, &thread, thread.site, "the lane is not in the mask of its own warp collective, " +
                                                        lanes_text(thread.mask));
      return false;
    }
    const unsigned needed = thread.mask & warp.lanes & ~warp.finished;
    if ((needed & same) != needed) continue;
    void* operands[warp_lanes] = {};
    for (unsigned rest = needed; rest; rest &= rest - 1) {
      const int other = __builtin_ctz(rest);
      const Thread& member = context.threads[warp.first + other];
      if (member.mask != thread.mask) {
        record_failure(context, &member, member.site, "lanes of one warp collective name different masks, " +
                                                          lanes_text(member.mask) + " and " + lanes_text(thread.mask));
        return false;
      }
      operands[other] = member.operand;
    }
    context.thread = &thread;   // for messages of the operation
    if (thread.operation) thread.operation(operands, needed);
    order_lanes(context, warp, needed);
    warp.collective &= ~needed;
    warp.ready |= needed;
    return true;
  }
  return false;
}

// __activemask answers once nothing else in the warp can run: the lanes waiting at one line.
void release_convergence(Context& context, Warp& warp) {
  const int site = context.threads[warp.first + __builtin_ctz(warp.converging)].site;
  unsigned lanes = 0;
  for (unsigned left = warp.converging; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    if (context.threads[warp.first + lane].site == site) lanes |= 1u << lane;
  }
  for (unsigned left = lanes; left; left &= left - 1) context.threads[warp.first + __builtin_ctz(left)].mask = lanes;
  order_lanes(context, warp, lanes);
  warp.converging &= ~lanes;
  warp.ready |= lanes;
}

void run_warp(Context& context, Warp& warp) {
  for (;;) {
    for (unsigned lane : context.lane_order) {
      if (!(warp.ready >> lane & 1)) continue;
      warp.ready &= ~(1u << lane);
      resume(context, context.threads[warp.first + lane]);
      if (context.failed) return;
    }
    if (warp.collective && release_collective(context, warp)) continue;
    if (context.failed) return;
    if (!warp.converging) return;
    release_convergence(context, warp);
  }
}

// ---- one block ----------------------------------------------------------------------
// All threads wait: they must wait at one and the same barrier.
void release_barrier(Context& context) {
  const Thread* first = nullptr;
  unsigned waiting = 0, ended = 0;
  int predicates = 0;
  for (Warp& warp : context.warps) {
    ended += __builtin_popcount(warp.finished);
    if (warp.collective) {
      const int lane = __builtin_ctz(warp.collective);
      const Thread& thread = context.threads[warp.first + lane];
      return record_failure(context, &thread, thread.site,
                            "deadlock: a warp collective names lanes " + lanes_text(thread.mask) + ", but lanes " +
                                lanes_text(thread.mask & warp.lanes & ~warp.finished & ~warp.collective) +
                                " wait elsewhere");
    }
    for (unsigned left = warp.at_barrier; left; left &= left - 1) {
      Thread& thread = context.threads[warp.first + __builtin_ctz(left)];
      if (!first) first = &thread;
      if (thread.site != first->site) {
        return record_failure(context, &thread, thread.site,
                              format("divergent barrier: this thread waits at the __syncthreads of line %d, others at "
                                     "that of line %d",
                                     thread.site, first->site));
      }
      predicates += thread.predicate;
      ++waiting;
    }
  }
  if (waiting && ended) {
    return record_failure(context, first, first->site,
                          format("divergent barrier: %u threads wait at __syncthreads, %u have ended without reaching "
                                 "it; every thread of the block must",
                                 waiting, ended));
  }
  if (waiting && context.checker) checked(context)->release_barrier();
  for (Warp& warp : context.warps) {
    for (unsigned left = warp.at_barrier; left; left &= left - 1) {
      context.threads[warp.first + __builtin_ctz(left)].predicate = predicates;
    }
    warp.ready = warp.at_barrier;
    warp.at_barrier = 0;
  }
}

}  // namespace

void run_block_of_fibers(Context& context) {
  for (Warp& warp : context.warps) {
    warp.ready = warp.lanes;
    warp.collective = warp.converging = warp.at_barrier = warp.finished = 0;
  }
  for (unsigned i = 0; i < context.thread_count; ++i) start_fiber(context, i);
  for (;;) {
    bool ready = false;
    for (unsigned index : context.warp_order) {
      run_warp(context, context.warps[index]);
      if (context.failed) return;
    }
    release_barrier(context);
    if (context.failed) return;
    for (const Warp& warp : context.warps) ready |= warp.ready != 0;
    if (!ready) return;
  }
}

void fail(const char* message, int site) {
  Context& context = current();
  record_failure(context, context.thread, site, message);
  if (!context.on_fiber) {
    if (context.can_escape) siglongjmp(context.escape, left_kernel);
    throw Failure();
  }
  to_scheduler(context);
  __builtin_unreachable();
}

void wait_barrier(int site) {
  Context& context = current();
  context.thread->site = site;
  warp_of(context).at_barrier |= 1u << context.thread->lane;
  to_scheduler(context);
}

void wait_collective(unsigned mask, void* operand, Operation operation, int site) {
  Context& context = current();
  Thread& thread = *context.thread;
  thread.site = site;
  thread.mask = mask;
  thread.operand = operand;
  thread.operation = operation;
  warp_of(context).collective |= 1u << thread.lane;
  to_scheduler(context);
}

unsigned wait_convergence(int site) {
  Context& context = current();
  context.thread->site = site;
  warp_of(context).converging |= 1u << context.thread->lane;
  to_scheduler(context);
  return context.thread->mask;
}

void* allocate_shared(unsigned slot, size_t bytes, size_t alignment) {
  Context& context = current();
  const size_t start = (context.static_used + alignment - 1) / alignment * alignment;
  if (start + bytes > static_shared_limit) {
    fail(format("static shared memory grows to %zu bytes; a kernel has at most %zu", start + bytes,
                static_shared_limit).c_str());
  }
  context.static_used = start + bytes;
  void* address = context.shared + start;
  if (context.checker) {
    address = checked(context)->place_variable(context, slot, start, bytes);
  } else {
    memset(address, 0xFF, bytes);
  }
  context.slots[slot] = {context.block_serial, address};
  return address;
}

}  // namespace cuda_emulation
