// The CUDA execution model on the host: what a kernel's text sees.
//
// A CUDA thread is a fiber, a block is run by one OS thread, and the blocks of a
// grid are spread over OS threads.  A thread runs until it waits (barrier, warp
// collective, convergence point) or ends; cuda_emulation.cc holds the scheduler.
// Kernels that never wait run as a plain loop over the threads of the block.
//
// Every waiting operation carries the source line it was written on (its site):
// lanes meet only at one and the same site, so divergent barriers and mismatched
// collectives are found instead of being paired by chance.
#pragma once
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tuple>
#include <type_traits>
#include <utility>

#define CUDA_EMULATION_SHARED __attribute__((visibility("default")))
#define CUDA_EMULATION_EXPORT extern "C" CUDA_EMULATION_SHARED

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
static constexpr int warpSize = 32;

#ifdef CUDA_EMULATION_CHECKED
// Functions that touch memory of the kernel through a call of their own to note_access.
#define CUDA_EMULATION_UNCHECKED __attribute__((no_sanitize("thread")))
#else
#define CUDA_EMULATION_UNCHECKED
#endif

namespace cuda_emulation {

struct Checker;

// A warp collective is computed once, when all its lanes have arrived: operands[lane]
// points into the stack of the waiting lane, where the result is also written.
using Operation = void (*)(void* const* operands, unsigned lanes);

struct Thread {
  uint3 index;
  unsigned linear, lane;
  int site;            // source line this thread waits at
  unsigned mask;       // lanes named by the collective; answer of a convergence point
  int predicate;       // operand and answer of __syncthreads_{count,and,or}
  bool finished;
  void* operand;
  Operation operation;
};

struct Block {
  Thread* thread;      // the running thread
  uint3 index;
  dim3 size, grid;
  Thread* threads;
  const unsigned* order;       // execution order of the threads, for the plain loop
  unsigned thread_count;
  char* shared;                // one arena: static variables first, dynamic memory behind
  char* dynamic_shared;
  const uint64_t* serial;      // number of the running block: validates `slots`
  struct Slot {
    uint64_t serial;
    void* address;
  }* slots;                    // shared variables of the block, by declaration
  Checker* checker;            // null: accesses are not checked
  int poison;                  // which values local arrays start with: the order of lanes
};

// Defined by the runtime library; initial-exec keeps an access at one load.
extern __thread Block* block __attribute__((tls_model("initial-exec"), visibility("default")));

struct Launch {
  unsigned grid[3], block[3];
  uint64_t dynamic_shared_bytes;
  int32_t order;    // 0 forward, 1 reversed, 2 shuffled by `seed`
  uint32_t seed;
  uint32_t workers;
  uint32_t argument_count;
  const uint64_t* guarded_bytes;   // sizes of the buffers that pointers lead to; null: no bounds check
  uint8_t* const* states;          // for each argument a ByteState a byte, updated; null: all are written
  uint32_t check;                  // run the detectors; needs guarded_bytes and a checked library
  uint32_t count;                  // count memory traffic; needs `check`
};

struct Kernel {
  const char* name;
  void (*body)(void** arguments);   // runs one thread, or, as a plain loop, a whole block
  bool waits;                  // needs fibers
  unsigned slot_count;         // shared variables declared in the text
  unsigned launch_bound;       // __launch_bounds__, 0 when absent
};

CUDA_EMULATION_SHARED int run(const Kernel&, const Launch&, void** arguments);
CUDA_EMULATION_SHARED void wait_barrier(int site);
CUDA_EMULATION_SHARED void wait_collective(unsigned mask, void* operand, Operation operation, int site);
CUDA_EMULATION_SHARED unsigned wait_convergence(int site);
CUDA_EMULATION_SHARED void* allocate_shared(unsigned slot, size_t bytes, size_t alignment);

// What an access does; an asynchronous copy writes from its issue to its end.
enum class AccessKind : uint32_t { read, write, atomic, copy_issue, copy_end };
CUDA_EMULATION_SHARED void note_lane_access(unsigned lane, const void* address, size_t bytes, AccessKind kind, int line);

// Tells the detectors about an access of the running thread that the compiler did not instrument.
inline void note_access(const void* address, size_t bytes, AccessKind kind, int line) {
#ifdef CUDA_EMULATION_CHECKED
  note_lane_access(block->thread->lane, address, bytes, kind, line);
#endif
}
[[noreturn]] CUDA_EMULATION_SHARED void fail(const char* message, int site = 0);

// Lanes that have not diverged meet here: where a text relies on a warp running in lockstep.
inline void keep_lockstep(int site) { wait_convergence(site); }

// Static shared memory: the first thread of a block that reaches the declaration
// places the variable and poisons it (0xFF bytes: NaN, or -1), the others find it.
template <class T, size_t alignment = alignof(T)>
CUDA_EMULATION_UNCHECKED inline T& shared_variable(unsigned slot) {
  constexpr size_t align = alignment > alignof(T) ? alignment : alignof(T);
  Block::Slot& place = block->slots[slot];
  void* address = place.serial == *block->serial ? place.address : allocate_shared(slot, sizeof(T), align);
  return *static_cast<T*>(address);
}

// A fiber runs one thread; a kernel that never waits runs as a loop over the threads of the
// block.  Only one of the two is instantiated, so that the kernel is inlined into it.
template <class... P, size_t... I>
__attribute__((always_inline)) inline void run_threads(void (*function)(P...), void** arguments, bool loop, std::index_sequence<I...>) {
  const std::tuple<std::remove_cv_t<P>...> values(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
  Block& here = *block;
  for (unsigned i = 0; i < (loop ? here.thread_count : 1); ++i) {
    if (loop) here.thread = &here.threads[here.order[i]];
    function(std::get<I>(values)...);
  }
}

template <class... P>
__attribute__((always_inline)) inline void run_threads(void (*function)(P...), void** arguments, bool loop) {
  run_threads(function, arguments, loop, std::index_sequence_for<P...>());
}

template <auto function, bool waits>
void run_body(void** arguments) {
  run_threads(function, arguments, !waits);
}

template <auto function, bool waits>
inline int launch(const char* name, unsigned slots, unsigned bound, const Launch& launch, void** arguments) {
  return run({name, run_body<function, waits>, waits, slots, bound}, launch, arguments);
}

}  // namespace cuda_emulation

// Constants of one thread, declared at the head of every kernel: the compiler can
// then keep them in registers, which it cannot do for a global that calls may change.
#define CUDA_EMULATION_INDICES                                             \
  const uint3 threadIdx = cuda_emulation::block->thread->index;            \
  const uint3 blockIdx = cuda_emulation::block->index;                     \
  const dim3 blockDim = cuda_emulation::block->size, gridDim = cuda_emulation::block->grid;

#define CUDA_EMULATION_KERNEL(name, waits, slots, bound)                                             \
  CUDA_EMULATION_EXPORT int cuda_emulation_launch_##name(const cuda_emulation::Launch* launch,       \
                                                         void** arguments) {                         \
    return cuda_emulation::launch<&cuda_kernels::name, waits>(#name, slots, bound, *launch, arguments); \
  }

// ---- barriers -------------------------------------------------------------------
static inline void __syncthreads(int site = __builtin_LINE()) { cuda_emulation::wait_barrier(site); }
static inline int __syncthreads_count(int predicate, int site = __builtin_LINE()) {
  cuda_emulation::block->thread->predicate = predicate != 0;
  cuda_emulation::wait_barrier(site);
  return cuda_emulation::block->thread->predicate;
}
static inline int __syncthreads_or(int predicate, int site = __builtin_LINE()) {
  return __syncthreads_count(predicate, site) != 0;
}
static inline int __syncthreads_and(int predicate, int site = __builtin_LINE()) {
  return __syncthreads_count(!predicate, site) == 0;
}
static inline void __syncwarp(unsigned mask = ~0u, int site = __builtin_LINE()) {
  cuda_emulation::wait_collective(mask, nullptr, nullptr, site);
}
static inline unsigned __activemask(int site = __builtin_LINE()) { return cuda_emulation::wait_convergence(site); }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// ---- warp collectives -----------------------------------------------------------
namespace cuda_emulation {

template <class T>
struct Shuffle {
  T value, result;
  int source;
};

// A lane that reads from a lane outside the mask gets poison: its value is undefined.
template <class T>
void shuffle(void* const* operands, unsigned lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    auto& mine = *static_cast<Shuffle<T>*>(operands[lane]);
    if (lanes >> mine.source & 1) {
      mine.result = static_cast<const Shuffle<T>*>(operands[mine.source])->value;
    } else {
      memset(static_cast<void*>(&mine.result), 0xFF, sizeof(T));
    }
  }
}

template <class T>
inline T shuffle_from(unsigned mask, T value, int source, int site) {
  Shuffle<T> operand = {value, value, source & 31};
  wait_collective(mask, &operand, shuffle<T>, site);
  return operand.result;
}

struct Vote {
  uint64_t value;
  unsigned result;
};

template <class F>
inline void answer(void* const* operands, unsigned lanes, F result_of) {
  for (unsigned left = lanes; left; left &= left - 1) {
    auto& vote = *static_cast<Vote*>(operands[__builtin_ctz(left)]);
    vote.result = result_of(vote.value);
  }
}

inline unsigned lanes_holding(void* const* operands, unsigned lanes, uint64_t value) {
  unsigned found = 0;
  for (unsigned left = lanes; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    found |= unsigned(static_cast<const Vote*>(operands[lane])->value == value) << lane;
  }
  return found;
}

inline void ballot(void* const* operands, unsigned lanes) {
  const unsigned set = lanes_holding(operands, lanes, 1);
  answer(operands, lanes, [=](uint64_t) { return set; });
}

inline void match(void* const* operands, unsigned lanes) {
  answer(operands, lanes, [=](uint64_t value) { return lanes_holding(operands, lanes, value); });
}

template <class F>
inline void reduce(void* const* operands, unsigned lanes, F combine) {
  unsigned left = lanes;
  unsigned total = unsigned(static_cast<const Vote*>(operands[__builtin_ctz(left)])->value);
  for (left &= left - 1; left; left &= left - 1) {
    total = combine(total, unsigned(static_cast<const Vote*>(operands[__builtin_ctz(left)])->value));
  }
  answer(operands, lanes, [=](uint64_t) { return total; });
}

inline unsigned vote(unsigned mask, uint64_t value, Operation operation, int site) {
  Vote operand = {value, 0};
  wait_collective(mask, &operand, operation, site);
  return operand.result;
}

inline int lane() { return int(block->thread->lane); }

}  // namespace cuda_emulation

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, int site = __builtin_LINE()) {
  return cuda_emulation::shuffle_from(mask, value, (cuda_emulation::lane() & ~(width - 1)) | (source & (width - 1)), site);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, int site = __builtin_LINE()) {
  const int lane = cuda_emulation::lane(), target = lane + int(delta);
  return cuda_emulation::shuffle_from(mask, value, (lane & (width - 1)) + int(delta) < width ? target : lane, site);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int site = __builtin_LINE()) {
  const int lane = cuda_emulation::lane(), target = lane - int(delta);
  return cuda_emulation::shuffle_from(mask, value, (lane & (width - 1)) >= int(delta) ? target : lane, site);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int site = __builtin_LINE()) {
  // A target in an earlier segment is readable, one in a later segment is not.
  const int lane = cuda_emulation::lane(), target = lane ^ bits;
  return cuda_emulation::shuffle_from(mask, value, target < (lane & ~(width - 1)) + width ? target : lane, site);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, int site = __builtin_LINE()) {
  return cuda_emulation::vote(mask, predicate != 0, cuda_emulation::ballot, site);
}
static inline int __any_sync(unsigned mask, int predicate, int site = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, int site = __builtin_LINE()) {
  return __ballot_sync(mask, !predicate, site) == 0;
}
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value, int site = __builtin_LINE()) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return cuda_emulation::vote(mask, bits, cuda_emulation::match, site);
}
template <class T>
inline T __reduce_add_sync(unsigned mask, T value, int site = __builtin_LINE()) {
  return T(cuda_emulation::vote(mask, unsigned(value), [](void* const* operands, unsigned lanes) {
    cuda_emulation::reduce(operands, lanes, [](unsigned a, unsigned b) { return a + b; });
  }, site));
}
template <class T>
inline T __reduce_max_sync(unsigned mask, T value, int site = __builtin_LINE()) {
  return T(cuda_emulation::vote(mask, unsigned(value), [](void* const* operands, unsigned lanes) {
    cuda_emulation::reduce(operands, lanes, [](unsigned a, unsigned b) { return T(a) > T(b) ? a : b; });
  }, site));
}
template <class T>
inline T __reduce_min_sync(unsigned mask, T value, int site = __builtin_LINE()) {
  return T(cuda_emulation::vote(mask, unsigned(value), [](void* const* operands, unsigned lanes) {
    cuda_emulation::reduce(operands, lanes, [](unsigned a, unsigned b) { return T(a) < T(b) ? a : b; });
  }, site));
}

#include "cuda_atomics.h"
#include "cuda_math.h"

// ---- keywords of CUDA C; last, because system headers use some of these names -----------
#define __CUDACC__ 1
#define __CUDA_ARCH__ 800
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 5
#define __host__
#define __device__
#define __constant__ static
#define __align__(bytes) alignas(bytes)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __grid_constant__
