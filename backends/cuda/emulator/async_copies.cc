// cp.async: every thread has a queue of copies in groups; a wait completes the oldest groups.
#include <string.h>

#include <deque>
#include <vector>

#include "cuda_matrix.h"

namespace cuda_emulation {
namespace {

struct Copy {
  char* destination;
  const void* source;
  size_t bytes, filled;   // bytes behind `filled` become zero
};
using Group = std::vector<Copy>;

struct Queues {
  uint64_t serial = 0;    // the block they belong to
  std::vector<std::deque<Group>> threads;   // the last group of a thread is still open
};
thread_local Queues queues;

std::deque<Group>& mine() {
  if (queues.serial != *block->serial || queues.threads.size() != block->thread_count) {
    queues.serial = *block->serial;
    queues.threads.assign(block->thread_count, std::deque<Group>(1));
  }
  return queues.threads[block->thread->linear];
}

}  // namespace

void copy_async(unsigned destination, const void* source, size_t bytes, size_t filled, int site) {
  char* address = block->shared + destination;
  if (reinterpret_cast<uintptr_t>(address) % bytes || reinterpret_cast<uintptr_t>(source) % bytes) {
    fail("cp.async: the addresses are not aligned to the size of the copy", site);
  }
  const unsigned lane = block->thread->lane;
  if (filled) note_lane_access(lane, source, filled, AccessKind::read, site);
  note_lane_access(lane, address, bytes, AccessKind::copy_issue, site);
  memset(address, 0xFF, bytes);
  mine().back().push_back({address, source, bytes, filled});
}

void commit_copies() { mine().emplace_back(); }

void wait_copies(int pending, int site) {
  std::deque<Group>& groups = mine();
  while (int(groups.size()) - 1 > pending) {
    for (const Copy& copy : groups.front()) {
      note_lane_access(block->thread->lane, copy.destination, copy.bytes, AccessKind::copy_end, site);
      memcpy(copy.destination, copy.source, copy.filled);
      memset(copy.destination + copy.filled, 0, copy.bytes - copy.filled);
    }
    groups.pop_front();
  }
}

}  // namespace cuda_emulation
