// Linked into every checked kernel library: the functions that -fsanitize=thread calls at each access
// to memory.  They are not those of ThreadSanitizer, whose library is not linked.
#include "checker.h"

extern "C" const char __ehdr_start[] __attribute__((visibility("hidden")));   // where this library is loaded

namespace cuda_emulation {
namespace {

uint32_t site_of(const void* return_address) {   // inside the calling instruction
  return uint32_t(static_cast<const char*>(return_address) - 1 - __ehdr_start);
}

inline void check(const void* address, size_t bytes, AccessKind kind, const void* return_address) {
  Block* here = block;
  if (!here || !here->checker) return;
  check_access(*here->checker, *here->thread, address, unsigned(bytes), kind, site_of(return_address));
}

}  // namespace

// An index outside of a local array of `count` elements.
__attribute__((noinline)) void leave_local_array(int64_t index, uint64_t count) {
  Block* here = block;
  if (!here || !here->checker) abort();
  stop_outside_local(*here->checker, *here->thread, index, count, site_of(__builtin_return_address(0)));
}

}  // namespace cuda_emulation

#define HOOK(name, bytes, kind)                                                                           \
  extern "C" void name(void* address) {                                                                   \
    cuda_emulation::check(address, bytes, cuda_emulation::AccessKind::kind, __builtin_return_address(0)); \
  }
#define HOOKS(bytes)                                         \
  HOOK(__tsan_read##bytes, bytes, read)                      \
  HOOK(__tsan_write##bytes, bytes, write)                    \
  HOOK(__tsan_unaligned_read##bytes, bytes, read)            \
  HOOK(__tsan_unaligned_write##bytes, bytes, write)          \
  HOOK(__tsan_volatile_read##bytes, bytes, read)             \
  HOOK(__tsan_volatile_write##bytes, bytes, write)           \
  HOOK(__tsan_unaligned_volatile_read##bytes, bytes, read)   \
  HOOK(__tsan_unaligned_volatile_write##bytes, bytes, write)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" void __tsan_read_range(void* address, size_t bytes) {
  cuda_emulation::check(address, bytes, cuda_emulation::AccessKind::read, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, size_t bytes) {
  cuda_emulation::check(address, bytes, cuda_emulation::AccessKind::write, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
extern "C" void __tsan_atomic_signal_fence(int) {}
