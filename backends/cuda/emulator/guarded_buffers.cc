#include "guarded_buffers.h"

#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <mutex>
#include <new>

#include "scheduler.h"

namespace cuda_emulation {
namespace {

constexpr uint64_t page = 4096;
constexpr unsigned smallest_slot_shift = 30;   // of address space for a buffer: the rest is protected
constexpr uint64_t alignment = 16;         // of a buffer, for vector types
constexpr size_t signal_stack_bytes = 64 * 1024;

std::mutex handler_lock;
int handler_users = 0;
struct sigaction outer_segv, outer_bus;

const char* code_address(const ucontext_t* state) {
#if defined(__x86_64__)
  return reinterpret_cast<const char*>(state->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return reinterpret_cast<const char*>(state->uc_mcontext.pc);
#else
  return nullptr;
#endif
}

// Leaves kernel code; a fault outside of it goes to the handler that was there before.
void on_fault(int signal, siginfo_t* info, void* state) {
  if (block == nullptr || !current().can_escape) {
    sigaction(signal, signal == SIGSEGV ? &outer_segv : &outer_bus, nullptr);
    return;   // the access repeats, now with the outer handler
  }
  Context& context = current();
  context.fault_address = info->si_addr;
  context.fault_code = code_address(static_cast<const ucontext_t*>(state));
  siglongjmp(context.escape, faulted);
}

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

GuardedBuffers::GuardedBuffers(void** arguments, const uint64_t* bytes, uint32_t count, bool checked)
    : pointers_(count), arguments_(arguments, arguments + count), slot_shift_(smallest_slot_shift) {
  std::vector<uint32_t> slots(count);
  for (uint32_t i = 0; i < count; ++i) {
    if (bytes[i] == 0) continue;
    char* original = *static_cast<char**>(arguments[i]);
    slots[i] = 0;
    while (slots[i] < buffers_.size() &&
           !(buffers_[slots[i]].original == original && buffers_[slots[i]].bytes == bytes[i])) {
      ++slots[i];
    }
    if (slots[i] == buffers_.size()) buffers_.push_back({i, original, nullptr, bytes[i]});
    while ((uint64_t(1) << slot_shift_) < 4 * bytes[i]) ++slot_shift_;
  }
  if (buffers_.empty()) return;
  void* mapping = mmap(nullptr, mapped(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(mapping);
  const uint64_t slot = uint64_t(1) << slot_shift_;
  for (uint64_t i = 0; i < buffers_.size(); ++i) {
    Buffer& buffer = buffers_[i];
    const uint64_t padded = round_up(buffer.bytes, alignment), data = round_up(padded, page);
    char* first = base_ + i * slot + slot / 4;
    mprotect(first, data, PROT_READ | PROT_WRITE);
    memset(first, 0xFF, data);
    buffer.copy = checked ? first : first + data - padded;
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (bytes[i] == 0) continue;
    pointers_[i] = buffers_[slots[i]].copy;
    arguments_[i] = &pointers_[i];
  }
}

GuardedBuffers::~GuardedBuffers() {
  if (base_) munmap(base_, mapped());
}

void GuardedBuffers::fill() {
  for (const Buffer& buffer : buffers_) memcpy(buffer.copy, buffer.original, buffer.bytes);
}

void GuardedBuffers::copy_back() const {
  for (const Buffer& buffer : buffers_) memcpy(buffer.original, buffer.copy, buffer.bytes);
}

std::string GuardedBuffers::describe(const void* address) const {
  const char* place = static_cast<const char*>(address);
  if (base_ && place >= base_ && place < base_ + mapped()) {
    const Buffer& buffer = buffers_[uint64_t(place - base_) >> slot_shift_];
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
