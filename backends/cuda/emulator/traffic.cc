#include "traffic.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <string>

namespace cuda_emulation {
namespace {

constexpr uintptr_t sector_bytes = 32, bank_bytes = 4;
constexpr unsigned banks = 32;

// Lanes whose words fall into one bank wait for each other, unless they want the same word.  Lanes
// are served together as far as their words fill the banks once: 16 at 8 bytes each, 8 at 16.
unsigned count_wavefronts(const uint8_t* lanes, const uintptr_t* addresses, unsigned count, unsigned bytes) {
  const unsigned together = bytes > bank_bytes ? std::max(1u, unsigned(banks * bank_bytes / bytes)) : 32;
  unsigned wavefronts = 0;
  for (unsigned first = 0; first < 32; first += together) {
    std::vector<uintptr_t> words[banks];
    size_t longest = 0;
    for (unsigned i = 0; i < count; ++i) {
      if (lanes[i] < first || lanes[i] >= first + together) continue;
      for (uintptr_t word = addresses[i] / bank_bytes; word <= (addresses[i] + bytes - 1) / bank_bytes; ++word) {
        auto& bank = words[word % banks];
        if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
        longest = std::max(longest, bank.size());
      }
    }
    wavefronts += unsigned(longest);
  }
  return wavefronts;
}

unsigned count_sectors(const uintptr_t* addresses, unsigned count, unsigned bytes) {
  uintptr_t sectors[32 * 2];
  unsigned found = 0;
  for (unsigned i = 0; i < count; ++i) {
    for (uintptr_t s = addresses[i] / sector_bytes; s <= (addresses[i] + bytes - 1) / sector_bytes && found < 64; ++s) {
      sectors[found++] = s;
    }
  }
  std::sort(sectors, sectors + found);
  return unsigned(std::unique(sectors, sectors + found) - sectors);
}

std::mutex lock;
std::map<std::string, KernelTraffic> kept;

}  // namespace

void Traffic::record(const Thread& thread, Space space, AccessKind kind, uintptr_t address, unsigned bytes,
                     uint32_t site) {
  const unsigned warp = thread.linear / 32;
  if (warp >= warps_.size()) warps_.resize(warp + 1);
  const uint64_t key = site | uint64_t(kind) << 32 | uint64_t(space) << 40;
  Place& place = warps_[warp][key];
  place.space = space;
  place.kind = kind;
  const uint32_t turn = place.turns[thread.lane]++;
  if (turn >= place.requests.size()) place.requests.resize(turn + 1);
  Request& request = place.requests[turn];
  request.bytes = std::min(bytes, 32u);
  request.lanes[request.count] = uint8_t(thread.lane);
  request.addresses[request.count++] = address;
}

void Traffic::flush() {
  for (Warp& warp : warps_) {
    for (auto& entry : warp) {
      for (const Request& request : entry.second.requests) add(entry.second, request);
    }
    warp.clear();
  }
}

void Traffic::add(const Place& place, const Request& request) {
  if (request.count == 0) return;
  const bool loads = place.kind == AccessKind::read;
  if (place.space == Space::shared) {
    (loads ? totals.shared_load_requests : totals.shared_store_requests) += 1;
    (loads ? totals.shared_load_wavefronts : totals.shared_store_wavefronts) +=
        count_wavefronts(request.lanes, request.addresses, request.count, request.bytes);
    return;
  }
  const bool atomic = place.kind == AccessKind::atomic;
  (atomic ? totals.atomic_requests : loads ? totals.load_requests : totals.store_requests) += 1;
  (atomic ? totals.atomic_sectors : loads ? totals.load_sectors : totals.store_sectors) +=
      count_sectors(request.addresses, request.count, request.bytes);
  (atomic ? totals.atomic_bytes : loads ? totals.load_bytes : totals.store_bytes) +=
      uint64_t(request.count) * request.bytes;
}

void count_access(Traffic& traffic, const Thread& thread, Space space, AccessKind kind, uintptr_t address,
                  unsigned bytes, uint32_t site) {
  traffic.record(thread, space, kind, address, bytes, site);
}

void keep_traffic(const char* kernel, const KernelTraffic& traffic) {
  std::lock_guard<std::mutex> guard(lock);
  auto* total = reinterpret_cast<uint64_t*>(&kept[kernel]);
  const auto* added = reinterpret_cast<const uint64_t*>(&traffic);
  for (size_t i = 0; i < sizeof(KernelTraffic) / sizeof(uint64_t); ++i) total[i] += added[i];
}

}  // namespace cuda_emulation

CUDA_EMULATION_EXPORT void cuda_emulation_traffic_clear() {
  std::lock_guard<std::mutex> guard(cuda_emulation::lock);
  cuda_emulation::kept.clear();
}

// Copies the counts of one kernel; 0 when it was not counted.
CUDA_EMULATION_EXPORT int cuda_emulation_traffic_read(const char* kernel, cuda_emulation::KernelTraffic* traffic) {
  std::lock_guard<std::mutex> guard(cuda_emulation::lock);
  const auto found = cuda_emulation::kept.find(kernel);
  if (found == cuda_emulation::kept.end()) return 0;
  *traffic = found->second;
  return 1;
}
