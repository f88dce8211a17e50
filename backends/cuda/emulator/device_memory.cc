#include "device_memory.h"

#include <algorithm>

#include "checker.h"

namespace cuda_emulation {

void DeviceMemory::declare(uintptr_t address, uint64_t bytes, bool is_written) {
  if (bytes == 0) return;
  auto first = tensors_.lower_bound(address);
  if (first != tensors_.begin() && std::prev(first)->first + std::prev(first)->second.size() > address) --first;
  const auto last = tensors_.lower_bound(address + bytes);
  tensors_.erase(first, last);
  tensors_.emplace(address, std::vector<uint8_t>(bytes, is_written ? written : unwritten));
}

void DeviceMemory::mark_written(uintptr_t address, uint64_t bytes) {
  uint64_t known;
  uint8_t* states;
  if (!find(address, known, states)) return declare(address, bytes, true);
  std::fill(states, states + std::min(known, bytes), uint8_t(written));
}

void DeviceMemory::bound(uintptr_t address, uint64_t bytes) {
  uint64_t known;
  uint8_t* states;
  if (!find(address, known, states) || known < bytes) declare(address, bytes, true);
  bounds_[address] = bytes;
}

void DeviceMemory::clear() {
  tensors_.clear();
  bounds_.clear();
}

bool DeviceMemory::find(uintptr_t address, uint64_t& bytes, uint8_t*& states) {
  auto next = tensors_.upper_bound(address);
  if (next == tensors_.begin()) return false;
  auto& [start, known] = *std::prev(next);
  if (address - start >= known.size()) return false;
  bytes = known.size() - (address - start);
  states = known.data() + (address - start);
  const auto bound = bounds_.find(address);
  if (bound != bounds_.end()) bytes = std::min(bytes, bound->second);
  return true;
}

}  // namespace cuda_emulation
