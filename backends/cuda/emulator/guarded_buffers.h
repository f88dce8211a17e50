// Bounds checks on global memory: for a launch, every buffer is moved to pages of its own between
// protected ones.  An access outside is a fault, which ends the launch with a message that names
// the thread and the argument.
#pragma once
#include <signal.h>
#include <stdint.h>

#include <string>
#include <vector>

namespace cuda_emulation {

struct Context;

class GuardedBuffers {
 public:
  struct Buffer {
    uint32_t argument;   // the first that leads here
    char *original, *copy;
    uint64_t bytes;
  };

  // Makes room for the buffers; bytes[i] is the size behind pointer argument i, 0 for a scalar.
  // Buffers end at a protected page (up to padding to 16 bytes), or, with `checked`, start at a
  // multiple of 256 bytes, as those of the device do: the detectors then know their exact bounds.
  // Raises std::bad_alloc.
  GuardedBuffers(void** arguments, const uint64_t* bytes, uint32_t count, bool checked);
  ~GuardedBuffers();
  GuardedBuffers(const GuardedBuffers&) = delete;
  GuardedBuffers& operator=(const GuardedBuffers&) = delete;

  void fill();   // with the contents of the originals
  void copy_back() const;
  void** arguments() { return arguments_.data(); }
  std::string describe(const void* address) const;

  // Buffer i lies in the slot [base + (i << slot_shift), base + (i + 1 << slot_shift)).
  const std::vector<Buffer>& buffers() const { return buffers_; }
  char* base() const { return base_; }
  uint64_t mapped() const { return uint64_t(buffers_.size()) << slot_shift_; }
  unsigned slot_shift() const { return slot_shift_; }

 private:
  std::vector<Buffer> buffers_;
  std::vector<void*> pointers_, arguments_;
  char* base_ = nullptr;
  unsigned slot_shift_;
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
