// Vector types, integer and floating point intrinsics of CUDA C.
#pragma once

// ---- what math_constants.h defines and generated code uses -----------------------------
#define CUDART_INF_F __builtin_huge_valf()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_INF __builtin_huge_val()
#define CUDART_NAN __builtin_nan("")

// ---- vector types: 2- and 4-vectors are aligned to their size (16 bytes at most) ------
#define CUDA_EMULATION_VECTORS(T, name)                                                              \
  struct alignas(sizeof(T)) name##1 {                                                                \
    T x;                                                                                             \
  };                                                                                                 \
  struct alignas(2 * sizeof(T)) name##2 {                                                            \
    T x, y;                                                                                          \
  };                                                                                                 \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 {                                  \
    T x, y, z, w;                                                                                    \
  };                                                                                                 \
  static inline name##1 make_##name##1(T x) { return {x}; }                                          \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                  \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define CUDA_EMULATION_VECTOR3(T, name)                                                              \
  struct name##3 {                                                                                   \
    T x, y, z;                                                                                       \
  };
#define CUDA_EMULATION_MAKE3(T, name)                                                                \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }

CUDA_EMULATION_VECTORS(signed char, char)
CUDA_EMULATION_VECTORS(unsigned char, uchar)
CUDA_EMULATION_VECTORS(short, short)
CUDA_EMULATION_VECTORS(unsigned short, ushort)
CUDA_EMULATION_VECTORS(int, int)
CUDA_EMULATION_VECTORS(unsigned, uint)
CUDA_EMULATION_VECTORS(long, long)
CUDA_EMULATION_VECTORS(unsigned long, ulong)
CUDA_EMULATION_VECTORS(long long, longlong)
CUDA_EMULATION_VECTORS(unsigned long long, ulonglong)
CUDA_EMULATION_VECTORS(float, float)
CUDA_EMULATION_VECTORS(double, double)
CUDA_EMULATION_VECTOR3(signed char, char)
CUDA_EMULATION_VECTOR3(unsigned char, uchar)
CUDA_EMULATION_VECTOR3(short, short)
CUDA_EMULATION_VECTOR3(unsigned short, ushort)
CUDA_EMULATION_VECTOR3(int, int)
CUDA_EMULATION_VECTOR3(float, float)
CUDA_EMULATION_VECTOR3(double, double)
CUDA_EMULATION_MAKE3(signed char, char)
CUDA_EMULATION_MAKE3(unsigned char, uchar)
CUDA_EMULATION_MAKE3(short, short)
CUDA_EMULATION_MAKE3(unsigned short, ushort)
CUDA_EMULATION_MAKE3(int, int)
CUDA_EMULATION_MAKE3(unsigned, uint)
CUDA_EMULATION_MAKE3(float, float)
CUDA_EMULATION_MAKE3(double, double)

// ---- min, max: CUDA has every mixture of arithmetic types in the global namespace ------
template <class A, class B>
using cuda_common_t =
    std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value, std::common_type_t<A, B>>;
template <class A, class B>
static inline cuda_common_t<A, B> max(A a, B b) {
  using T = cuda_common_t<A, B>;
  if constexpr (std::is_same<T, float>::value) return fmaxf(a, b);
  if constexpr (std::is_same<T, double>::value) return fmax(a, b);
  return T(a) > T(b) ? T(a) : T(b);
}
template <class A, class B>
static inline cuda_common_t<A, B> min(A a, B b) {
  using T = cuda_common_t<A, B>;
  if constexpr (std::is_same<T, float>::value) return fminf(a, b);
  if constexpr (std::is_same<T, double>::value) return fmin(a, b);
  return T(a) < T(b) ? T(a) : T(b);
}

// ---- fast intrinsics.  glibc already declares these names, hence macros ---------------
#define __expf expf
#define __exp10f exp10f
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __powf powf
#define __sinf sinf
#define __cosf cosf
#define __tanf tanf
#define __tanhf tanhf
#define __sincosf sincosf

static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __saturatef(float x) { return fminf(1.0f, fmaxf(0.0f, x)); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
static inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }
static inline float sinpif(float x) { return float(sin(3.14159265358979323846 * x)); }
static inline float cospif(float x) { return float(cos(3.14159265358979323846 * x)); }

// ---- reinterpretation and conversion -------------------------------------------------
namespace cuda_emulation {
template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof(To));
  return to;
}
}  // namespace cuda_emulation
static inline int __float_as_int(float x) { return cuda_emulation::bit_cast<int>(x); }
static inline unsigned __float_as_uint(float x) { return cuda_emulation::bit_cast<unsigned>(x); }
static inline float __int_as_float(int x) { return cuda_emulation::bit_cast<float>(x); }
static inline float __uint_as_float(unsigned x) { return cuda_emulation::bit_cast<float>(x); }
static inline long long __double_as_longlong(double x) { return cuda_emulation::bit_cast<long long>(x); }
static inline double __longlong_as_double(long long x) { return cuda_emulation::bit_cast<double>(x); }
static inline int __float2int_rn(float x) { return int(rintf(x)); }
static inline int __float2int_rz(float x) { return int(x); }
static inline int __float2int_rd(float x) { return int(floorf(x)); }
static inline int __float2int_ru(float x) { return int(ceilf(x)); }
static inline float __int2float_rn(int x) { return float(x); }
static inline float __uint2float_rn(unsigned x) { return float(x); }

// ---- integers ------------------------------------------------------------------------
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __mul24(int a, int b) { return a * b; }
static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
static inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1) << (31 - bit);
  return reversed;
}
static inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = low | uint64_t(high) << 32;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= unsigned(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  return result;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((low | uint64_t(high) << 32) << (shift & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((low | uint64_t(high) << 32) >> (shift & 31));
}

namespace cuda_emulation {
// Dot product of four bytes; the template arguments are the signedness of each side.
template <class A, class B, class C>
inline C dot_product_4(unsigned a, unsigned b, C sum) {
  for (int i = 0; i < 4; ++i) sum += C(A(a >> 8 * i)) * C(B(b >> 8 * i));
  return sum;
}
}  // namespace cuda_emulation
static inline int __dp4a(int a, int b, int c) { return cuda_emulation::dot_product_4<int8_t, int8_t>(a, b, c); }
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return cuda_emulation::dot_product_4<uint8_t, uint8_t>(a, b, c);
}

// ---- memory and time -----------------------------------------------------------------
template <class T>
static inline T __ldg(const T* address) {
  return *address;
}
template <class T>
static inline T __ldcg(const T* address) {
  return *address;
}
template <class T>
static inline T __ldcs(const T* address) {
  return *address;
}
template <class T>
static inline void __stcs(T* address, T value) {
  *address = value;
}
static inline void __nanosleep(unsigned) {}
static inline unsigned __cvta_generic_to_shared(const void* address) {
  return unsigned(static_cast<const char*>(address) - cuda_emulation::block->shared);
}
