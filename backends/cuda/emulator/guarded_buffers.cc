#include "guarded_buffers.h"

#include <string.h>
#include <sys/mman.h>

#include <mutex>
#include <new>

#include "scheduler.h"

namespace cuda_emulation {
namespace {

constexpr uint64_t page = 4096;
constexpr uint64_t guard = 1 << 20;        // protected bytes on either side
constexpr uint64_t alignment = 16;         // of a buffer, for vector types
constexpr size_t signal_stack_bytes = 64 * 1024;

std::mutex handler_lock;
int handler_users = 0;
struct sigaction outer_segv, outer_bus;

// Leaves kernel code; a fault outside of it goes to the handler that was there before.
void on_fault(int signal, siginfo_t* info, void*) {
  if (block == nullptr || !current().can_escape) {
    sigaction(signal, signal == SIGSEGV ? &outer_segv : &outer_bus, nullptr);
    return;   // the access repeats, now with the outer handler
  }
  Context& context = current();
  context.fault_address = info->si_addr;
  siglongjmp(context.escape, 1);
}

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

GuardedBuffers::GuardedBuffers(void** arguments, const uint64_t* bytes, uint32_t count)
    : pointers_(count), arguments_(arguments, arguments + count) {
  for (uint32_t i = 0; i < count; ++i) {
    if (bytes[i] == 0) continue;
    char* original = *static_cast<char**>(arguments[i]);
    const Buffer* known = nullptr;
    for (const Buffer& buffer : buffers_) {
      if (buffer.original == original && buffer.bytes == bytes[i]) known = &buffer;
    }
    if (!known) {
      const uint64_t padded = round_up(bytes[i], alignment), data = round_up(padded, page);
      const uint64_t mapped = data + 2 * guard;
      void* mapping = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (mapping == MAP_FAILED) throw std::bad_alloc();
      char* first = static_cast<char*>(mapping) + guard;
      mprotect(first, data, PROT_READ | PROT_WRITE);
      memset(first, 0xFF, data - padded);   // the rest of the first page
      char* copy = first + data - padded;
      memcpy(copy, original, bytes[i]);
      memset(copy + bytes[i], 0xFF, padded - bytes[i]);
      buffers_.push_back({i, original, copy, static_cast<char*>(mapping), bytes[i], mapped});
      known = &buffers_.back();
    }
    pointers_[i] = known->copy;
    arguments_[i] = &pointers_[i];
  }
}

GuardedBuffers::~GuardedBuffers() {
  for (const Buffer& buffer : buffers_) munmap(buffer.mapping, buffer.mapped);
}

void GuardedBuffers::copy_back() const {
  for (const Buffer& buffer : buffers_) memcpy(buffer.original, buffer.copy, buffer.bytes);
}

std::string GuardedBuffers::describe(const void* address) const {
  const char* place = static_cast<const char*>(address);
  for (const Buffer& buffer : buffers_) {
    if (place < buffer.mapping || place >= buffer.mapping + buffer.mapped) continue;
    const bool behind = place >= buffer.copy;
    const long long distance = behind ? place - (buffer.copy + buffer.bytes) : buffer.copy - place;
    return format("invalid access to global memory, %lld bytes %s argument %u of %llu bytes", distance,
                  behind ? "behind the end of" : "in front of", buffer.argument, (unsigned long long)buffer.bytes);
  }
  return format("invalid access at address %p, far from every argument, or too many local variables", address);
}

SignalStack::SignalStack(Context& context, const GuardedBuffers* guards) : active_(guards != nullptr) {
  if (!active_) return;
  if (!context.signal_stack) context.signal_stack = new char[signal_stack_bytes];
  stack_t stack = {};
  stack.ss_sp = context.signal_stack;
  stack.ss_size = signal_stack_bytes;
  sigaltstack(&stack, &outer_);
  std::lock_guard<std::mutex> lock(handler_lock);
  if (handler_users++ == 0) {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &outer_segv);
    sigaction(SIGBUS, &action, &outer_bus);
  }
}

SignalStack::~SignalStack() {
  if (!active_) return;
  std::lock_guard<std::mutex> lock(handler_lock);
  if (--handler_users == 0) {
    sigaction(SIGSEGV, &outer_segv, nullptr);
    sigaction(SIGBUS, &outer_bus, nullptr);
  }
  sigaltstack(&outer_, nullptr);
}

}  // namespace cuda_emulation
