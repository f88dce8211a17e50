// Kernels as packed functions of the TVM FFI: what the host code of a TVM executable calls.
//
// Arguments arrive as (pointers and scalars of the kernel..., launch values...); the
// layout string of a kernel has one letter for each.  Every call is written to a log.
#include <mutex>
#include <string>
#include <vector>

#include "cuda_emulation.h"
#include "device_memory.h"

namespace {

struct PackedValue {   // TVMFFIAny
  int32_t type;
  uint32_t padding;
  union {
    int64_t integer;
    double real;
    void* pointer;
  };
};

struct LogEntry {
  const char* kernel;
  uint32_t grid[3], block[3];
  uint64_t dynamic_shared_bytes;
};

using Entry = int (*)(const cuda_emulation::Launch*, void**);
// Called in front of a launch (behind == 0) and behind it, with the sizes of what pointers lead to.
using Observer = void (*)(const char* kernel, int32_t behind, const cuda_emulation::Launch*, uint32_t count,
                          void* const* arguments, const uint64_t* sizes, uint8_t* const* states);
using ErrorSink = void (*)(const char* kind, const char* message);

std::mutex lock;
std::vector<LogEntry> launch_log;
int32_t lane_order;
uint32_t order_seed, worker_count = 1;
uint32_t check_launches, count_launches;
cuda_emulation::DeviceMemory memory;
ErrorSink error_sink;
Observer observer;

int report(const std::string& message) {
  if (error_sink) error_sink("CompileError", message.c_str());
  return -1;
}

}  // namespace

CUDA_EMULATION_EXPORT const char* cuda_emulation_last_error();

CUDA_EMULATION_EXPORT void cuda_emulation_configure(int32_t order, uint32_t seed, uint32_t workers, uint32_t check,
                                                    uint32_t count, ErrorSink sink) {
  std::lock_guard<std::mutex> guard(lock);
  lane_order = order;
  order_seed = seed;
  worker_count = workers;
  check_launches = check;
  count_launches = count;
  error_sink = sink;
}

// Observes launches whose memory is declared; null ends that.
CUDA_EMULATION_EXPORT void cuda_emulation_observe(Observer chosen) {
  std::lock_guard<std::mutex> guard(lock);
  observer = chosen;
}

CUDA_EMULATION_EXPORT void cuda_emulation_memory_declare(uint64_t address, uint64_t bytes, int32_t is_written) {
  std::lock_guard<std::mutex> guard(lock);
  memory.declare(address, bytes, is_written != 0);
}

CUDA_EMULATION_EXPORT void cuda_emulation_memory_mark_written(uint64_t address, uint64_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  memory.mark_written(address, bytes);
}

CUDA_EMULATION_EXPORT void cuda_emulation_memory_clear_bounds() {
  std::lock_guard<std::mutex> guard(lock);
  memory.clear_bounds();
}

CUDA_EMULATION_EXPORT void cuda_emulation_memory_bound(uint64_t address, uint64_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  memory.bound(address, bytes);
}

CUDA_EMULATION_EXPORT void cuda_emulation_memory_clear() {
  std::lock_guard<std::mutex> guard(lock);
  memory.clear();
}

CUDA_EMULATION_EXPORT uint64_t cuda_emulation_log_size() {
  std::lock_guard<std::mutex> guard(lock);
  return launch_log.size();
}

CUDA_EMULATION_EXPORT void cuda_emulation_log_read(uint64_t index, LogEntry* entry) {
  std::lock_guard<std::mutex> guard(lock);
  *entry = launch_log.at(index);
}

CUDA_EMULATION_EXPORT void cuda_emulation_log_clear() {
  std::lock_guard<std::mutex> guard(lock);
  launch_log.clear();
}

// Letters of `layout`: p pointer, i integer, f float, d double;
// then X Y Z grid, x y z block extents and S bytes of dynamic shared memory.
CUDA_EMULATION_EXPORT int cuda_emulation_packed_call(const char* name, Entry entry, const char* layout,
                                                     const PackedValue* values, int32_t count, PackedValue* result) {
  cuda_emulation::Launch launch = {{1, 1, 1}, {1, 1, 1}, 0, 0, 0, 1, 0, nullptr, nullptr, 0, 0};
  if (size_t(count) != strlen(layout)) {
    return report(std::string("kernel ") + name + " was called with " + std::to_string(count) + " values, not " +
                  std::to_string(strlen(layout)));
  }
  std::vector<uint64_t> storage(count);
  std::vector<void*> arguments;
  std::vector<uint64_t> sizes;
  std::vector<uint8_t*> states;
  for (int32_t i = 0; i < count; ++i) {
    const PackedValue& value = values[i];
    void* place = &storage[i];
    switch (layout[i]) {
      case 'X': case 'Y': case 'Z': launch.grid[layout[i] - 'X'] = uint32_t(value.integer); continue;
      case 'x': case 'y': case 'z': launch.block[layout[i] - 'x'] = uint32_t(value.integer); continue;
      case 'S': launch.dynamic_shared_bytes = uint64_t(value.integer); continue;
      case 'f': { const float real = float(value.real); memcpy(place, &real, sizeof real); break; }
      default: memcpy(place, &value.integer, 8);   // little-endian: narrower integers are a prefix
    }
    arguments.push_back(place);
    sizes.push_back(0);
    states.push_back(nullptr);
    if (check_launches && layout[i] == 'p' && value.pointer &&
        !memory.find(uint64_t(value.integer), sizes.back(), states.back())) {
      return report(std::string("kernel ") + name + ": the size of argument " + std::to_string(i) +
                    " is not known; the host code allocated it by itself");
    }
  }
  launch.argument_count = uint32_t(arguments.size());
  if (check_launches) {
    launch.guarded_bytes = sizes.data();
    launch.states = states.data();
  }
  {
    std::lock_guard<std::mutex> guard(lock);
    launch.order = lane_order;
    launch.seed = order_seed;
    launch.workers = worker_count;
    launch.check = check_launches;
    launch.count = count_launches;
    launch_log.push_back({name, {launch.grid[0], launch.grid[1], launch.grid[2]},
                          {launch.block[0], launch.block[1], launch.block[2]}, launch.dynamic_shared_bytes});
  }
  const auto observe = [&](int32_t behind) {
    if (!observer || !check_launches) return;
    observer(name, behind, &launch, launch.argument_count, arguments.data(), sizes.data(), states.data());
  };
  observe(0);
  if (entry(&launch, arguments.data()) != 0) return report(cuda_emulation_last_error());
  observe(1);
  *result = PackedValue();
  return 0;
}
