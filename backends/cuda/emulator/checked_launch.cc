#include "checked_launch.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "scheduler.h"

namespace cuda_emulation {
namespace {

constexpr unsigned shared_slot_shift = 20;
constexpr size_t shared_slot = size_t(1) << shared_slot_shift;
constexpr unsigned coarsest_granule = 2;   // cells of 4 bytes

uint32_t last_interval = 0;   // numbers are never used twice, so that old cells of shared memory are seen as old

// What earlier launches of a kernel needed: saves their restarts.
struct Needs {
  unsigned granule_shift = coarsest_granule;
  std::vector<uint32_t> written;   // arguments
};
std::map<std::string, Needs> needs;

thread_local std::string last_kernel;
thread_local std::vector<Finding> last_findings;

CheckedLaunch& launch_of(Checker& checker) { return static_cast<CheckedLaunch&>(checker); }

}  // namespace

CheckedLaunch::CheckedLaunch(const Kernel& kernel, const Launch& launch, GuardedBuffers& buffers)
    : Checker(), kernel_(kernel), launch_(launch), buffers_(buffers) {
  const unsigned threads = launch.block[0] * launch.block[1] * launch.block[2];
  clock_storage_.assign((threads + warp_lanes - 1) / warp_lanes * warp_lanes * warp_lanes, 1);
  // A lane's own time is ahead of what others know of it.
  for (size_t thread = 0; thread < clock_storage_.size() / warp_lanes; ++thread) {
    clock_storage_[thread * warp_lanes + thread % warp_lanes] = 2;
  }
  clocks = clock_storage_.data();
  if (launch.count) {
    counted_.reset(new Traffic());
    traffic = counted_.get();
  }
}

CheckedLaunch::Cells CheckedLaunch::make_cells(uint64_t bytes) const {
  void* memory = calloc((bytes >> granule_shift) + 1, sizeof(Cell));
  if (!memory) throw std::bad_alloc();
  return Cells(static_cast<Cell*>(memory));
}

void CheckedLaunch::start() {
  restarts_ = false;
  findings_.clear();
  known_.clear();
  blocks_.clear();
  if (counted_) *counted_ = Traffic();
  const Needs& known = needs[kernel_.name];
  granule_shift = known.granule_shift;
  buffers_.fill();
  const std::vector<GuardedBuffers::Buffer>& buffers = buffers_.buffers();
  global_regions_.clear();
  global_states_.assign(buffers.size(), {});
  global_cells_.clear();
  for (size_t i = 0; i < buffers.size(); ++i) {
    const GuardedBuffers::Buffer& buffer = buffers[i];
    const uint8_t* states = launch_.states ? launch_.states[buffer.argument] : nullptr;
    if (states && states_are(states, buffer.bytes, written)) states = nullptr;   // and it stays so
    if (states) {
      global_states_[i].assign(states, states + buffer.bytes);
      for (uint64_t k = 0; k < buffer.bytes; ++k) {
        if (states[k] != written) buffer.copy[k] = char(0xFF);
      }
    }
    const bool is_written = std::count(known.written.begin(), known.written.end(), buffer.argument) > 0;
    global_cells_.push_back(is_written ? make_cells(buffer.bytes) : nullptr);
    global_regions_.push_back({buffer.copy, buffer.bytes, states ? global_states_[i].data() : nullptr,
                               global_cells_[i].get(), Space::global, buffer.argument});
  }
  spaces[0] = {reinterpret_cast<uintptr_t>(buffers_.base()), buffers_.mapped(), buffers_.slot_shift(),
               global_regions_.data()};
}

void CheckedLaunch::finish() {
  for (size_t i = 0; i < global_states_.size(); ++i) {
    if (!global_regions_[i].states) continue;
    std::copy(global_states_[i].begin(), global_states_[i].end(), launch_.states[global_regions_[i].number]);
  }
  buffers_.copy_back();
  last_kernel = kernel_.name;
  last_findings = findings_;
  if (counted_ && findings_.empty()) {
    counted_->totals.launches = 1;
    keep_traffic(kernel_.name, counted_->totals);
  }
}

// ---- shared memory: a slot for each variable, the last one for dynamic memory -----------------
void CheckedLaunch::place_memory(Context& context) {
  const size_t slots = kernel_.slot_count + 1, bytes = slots << shared_slot_shift;
  if (context.slotted_bytes < bytes) {
    if (context.slotted) munmap(context.slotted, context.slotted_bytes);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    context.slotted_bytes = memory == MAP_FAILED ? 0 : bytes;
    context.slotted = memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
    if (!context.slotted) throw std::bad_alloc();
  }
  context.shared = context.slotted;
  context.dynamic_shared = context.slotted + (kernel_.slot_count << shared_slot_shift) + shared_slot / 2;
  shared_states_.assign(slots, {});
  shared_cells_.clear();
  shared_cells_.resize(slots);
  shared_regions_.assign(slots, {});
  for (size_t i = 0; i < slots; ++i) {
    char* middle = context.slotted + (i << shared_slot_shift) + shared_slot / 2;
    shared_regions_[i] = {middle, 0, nullptr, nullptr, Space::shared, uint32_t(i)};
  }
  spaces[1] = {reinterpret_cast<uintptr_t>(context.slotted), bytes, shared_slot_shift, shared_regions_.data()};
  if (launch_.dynamic_shared_bytes) {
    place_variable(context, kernel_.slot_count, 0, launch_.dynamic_shared_bytes);
  }
}

void* CheckedLaunch::place_variable(const Context& context, unsigned slot, size_t start, size_t bytes) {
  Region& region = shared_regions_[slot];
  if (region.bytes != bytes) {
    // As far from a multiple of the banks' 128 bytes as where the compiler packs it.
    region.begin = context.slotted + (size_t(slot) << shared_slot_shift) + shared_slot / 2 + start % dynamic_alignment;
    region.bytes = bytes;
    shared_states_[slot].assign(bytes, unwritten);
    shared_cells_[slot] = make_cells(bytes);
    region.states = shared_states_[slot].data();
    region.cells = shared_cells_[slot].get();
  }
  memset(region.begin, 0xFF, bytes);
  memset(region.states, unwritten, bytes);
  return region.begin;
}

void CheckedLaunch::start_block(const Context& context) {
  // Intervals of the last block end here: its last one may have been used.
  block_start = interval = ++last_interval;
  blocks_.push_back({interval, context.index});
  if (launch_.dynamic_shared_bytes) {
    place_variable(context, kernel_.slot_count, 0, launch_.dynamic_shared_bytes);
  }
  if (counted_) {
    counted_->totals.blocks += 1;
    counted_->totals.threads += context.thread_count;
  }
}

void CheckedLaunch::end_block() {
  if (counted_) counted_->flush();
}

void CheckedLaunch::release_barrier() {
  interval = ++last_interval;
  if (counted_) {
    counted_->totals.barriers += 1;
    counted_->flush();
  }
}

// Each of the lanes learns what any of them knows, and gets a new time of its own.
void CheckedLaunch::synchronise(unsigned first_thread, unsigned lanes) {
  uint32_t* rows = clock_storage_.data() + size_t(first_thread) * warp_lanes;
  uint32_t joined[warp_lanes] = {};
  for (unsigned left = lanes; left; left &= left - 1) {
    const uint32_t* row = rows + __builtin_ctz(left) * warp_lanes;
    for (unsigned i = 0; i < warp_lanes; ++i) joined[i] = std::max(joined[i], row[i]);
  }
  for (unsigned left = lanes; left; left &= left - 1) {
    const unsigned lane = __builtin_ctz(left);
    memcpy(rows + lane * warp_lanes, joined, sizeof joined);
    rows[lane * warp_lanes + lane] = joined[lane] + 1;
  }
}

// ---- findings --------------------------------------------------------------------------
void CheckedLaunch::set_thread(uint32_t (&index)[3], unsigned linear) const {
  index[0] = linear % launch_.block[0];
  index[1] = linear / launch_.block[0] % launch_.block[1];
  index[2] = linear / (launch_.block[0] * launch_.block[1]);
}

void CheckedLaunch::report(Problem problem, Space space, uint32_t number, uint64_t buffer_bytes, int64_t offset,
                           unsigned bytes, const Thread& thread, uint32_t site, const Access* other) {
  const Key key{uint32_t(problem), uint32_t(space), number, site, other ? other->site : 0};
  const auto found = known_.find(key);
  if (found != known_.end()) {
    ++findings_[found->second].count;
    return;
  }
  known_[key] = findings_.size();
  Finding finding = {};
  finding.problem = uint32_t(problem);
  finding.space = uint32_t(space);
  finding.number = number;
  finding.site = site;
  finding.bytes = bytes;
  finding.offset = offset;
  finding.buffer_bytes = buffer_bytes;
  finding.count = 1;
  const uint3 here = blocks_.back().index;
  finding.block[0] = here.x, finding.block[1] = here.y, finding.block[2] = here.z;
  set_thread(finding.thread, thread.linear);
  if (other) {
    finding.has_other = 1;
    finding.other_is_atomic = other->atomic;
    finding.other_site = other->site;
    // The last block that began at or before that interval.
    auto block = std::upper_bound(blocks_.begin(), blocks_.end(), other->interval,
                                  [](uint32_t interval, const BlockStart& start) { return interval < start.interval; });
    const uint3 there = block == blocks_.begin() ? here : (block - 1)->index;
    finding.other_block[0] = there.x, finding.other_block[1] = there.y, finding.other_block[2] = there.z;
    set_thread(finding.other_thread, other->thread);
  }
  findings_.push_back(finding);
}

void CheckedLaunch::report_fault(const Context& context) {
  const auto offset = reinterpret_cast<int64_t>(context.fault_address);
  Dl_info library;
  uint32_t site = 0;   // unknown outside of the kernel's library
  if (dladdr(reinterpret_cast<const void*>(kernel_.body), &library)) {
    const char* start = static_cast<const char*>(library.dli_fbase);
    if (dladdr(context.fault_code, &library) && library.dli_fbase == start) site = uint32_t(context.fault_code - start);
  }
  report(Problem::wild, Space::global, 0, 0, offset, 0, *context.thread, site, nullptr);
}

void CheckedLaunch::restart_with_cells(Region& region) {
  needs[kernel_.name].written.push_back(region.number);
  restarts_ = true;
  fail("restart");
}

void CheckedLaunch::restart_with_granule(unsigned bytes) {
  needs[kernel_.name].granule_shift = bytes == 1 ? 0 : bytes < 4 ? 1 : coarsest_granule;
  restarts_ = true;
  fail("restart");
}

void report_access(Checker& checker, Problem problem, const Region& region, const Thread& thread, uintptr_t address,
                   unsigned bytes, uint32_t site, const Access* other) {
  const int64_t offset = int64_t(address - reinterpret_cast<uintptr_t>(region.begin));
  launch_of(checker).report(problem, region.space, region.number, region.bytes, offset, bytes, thread, site, other);
}

void stop_outside(Checker& checker, const Region& region, const Thread& thread, uintptr_t address, unsigned bytes,
                  uint32_t site) {
  report_access(checker, Problem::out_of_bounds, region, thread, address, bytes, site, nullptr);
  fail("access outside of a buffer");
}

void stop_misaligned(Checker& checker, const Region& region, const Thread& thread, uintptr_t address, unsigned bytes,
                     uint32_t site) {
  report_access(checker, Problem::misaligned, region, thread, address, bytes, site, nullptr);
  fail("misaligned access");
}

void stop_outside_local(Checker& checker, const Thread& thread, int64_t index, uint64_t count, uint32_t site) {
  launch_of(checker).report(Problem::outside_local, Space::local, 0, count, index, 0, thread, site, nullptr);
  fail("access outside of a local array");
}

void restart_with_cells(Checker& checker, Region& region) {
  launch_of(checker).restart_with_cells(region);
}

void restart_with_granule(Checker& checker, unsigned bytes) {
  launch_of(checker).restart_with_granule(bytes);
}

void note_lane_access(unsigned lane, const void* address, size_t bytes, AccessKind kind, int line) {
  Context& context = current();
  if (!context.checker) return;
  const Thread& thread = context.threads[context.thread->linear / warp_lanes * warp_lanes + lane];
  check_access(*context.checker, thread, address, unsigned(bytes), kind, is_line | unsigned(line));
}

}  // namespace cuda_emulation

CUDA_EMULATION_EXPORT uint64_t cuda_emulation_finding_count() { return cuda_emulation::last_findings.size(); }

CUDA_EMULATION_EXPORT const char* cuda_emulation_finding_kernel() { return cuda_emulation::last_kernel.c_str(); }

CUDA_EMULATION_EXPORT void cuda_emulation_finding_read(uint64_t index, cuda_emulation::Finding* finding) {
  *finding = cuda_emulation::last_findings.at(index);
}

CUDA_EMULATION_EXPORT void cuda_emulation_findings_clear() { cuda_emulation::last_findings.clear(); }
