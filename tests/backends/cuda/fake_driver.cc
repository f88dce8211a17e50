// A driver and a runtime library of CUDA for a machine without a GPU: what TVM's CUDA runtime calls, and no more.
//
// Memory of the device is memory of the host.  A launch runs the kernel of that name out of a host library
// that the emulation built from the same CUDA text.  Every module load and launch is a line in a log.
//
//   FAKE_DRIVER_CAPABILITY   compute capability of the device, "8.0"
//   FAKE_DRIVER_DEVICES      number of devices
//   FAKE_DRIVER_VERSION      CUDA version of the driver, 13000 for 13.0
//   FAKE_DRIVER_LOG          path of the log
//   FAKE_DRIVER_LIBRARIES    runtime of the emulation and library of the kernels, separated by ':'
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <elf.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>

namespace {

constexpr int kCudaMachine = 190;   // EM_CUDA
constexpr unsigned kMaxThreads = 1024, kMaxSharedBytes = 163 * 1024;

struct Launch {   // of cuda_emulation.h
  unsigned grid[3], block[3];
  uint64_t dynamic_shared_bytes;
  int32_t order;
  uint32_t seed, workers, argument_count;
  const uint64_t* guarded_bytes;
  uint8_t* const* states;
  uint32_t check, count;
};
using Entry = int (*)(const Launch*, void**);

struct Module {
  std::string image;
};
struct Function {
  std::string name;
  Entry entry;
  int dynamic_shared_bytes;   // allowed by an attribute
};

const char* setting(const char* name, const char* otherwise) {
  const char* found = getenv(name);
  return found ? found : otherwise;
}

void log(const std::string& line) {
  if (FILE* file = fopen(setting("FAKE_DRIVER_LOG", "/dev/null"), "a")) {
    fprintf(file, "%s\n", line.c_str());
    fclose(file);
  }
}

void* kernels() {
  static void* handle = [] {
    const std::string both = setting("FAKE_DRIVER_LIBRARIES", "");
    const size_t colon = both.find(':');
    if (!dlopen(both.substr(0, colon).c_str(), RTLD_NOW | RTLD_GLOBAL)) return static_cast<void*>(nullptr);
    return dlopen(both.substr(colon + 1).c_str(), RTLD_NOW);
  }();
  return handle;
}

int major_capability() { return atoi(setting("FAKE_DRIVER_CAPABILITY", "8.0")); }
int minor_capability() { return atoi(strchr(setting("FAKE_DRIVER_CAPABILITY", "8.0"), '.') + 1); }

}  // namespace

extern "C" {

// -- driver ---------------------------------------------------------------------------
CUresult cuInit(unsigned) { return atoi(setting("FAKE_DRIVER_DEVICES", "1")) ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
CUresult cuDriverGetVersion(int* version) {
  *version = atoi(setting("FAKE_DRIVER_VERSION", "13000"));
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* count) {
  *count = atoi(setting("FAKE_DRIVER_DEVICES", "1"));
  return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  snprintf(name, size, "fake device");
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? major_capability()
           : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? minor_capability()
                                                                       : 108;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** name) {
  *name = error == CUDA_ERROR_NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_FAKE";
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, const char** text) {
  *text = "an error of the fake driver";
  return CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  const auto* header = static_cast<const Elf64_Ehdr*>(image);
  auto* loaded = new Module;
  if (memcmp(header->e_ident, ELFMAG, SELFMAG) == 0) {
    if (header->e_machine != kCudaMachine) return CUDA_ERROR_INVALID_IMAGE;
    loaded->image.assign(static_cast<const char*>(image), header->e_shoff + header->e_shnum * header->e_shentsize);
    log("load cubin");
  } else {
    loaded->image = static_cast<const char*>(image);   // up to the zero byte
    if (loaded->image.find(".target sm_80") == std::string::npos) return CUDA_ERROR_INVALID_PTX;
    log("load ptx");
  }
  *module = reinterpret_cast<CUmodule>(loaded);
  return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) {
  delete reinterpret_cast<Module*>(module);
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  if (reinterpret_cast<Module*>(module)->image.find(name) == std::string::npos) return CUDA_ERROR_NOT_FOUND;
  void* library = kernels();
  const std::string symbol = std::string("cuda_emulation_launch_") + name;
  void* entry = library ? dlsym(library, symbol.c_str()) : nullptr;
  if (!entry) return CUDA_ERROR_NOT_FOUND;
  *function = reinterpret_cast<CUfunction>(new Function{name, reinterpret_cast<Entry>(entry), 48 * 1024});
  return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    reinterpret_cast<Function*>(function)->dynamic_shared_bytes = value;
  }
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** arguments, void**) {
  auto* kernel = reinterpret_cast<Function*>(function);
  Launch launch = {{config->gridDimX, config->gridDimY, config->gridDimZ},
                   {config->blockDimX, config->blockDimY, config->blockDimZ},
                   config->sharedMemBytes, 0, 0, 1, 0, nullptr, nullptr, 0, 0};
  const auto* g = launch.grid;
  const auto* b = launch.block;
  if (b[0] * b[1] * b[2] > kMaxThreads || config->sharedMemBytes > kMaxSharedBytes ||
      config->sharedMemBytes > unsigned(kernel->dynamic_shared_bytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  char line[512];
  snprintf(line, sizeof line, "launch %s %u %u %u %u %u %u %u", kernel->name.c_str(), g[0], g[1], g[2], b[0], b[1],
           b[2], config->sharedMemBytes);
  log(line);
  return kernel->entry(&launch, arguments) == 0 ? CUDA_SUCCESS : CUDA_ERROR_LAUNCH_FAILED;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  return CUDA_ERROR_NOT_SUPPORTED;
}

// -- runtime library ------------------------------------------------------------------
cudaError_t cudaGetDeviceCount(int* count) { return cuDeviceGetCount(count), cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? major_capability()
           : attribute == cudaDevAttrComputeCapabilityMinor ? minor_capability()
           : attribute == cudaDevAttrWarpSize               ? 32
                                                            : 1024;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  memset(properties, 0, sizeof *properties);
  strcpy(properties->name, "fake device");
  properties->major = major_capability();
  properties->minor = minor_capability();
  properties->warpSize = 32;
  properties->multiProcessorCount = 108;
  properties->totalGlobalMem = size_t(8) << 30;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (posix_memalign(memory, 256, bytes + 256)) return cudaErrorMemoryAllocation;
  memset(*memory, 0xff, bytes);   // not a number, where it is read before it is written
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) { return free(memory), cudaSuccess; }
cudaError_t cudaMallocHost(void** memory, size_t bytes) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *available = *total = size_t(8) << 30;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return memcpy(to, from, bytes), cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t) {
  return memcpy(to, from, bytes), cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t) { return "fake"; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the fake driver"; }
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return *stream = reinterpret_cast<cudaStream_t>(1), cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = reinterpret_cast<cudaEvent_t>(new double(0));
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete reinterpret_cast<double*>(event), cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *reinterpret_cast<double*>(event) = now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  *ms = float(*reinterpret_cast<double*>(end) - *reinterpret_cast<double*>(start));
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { return cudaErrorNotSupported; }
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return cudaErrorNotSupported; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long) { return cudaErrorNotSupported; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaErrorNotSupported; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaErrorNotSupported; }
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaErrorNotSupported; }
}
