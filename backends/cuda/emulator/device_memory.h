// What is known of the memory that an executable works on: where its tensors lie, and which of
// their bytes have been written.
#pragma once
#include <stdint.h>

#include <map>
#include <vector>

namespace cuda_emulation {

class DeviceMemory {
 public:
  // A new tensor: whatever was known of these addresses is forgotten.
  void declare(uintptr_t address, uint64_t bytes, bool is_written);
  // The host wrote these bytes.
  void mark_written(uintptr_t address, uint64_t bytes);
  // A tensor that the next kernels take: memory that is not known counts as written, and what is
  // behind the tensor does not belong to it.
  void bound(uintptr_t address, uint64_t bytes);
  void clear_bounds() { bounds_.clear(); }
  // Size and states of what starts at an address, until the end of its tensor; false when unknown.
  bool find(uintptr_t address, uint64_t& bytes, uint8_t*& states);
  void clear();

 private:
  std::map<uintptr_t, std::vector<uint8_t>> tensors_;   // a ByteState for each byte, by address
  std::map<uintptr_t, uint64_t> bounds_;
};

}  // namespace cuda_emulation
