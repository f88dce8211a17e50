// One launch under the detectors: the regions of its memory, its clocks, and what was found.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "checker.h"
#include "guarded_buffers.h"
#include "traffic.h"

namespace cuda_emulation {

// What Python reads of a finding; the first of its kind, and how many followed it.
struct Finding {
  uint32_t problem, space, number, site, other_site, bytes;
  uint32_t block[3], thread[3], other_block[3], other_thread[3];
  uint32_t has_other, other_is_atomic;
  int64_t offset;          // of the access from the start of the buffer; index of a local array
  uint64_t buffer_bytes;   // size of the buffer; elements of a local array
  uint64_t count;
};

class CheckedLaunch : public Checker {
 public:
  CheckedLaunch(const Kernel& kernel, const Launch& launch, GuardedBuffers& buffers);

  // Starts the launch, at first and after a restart that a detector asked for.
  void start();
  bool restarts() const { return restarts_; }
  void finish();   // writes back what the caller wants to know: contents and states

  void place_memory(Context& context);
  void start_block(const Context& context);
  void end_block();
  void release_barrier();
  void synchronise(unsigned first_thread, unsigned lanes);
  void* place_variable(const Context& context, unsigned slot, size_t start, size_t bytes);

  void report(Problem problem, Space space, uint32_t number, uint64_t buffer_bytes, int64_t offset, unsigned bytes,
              const Thread& thread, uint32_t site, const Access* other);
  void report_fault(const Context& context);
  [[noreturn]] void restart_with_cells(Region& region);
  [[noreturn]] void restart_with_granule(unsigned bytes);
  const std::vector<Finding>& findings() const { return findings_; }

 private:
  struct BlockStart {
    uint32_t interval;
    uint3 index;
  };
  struct Free {
    void operator()(void* memory) const { free(memory); }
  };
  using Cells = std::unique_ptr<Cell[], Free>;
  using Key = std::tuple<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>;

  Cells make_cells(uint64_t bytes) const;
  void set_thread(uint32_t (&index)[3], unsigned linear) const;

  const Kernel& kernel_;
  const Launch& launch_;
  GuardedBuffers& buffers_;
  std::vector<Region> global_regions_, shared_regions_;
  std::vector<std::vector<uint8_t>> global_states_, shared_states_;
  std::vector<Cells> global_cells_, shared_cells_;
  std::vector<uint32_t> clock_storage_;
  std::vector<BlockStart> blocks_;
  std::vector<Finding> findings_;
  std::map<Key, size_t> known_;
  std::unique_ptr<Traffic> counted_;
  bool restarts_ = false;
};

}  // namespace cuda_emulation
