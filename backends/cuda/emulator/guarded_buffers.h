// Bounds checks on global memory: for a launch, every buffer is moved to pages of its own
// that end at protected ones.  An access outside is a fault, which ends the launch with a
// message that names the thread and the argument.
#pragma once
#include <signal.h>
#include <stdint.h>

#include <string>
#include <vector>

namespace cuda_emulation {

struct Context;

class GuardedBuffers {
 public:
  // Copies the buffers; bytes[i] is the size behind pointer argument i, 0 for a scalar.
  GuardedBuffers(void** arguments, const uint64_t* bytes, uint32_t count);
  ~GuardedBuffers();
  GuardedBuffers(const GuardedBuffers&) = delete;
  GuardedBuffers& operator=(const GuardedBuffers&) = delete;

  void** arguments() { return arguments_.data(); }
  void copy_back() const;
  std::string describe(const void* address) const;

 private:
  struct Buffer {
    uint32_t argument;   // the first that leads here
    char *original, *copy, *mapping;
    uint64_t bytes, mapped;
  };
  std::vector<Buffer> buffers_;
  std::vector<void*> pointers_, arguments_;
};

// While it lives, faults of this OS thread are handled on a stack of their own: that of the
// fiber may be what overflowed.  Does nothing without guarded buffers.
class SignalStack {
 public:
  SignalStack(Context& context, const GuardedBuffers* guards);
  ~SignalStack();
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  bool active_;
  stack_t outer_;
};

}  // namespace cuda_emulation
